package hpack

import (
	"cmp"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// Decoder decodes the header blocks of one direction of a connection, in their order. It is not safe for concurrent use.
//
// Its memory is bounded. Before the first block it has none beyond itself; then, for a table of 4 KiB, at most 2 KiB of
// entries, two chunks of 6 KiB for their strings, and 16 KiB for strings that were Huffman-coded; all grow as they are
// needed. A large block takes more while it is decoded and for as long as its fields are kept: a few times the limit of
// the header list. Trim gives back what an idle connection can do without.
type Decoder struct {
	table   table
	scratch []byte // where Huffman-coded strings are decoded to; what is in it is never overwritten in this block
}

const (
	defaultTableSize = 4096 // RFC 9113, 6.5.2
	minScratch       = 256
	maxScratch       = 16 << 10 // that is kept
	maxUpdates       = 2        // RFC 7541, 4.2: the smallest size in between, and the last one
)

// NewDecoder makes a decoder whose table has at most that many bytes: the SETTINGS_HEADER_TABLE_SIZE that we announced.
// Until the peer sends an update its table has the 4,096 bytes of a new connection, or tableSize if that is less; so a
// smaller one is right only when the peer inserts nothing before it knows our settings.
func NewDecoder(tableSize int) *Decoder {
	return &Decoder{table: table{max: min(tableSize, defaultTableSize), limit: tableSize}}
}

// Decode decodes one whole header block and appends its fields, pseudo-fields included, to dst in their order. Names and
// values are views, of the block too: they are valid until the next Decode and for as long as the block is left alone.
//
// limit is for the size of the header list as RFC 9113, 6.5.2 counts. From the first field on that goes beyond it no field is
// appended, and tooLarge says so; the rest is decoded for the sake of the table only, at a cost that the block's length bounds.
//
// An error is an *Error. The table is not right any more then, and the connection has to end.
func (d *Decoder) Decode(dst message.Fields, block []byte, limit int) (fields message.Fields, tooLarge bool, err error) {
	d.table.begin()
	d.scratch = d.scratch[:0]
	l := list{fields: dst, room: limit}
	rest, err := d.updates(block)
	for err == nil && len(rest) > 0 {
		switch first := rest[0]; {
		case first&0x80 != 0:
			rest, err = d.indexed(&l, rest)
		case first&0x40 != 0:
			rest, err = d.literal(&l, rest, 6)
		case first&0x20 != 0:
			err = errUpdateLate
		default:
			rest, err = d.literal(&l, rest, 4)
		}
	}
	if cap(d.scratch) > maxScratch {
		d.scratch = nil // the fields keep it
	}
	return l.fields, l.tooLarge, err
}

// Trim gives back memory without which the decoder does as well, only that it allocates it again. Fields that were decoded stay valid.
func (d *Decoder) Trim() {
	d.scratch, d.table.spare, d.table.shown = nil, nil, nil
}

// list is the header list that a block makes.
type list struct {
	fields   message.Fields
	room     int // as RFC 9113, 6.5.2 counts
	tooLarge bool
}

// takes tells whether there is room for a field of that size; without, the list is too large from here on.
func (l *list) takes(size int) bool {
	if l.tooLarge || size > l.room {
		l.tooLarge = true
		return false
	}
	return true
}

func (l *list) add(name, value string, sensitive bool) {
	l.room -= sizeOf(name, value)
	l.fields = append(l.fields, message.Field{})
	f := &l.fields[len(l.fields)-1] // in its place: to make it elsewhere and copy it costs more than all else here
	f.Name, f.Value, f.Sensitive = name, value, sensitive
}

// updates does the table size updates that the block begins with.
func (d *Decoder) updates(b []byte) (rest []byte, err error) {
	for n := 0; len(b) > 0 && b[0]&0xe0 == 0x20; n++ {
		if n == maxUpdates {
			return nil, errUpdates
		}
		var size int
		if size, b, err = integer(b, 5); err != nil {
			return nil, err
		}
		if size > d.table.limit {
			return nil, errUpdateLarge
		}
		d.table.resize(size)
	}
	return b, nil
}

// indexed decodes an indexed field (RFC 7541, 6.1).
func (d *Decoder) indexed(l *list, b []byte) (rest []byte, err error) {
	i, rest, err := integer(b, 7)
	if err != nil {
		return nil, err
	}
	var name, value string
	switch {
	case i == 0:
		return nil, errIndexZero
	case i <= staticLen:
		name, value = static[i].Name, static[i].Value
	default:
		e, ok := d.table.at(i - staticLen - 1)
		if !ok {
			return nil, errIndex
		}
		name, value = d.table.name(e), d.table.value(e)
	}
	if l.takes(sizeOf(name, value)) {
		d.table.viewed = d.table.viewed || i > staticLen
		l.add(name, value, false)
	}
	return rest, nil
}

// literal decodes a literal field (RFC 7541, 6.2), whose name's index has that many bits.
func (d *Decoder) literal(l *list, b []byte, bits int) (rest []byte, err error) {
	name, rest, err := d.nameOf(b, bits)
	if err != nil {
		return nil, err
	}
	value, rest, err := readText(rest)
	if err != nil {
		return nil, err
	}
	insert := b[0]&0x40 != 0
	if l.tooLarge || name.bound()+value.bound()+overhead > l.room { // else nothing needs to be counted
		if err := cmp.Or(name.count(), value.count()); err != nil {
			return nil, err
		}
		if size := name.bound() + value.bound() + overhead; !l.takes(size) {
			if insert {
				d.insertOnly(&name, &value, size)
			}
			return rest, nil
		}
	}
	n, err := d.string(&name.text)
	if err != nil {
		return nil, err
	}
	v, err := d.string(&value)
	if err != nil {
		return nil, err
	}
	d.table.viewed = d.table.viewed || name.offset != noOffset
	l.add(n, v, b[0]&0xf0 == 0x10)
	if insert {
		d.table.insert(n, name.offset, v)
	}
	return rest, nil
}

// insertOnly inserts a field, whose strings are known to be right, and appends it nowhere. One that is larger than the table
// empties it (RFC 7541, 4.4) and is not even decoded.
func (d *Decoder) insertOnly(name *nameText, value *text, size int) {
	if size > d.table.max {
		d.table.evict(0)
		return
	}
	before := len(d.scratch)
	n, _ := d.string(&name.text)
	v, _ := d.string(value)
	d.table.insert(n, name.offset, v)
	d.scratch = d.scratch[:min(before, len(d.scratch))]
}

// nameText is the name of a literal field.
type nameText struct {
	text
	offset int // in the table's chunk, or noOffset
}

// nameOf finds the name of a literal field, whose index has that many bits; 0 says that it follows.
func (d *Decoder) nameOf(b []byte, bits int) (name nameText, rest []byte, err error) {
	i, rest, err := integer(b, bits)
	name.offset = noOffset
	switch {
	case err != nil:
	case i == 0:
		name.text, rest, err = readText(rest)
	case i <= staticLen:
		name.plain = static[i].Name
	default:
		e, ok := d.table.at(i - staticLen - 1)
		if !ok {
			return name, nil, errIndex
		}
		name.plain, name.offset = d.table.name(e), int(e.name)
	}
	return name, rest, err
}

// text is a string as it is in the block, or in a table.
type text struct {
	plain string // as it is
	coded []byte // Huffman-coded: plain is empty
	most  int    // how long what is coded is at most
}

// bound is how long it is at most.
func (t *text) bound() int { return len(t.plain) + t.most }

// count makes the bound the length, and checks the code.
func (t *text) count() (err error) {
	t.most, err = huffmanLen(t.coded)
	return err
}

// string decodes t to scratch, if it is coded.
func (d *Decoder) string(t *text) (string, error) {
	if len(t.coded) == 0 {
		return t.plain, nil
	}
	room := t.most + 1 // or read does not get to the padding
	used := len(d.scratch)
	if room > cap(d.scratch)-used {
		d.scratch, used = make([]byte, 0, max(2*cap(d.scratch), room, minScratch)), 0
	}
	h := huffman{src: t.coded}
	n, err := h.read(d.scratch[used : used+room])
	d.scratch = d.scratch[:used+n]
	return view(d.scratch[used:]), err
}

// readText reads a string literal (RFC 7541, 5.2).
func readText(b []byte) (t text, rest []byte, err error) {
	if len(b) == 0 {
		return t, nil, errStringNone
	}
	n, rest, err := integer(b, 7)
	switch {
	case err != nil:
		return t, nil, err
	case n > len(rest):
		return t, nil, errString
	case b[0]&0x80 != 0:
		t.coded, t.most = rest[:n], n*8/minBits
	default:
		t.plain = view(rest[:n])
	}
	return t, rest[n:], nil
}

// integer reads an integer whose prefix has that many bits of the first byte (RFC 7541, 5.1). b is not empty.
func integer(b []byte, bits int) (n int, rest []byte, err error) {
	most := 1<<bits - 1
	if n = int(b[0]) & most; n < most {
		return n, b[1:], nil
	}
	return longInteger(b[1:], most)
}

// maxContinued is how many bytes may follow an integer's prefix: 28 bits are enough for any length and any index.
const maxContinued = 4

func longInteger(b []byte, prefix int) (n int, rest []byte, err error) {
	n = prefix
	for i := range maxContinued {
		if i == len(b) {
			return 0, nil, errIntegerCut
		}
		n += int(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			return n, b[i+1:], nil
		}
	}
	return 0, nil, errInteger
}
