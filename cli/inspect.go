package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/sluice-mesh/sluice/cli/explain"
	"github.com/sluice-mesh/sluice/cli/inforce"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

const routesUsage = `Usage: sluice routes [flags] [NAMESPACE[/NAME]]

Tells of each route that has a Service for a parent its conditions, and what its traffic gets: the ports and clients that it
applies to, its rules with their matches, filters, time-outs and retries, backends with their shares and what state they are
in, and rules that fail or are left out. It asks the agent and the proxy of one node, or reads a folder of YAML.

` + placeUsage + `Of a cluster's nodes it takes --node, else the first that answers: 'sluice check' tells of all of them.

Exit status: 0 all is as it should be; 1 a condition is not (such as Accepted=False), or there are problems; 2 no answer.

Flags:
`

const explainUsage = `Usage: sluice explain --from NAMESPACE[/POD] --to NAMESPACE/NAME[:PORT] [flags] [PATH[?QUERY]]

Tells which route, rule and match a request is for, what the rule does and which backends get it, and why each other rule of
the Service's routes does not have it. It asks the agent and the proxy of one node, or reads a folder of YAML.

  sluice explain --from shop/client --to shop/web:80 -H 'x-canary: true' '/cart?id=1'
  sluice explain --manifests examples --from demo --to demo/echo-grpc --grpc echo.Echo/Say

` + placeUsage + `Of a cluster's nodes it takes the client pod's.

Exit status: 0 a rule applies to the request; 1 none does; 2 no answer.

Flags:
`

// source is where routes and explain read what is in force.
type source struct {
	place
	folder inforce.Folder
}

// newFlags makes the flags that both have.
func (s *source) newFlags(name string) *flag.FlagSet {
	flags := s.place.newFlags(name)
	flags.StringVar(&s.folder.Dir, "manifests", "", "read this `folder` of YAML instead, as an agent would on --node; without that, every endpoint counts as near")
	flags.StringVar(&s.folder.Zone, "zone", "", "of a folder: `name` of that node's zone")
	flags.BoolVar(&s.folder.ReferenceGrants, "reference-grants", true, "of a folder: a backend in a third namespace needs a ReferenceGrant")
	return flags
}

// read reads it where the client is, if that is known.
func (s *source) read(ctx context.Context, client model.ServiceKey) (*inforce.View, error) {
	var v *inforce.View
	var err error
	if s.folder.Dir != "" {
		s.folder.Node = s.node
		v, err = s.folder.Read()
	} else {
		v, err = s.readNode(ctx, client)
	}
	if _, told := errors.AsType[trouble](err); err != nil && !told {
		err = trouble{err}
	}
	return v, err
}

func (s *source) readNode(ctx context.Context, client model.ServiceKey) (*inforce.View, error) {
	c, err := s.open()
	if err != nil {
		return nil, err
	}
	if c == nil {
		agent, proxy, err := s.local()
		if err != nil {
			return nil, err
		}
		v, err := inforce.Node{Agent: agent, Proxy: proxy}.Read(ctx)
		if err != nil {
			err = fmt.Errorf("%w\n--manifests names a folder of YAML to read instead, and KUBECONFIG, --kubeconfig or --context a cluster", err)
		}
		return v, err
	}
	node := s.node
	if node == "" && client.Name != "" {
		if node, err = c.NodeOf(ctx, client.Namespace, client.Name); err != nil {
			return nil, err
		}
	}
	pods, err := s.ofNode(ctx, c, node)
	if err != nil {
		return nil, err
	}
	var v *inforce.View
	for _, p := range pods[:min(len(pods), 3)] { // more would not answer either
		if v, err = (inforce.Node{Agent: c.Agent(p), Proxy: c.Proxy(p)}).Read(ctx); err == nil {
			return v, nil
		}
	}
	return nil, err
}

