package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// transport carries messages to and from one proxy. Receive returns a pointer to a message of package model, and
// descriptors that the caller owns; Send borrows its descriptors. Close ends a Receive that is under way.
type transport interface {
	Send(msg any, fds ...int) error
	Receive() (msg any, fds []int, err error)
	Close() error
}

// errGone is how a conversation ends when the proxy closed it.
var errGone = errors.New("it closed the connection")

// session is the conversation with one proxy. The goroutine of run owns it; view and book are guarded by server.mu.
type session struct {
	server *Server
	t      transport
	log    *slog.Logger
	wake   chan struct{} // marked when there may be something to send
	inbox  chan received

	view Proxy // without what the book holds
	book *book

	toldReleased bool
}

type received struct {
	msg  any
	self int // of Register: the descriptor that it carries, which the receiver closes
	err  error
}

// serve has the conversation from Register to its end, and says why it ended.
func (s *Server) serve(ctx context.Context, t transport) {
	c := &session{
		server: s, t: t, log: s.cfg.Log,
		wake: make(chan struct{}, 1), inbox: make(chan received), book: newBook(),
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.receive(ctx)
	}()
	err := c.run(ctx)
	cancel()
	_ = t.Close() // the conversation is over, however it ended
	<-done
	s.unregister(c)
	switch {
	case errors.Is(err, errGone) && c.view.ID == 0: // it only looked whether the socket is served
	case errors.Is(err, errGone):
		c.log.Info("proxy gone", "proxy", c.view.ID)
	case !errors.Is(err, context.Canceled): // else the agent stops
		c.log.Warn("proxy dropped", "proxy", c.view.ID, "reason", err)
	}
}

// receive hands over what comes. A descriptor comes with Register only.
func (c *session) receive(ctx context.Context) {
	for {
		msg, fds, err := c.t.Receive()
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
			err = errGone
		}
		r := received{msg: msg, self: -1, err: err}
		if _, first := msg.(*model.Register); first && len(fds) == 1 {
			r.self, fds = fds[0], nil
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err == nil && len(fds) > 0 {
			r.err = fmt.Errorf("it sent %d descriptors, which %T does not carry", len(fds), msg)
		}
		select {
		case c.inbox <- r:
		case <-ctx.Done():
			r.close()
			return
		}
		if r.err != nil {
			return
		}
	}
}

func (r received) close() {
	if r.self >= 0 {
		unix.Close(r.self)
	}
}

func (c *session) run(ctx context.Context) error {
	if err := c.register(ctx); err != nil {
		return err
	}
	retry := time.NewTicker(c.server.cfg.RetryPods)
	defer retry.Stop()
	overdue := time.NewTimer(0)
	overdue.Stop()
	defer overdue.Stop()
	for {
		sent, err := c.send()
		if err != nil {
			return err
		}
		if sent {
			overdue.Reset(c.server.cfg.AckLimit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		case <-retry.C:
			c.retryPods()
		case <-overdue.C:
			return fmt.Errorf("it did not ack within %v", c.server.cfg.AckLimit)
		case r := <-c.inbox:
			r.close()
			if r.err != nil {
				return r.err
			}
			acked, err := c.handle(r.msg)
			if err != nil {
				return err
			}
			if acked {
				overdue.Stop()
			}
		}
	}
}

// register waits for the proxy to name itself and answers. A proxy of another protocol gets the Hello too, so that it
// can say what is wrong on its side.
func (c *session) register(ctx context.Context) error {
	limit := time.NewTimer(c.server.cfg.RegisterLimit)
	defer limit.Stop()
	var first received
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("it did not register within %v", c.server.cfg.RegisterLimit)
	case first = <-c.inbox:
	}
	defer first.close()
	if first.err != nil {
		return first.err
	}
	r, ok := first.msg.(*model.Register)
	if !ok {
		return fmt.Errorf("its first message is %T, not Register", first.msg)
	}
	peer, err := c.server.identify(first.self)
	if err != nil {
		return fmt.Errorf("find out which process it is: %w", err)
	}
	c.view.PID, c.view.Cgroup = peer.PID, peer.Cgroup
	c.log = c.log.With("pid", peer.PID)
	cfg := &c.server.cfg
	hello := &model.Hello{
		Protocol: model.ProtocolVersion, Node: cfg.Node, Zone: cfg.Zone, PrefixV4: cfg.PrefixV4, PrefixV6: cfg.PrefixV6,
	}
	if err := c.t.Send(hello, cfg.HeartbeatFD); err != nil {
		return fmt.Errorf("send Hello: %w", err)
	}
	if r.Protocol != model.ProtocolVersion {
		return fmt.Errorf("it speaks protocol %d and this agent %d: run agent and proxy of the same release",
			r.Protocol, model.ProtocolVersion)
	}
	c.server.register(c)
	c.log.Info("proxy registered", "proxy", c.view.ID)
	return nil
}

