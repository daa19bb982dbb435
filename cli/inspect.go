package main

import (
	"context"
	"encoding/json"
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

// What routes and explain end with besides success, as grep does: scripts tell an answer that is no from none.
//
// errNo: all was told, and the answer is no.
var errNo = errors.New("no")

// trouble is why there is no answer.
type trouble struct{ error }

func (t trouble) Unwrap() error { return t.error }

const routesUsage = `Usage: sluice routes [flags] [NAMESPACE[/NAME]]

Tells of each route that has a Service for a parent its conditions, and what its traffic gets: the ports and clients that it
applies to, its rules with their matches, filters, time-outs and retries, backends with their shares and what state they are
in, and rules that fail or are left out. It asks the agent and the proxy of this node, or reads a folder of YAML.

Exit status: 0 all is as it should be; 1 a condition is not (such as Accepted=False), or there are problems; 2 no answer.

Flags:
`

const explainUsage = `Usage: sluice explain --from NAMESPACE[/POD] --to NAMESPACE/NAME[:PORT] [flags] [PATH[?QUERY]]

Tells which route, rule and match a request is for, what the rule does and which backends get it, and why each other rule of
the Service's routes does not have it. It asks the agent and the proxy of this node, or reads a folder of YAML.

  sluice explain --from shop/client --to shop/web:80 -H 'x-canary: true' '/cart?id=1'
  sluice explain --manifests examples --from demo --to demo/echo-grpc --grpc echo.Echo/Say

Exit status: 0 a rule applies to the request; 1 none does; 2 no answer.

Flags:
`

// source is where routes and explain read what is in force.
type source struct {
	node   inforce.Node
	folder inforce.Folder
	json   bool
}

// newFlags makes the flags that both have.
func (s *source) newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // package flag would print everything that there is
	flags.StringVar(&s.node.Agent, "agent", inforce.AgentAdmin, "admin `address` of the agent: loopback IP:PORT or unix:PATH")
	flags.StringVar(&s.node.Proxy, "proxy", inforce.ProxyAdmin, "admin `address` of the proxy")
	flags.StringVar(&s.folder.Dir, "manifests", "", "read this `folder` of YAML instead, as an agent would")
	flags.StringVar(&s.folder.Node, "node", "", "of a folder: `name` of the node whose view is wanted; else every endpoint counts as near")
	flags.StringVar(&s.folder.Zone, "zone", "", "of a folder: `name` of that node's zone")
	flags.BoolVar(&s.folder.ReferenceGrants, "reference-grants", true, "of a folder: a backend in a third namespace needs a ReferenceGrant")
	flags.BoolVar(&s.json, "json", false, "print JSON")
	return flags
}

// parse reads the flags, and prints help where that is asked for.
func parseInspect(flags *flag.FlagSet, args []string, usage string, out io.Writer) error {
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		flags.SetOutput(out)
		flags.PrintDefaults()
	case err == nil && flags.NArg() > 1:
		err = fmt.Errorf("%q is one argument too many: flags go before the argument", flags.Arg(1))
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		err = trouble{fmt.Errorf("%s: %w (see '%s --help')", flags.Name(), err, flags.Name())}
	}
	return err
}

func (s *source) read(ctx context.Context) (*inforce.View, error) {
	var v *inforce.View
	var err error
	if s.folder.Dir != "" {
		v, err = s.folder.Read()
	} else {
		v, err = s.node.Read(ctx)
	}
	if err != nil {
		return nil, trouble{err}
	}
	return v, nil
}

// print writes what was found, and returns errNo where that is no.
func (s *source) print(out io.Writer, found fmt.Stringer, yes bool) error {
	var err error
	if s.json {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(found)
	} else {
		_, err = io.WriteString(out, found.String())
	}
	switch {
	case err != nil:
		return trouble{err}
	case !yes:
		return errNo
	}
	return nil
}

func runRoutes(ctx context.Context, args []string, out io.Writer) error {
	var s source
	flags := s.newFlags("sluice routes")
	if err := parseInspect(flags, args, routesUsage, out); err != nil {
		return err
	}
	namespace, name, named := strings.Cut(flags.Arg(0), "/")
	v, err := s.read(ctx)
	if err != nil {
		return err
	}
	report := explain.Routes(v, func(r model.RouteRef) bool {
		return (namespace == "" || r.Namespace == namespace) && (!named || r.Name == name)
	})
	if flags.NArg() > 0 && len(report.Routes) == 0 {
		return trouble{fmt.Errorf("no route %s has a Service for a parent in %s: 'sluice routes' without an argument lists all", flags.Arg(0), v.Source)}
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
	if err := parseInspect(flags, args, explainUsage, out); err != nil {
		return err
	}
	q, err := a.question(flags.Arg(0))
	if err != nil {
		return trouble{fmt.Errorf("explain: %w (see 'sluice explain --help')", err)}
	}
	v, err := s.read(ctx)
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
