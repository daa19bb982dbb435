package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/sluice-mesh/sluice/tests/bench/config"
)

// call is get for gRPC. Proxies answer 404 to a call that nothing matches, or what is the same to its client: the gRPC status
// UNIMPLEMENTED. An answer of 200 has the message that was sent, and the status 0 in its trailers.
func (p *probe) call(ctx context.Context, client *http.Client, path string, match bool) (status int, backend string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.Target.String()+path, bytes.NewReader(config.Message()))
	if err != nil {
		return 0, "", err
	}
	r.Host = config.Host
	for _, f := range config.GRPCFields() {
		if match || f[0] != config.MatchName {
			r.Header.Set(f[0], f[1])
		}
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", err
	}
	const unimplemented = "12"
	switch {
	case resp.StatusCode != http.StatusOK:
		return resp.StatusCode, "", nil
	case resp.Header.Get("grpc-status") == unimplemented || resp.Trailer.Get("grpc-status") == unimplemented:
		return http.StatusNotFound, "", nil
	case resp.Trailer.Get("grpc-status") != "0" || !bytes.Equal(body, config.Message()):
		return 0, "", fmt.Errorf("an answer of %q with fields %v and trailers %v: want the message %q and status 0", body, resp.Header, resp.Trailer, config.Message())
	}
	return resp.StatusCode, resp.Header.Get("x-backend"), nil
}
