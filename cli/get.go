package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
)

// demoGet sends requests from a pod of a demo that was kept, for machines without curl.
func demoGet(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("sluice demo get", flag.ContinueOnError)
	run := flags.String("run", "", "`name` of the run, when several were kept")
	pod := flags.String("from", "client", "`pod` that the requests come from")
	get := traffic.Get{Headers: map[string]string{}}
	flags.IntVar(&get.Requests, "n", 1, "how many `requests` to send; for more than one, only a count of who answered is printed")
	flags.Func("H", "`header` to send, such as 'x-canary: true'; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return fmt.Errorf("%q: want 'name: value'", s)
		}
		get.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("demo get: want one URL, such as http://10.96.0.10/")
	}
	get.URL = flags.Arg(0)
	options, err := json.Marshal(get)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return lab.Exec(*run, *pod, []string{self, lab.Subcommand, "get", string(options)})
}
