// Package handover passes a node from one agent to the next while both run, as they do during an upgrade: the one that
// is asked stops writing to the kernel and lets go of its lock and sockets; what it made serves on meanwhile.
//
// On a unix socket that only root may open, the successor says "hand over" and a newline. The holder closes the
// connection when it has let go, and so does the kernel when it dies: an end of the stream is all that the successor
// waits for.
package handover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	request      = "hand over\n"
	requestLimit = time.Second // for the request to come, once connected
)

// ErrNobody is returned where no agent is to be asked.
var ErrNobody = errors.New("no agent answers at the handover socket")

// Ask asks the agent at path to let go of the node, and waits until it has, or until ctx is done.
func Ask(ctx context.Context, path string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return ErrNobody
	}
	if err != nil {
		return fmt.Errorf("ask for the node: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err = io.WriteString(c, request); err == nil {
		_, err = io.Copy(io.Discard, c)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the agent that has the node does not let go of it: %w", context.Cause(ctx))
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE): // a holder that died has let go too
		return nil
	case err != nil:
		return fmt.Errorf("wait for the node: %w", err)
	}
	return nil
}

// Holder answers for the agent that has the node.
type Holder struct {
	listener *net.UnixListener
	log      *slog.Logger
}

// Listen makes the socket of whoever has the node, whose lock says that it is the only one: a socket that is at the path
// is a predecessor's.
func Listen(path string, log *slog.Logger) (*Holder, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the handover socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove a predecessor's handover socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for a successor: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make the handover socket root's: %w", err), l.Close())
	}
	return &Holder{listener: l, log: log}, nil
}

// Run answers until a successor asks, whose connection it returns: closing it says that the node was let go. It returns
// nil when ctx is done first.
func (h *Holder) Run(ctx context.Context) io.Closer {
	stop := context.AfterFunc(ctx, func() { h.listener.Close() })
	defer stop()
	for {
		c, err := h.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close() // nothing was said on it
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // such as too many open files: it passes
			h.log.Error("a successor cannot be heard", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if err := heard(c); err != nil {
			h.log.Warn("who connected to the handover socket is no successor", "error", err)
			_ = c.Close() // nothing was said on it
			continue
		}
		return c
	}
}

// heard reads the request.
func heard(c *net.UnixConn) error {
	if err := c.SetReadDeadline(time.Now().Add(requestLimit)); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(io.LimitReader(c, int64(len(request))), len(request)).ReadString('\n')
	if err == nil && line != request {
		err = fmt.Errorf("it said %q", line)
	}
	return err
}

// Close ends the socket and removes its file. The lock has to be held until then: after it the file is a successor's.
func (h *Holder) Close() {
	h.listener.Close() // Run may have done so
}
