package http2

// frameType is a type of RFC 9113, 6.
type frameType uint8

const (
	frameData frameType = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePush
	framePing
	frameGoAway
	frameWindow
	frameContinuation
)

// Flags mean something to certain types only.
const (
	flagAck        = 0x1 // SETTINGS, PING
	flagEndStream  = 0x1 // DATA, HEADERS
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	frameHead = 9       // bytes in front of a payload
	maxFrame  = 1 << 14 // of a payload, both ways: what every endpoint has to take, and what we do not raise
	maxWindow = 1<<31 - 1
	maxStream = 1<<31 - 1
)

// preface is what a client begins with (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// appendHead appends the head of a frame.
func appendHead(dst []byte, size int, typ frameType, flags uint8, id uint32) []byte {
	return append(dst, byte(size>>16), byte(size>>8), byte(size), byte(typ), flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// unpad cuts the padding off a payload (RFC 9113, 6.1).
func unpad(flags uint8, p []byte) ([]byte, *Error) {
	if flags&flagPadded == 0 {
		return p, nil
	}
	if len(p) == 0 {
		return nil, errFrameSize
	}
	n := int(p[0])
	if p = p[1:]; n > len(p) {
		return nil, errPadding
	}
	return p[:len(p)-n], nil
}

// endFlag is END_STREAM, or none.
func endFlag(end bool) uint8 {
	if end {
		return flagEndStream
	}
	return 0
}
