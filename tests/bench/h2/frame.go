// Package h2 is the little of HTTP/2 that the benchmark's own programs share: frames, field compression, and a socket that is
// read and written by raw system calls. It trusts its peers, which the benchmark chose; it is no base for anything else.
package h2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Preface is what a client sends first (RFC 9113 section 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// The types of frames that something is done about.
const (
	Data         = 0x0
	Headers      = 0x1
	ResetStream  = 0x3
	Settings     = 0x4
	Ping         = 0x6
	GoAway       = 0x7
	WindowUpdate = 0x8
	Continuation = 0x9
)

// Flags. Ack is that of SETTINGS and PING.
const (
	EndStream  = 0x1
	Ack        = 0x1
	EndHeaders = 0x4
	padded     = 0x8
	priority   = 0x20
)

// Settings' identifiers.
const (
	HeaderTableSize      = 0x1
	EnablePush           = 0x2
	MaxConcurrentStreams = 0x3
	InitialWindowSize    = 0x4
)

// The windows before any setting, and the longest frame.
const (
	DefaultWindow = 65535
	MaxFrame      = 16384
	headerSize    = 9
)

// Frame is one frame. Its payload, without padding and priority, is a view of what was read.
type Frame struct {
	Type, Flags byte
	Stream      uint32
	Payload     []byte
	Length      int // of the payload with its padding, which is what flow control counts
}

// Has says whether all bits of the flag are set.
func (f *Frame) Has(flag byte) bool { return f.Flags&flag == flag }

var errFrame = errors.New("a frame that is not as RFC 9113 has it")

// Next takes the first frame off b. ok is false when it is not there as a whole.
func Next(b []byte, f *Frame) (rest []byte, ok bool, err error) {
	if len(b) < headerSize {
		return b, false, nil
	}
	f.Length = int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if f.Length > MaxFrame {
		return b, false, fmt.Errorf("%w: %d bytes long", errFrame, f.Length)
	}
	if len(b) < headerSize+f.Length {
		return b, false, nil
	}
	f.Type, f.Flags, f.Stream = b[3], b[4], binary.BigEndian.Uint32(b[5:])&0x7fffffff
	f.Payload, rest = b[headerSize:headerSize+f.Length], b[headerSize+f.Length:]
	if f.Type == Data || f.Type == Headers {
		return rest, true, f.strip()
	}
	return rest, true, nil
}

// strip takes padding and priority off the payload.
func (f *Frame) strip() error {
	pad, skip := 0, 0
	if f.Has(padded) && len(f.Payload) > 0 {
		pad, skip = int(f.Payload[0]), 1
	}
	if f.Type == Headers && f.Has(priority) {
		skip += 5
	}
	if skip+pad > len(f.Payload) {
		return fmt.Errorf("%w: %d bytes of padding and priority in %d", errFrame, skip+pad, len(f.Payload))
	}
	f.Payload = f.Payload[skip : len(f.Payload)-pad]
	return nil
}

// Append begins a frame: its payload of so many bytes has to follow.
func Append(b []byte, length int, kind, flags byte, stream uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags,
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

// AppendSettings appends SETTINGS with pairs of identifier and value.
func AppendSettings(b []byte, pairs ...uint32) []byte {
	b = Append(b, len(pairs)*3, Settings, 0, 0)
	for i := 0; i < len(pairs); i += 2 {
		b = binary.BigEndian.AppendUint16(b, uint16(pairs[i]))
		b = binary.BigEndian.AppendUint32(b, pairs[i+1])
	}
	return b
}

// EachSetting calls set for each pair of a SETTINGS frame.
func (f *Frame) EachSetting(set func(id uint16, value uint32)) {
	for p := f.Payload; len(p) >= 6; p = p[6:] {
		set(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
	}
}

// AppendWord appends a frame whose payload is one number: WINDOW_UPDATE or RST_STREAM.
func AppendWord(b []byte, kind byte, stream, value uint32) []byte {
	return binary.BigEndian.AppendUint32(Append(b, 4, kind, 0, stream), value)
}

// Word is the number that AppendWord wrote.
func (f *Frame) Word() (uint32, error) {
	if len(f.Payload) != 4 {
		return 0, fmt.Errorf("%w: type %d with %d bytes", errFrame, f.Type, len(f.Payload))
	}
	return binary.BigEndian.Uint32(f.Payload) & 0x7fffffff, nil
}

// AppendAnswer appends what a SETTINGS or PING frame is to be answered with.
func (f *Frame) AppendAnswer(b []byte) []byte {
	switch {
	case f.Has(Ack):
		return b
	case f.Type == Settings:
		return Append(b, 0, Settings, Ack, 0)
	default:
		return append(Append(b, len(f.Payload), Ping, Ack, 0), f.Payload...)
	}
}
