package watch

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/objects"
)

// store is the objects of one kind. A reflector writes to it.
type store interface {
	cache.TransformingStore
	hasSynced() bool                      // they were read once
	fill(*objects.Set) bool               // puts them into a Set, unless they are in it; it tells whether they were not
	malformed(file string) []kube.Problem // those that could not be read
	drop()                                // forgets all
	len() int
}

// object is what all kinds have.
type object interface {
	metav1.Object
	comparable
}

// collection is the objects of one kind, without what nobody reads of them.
type collection[T object] struct {
	kind    string
	strip   func(T) T // a new object, without what nobody reads
	field   func(*objects.Set) *[]T
	changed func()

	mu     sync.Mutex
	items  []T             // by namespace and name
	lent   bool            // items are in a Set, so they are not edited any more
	dirty  bool            // items are not what the last Set has
	synced bool            //
	faulty map[name]string // objects whose last version could not be read, and why: an earlier one may be in items
}

// name is what tells the objects of a kind apart.
type name struct{ namespace, name string }

func nameOf(o metav1.Object) name { return name{o.GetNamespace(), o.GetName()} }

func (n name) compare(o name) int {
	return cmp.Or(cmp.Compare(n.namespace, o.namespace), cmp.Compare(n.name, o.name))
}

func (n name) String() string {
	if n.namespace == "" {
		return n.name
	}
	return n.namespace + "/" + n.name
}

func (c *collection[T]) find(n name) (int, bool) {
	return slices.BinarySearchFunc(c.items, n, func(o T, n name) int { return nameOf(o).compare(n) })
}

// Transformer strips objects that a reflector keeps for a while before it hands them over.
func (c *collection[T]) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if o, ok := o.(T); ok {
			return c.strip(o), nil
		}
		return o, nil
	}
}

// Add takes a new object, or a new version of one.
func (c *collection[T]) Add(o any) error {
	return c.update(func() error { return c.put(o) })
}

// Update is Add.
func (c *collection[T]) Update(o any) error { return c.Add(o) }

// Delete forgets an object.
func (c *collection[T]) Delete(o any) error {
	return c.update(func() error {
		m, ok := o.(metav1.Object)
		if !ok {
			return unexpected(o)
		}
		c.remove(nameOf(m))
		return nil
	})
}

// Replace takes all objects that there are.
func (c *collection[T]) Replace(all []any, _ string) error {
	return c.update(func() error {
		there := make(map[name]any, len(all))
		for _, o := range all {
			m, ok := o.(metav1.Object)
			if !ok {
				return unexpected(o)
			}
			there[nameOf(m)] = o
		}
		for _, n := range c.names() {
			if there[n] == nil {
				c.remove(n)
			}
		}
		for _, n := range slices.SortedFunc(maps.Keys(there), name.compare) { // so that each is appended at the end
			if err := c.put(there[n]); err != nil {
				return err
			}
		}
		c.dirty = c.dirty || !c.synced
		c.synced = true
		return nil
	})
}

// names are those of all objects, faulty ones too.
func (c *collection[T]) names() []name {
	all := slices.Collect(maps.Keys(c.faulty))
	for _, o := range c.items {
		all = append(all, nameOf(o))
	}
	return all
}

// Resync does nothing.
func (c *collection[T]) Resync() error { return nil }

// update runs a change, and tells when there is something new.
func (c *collection[T]) update(change func() error) error {
	c.mu.Lock()
	err := change()
	dirty := c.dirty
	c.mu.Unlock()
	if dirty {
		c.changed()
	}
	return err
}

func unexpected(o any) error { return fmt.Errorf("an object of type %T was not expected", o) }

// put takes a version of an object. One that differs in nothing that is kept is not taken, so that the pointer stays.
func (c *collection[T]) put(o any) error {
	switch o := o.(type) {
	case T:
		next := c.strip(o)
		n := nameOf(next)
		if _, was := c.faulty[n]; was {
			delete(c.faulty, n)
			c.dirty = true
		}
		i, found := c.find(n)
		switch {
		case !found:
			c.edit()
			c.items = slices.Insert(c.items, i, next)
		case !reflect.DeepEqual(c.items[i], next):
			c.edit()
			c.items[i] = next
		}
		return nil
	case *faultyObject:
		if n := nameOf(o); c.faulty[n] != o.reason {
			if c.faulty == nil {
				c.faulty = map[name]string{}
			}
			c.faulty[n] = o.reason
			c.dirty = true
		}
		return nil
	}
	return unexpected(o)
}

func (c *collection[T]) remove(n name) {
	if _, was := c.faulty[n]; was {
		delete(c.faulty, n)
		c.dirty = true
	}
	if i, found := c.find(n); found {
		c.edit()
		c.items = slices.Delete(c.items, i, i+1)
	}
}

// edit makes the items ours to edit. Between two publications that costs one copy, however many changes there are.
func (c *collection[T]) edit() {
	if c.lent {
		c.items = slices.Clone(c.items)
		c.lent = false
	}
	c.dirty = true
}

func (c *collection[T]) drop() {
	_ = c.update(func() error { // it does not fail
		c.items, c.lent, c.faulty = nil, false, nil
		c.dirty, c.synced = true, false
		return nil
	})
}

func (c *collection[T]) hasSynced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced
}

func (c *collection[T]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
}

func (c *collection[T]) fill(set *objects.Set) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dirty {
		return false
	}
	c.dirty = false
	field := c.field(set)
	if slices.Equal(*field, c.items) { // there and back again, or only what is faulty has changed
		c.items = *field
		c.lent = true
		return false
	}
	c.lent = true
	*field = c.items
	return true
}

func (c *collection[T]) malformed(file string) []kube.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []kube.Problem
	for _, n := range slices.SortedFunc(maps.Keys(c.faulty), name.compare) {
		counts := "it does not count"
		if _, found := c.find(n); found {
			counts = "the version before it still counts"
		}
		all = append(all, kube.Problem{File: file, Object: c.kind + " " + n.String(), Reason: c.faulty[n] + "; " + counts})
	}
	return all
}
