package openloop

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// maxHead bounds the head of an answer: the backends' are far smaller.
const maxHead = 16 << 10

// answer recognises the end of one response with a Content-Length, which is all that the backends send.
type answer struct {
	head  []byte
	body  int // bytes still to come, once inBody
	in    bool
	Close bool // the sender ends the connection after it
}

// feed takes what was read. It says whether the response is complete; more than that is an error, because nothing was
// asked for that could be answered.
func (a *answer) feed(b []byte) (done bool, err error) {
	if !a.in {
		a.head = append(a.head, b...)
		end := bytes.Index(a.head, []byte("\r\n\r\n"))
		if end < 0 {
			if len(a.head) > maxHead {
				return false, errors.New("a head of more than 16 KiB")
			}
			return false, nil
		}
		if err := a.parse(a.head[:end]); err != nil {
			return false, err
		}
		b = a.head[end+4:]
		a.in = true
	}
	a.body -= len(b)
	if a.body < 0 {
		return false, fmt.Errorf("%d bytes after the end of the answer", -a.body)
	}
	return a.body == 0, nil
}

func (a *answer) reset() { a.head, a.body, a.in, a.Close = a.head[:0], 0, false, false }

func (a *answer) parse(head []byte) error {
	first, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if len(first) < 12 || !bytes.HasPrefix(first, []byte("HTTP/1.1 ")) {
		return fmt.Errorf("a status line %q", first)
	}
	if status := string(first[9:12]); status != "200" {
		return fmt.Errorf("status %s", status)
	}
	length := -1
	for len(rest) > 0 {
		var field []byte
		field, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(field, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			n, err := strconv.Atoi(string(value))
			if err != nil || n < 0 {
				return fmt.Errorf("Content-Length %q", value)
			}
			length = n
		case bytes.EqualFold(name, []byte("connection")):
			a.Close = bytes.EqualFold(value, []byte("close"))
		}
	}
	if length < 0 {
		return errors.New("no Content-Length: this generator knows no other end of an answer")
	}
	a.body = length
	return nil
}
