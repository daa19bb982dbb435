package observe

import (
	"hash/maphash"
	"sync/atomic"
)

// table is a map that is read without a lock, with the cost of a Go map. Its writers have to exclude each other.
type table[K comparable, V any] struct {
	seed  maphash.Seed
	slots atomic.Pointer[[]slot[K, V]] // a power of two, at most half of them taken
	count int                          // for writers
}

// slot points to an entry, or is empty. An entry is never edited.
type slot[K comparable, V any] = atomic.Pointer[entry[K, V]]

type entry[K comparable, V any] struct {
	key   K
	hash  uint64
	value *V
}

func newTable[K comparable, V any]() *table[K, V] {
	t := &table[K, V]{seed: maphash.MakeSeed()}
	t.resize(8)
	return t
}

// get returns nil for a key that is not there.
func (t *table[K, V]) get(key K) *V {
	hash := maphash.Comparable(t.seed, key)
	slots := *t.slots.Load()
	for i := hash; ; i++ {
		e := slots[i&uint64(len(slots)-1)].Load()
		if e == nil {
			return nil
		}
		if e.hash == hash && e.key == key {
			return e.value
		}
	}
}

// put adds a key that is not there.
func (t *table[K, V]) put(key K, value *V) {
	if size := len(*t.slots.Load()); 2*(t.count+1) > size {
		t.resize(2 * size)
	}
	t.count++
	place(*t.slots.Load(), &entry[K, V]{key, maphash.Comparable(t.seed, key), value})
}

// keep removes the entries that wanted says no to.
func (t *table[K, V]) keep(wanted func(K, *V) bool) {
	var kept []*entry[K, V]
	for e := range t.entries {
		if wanted(e.key, e.value) {
			kept = append(kept, e)
		}
	}
	if len(kept) == t.count {
		return
	}
	size := 8
	for size < 2*(len(kept)+1) {
		size *= 2
	}
	t.store(size, kept)
}

func (t *table[K, V]) resize(size int) {
	var all []*entry[K, V]
	if t.slots.Load() != nil {
		for e := range t.entries {
			all = append(all, e)
		}
	}
	t.store(size, all)
}

// store replaces the slots. Who reads the old ones meanwhile may miss what is in the new ones, and then asks the writer.
func (t *table[K, V]) store(size int, entries []*entry[K, V]) {
	slots := make([]slot[K, V], size)
	for _, e := range entries {
		place(slots, e)
	}
	t.count = len(entries)
	t.slots.Store(&slots)
}

func (t *table[K, V]) entries(yield func(*entry[K, V]) bool) {
	slots := *t.slots.Load()
	for i := range slots {
		if e := slots[i].Load(); e != nil && !yield(e) {
			return
		}
	}
}

func place[K comparable, V any](slots []slot[K, V], e *entry[K, V]) {
	for i := e.hash; ; i++ {
		if s := &slots[i&uint64(len(slots)-1)]; s.Load() == nil {
			s.Store(e)
			return
		}
	}
}
