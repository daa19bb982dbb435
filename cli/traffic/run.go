package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Command runs what one of the lab's programs in a pod is told, as JSON: "server", "load", "calls", "hold" or "get". It writes lines of
// JSON to out: what the server saw, or reports, the last of which is final; get writes for people. It ends when ctx does.
func Command(ctx context.Context, name, options string, out io.Writer) error {
	switch name {
	case "server":
		var s Server
		if err := decode(options, &s); err != nil {
			return err
		}
		return s.Run(ctx, out)
	case "load":
		var l Load
		if err := decode(options, &l); err != nil {
			return err
		}
		return reports(out, func(each func(*Report)) (*Report, error) { return l.Run(ctx, each) })
	case "calls":
		var c Calls
		if err := decode(options, &c); err != nil {
			return err
		}
		return reports(out, func(each func(*Report)) (*Report, error) { return c.Run(ctx, each) })
	case "get":
		var g Get
		if err := decode(options, &g); err != nil {
			return err
		}
		return g.Run(ctx, out)
	case "hold":
		var h Hold
		if err := decode(options, &h); err != nil {
			return err
		}
		return reports(out, func(each func(*Report)) (*Report, error) { return h.Run(ctx, each) })
	}
	return fmt.Errorf("no program %q", name)
}

func decode(options string, into any) error {
	if err := json.Unmarshal([]byte(options), into); err != nil {
		return fmt.Errorf("options %s: %w", options, err)
	}
	return nil
}

func reports(out io.Writer, run func(func(*Report)) (*Report, error)) error {
	enc := json.NewEncoder(out)
	var once sync.Once
	var failed error
	each := func(r *Report) {
		if err := enc.Encode(r); err != nil {
			once.Do(func() { failed = err })
		}
	}
	r, err := run(each)
	if err != nil {
		return err
	}
	each(r)
	return failed
}