func (s *Server) register(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	c.view.ID = s.lastID
	c.view.Since = time.Now()
	s.sessions[c.view.ID] = c
	s.mark()
}

func (s *Server) unregister(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, was := s.sessions[c.view.ID]; was {
		delete(s.sessions, c.view.ID)
		s.mark()
	}
}

// send sends what is due: Released, and the next message unless one is under way. It tells whether an ack is owed.
func (c *session) send() (bool, error) {
	s := c.server
	s.mu.Lock()
	release := c.view.Released && !c.toldReleased
	m := c.book.next(s.state, c.view.Admitted)
	if m != nil {
		c.number(m)
		c.book.sent(m, s.state)
	}
	s.mu.Unlock()
	if release {
		c.toldReleased = true
		if err := c.t.Send(&model.Released{}); err != nil {
			return false, fmt.Errorf("send Released: %w", err)
		}
	}
	switch {
	case m == nil:
		return false, nil
	case m.update != nil:
		if err := c.t.Send(m.update); err != nil {
			return false, fmt.Errorf("send version %d: %w", m.version(), err)
		}
		return true, nil
	}
	return true, c.sendPods(m)
}

func (c *session) number(m *message) {
	v := c.server.version.Add(1)
	if m.update != nil {
		m.update.Version = v
		return
	}
	m.pods.Version = v
}

// sendPods sends the pods whose descriptors can be had. The others count as refused: one that was released in the
// meantime is not in the state that is set next, and where descriptors ran out another attempt follows.
func (c *session) sendPods(m *message) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, p := range m.added {
		d, err := p.Descriptors()
		if err != nil {
			m.unsent = append(m.unsent, model.Refusal{Pod: p.UID, Reason: err.Error()})
			continue
		}
		fds = append(fds, d...)
		m.pods.Added = append(m.pods.Added, p.EnrolledPod)
	}
	if err := c.t.Send(m.pods, fds...); err != nil {
		return fmt.Errorf("send version %d: %w", m.version(), err)
	}
	return nil
}

// handle takes a message of the proxy; it tells whether that was the ack which was owed.
func (c *session) handle(msg any) (bool, error) {
	switch m := msg.(type) {
	case *model.Ack:
		return true, c.handleAck(m)
	case *model.Draining:
		c.server.mu.Lock()
		if !c.view.Draining {
			c.view.Draining, c.view.DrainAt = true, time.Now()
		}
		c.server.mark()
		c.server.mu.Unlock()
		c.log.Info("proxy is draining", "proxy", c.view.ID)
		return false, nil
	}
	return false, fmt.Errorf("it sent %T, which a registered proxy does not send", msg)
}

func (c *session) handleAck(a *model.Ack) error {
	s := c.server
	s.mu.Lock()
	fresh, err := c.book.acked(a)
	c.view.Synced = c.view.Synced || err == nil
	c.view.Ready = c.book.complete
	s.mark()
	s.mu.Unlock()
	for _, r := range fresh {
		c.log.Warn("the proxy refused a unit; its previous version, if any, serves on",
			"proxy", c.view.ID, "unit", unitOf(r), "reason", r.Reason)
	}
	return err
}

func (c *session) retryPods() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.book.forgetRefusedPods()
}

func (c *session) mark() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// snapshot is called with server.mu held.
func (c *session) snapshot() Proxy {
	p := c.view
	p.Services, p.Pods, p.Refused = c.book.services, c.book.pods, c.book.refusals()
	return p
}
