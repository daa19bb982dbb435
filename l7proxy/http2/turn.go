package http2

// Turn collects the connections that what happens in one turn of a goroutine left with something to write. Whoever makes
// an empty write buffer non-empty owes its flush.
type Turn struct {
	owed []*Conn
	sent []sent
}

// sent is what a Receiver is to be told by Sent, once no lock is held.
type sent struct {
	to    Receiver
	token uint64
	n     int
}

// Flush writes what is owed. It never blocks. No lock may be held that a Receiver takes.
func (t *Turn) Flush() {
	for i := 0; i < len(t.owed); i++ { // what is told may owe more
		t.owed[i].flush(t)
	}
	clear(t.owed)
	t.owed = t.owed[:0]
}

// tell tells the Receivers what has been sent. It may come to be called again by what they do.
func (t *Turn) tell() {
	for len(t.sent) > 0 {
		last := t.sent[len(t.sent)-1]
		t.sent[len(t.sent)-1] = sent{}
		t.sent = t.sent[:len(t.sent)-1]
		last.to.Sent(t, last.token, last.n)
	}
}
