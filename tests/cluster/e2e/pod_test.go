package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/sluice-mesh/sluice/cli/traffic"
	"github.com/sluice-mesh/sluice/tests/cluster/layout"
	"github.com/sluice-mesh/sluice/tests/routes"
	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

const controlSocket = "/tmp/control.sock"

// podSpec is what a pod is to be.
type podSpec struct {
	Name   string
	Node   string
	Labels map[string]string // app: NAME is among them
	User   int64             // 0: root
	Client bool              // it is no backend
}

// pod is a pod of ours that runs.
type pod struct {
	cluster         *cluster
	namespace, name string
	uid             string
	addresses       routes.Addresses
	driver          *echo.Driver
}

// start starts a pod and waits until it can be driven.
func (c *cluster) start(t *testing.T, namespace string, s podSpec) *pod {
	t.Helper()
	p, err := c.startPod(t.Context(), namespace, s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startPod starts a pod. Its driver's socket is in dir.
func (c *cluster) startPod(ctx context.Context, namespace string, s podSpec, dir string) (*pod, error) {
	options, err := json.Marshal(echo.Pod{Name: s.Name, Control: controlSocket, Backend: !s.Client})
	if err != nil {
		return nil, err
	}
	labels := map[string]string{"app": s.Name}
	maps.Copy(labels, s.Labels)
	_, err = c.core.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		Name: s.Name, Labels: labels,
		Spec: corev1.PodSpec{
			NodeName: s.Node, TerminationGracePeriodSeconds: new(int64(0)), EnableServiceLinks: new(false),
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &s.User},
			Containers: []corev1.Container{{
				Name: "pod", Image: layout.PodImage, ImagePullPolicy: corev1.PullNever, Args: []string{"routes", string(options)},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make pod %s: %w", s.Name, err)
	}
	return c.awaitPod(ctx, namespace, s.Name, dir)
}

// awaitPod waits until a pod is ready, and opens the way to it.
func (c *cluster) awaitPod(ctx context.Context, namespace, name, dir string) (*pod, error) {
	p := &pod{cluster: c, namespace: namespace, name: name}
	err := within(ctx, time.Minute, func() error {
		have, err := c.core.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, ip := range have.Status.PodIPs {
			if a := netip.MustParseAddr(ip.IP); a.Is4() {
				p.addresses.V4 = a
			} else {
				p.addresses.V6 = a
			}
		}
		p.uid = string(have.UID)
		for _, condition := range have.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("pod %s/%s is %s: %v", namespace, name, have.Status.Phase, have.Status.ContainerStatuses)
	})
	if err != nil {
		return nil, err
	}
	return p, p.openDriver(ctx, dir)
}

// openDriver makes a socket of this machine that leads to the pod's own, through the API server: so it works with any cluster.
func (p *pod) openDriver(ctx context.Context, dir string) error {
	path := filepath.Join(dir, p.name+".sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = p.exec(ctx, conn, conn, "/pod", "pipe", controlSocket) // whoever asks sees that no answer comes
			}()
		}
	}()
	p.driver = echo.NewDriver(path)
	return within(ctx, 20*time.Second, func() error {
		_, err := p.driver.Seen(ctx, "nothing")
		return err
	})
}

// exec runs a command in the pod.
func (p *pod) exec(ctx context.Context, in io.Reader, out io.Writer, args ...string) error {
	options := &corev1.PodExecOptions{Command: args, Stdin: in != nil, Stdout: true, Stderr: true}
	request := p.cluster.core.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.namespace).Name(p.name).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec)
	e, err := remotecommand.NewSPDYExecutor(p.cluster.rest, "POST", request.URL())
	if err != nil {
		return err
	}
	var said bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: &said})
	if err != nil {
		return fmt.Errorf("%v in pod %s/%s: %w: %s", args, p.namespace, p.name, err, &said)
	}
	return nil
}

// get sends one GET request, to the Service's first address.
func (p *pod) get(ctx context.Context, service, path string, more ...string) (*echo.Answer, error) {
	answers, err := p.driver.Send(ctx, &echo.Request{
		Address: service, Protocol: echo.HTTP1, Method: "GET", Path: path, Host: "echo", Fields: more, Count: 1, Nonce: "e2e", Patience: 3 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	if len(answers) != 1 {
		return nil, fmt.Errorf("%d answers to one request", len(answers))
	}
	if answers[0].Error != "" {
		return nil, errors.New(answers[0].Error)
	}
	return &answers[0], nil
}

// load starts a load in the pod. It ends with stop, which returns what came of it.
func (p *pod) load(t *testing.T, l traffic.Load) func() *traffic.Report {
	t.Helper()
	options, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	in, end := io.Pipe()
	read, out := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		err := p.exec(context.WithoutCancel(t.Context()), in, out, "/pod", "load", string(options))
		failed <- err
		out.CloseWithError(errors.Join(err, io.EOF))
	}()
	reports := make(chan *traffic.Report, 1)
	began := make(chan struct{})
	go func() {
		var once sync.Once
		for s := bufio.NewScanner(read); s.Scan(); {
			r := &traffic.Report{}
			if err := json.Unmarshal(s.Bytes(), r); err == nil {
				once.Do(func() { close(began) })
				if r.Final {
					reports <- r
				}
			}
		}
		close(reports)
	}()
	stop := sync.OnceValue(func() *traffic.Report {
		end.Close()
		return <-reports
	})
	t.Cleanup(func() { stop() })
	select {
	case <-began:
	case err := <-failed:
		t.Fatalf("the load ended at once: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the load does not begin")
	}
	return func() *traffic.Report {
		r := stop()
		if r == nil {
			t.Fatalf("the load has ended without a report: %v", <-failed)
		}
		return r
	}
}

// loadOf is a steady load of a service: n requests a second, over kept and over new connections.
func loadOf(rate int, service string) traffic.Load {
	return traffic.Load{
		Targets: []netip.AddrPort{netip.MustParseAddrPort(service)}, Host: "echo", Connections: traffic.Mixed, Workers: 8, Rate: rate,
		Snapshots: 200 * time.Millisecond, Timeout: 5 * time.Second,
	}
}

// address is a Service's, with a port.
func (c *cluster) address(t *testing.T, namespace, name string, port int) string {
	t.Helper()
	s, err := c.core.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIP), uint16(port)).String()
}

// marked expects an answer that a route has marked, or, with "", one that none has: the routes of the tests set X-Route.
func marked(a *echo.Answer, want string) error {
	if a.Status != 200 || a.Saw == nil {
		return fmt.Errorf("status %d, of no backend: %s", a.Status, a.Body)
	}
	if have := strings.Join(a.Saw.Fields["X-Route"], ","); have != want {
		return fmt.Errorf("the request was marked %q by a route, want %q", have, want)
	}
	return nil
}

// routed waits until what the pod sends is marked as wanted.
func (p *pod) routed(t *testing.T, service, want string) *echo.Answer {
	t.Helper()
	var last *echo.Answer
	eventually(t, settling, func() error {
		a, err := p.get(t.Context(), service, "/")
		if err != nil {
			return err
		}
		last = a
		return marked(a, want)
	})
	return last
}
