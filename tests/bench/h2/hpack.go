package h2

import (
	"errors"
	"fmt"
)

// Field is a field as it was received, with the bytes that it is sent as: they refer to no dynamic table, so that they are
// the same on every connection. Fields that are equal are one, as long as there are not too many.
type Field struct {
	Name, Value string
	Wire        []byte
}

var errBlock = errors.New("a field block that is not as RFC 7541 has it")

// maxTable is the size of the dynamic table that a decoder has (SETTINGS_HEADER_TABLE_SIZE's default), maxFields how many
// fields it remembers in order not to make them again.
const (
	maxTable  = 4096
	maxFields = 4096
)

// Decoder decodes the blocks of one connection, in their order.
type Decoder struct {
	table   []*Field // oldest first
	size    int
	limit   int
	known   map[string]*Field // by name, NUL, value
	scratch []byte
}

// NewDecoder makes one for a new connection.
func NewDecoder() *Decoder { return &Decoder{limit: maxTable, known: map[string]*Field{}} }

// Decode appends the fields of a block.
func (d *Decoder) Decode(fields []*Field, block []byte) ([]*Field, error) {
	for len(block) > 0 {
		var f *Field
		var err error
		switch b := block[0]; {
		case b&0x80 != 0: // 6.1 indexed
			var i int
			if i, block, err = readInt(block, 7); err == nil {
				f, err = d.at(i)
			}
		case b&0xe0 == 0x20: // 6.3 table size update
			var n int
			if n, block, err = readInt(block, 5); err == nil && n <= maxTable {
				d.limit = n
				d.evict(0)
				continue
			}
		case b&0x40 != 0: // 6.2.1 literal with indexing
			if f, block, err = d.literal(block, 6); err == nil {
				d.insert(f)
			}
		default: // 6.2.2 and 6.2.3
			f, block, err = d.literal(block, 4)
		}
		if err != nil {
			return fields, err
		}
		if f == nil {
			return fields, fmt.Errorf("%w: the table's size", errBlock)
		}
		fields = append(fields, f)
	}
	return fields, nil
}

func (d *Decoder) at(i int) (*Field, error) {
	n := len(staticTable)
	switch {
	case i >= 1 && i <= n:
		return d.intern(staticTable[i-1].name, staticTable[i-1].value), nil
	case i > n && i-n <= len(d.table):
		return d.table[len(d.table)-(i-n)], nil
	}
	return nil, fmt.Errorf("%w: no field %d", errBlock, i)
}

func (d *Decoder) literal(b []byte, bits int) (*Field, []byte, error) {
	i, b, err := readInt(b, bits)
	if err != nil {
		return nil, nil, err
	}
	key := d.scratch[:0]
	if i == 0 {
		if key, b, err = appendString(key, b); err != nil {
			return nil, nil, err
		}
	} else {
		named, err := d.at(i)
		if err != nil {
			return nil, nil, err
		}
		key = append(key, named.Name...)
	}
	split := len(key)
	key = append(key, 0)
	if key, b, err = appendString(key, b); err != nil {
		return nil, nil, err
	}
	d.scratch = key
	if f := d.known[string(key)]; f != nil {
		return f, b, nil
	}
	return d.intern(string(key[:split]), string(key[split+1:])), b, nil
}

func (d *Decoder) intern(name, value string) *Field {
	if f := d.known[name+"\x00"+value]; f != nil {
		return f
	}
	f := &Field{Name: name, Value: value, Wire: AppendField(nil, name, value)}
	if len(d.known) < maxFields {
		d.known[name+"\x00"+value] = f
	}
	return f
}

func entrySize(f *Field) int { return len(f.Name) + len(f.Value) + 32 }

func (d *Decoder) insert(f *Field) {
	d.evict(entrySize(f))
	if entrySize(f) <= d.limit {
		d.table = append(d.table, f)
		d.size += entrySize(f)
	}
}

// evict makes room for an entry of the size.
func (d *Decoder) evict(room int) {
	for len(d.table) > 0 && d.size+room > d.limit {
		d.size -= entrySize(d.table[0])
		d.table = d.table[1:]
	}
}

func readInt(b []byte, bits int) (int, []byte, error) {
	mask := 1<<bits - 1
	n := int(b[0]) & mask
	b = b[1:]
	if n < mask {
		return n, b, nil
	}
	for shift := 0; len(b) > 0 && shift <= 21; shift += 7 {
		c := b[0]
		b = b[1:]
		n += int(c&0x7f) << shift
		if c&0x80 == 0 {
			return n, b, nil
		}
	}
	return 0, nil, fmt.Errorf("%w: a number", errBlock)
}

func appendInt(b []byte, first byte, bits, n int) []byte {
	mask := 1<<bits - 1
	if n < mask {
		return append(b, first|byte(n))
	}
	b = append(b, first|byte(mask))
	for n -= mask; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// appendString appends the string that b begins with.
func appendString(to, b []byte) (text, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, fmt.Errorf("%w: a string is missing", errBlock)
	}
	huffman := b[0]&0x80 != 0
	n, b, err := readInt(b, 7)
	if err != nil {
		return nil, nil, err
	}
	if n > len(b) {
		return nil, nil, fmt.Errorf("%w: a string of %d bytes in %d", errBlock, n, len(b))
	}
	if huffman {
		to, err = appendHuffman(to, b[:n])
		return to, b[n:], err
	}
	return append(to, b[:n]...), b[n:], nil
}

// AppendField appends a field without the dynamic table: as an entry of the static one, or as a literal that is not indexed.
func AppendField(b []byte, name, value string) []byte {
	i, whole := static(name, value)
	if whole {
		return appendInt(b, 0x80, 7, i)
	}
	return appendLiteral(appendInt(b, 0, 4, i), i, name, value)
}

// AppendIndexed appends a field that both ends remember from now on, as the newest entry of the dynamic table.
func AppendIndexed(b []byte, name, value string) []byte {
	i, _ := static(name, "")
	return appendLiteral(appendInt(b, 0x40, 6, i), i, name, value)
}

// AppendDynamic appends an entry of the dynamic table; 0 is the newest.
func AppendDynamic(b []byte, age int) []byte { return appendInt(b, 0x80, 7, len(staticTable)+1+age) }

func appendLiteral(b []byte, nameIndex int, name, value string) []byte {
	if nameIndex == 0 {
		b = append(appendInt(b, 0, 7, len(name)), name...)
	}
	return append(appendInt(b, 0, 7, len(value)), value...)
}

// static is the index of the name in the static table, or 0, and whether the value is there too.
func static(name, value string) (index int, whole bool) {
	for i, e := range staticTable {
		switch {
		case e.name == name && e.value == value:
			return i + 1, true
		case e.name == name && index == 0:
			index = i + 1
		}
	}
	return index, false
}
