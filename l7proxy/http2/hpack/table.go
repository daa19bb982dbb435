package hpack

import "math/bits"

// entry is a field of the dynamic table: where its strings are in the chunk.
type entry struct{ name, nameLen, value, valueLen uint32 }

// table is the dynamic table (RFC 7541, 2.3.2). The bytes of its entries are in a chunk to which insertions append;
// nothing in it is ever overwritten. When it is full, what lives moves to another one. Chunks of which views were handed
// out in this block are left alone until the next, when one is used again.
type table struct {
	ring  []entry // as many as a power of two
	head  int     // where the newest entry is in the ring, modulo its length
	count int

	size  int // as RFC 7541, 4.1 counts
	max   int // what the peer set
	limit int // of max: what we announced

	chunk  []byte
	spare  []byte // to be used next
	viewed bool   // views of the chunk have been handed out in this block
	shown  []byte // such a chunk, which is full
}

const (
	minRing  = 8
	minChunk = 512
	noOffset = -1 // of a name that is not in the chunk
)

// begin begins a block: no views are left.
func (t *table) begin() {
	if t.shown != nil {
		t.spare, t.shown = t.shown[:0], nil
	}
	t.viewed = false
}

// at is an entry by its age: 0 is the newest.
func (t *table) at(age int) (*entry, bool) {
	if age < 0 || age >= t.count {
		return nil, false
	}
	return &t.ring[(t.head-age)&(len(t.ring)-1)], true
}

func (t *table) name(e *entry) string { return view(t.chunk[e.name : e.name+e.nameLen]) }

func (t *table) value(e *entry) string { return view(t.chunk[e.value : e.value+e.valueLen]) }

// resize does what a table size update says (RFC 7541, 4.3).
func (t *table) resize(size int) {
	t.max = size
	t.evict(size)
}

// evict lets the oldest entries go until their size is at most that.
func (t *table) evict(size int) {
	for t.size > size {
		oldest, _ := t.at(t.count - 1)
		t.size -= int(oldest.nameLen) + int(oldest.valueLen) + overhead
		t.count--
	}
}

// insert adds an entry (RFC 7541, 4.4). The strings are copied, but for a name that is in the chunk at an offset: entries
// share it, or a few bytes in a block could make us copy a long name over and over. Its own entry may be evicted here.
func (t *table) insert(name string, offset int, value string) {
	size := len(name) + len(value) + overhead
	if size > t.max {
		t.evict(0)
		return
	}
	t.evict(t.max - size)
	need := len(value)
	if offset == noOffset {
		need += len(name)
	}
	if need > cap(t.chunk)-len(t.chunk) {
		t.move(len(name) + len(value))
		offset = noOffset
	}
	e := entry{nameLen: uint32(len(name)), valueLen: uint32(len(value))}
	if e.name = uint32(offset); offset == noOffset {
		e.name = t.put(name)
	}
	e.value = t.put(value)
	t.push(e)
	t.size += size
}

func (t *table) put(s string) uint32 {
	at := len(t.chunk)
	t.chunk = append(t.chunk, s...)
	return uint32(at)
}

func (t *table) push(e entry) {
	if t.count == len(t.ring) {
		t.grow()
	}
	t.head = (t.head + 1) & (len(t.ring) - 1)
	t.ring[t.head] = e
	t.count++
}

func (t *table) grow() {
	ring := make([]entry, max(2*len(t.ring), minRing))
	for i := range t.count {
		old, _ := t.at(t.count - 1 - i)
		ring[i] = *old
	}
	t.ring, t.head = ring, t.count-1
}

// move moves the entries to another chunk, in which there is room for that much more. A chunk holds twice what lives, and
// at most one and a half of the limit: between two moves at least half as much is inserted as is moved.
func (t *table) move(more int) {
	live := t.size - t.count*overhead + more
	size := min(max(1<<bits.Len(uint(2*live-1)), minChunk), t.limit+t.limit/2)
	from, to := t.chunk, t.spare
	if cap(to) < size {
		to = make([]byte, 0, size)
	}
	t.spare, t.chunk = nil, to[:0]
	for age := range t.count {
		e, _ := t.at(age)
		name, value := from[e.name:e.name+e.nameLen], from[e.value:e.value+e.valueLen]
		e.name, e.value = t.put(view(name)), t.put(view(value))
	}
	if t.viewed {
		t.shown = from
	} else {
		t.spare = from
	}
	t.viewed = false
}
