package echo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Driver drives a Pod over its control socket.
type Driver struct{ client *http.Client }

// NewDriver returns the driver of the pod with that control socket.
func NewDriver(socket string) *Driver {
	return &Driver{&http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Send makes the pod send a request and returns the answers.
func (d *Driver) Send(ctx context.Context, r *Request) ([]Answer, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var answers []Answer
	err = d.ask(ctx, http.MethodPost, "/send", b, &answers)
	return answers, err
}

// Seen asks a backend what it saw of a nonce.
func (d *Driver) Seen(ctx context.Context, nonce string) ([]Saw, error) {
	var seen []Saw
	err := d.ask(ctx, http.MethodGet, "/seen?nonce="+url.QueryEscape(nonce), nil, &seen)
	return seen, err
}

func (d *Driver) ask(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://pod"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the pod answers %s to %s", resp.Status, path)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
