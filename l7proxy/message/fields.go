package message

// Get returns the value of the first line of that name, and whether there is one. Names are compared without regard to
// ASCII case (RFC 9110 section 5.1), in all of these methods.
func (f Fields) Get(name string) (string, bool) {
	for i := range f {
		if EqualName(f[i].Name, name) {
			return f[i].Value, true
		}
	}
	return "", false
}

// Count tells how many lines have that name.
func (f Fields) Count(name string) int {
	n := 0
	for i := range f {
		if EqualName(f[i].Name, name) {
			n++
		}
	}
	return n
}

// Add appends a line. It allocates only when f is full.
func (f *Fields) Add(name, value string) {
	*f = append(*f, Field{Name: name, Value: value})
}

// Set makes value the only one of that name: the first line keeps its place and its spelling, further ones go. Without
// any it adds a line.
func (f *Fields) Set(name, value string) {
	for i := range *f {
		if EqualName((*f)[i].Name, name) {
			(*f)[i].Value = value
			f.delFrom(i+1, name)
			return
		}
	}
	f.Add(name, value)
}

// Del removes all lines of that name; the others keep their order.
func (f *Fields) Del(name string) { f.delFrom(0, name) }

// delFrom removes the lines of that name from index start on.
func (f *Fields) delFrom(start int, name string) {
	all := *f
	kept := all[:start]
	for i := start; i < len(all); i++ {
		if !EqualName(all[i].Name, name) {
			kept = append(kept, all[i])
		}
	}
	clear(all[len(kept):]) // a view must not outlive its buffer here
	*f = kept
}

// EqualName tells whether two field names are the same without regard to ASCII case. Unlike strings.EqualFold it folds
// nothing beyond ASCII: U+212A is no "k", or a name could mean one thing here and another to the backend.
func EqualName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
