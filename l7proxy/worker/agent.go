package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/channel"
	"github.com/sluice-mesh/sluice/l7proxy/inbound"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

const (
	helloLimit = 5 * time.Second // from Register to Hello
	sendLimit  = 2 * time.Second // of one message of ours

	firstRetry = 10 * time.Millisecond
	lastRetry  = 250 * time.Millisecond // a change has to wait for it when the agent comes back
	// misfitRetry is for an agent that we cannot work with: only another one helps.
	misfitRetry = 5 * time.Second
)

// errMisfit is wrapped by errors that the same agent would cause again.
var errMisfit = errors.New("agent and proxy do not fit together")

// link is what others may know of the conversation with the agent.
type link struct {
	mu       sync.Mutex
	sender   *sender       // nil: no conversation
	released chan struct{} // closed when the agent released us, or went away
	leaving  bool          // no further conversation
}

// sender is a channel whose writes have a limit.
type sender struct {
	conn    *net.UnixConn
	channel *channel.Conn
}

func (s *sender) send(msg any, fds ...int) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	return s.channel.Send(msg, fds...)
}

// begin notes that a conversation has begun. False: we are leaving.
func (l *link) begin(s *sender) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leaving {
		return false
	}
	l.sender, l.released = s, make(chan struct{})
	return true
}

func (l *link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sender != nil {
		l.sender = nil
		l.release()
	}
}

// release is called with mu held.
func (l *link) release() {
	select {
	case <-l.released:
	default:
		close(l.released)
	}
}

func (l *link) connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sender != nil
}

func (l *link) isLeaving() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaving
}

// leave tells the agent that we are about to stop. What it returns is closed when no connection is steered to us any
// more, as far as anybody can tell.
func (l *link) leave() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving = true
	if l.sender == nil {
		none := make(chan struct{})
		close(none)
		return none
	}
	if err := l.sender.send(&model.Draining{}); err != nil {
		l.release() // whoever receives learns of it too
	}
	return l.released
}

// follow does what the agent says until ctx is done, one conversation after the other: the agent may come and go, and
// what is in force serves on.
func (w *worker) follow(ctx context.Context) {
	said := ""
	for delay := firstRetry; ctx.Err() == nil; {
		began := time.Now()
		err := w.converse(ctx)
		if ctx.Err() != nil || w.agent.isLeaving() {
			return
		}
		if time.Since(began) > time.Second { // it was a proper one
			delay, said = firstRetry, ""
		}
		if errors.Is(err, errMisfit) {
			delay = misfitRetry
		}
		if err.Error() != said {
			said = err.Error()
			w.cfg.Log.Warn("no agent; what is in force serves on, and the agent is tried again", "socket", w.cfg.AgentSocket, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, lastRetry)
	}
}

// converse has one conversation, and says why it ended.
func (w *worker) converse(ctx context.Context) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", w.cfg.AgentSocket)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s := &sender{conn: c.(*net.UnixConn)}
	s.channel = channel.New(s.conn)
	if err := w.introduce(s); err != nil {
		return err
	}
	if !w.agent.begin(s) {
		return nil
	}
	defer w.agent.end()
	for {
		msg, fds, err := s.channel.Receive()
		if errors.Is(err, io.EOF) {
			return errors.New("the agent closed the connection")
		}
		if err != nil {
			return err
		}
		if err := w.handle(s, msg, fds); err != nil {
			return err
		}
	}
}

// introduce registers us and takes the agent's answer.
func (w *worker) introduce(s *sender) error {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("open a descriptor of this process: %w", err)
	}
	err = s.send(&model.Register{Protocol: model.ProtocolVersion, PID: os.Getpid()}, self)
	unix.Close(self)
	if err != nil {
		return err
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(helloLimit)); err != nil {
		return err
	}
	msg, fds, err := s.channel.Receive()
	if err != nil {
		return fmt.Errorf("wait for the agent's Hello: %w", err)
	}
	defer closeAll(fds)
	hello, ok := msg.(*model.Hello)
	if !ok {
		return fmt.Errorf("%w: its first message is %T, not Hello", errMisfit, msg)
	}
	if err := w.greet(hello, fds[0]); err != nil {
		return fmt.Errorf("%w: %w", errMisfit, err)
	}
	w.cfg.Log.Info("the agent is connected", "node", hello.Node, "zone", hello.Zone)
	return s.conn.SetReadDeadline(time.Time{})
}

// greet checks what the agent says of itself, and takes its heartbeat. What follows is its own list of pods.
func (w *worker) greet(hello *model.Hello, heartbeat int) error {
	if hello.Protocol != model.ProtocolVersion {
		return fmt.Errorf("it speaks protocol %d and this proxy %d: run agent and proxy of the same release", hello.Protocol, model.ProtocolVersion)
	}
	prefixes := &inbound.Prefixes{V4: hello.PrefixV4, V6: hello.PrefixV6}
	if err := prefixes.Check(); err != nil {
		return err
	}
	if err := w.pulse.share(heartbeat); err != nil {
		return err
	}
	w.prefixes.Store(prefixes)
	w.state.Resync()
	return nil
}

// handle does what one message says. It takes over the descriptors.
func (w *worker) handle(s *sender, msg any, fds []int) error {
	switch m := msg.(type) {
	case *model.Update:
		refused := w.state.Apply(m)
		if w.state.Full() {
			w.pulse.serve()
		}
		if err := w.ack(s, m.Version, refused); err != nil {
			return err
		}
		w.full.Store(w.state.Full())
		if m.Full || len(m.Services)+len(m.RemovedServices) > 0 {
			w.mark()
		}
	case *model.Pods:
		refused := w.state.ApplyPods(m, fds)
		if err := w.ack(s, m.Version, refused); err != nil {
			return err
		}
		if m.Complete {
			w.complete.Store(true)
		}
		w.mark()
	case *model.Released:
		w.agent.mu.Lock()
		w.agent.release()
		w.agent.mu.Unlock()
	default:
		closeAll(fds)
		return fmt.Errorf("%w: it sent %T", errMisfit, msg)
	}
	return nil
}

// ack answers a message, and tells people what was refused.
func (w *worker) ack(s *sender, version uint64, refused []model.Refusal) error {
	for i := range refused {
		w.cfg.Log.Warn("a unit was refused; its previous version, if any, serves on", "unit", unitOf(&refused[i]), "reason", refused[i].Reason)
	}
	return s.send(&model.Ack{Version: version, Refused: refused})
}

func unitOf(r *model.Refusal) string {
	switch {
	case r.Service != nil:
		return "Service " + r.Service.String()
	case r.Endpoints != nil:
		return "endpoints of " + r.Endpoints.String()
	}
	return "pod " + r.Pod
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd) // nothing was written to it
	}
}
