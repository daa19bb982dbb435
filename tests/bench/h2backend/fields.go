package main

import "github.com/sluice-mesh/sluice/tests/bench/h2"

// fields encodes those of an answer, as a gRPC server's library does: what was sent once on a connection is an entry of the
// dynamic table from then on, where the peer has one.
type fields struct {
	name  string // of this backend
	table bool
	sent  [4]int // when each was entered, from 1; 0: it was not
	count int
}

func (e *fields) header(b []byte, stream uint32) []byte {
	b, start := begin(b, h2.EndHeaders, stream)
	b = h2.AppendField(b, ":status", "200")
	b = e.append(b, 0, "content-type", "application/grpc")
	b = e.append(b, 1, "x-backend", e.name)
	return end(b, start)
}

func (e *fields) trailers(b []byte, stream uint32) []byte {
	b, start := begin(b, h2.EndHeaders|h2.EndStream, stream)
	b = e.append(b, 2, "grpc-status", "0")
	b = e.append(b, 3, "grpc-message", "")
	return end(b, start)
}

func (e *fields) append(b []byte, i int, name, value string) []byte {
	switch {
	case !e.table:
		return h2.AppendField(b, name, value)
	case e.sent[i] > 0:
		return h2.AppendDynamic(b, e.count-e.sent[i])
	}
	e.count++
	e.sent[i] = e.count
	return h2.AppendIndexed(b, name, value)
}

func begin(b []byte, flags byte, stream uint32) (out []byte, start int) {
	return h2.Append(b, 0, h2.Headers, flags, stream), len(b)
}

// end puts the length in: less than 256 bytes.
func end(b []byte, start int) []byte {
	const header = 9
	b[start+2] = byte(len(b) - start - header)
	return b
}
