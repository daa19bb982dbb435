package observe

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// accessLog writes lines by a goroutine of its own. What does not fit into its queue is dropped and counted.
type accessLog struct {
	out     io.Writer
	lines   chan *[]byte
	queued  atomic.Int64 // bytes in lines
	buffers sync.Pool    // of *[]byte
	dropped atomic.Uint64

	closing   sync.Once
	closed    chan struct{}
	finished  chan struct{}
	batch     []byte // run's
	lastError error  // of out; run's until finished
}

const (
	lineSize    = 1 << 10  // on average: paths may be long
	maxBuffer   = 16 << 10 // a larger one is not kept
	batchSize   = 64 << 10 // bytes for one write, so far as they are there
	gatherFor   = 10 * time.Millisecond
	closeWithin = 2 * time.Second
)

// newAccessLog makes a log that start starts.
func newAccessLog(out io.Writer, maxLines int) *accessLog {
	return &accessLog{
		out: out, lines: make(chan *[]byte, maxLines), closed: make(chan struct{}), finished: make(chan struct{}),
	}
}

func (l *accessLog) start() { go l.run() }

// put queues a line, or drops it. It does not block.
func (l *accessLog) put(rec *Record) {
	if len(l.lines) == cap(l.lines) || l.queued.Load() > int64(cap(l.lines))*lineSize || l.isClosed() {
		l.dropped.Add(1)
		return
	}
	line, _ := l.buffers.Get().(*[]byte)
	if line == nil {
		line = new(make([]byte, 0, lineSize))
	}
	*line = appendLine((*line)[:0], rec)
	l.queued.Add(int64(len(*line)))
	select {
	case l.lines <- line:
	default:
		l.dropped.Add(1)
		l.release(line)
	}
}

func (l *accessLog) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func (l *accessLog) release(line *[]byte) {
	l.queued.Add(-int64(len(*line)))
	if cap(*line) <= maxBuffer {
		l.buffers.Put(line)
	}
}

// run writes lines until the log is closed and empty. It lets lines gather: to wake it for each of many would cost the
// exchanges more than the lines do.
func (l *accessLog) run() {
	defer close(l.finished)
	for {
		select {
		case line := <-l.lines:
			l.write(line)
			l.drain()
		case <-l.closed:
			l.drain()
			return
		}
		select {
		case <-time.After(gatherFor):
		case <-l.closed:
		}
	}
}

func (l *accessLog) drain() {
	for {
		select {
		case line := <-l.lines:
			l.write(line)
		default:
			return
		}
	}
}

// write writes a line, and those that already wait behind it, at once.
func (l *accessLog) write(line *[]byte) {
	l.batch = l.batch[:0]
	n := uint64(0)
	for line != nil {
		l.batch = append(l.batch, *line...)
		l.release(line)
		n++
		line = nil
		if len(l.batch) < batchSize {
			select {
			case line = <-l.lines:
			default:
			}
		}
	}
	if _, err := l.out.Write(l.batch); err != nil {
		l.lastError = fmt.Errorf("write the access log: %w", err)
		l.dropped.Add(n)
	}
}

var errSlowOutput = errors.New("the access log's output does not take the last lines: they are lost")

// close waits for what is queued.
func (l *accessLog) close() error {
	l.closing.Do(func() { close(l.closed) })
	timer := time.NewTimer(closeWithin)
	defer timer.Stop()
	select {
	case <-l.finished:
		return l.lastError
	case <-timer.C:
		return errSlowOutput
	}
}
