package http2

// ending says how a stream ended, as far as that matters for frames that come for it afterwards.
type ending uint8

const (
	forgotten   ending = iota // or it was never opened
	completed                 // both sides ended it
	resetByUs                 // the peer may not know yet
	resetByPeer               // it knows
)

// slot is where a stream is found by its id.
type slot struct {
	open *stream
	last uint32 // the id of the last stream that ended here
	how  ending
}

// table finds the open streams of a connection, and how those ended that ended last. Ids follow one another, so
// mostly each has a slot of its own; an old one that is in the way of a new one leaves it to a map.
type table struct {
	slots []slot // a power of two
	rest  map[uint32]*stream
	n     int
}

func (t *table) slot(id uint32) *slot { return &t.slots[int(id>>1)&(len(t.slots)-1)] }

func (t *table) get(id uint32) *stream {
	if len(t.slots) == 0 {
		return nil
	}
	if s := t.slot(id).open; s != nil && s.id == id {
		return s
	}
	if len(t.rest) == 0 {
		return nil
	}
	return t.rest[id]
}

func (t *table) put(s *stream) {
	if t.n >= len(t.slots)/2 {
		t.grow()
	}
	t.n++
	t.place(s)
}

func (t *table) place(s *stream) {
	if at := t.slot(s.id); at.open == nil {
		at.open = s
		return
	}
	if t.rest == nil {
		t.rest = map[uint32]*stream{}
	}
	t.rest[s.id] = s
}

func (t *table) grow() {
	slots, rest := t.slots, t.rest
	t.slots, t.rest = make([]slot, max(8, 2*len(slots))), nil
	for i := range slots {
		if slots[i].how != forgotten {
			at := t.slot(slots[i].last)
			at.last, at.how = slots[i].last, slots[i].how
		}
		if slots[i].open != nil {
			t.place(slots[i].open)
		}
	}
	for _, s := range rest {
		t.place(s)
	}
}

func (t *table) remove(s *stream, how ending) {
	t.n--
	at := t.slot(s.id)
	if at.open == s {
		at.open = nil
	} else {
		delete(t.rest, s.id)
	}
	at.last, at.how = s.id, how
}

// note notes how a stream ended that was never open here.
func (t *table) note(id uint32, how ending) {
	if len(t.slots) == 0 {
		t.grow()
	}
	at := t.slot(id)
	at.last, at.how = id, how
}

// ended says how a stream ended that is not open.
func (t *table) ended(id uint32) ending {
	if len(t.slots) == 0 {
		return forgotten
	}
	if at := t.slot(id); at.last == id {
		return at.how
	}
	return forgotten
}

// each calls f for all open streams. f may remove the one that it is given.
func (t *table) each(f func(s *stream)) {
	for i := range t.slots {
		if s := t.slots[i].open; s != nil {
			f(s)
		}
	}
	for _, s := range t.rest {
		f(s)
	}
}
