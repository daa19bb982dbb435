package traffic

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
)

// Get is a few requests for people to look at.
type Get struct {
	URL      string            `json:"url"`
	Headers  map[string]string `json:"headers"`
	Requests int               `json:"requests"`
}

// Run sends the requests and prints the answer, or, for more than one, how many each backend answered.
func (g Get) Run(ctx context.Context, out io.Writer) error {
	counts := map[string]int{}
	for range max(g.Requests, 1) {
		who, err := g.one(ctx, out)
		if err != nil {
			return err
		}
		counts[who]++
	}
	if g.Requests > 1 {
		for _, who := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(out, "%6d  %s\n", counts[who], who)
		}
	}
	return nil
}

func (g Get) one(ctx context.Context, out io.Writer) (who string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL, nil)
	if err != nil {
		return "", err
	}
	for name, value := range g.Headers {
		req.Header.Set(name, value)
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if g.Requests <= 1 {
		fmt.Fprintln(out, resp.Proto, resp.Status)
		_, err := io.Copy(out, resp.Body)
		return "", err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	who = resp.Header.Get(BackendField)
	if who == "" {
		who = "status " + resp.Status
	}
	return who, err
}
