package h2

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func block(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func lines(fields []*Field) string {
	var s []string
	for _, f := range fields {
		s = append(s, f.Name+": "+f.Value)
	}
	return strings.Join(s, "\n")
}

// RFC 7541 appendices C.3, C.4 and C.6: each list is of one connection.
func TestDecodesTheExamplesOfRFC7541(t *testing.T) {
	const (
		first  = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com"
		second = first + "\ncache-control: no-cache"
		third  = ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value"
	)
	for name, steps := range map[string][][2]string{
		"C.3": {
			{"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", first},
			{"8286 84be 5808 6e6f 2d63 6163 6865", second},
			{"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", third},
		},
		"C.4": {
			{"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", first},
			{"8286 84be 5886 a8eb 1064 9cbf", second},
			{"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", third},
		},
		"C.6": { // 3fe1 01 makes the table one of 256 bytes, as the examples have it
			{"3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
				":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com"},
			{"4883 640e ffc1 c0bf", ":status: 307\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com"},
		},
	} {
		d := NewDecoder()
		for i, step := range steps {
			fields, err := d.Decode(nil, block(t, step[0]))
			if got := lines(fields); err != nil || got != step[1] {
				t.Errorf("%s, block %d: %v\n%s\nwant\n%s", name, i+1, err, got, step[1])
			}
		}
	}
}

// RFC 7541 section 4.4: what is evicted is no longer known, and an entry larger than the table empties it.
func TestTheTableIsBounded(t *testing.T) {
	for name, steps := range map[string][2]string{
		"evicted":   {"3f2d 4003 782d 6101 31 4003 782d 6201 31", "bf"}, // a table of 76 bytes, entries of 36
		"too large": {"3f09 4003 782d 6107 3132 3334 3536 37", "be"},    // a table of 40 bytes, an entry of 42
	} {
		d := NewDecoder()
		first, err := d.Decode(nil, block(t, steps[0]))
		if err != nil || len(first) == 0 {
			t.Fatalf("%s: %v, %v", name, first, err)
		}
		if name == "evicted" { // both fit
			if _, err := d.Decode(nil, block(t, steps[1])); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Decode(nil, block(t, "4003 782d 6301 31")); err != nil {
				t.Fatal(err)
			}
			steps[1] = "c0"
		}
		if fields, err := d.Decode(nil, block(t, steps[1])); !errors.Is(err, errBlock) {
			t.Errorf("%s: %s, %v", name, lines(fields), err)
		}
	}
}

func TestBadBlocksAreErrors(t *testing.T) {
	for name, text := range map[string]string{
		"index 0": "80", "no such index": "c0", "a number without end": "ff ffff ffff ff", "a string that is too short": "400a 61",
		"no value": "0001 61", "a table that is too large": "3f e2 ff 01", "a code that is cut off": "0001 61 81 00", "nine bits of padding": "0001 61 82 1fff",
	} {
		if fields, err := NewDecoder().Decode(nil, block(t, text)); !errors.Is(err, errBlock) {
			t.Errorf("%s: %s, %v", name, lines(fields), err)
		}
	}
}

// What is encoded decodes to the same, on any connection and whatever came before.
func TestWireNeedsNoTable(t *testing.T) {
	long := strings.Repeat("x", 300)
	fields := [][2]string{{":status", "200"}, {":path", "/a"}, {"content-type", "application/grpc"}, {"grpc-status", "0"}, {"x-long", long}, {"grpc-message", ""}}
	var b []byte
	for _, f := range fields {
		b = AppendField(b, f[0], f[1])
	}
	sender := NewDecoder()
	got, err := sender.Decode(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	var again []byte
	for i, f := range got {
		if f.Name != fields[i][0] || f.Value != fields[i][1] {
			t.Errorf("field %d is %s: %.20s", i, f.Name, f.Value)
		}
		again = append(again, f.Wire...)
	}
	if len(got) != len(fields) || !bytes.Equal(again, b) || len(sender.table) != 0 {
		t.Errorf("%d fields, %d bytes again, want %d and %d; %d in the table", len(got), len(again), len(fields), len(b), len(sender.table))
	}
	same, err := sender.Decode(nil, b)
	if err != nil || same[4] != got[4] {
		t.Errorf("a field that was seen is made again: %v", err)
	}
}

func TestIndexedFieldsAreRemembered(t *testing.T) {
	d := NewDecoder()
	b := AppendIndexed(AppendIndexed(nil, "x-a", "1"), "content-type", "x")
	if _, err := d.Decode(nil, b); err != nil {
		t.Fatal(err)
	}
	fields, err := d.Decode(nil, AppendDynamic(AppendDynamic(nil, 1), 0))
	if err != nil || lines(fields) != "x-a: 1\ncontent-type: x" {
		t.Errorf("%s, %v", lines(fields), err)
	}
}

// RFC 9113 sections 4.1, 6.1 and 6.2.
func TestFramesAreReadWithoutPaddingAndPriority(t *testing.T) {
	b := append(Append(nil, 4, Data, EndStream|padded, 5), 2, 'a', 0, 0)
	b = append(Append(b, 8, Headers, EndHeaders|padded|priority, 7), 1, 0, 0, 0, 3, 16, 0x88, 0)
	b = AppendWord(b, WindowUpdate, 9, 70000)
	b = AppendSettings(b, InitialWindowSize, 1<<20, MaxConcurrentStreams, 7)
	var f Frame
	var got []string
	for rest := b; len(rest) > 0; {
		next, ok, err := Next(rest, &f)
		if err != nil || !ok {
			t.Fatalf("%v, %v after %v", ok, err, got)
		}
		rest = next
		switch f.Type {
		case Data:
			if string(f.Payload) != "a" || f.Length != 4 || f.Stream != 5 || !f.Has(EndStream) {
				t.Errorf("%+v", f)
			}
		case Headers:
			if !bytes.Equal(f.Payload, []byte{0x88}) || f.Stream != 7 || f.Has(EndStream) {
				t.Errorf("%+v", f)
			}
		case WindowUpdate:
			if n, err := f.Word(); n != 70000 || err != nil || f.Stream != 9 {
				t.Errorf("%d, %v, %+v", n, err, f)
			}
		case Settings:
			set := map[uint16]uint32{}
			f.EachSetting(func(id uint16, value uint32) { set[id] = value })
			if len(set) != 2 || set[InitialWindowSize] != 1<<20 || set[MaxConcurrentStreams] != 7 {
				t.Errorf("%v", set)
			}
			if answer := f.AppendAnswer(nil); !bytes.Equal(answer, []byte{0, 0, 0, Settings, Ack, 0, 0, 0, 0}) {
				t.Errorf("answer % x", answer)
			}
		}
		got = append(got, string('0'+rune(f.Type)))
	}
	if strings.Join(got, "") != "0184" {
		t.Errorf("frames of types %v", got)
	}
	for n := range 13 {
		if _, ok, err := Next(b[:n], &f); ok || err != nil {
			t.Errorf("%d of 13 bytes are a frame: %v", n, err)
		}
	}
	for name, bad := range map[string][]byte{
		"longer than we granted": Append(nil, MaxFrame+1, Data, 0, 1), "more padding than payload": append(Append(nil, 2, Data, padded, 1), 2, 0),
	} {
		if _, _, err := Next(bad, &f); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