func runRoutes(ctx context.Context, args []string, out io.Writer) error {
	var s source
	flags := s.newFlags("sluice routes")
	words, err := parse(flags, args, 1, routesUsage, out)
	if err != nil {
		return err
	}
	wanted := strings.Join(words, "")
	namespace, name, named := strings.Cut(wanted, "/")
	v, err := s.read(ctx, model.ServiceKey{})
	if err != nil {
		return err
	}
	report := explain.Routes(v, func(r model.RouteRef) bool {
		return (namespace == "" || r.Namespace == namespace) && (!named || r.Name == name)
	})
	if wanted != "" && len(report.Routes) == 0 {
		return trouble{fmt.Errorf("no route %s has a Service for a parent in %s: 'sluice routes' without an argument lists all", wanted, v.Source)}
	}
	return s.print(out, report, report.Good)
}

// asked is what the command line of explain says.
type asked struct {
	from, to, method, grpc string
	headers                message.Fields
}

func runExplain(ctx context.Context, args []string, out io.Writer) error {
	var s source
	var a asked
	flags := s.newFlags("sluice explain")
	flags.StringVar(&a.from, "from", "", "the `client`: NAMESPACE/POD, or only a namespace")
	flags.StringVar(&a.to, "to", "", "the `Service`: NAMESPACE/NAME, and :PORT (number or name) where several have routes")
	flags.StringVar(&a.method, "X", "GET", "`method` of the request")
	flags.StringVar(&a.grpc, "grpc", "", "a gRPC `call` instead of a path: SERVICE/METHOD")
	flags.Func("H", "`header`, such as 'x-canary: true'; may be repeated. Host is NAME.NAMESPACE[:PORT] of the Service if it is not given", a.addHeader)
	words, err := parse(flags, args, 1, explainUsage, out)
	if err != nil {
		return err
	}
	q, err := a.question(strings.Join(words, ""))
	if err != nil {
		return trouble{fmt.Errorf("explain: %w (see 'sluice explain --help')", err)}
	}
	v, err := s.read(ctx, model.ServiceKey{Namespace: q.Namespace, Name: q.Pod})
	if err != nil {
		return err
	}
	answer, err := explain.Explain(v, q)
	if err != nil {
		return trouble{fmt.Errorf("explain: %w", err)}
	}
	return s.print(out, answer, answer.Applies)
}

func (a *asked) addHeader(s string) error {
	name, value, ok := strings.Cut(s, ":")
	if !ok || strings.TrimSpace(name) == "" {
		return fmt.Errorf("%q: want 'name: value'", s)
	}
	a.headers.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

// question turns it into what can be asked.
func (a *asked) question(path string) (explain.Question, error) {
	q := explain.Question{Request: &message.Request{Method: a.method, Path: "/"}}
	q.Namespace, q.Pod, _ = strings.Cut(a.from, "/")
	if q.Namespace == "" {
		return q, errors.New("--from names the client: NAMESPACE/POD, or only a namespace")
	}
	service, port, _ := strings.Cut(a.to, ":")
	namespace, name, ok := strings.Cut(service, "/")
	if !ok || namespace == "" || name == "" {
		return q, fmt.Errorf("--to names the Service: NAMESPACE/NAME or NAMESPACE/NAME:PORT, not %q", a.to)
	}
	q.Service, q.Port = model.ServiceKey{Namespace: namespace, Name: name}, port
	for _, f := range a.headers {
		if message.EqualName(f.Name, "host") {
			q.Request.Authority = f.Value
			continue
		}
		q.Request.Fields = append(q.Request.Fields, f)
	}
	switch {
	case a.grpc != "" && path != "":
		return q, errors.New("--grpc takes the place of the path: give one of them")
	case a.grpc != "":
		if !strings.Contains(strings.Trim(a.grpc, "/"), "/") {
			return q, fmt.Errorf("--grpc %q: want SERVICE/METHOD", a.grpc)
		}
		q.Request.Method, q.Request.Path = "POST", "/"+strings.TrimPrefix(a.grpc, "/")
		q.Request.Fields.Set("content-type", "application/grpc")
		return q, nil
	case path == "":
		return q, nil
	case path[0] != '/' && path != "*":
		return q, fmt.Errorf("%q is no path: it begins with \"/\"", path)
	}
	q.Request.Path, q.Request.Query, q.Request.HasQuery = strings.Cut(path, "?")
	return q, nil
}
