package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	requestTime = 2 * time.Second        // for a request to come in full
	answerTime  = time.Second            // for an answer to be taken
	onTheWay    = 100 * time.Millisecond // the handler's context ends so much before the plugin's patience, or after half of it
	maxAtOnce   = 512                    // requests; more wait in the backlog
	pause       = 50 * time.Millisecond  // after an accept that failed, for lack of descriptors say
)

// Handler answers one request, which has been validated. Its context ends a little before the plugin's patience does: an
// answer has to be given by then. Several requests are handled at once. Version of the answer is filled in.
type Handler func(ctx context.Context, r Request) Answer

// Serve answers what plugins ask, until the context ends; then it closes the listener, waits for the handlers, whose
// contexts end too, and returns nil. It returns an error when the listener fails. Whoever is not root is refused.
func Serve(ctx context.Context, l *net.UnixListener, handle Handler, log *slog.Logger) error {
	s := server{handle: handle, log: log, slots: make(chan struct{}, maxAtOnce)}
	defer s.underway.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.AcceptUnix()
		switch {
		case err == nil:
			s.underway.Go(func() {
				s.serve(ctx, c)
				<-s.slots
			})
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("the CNI socket: %w", err)
		}
		<-s.slots
		log.Warn("a CNI request cannot be taken; trying again", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

type server struct {
	handle   Handler
	log      *slog.Logger
	slots    chan struct{}
	underway sync.WaitGroup
}

// serve answers one connection.
func (s *server) serve(ctx context.Context, c *net.UnixConn) {
	defer func() { _ = c.Close() }() // the answer is on its way, or was not wanted
	start := time.Now()
	r, err := receive(c)
	var a Answer
	if err != nil {
		a.Error = err.Error()
		s.log.Warn("a CNI request is refused", "error", err)
	} else {
		a = s.answer(ctx, r)
		s.log.Debug("a CNI request is answered", "command", r.Command, "pod", r.Namespace+"/"+r.Name, "uid", r.UID,
			"state", a.State, "reason", a.Reason, "error", a.Error, "took", time.Since(start))
	}
	a.Version = Version
	if err := c.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		s.log.Warn("a CNI request cannot be answered", "error", err)
		return
	}
	err = write(c, a, MaxAnswer)
	if errors.Is(err, errTooLong) {
		err = write(c, Answer{Version: Version, Error: err.Error()}, MaxAnswer)
	}
	if err != nil {
		// The plugin has given up, or was killed: it knows what to do without an answer.
		s.log.Info("a CNI request was not waited for", "command", r.Command, "pod", r.Namespace+"/"+r.Name, "uid", r.UID, "error", err)
	}
}

func (s *server) answer(ctx context.Context, r Request) Answer {
	wait := r.wait()
	ctx, cancel := context.WithTimeout(ctx, max(wait-onTheWay, wait/2))
	defer cancel()
	return s.handle(ctx, r)
}

// receive reads a request from root. Of somebody else nothing is read.
func receive(c *net.UnixConn) (Request, error) {
	uid, err := peerUID(c)
	if err != nil {
		return Request{}, err
	}
	if uid != 0 {
		return Request{}, fmt.Errorf("user %d may not ask: only root may, as whom the container runtime runs the plugin", uid)
	}
	if err := c.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return Request{}, err
	}
	line, err := readLine(c, MaxRequest)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Request{}, fmt.Errorf("no request came within %v", requestTime)
	}
	if err != nil {
		return Request{}, err
	}
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		return Request{}, fmt.Errorf("it is no request: %w", err)
	}
	return r, r.Validate()
}

// peerUID is who connected, as the kernel says.
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("ask who connected: %w", credErr)
	}
	return cred.Uid, nil
}
