package routes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

const (
	settling = 8 * time.Second // that a change may take until everything is as it has to be
	interval = 20 * time.Millisecond
	patience = time.Second // with what backends see late
	probes   = 20          // requests of a step that counts them are not sent while it is only asked whether the change has come
)

// execution is a run of one case.
type execution struct {
	c      *Case
	runner Runner
	sent   int // steps that sent something, for nonces
	live   []Key
}

// Run runs a case and says what was not as it has to be. What it applied is gone afterwards.
func (c *Case) Run(ctx context.Context, r Runner) (err error) {
	x := &execution{c: c, runner: r}
	defer func() { err = errors.Join(err, r.Delete(context.WithoutCancel(ctx), x.live)) }()
	base, err := c.Base(r.Pods())
	if err != nil {
		return err
	}
	own, err := c.Expand(&c.Apply, r.Pods())
	if err != nil {
		return err
	}
	if err := x.apply(ctx, append(base, own...)); err != nil {
		return err
	}
	looks := c.unnamed(own)
	for i, s := range c.Steps {
		if s.Status != nil || s.Send != nil {
			looks = append(looks, s)
			continue
		}
		if err := x.settle(ctx, looks); err != nil {
			return fmt.Errorf("before step %d: %w", i, err)
		}
		looks = nil
		if err := x.change(ctx, &s); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return x.settle(ctx, looks)
}

func (x *execution) apply(ctx context.Context, objects []Object) error {
	for _, o := range objects {
		if !slices.Contains(x.live, o.Key) {
			x.live = append(x.live, o.Key)
		}
	}
	return x.runner.Apply(ctx, objects)
}

func (x *execution) change(ctx context.Context, s *Step) error {
	if s.Apply != nil {
		objects, err := x.c.Expand(s.Apply, x.runner.Pods())
		if err != nil {
			return err
		}
		return x.apply(ctx, objects)
	}
	var keys []Key
	for _, name := range s.Delete {
		key := x.c.key(name)
		if !slices.Contains(x.live, key) {
			return fmt.Errorf("%s is not there", key)
		}
		keys = append(keys, key)
		x.live = slices.DeleteFunc(x.live, func(k Key) bool { return k == key })
	}
	return x.runner.Delete(ctx, keys)
}

// settle asks until all is as it has to be, with few requests, and then once more with all of them: now nothing may be wrong
// any more.
func (x *execution) settle(ctx context.Context, looks []Step) error {
	for end := time.Now().Add(settling); ; {
		err := x.look(ctx, looks, true)
		if err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("not within %v: %w", settling, err)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
		}
	}
	if err := x.look(ctx, looks, false); err != nil {
		return fmt.Errorf("it was right once, and then: %w", err)
	}
	return nil
}

func (x *execution) look(ctx context.Context, looks []Step, probe bool) error {
	for i := range looks {
		s := &looks[i]
		if s.Status != nil {
			if err := x.checkStatus(ctx, s.Status); err != nil {
				return err
			}
			continue
		}
		if err := x.send(ctx, s, probe); err != nil {
			return fmt.Errorf("%s: %w", s.Send, err)
		}
	}
	return nil
}

// send sends a step's requests and compares what comes of them.
func (x *execution) send(ctx context.Context, s *Step, probe bool) error {
	r, err := x.request(s.Send)
	if err != nil {
		return err
	}
	counted := !probe || r.Count <= probes
	if !counted {
		r.Count = 1
	}
	from := s.Send.From
	if from == "" {
		from = "client"
	}
	answers, err := x.runner.Send(ctx, from, r)
	if err != nil {
		return err
	}
	for i := range answers {
		if err := s.Want.compare(s.Send, &answers[i], x.runner.Pods()); err != nil {
			return err
		}
	}
	if len(answers) != r.Count {
		return fmt.Errorf("%d answers to %d requests", len(answers), r.Count)
	}
	if !counted {
		return nil
	}
	if err := s.Want.shares(answers); err != nil {
		return err
	}
	return x.others(ctx, s, r, answers)
}

// request is what a step sends, in the form of a pod's.
func (x *execution) request(s *Send) (*echo.Request, error) {
	x.sent++
	r := &echo.Request{
		Protocol: s.Proto, Method: s.Method, Path: s.Path, Host: s.Host, Fields: s.Headers, Body: s.Body, Trailers: s.Trailers,
		Count: max(1, s.Count), Workers: s.Workers, Pause: s.Pause, Patience: s.Patience,
		Nonce: fmt.Sprintf("%s.%d", x.c.Namespace, x.sent),
	}
	if r.Protocol == "" {
		r.Protocol = echo.HTTP1
	}
	if r.Method == "" {
		r.Method = "GET"
		if r.Protocol == echo.GRPC {
			r.Method = "POST"
		}
	}
	if r.Path == "" {
		r.Path = "/"
	}
	if s.Size > 0 {
		r.Body = strings.Repeat("x", s.Size)
	}
	if s.Do != "" {
		r.Fields = append([]string{echo.DoField + ": " + s.Do}, r.Fields...)
	}
	host, address, err := x.target(s)
	if r.Host == "" {
		r.Host = host
	}
	r.Address = address
	return r, err
}

// target resolves what a step sends to; the name is what a client would have for a Host.
func (x *execution) target(s *Send) (name, address string, err error) {
	to := s.To
	if to == "" {
		to = "echo:80"
	}
	host, port, _ := strings.Cut(to, ":")
	if pod, is := strings.CutPrefix(host, "pod/"); is {
		a := x.runner.Pods()[pod].V4
		return a.String(), a.String() + ":" + port, nil
	}
	service, namespace, given := strings.Cut(host, ".")
	if !given {
		namespace = x.c.Namespace
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return "", "", fmt.Errorf("%s names no port", to)
	}
	a, err := x.runner.ServiceAddress(namespace, service, number, s.Over == "ipv6")
	if err != nil {
		return "", "", err
	}
	if s.Over == "ipv6" {
		a = "[" + a + "]"
	}
	if number != 80 {
		host += ":" + port
	}
	return host, a + ":" + port, nil
}

// String names a request in messages.
func (s *Send) String() string {
	b := []string{s.Proto, s.Method, s.Path}
	for _, more := range []string{"to " + s.To, "from " + s.From, "Host " + s.Host, "do " + s.Do, s.Over} {
		if !strings.HasSuffix(more, " ") && more != "" {
			b = append(b, more)
		}
	}
	return strings.Join(append(slices.DeleteFunc(b, func(p string) bool { return p == "" }), s.Headers...), " ")
}
