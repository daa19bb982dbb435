package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/h2"
)

func start(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { _ = serve(l, "v7") }() // until l is closed
	return l.Addr().String()
}

func client(t *testing.T) *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Protocols: p}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// Several calls on one connection: the first enters the fields into the table, the others refer to them.
func TestAnswersUnaryCallsWithTheirMessage(t *testing.T) {
	addr, c := start(t), client(t)
	for i := range 5 {
		message := fmt.Sprintf("message %d", i)
		resp, err := c.Post("http://"+addr+"/a/b", "application/grpc", strings.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != message || resp.StatusCode != 200 || resp.Header.Get("x-backend") != "v7" ||
			resp.Header.Get("content-type") != "application/grpc" || resp.Trailer.Get("grpc-status") != "0" {
			t.Errorf("%q, %v, %v, trailers %v", got, err, resp.Header, resp.Trailer)
		}
	}
}

func TestAnswersStreamsMessageByMessage(t *testing.T) {
	addr, c := start(t), client(t)
	r, w := io.Pipe()
	resp, err := func() (*http.Response, error) {
		go w.Write([]byte("one"))
		return c.Post("http://"+addr+"/a/b", "application/grpc", r)
	}()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, want := range []string{"one", "two", "three"} {
		if want != "one" {
			if _, err := w.Write([]byte(want)); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v, want %q before anything else is sent", got, err, want)
		}
	}
	w.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 || resp.Trailer.Get("grpc-status") != "0" {
		t.Errorf("%q, %v, trailers %v", rest, err, resp.Trailer)
	}
}

// What makes the comparison honest: a proxy that speaks HTTP/1.1 to the backend gets nothing.
func TestSpeaksNothingButHTTP2(t *testing.T) {
	addr := start(t)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "POST /a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	got, _ := io.ReadAll(c) // a reset is as good as an end
	if bytes.Contains(got, []byte("HTTP/1.1")) || bytes.Contains(got, []byte("v7")) {
		t.Errorf("answered %q", got)
	}
}

// A peer without a table, such as nginx, gets literals.
func TestFieldsOfPeersWithoutATableAreLiterals(t *testing.T) {
	for table, wantTwice := range map[bool]bool{true: false, false: true} {
		e := fields{name: "v1", table: table}
		first, second := e.trailers(nil, 1), e.trailers(nil, 1)
		if got := bytes.Equal(first, second); got != wantTwice {
			t.Errorf("table %v: the same bytes twice: %v", table, got)
		}
		d := h2.NewDecoder()
		for _, b := range [][]byte{first, second} {
			fields, err := d.Decode(nil, b[9:])
			if err != nil || len(fields) != 2 || fields[0].Name != "grpc-status" || fields[0].Value != "0" || fields[1].Name != "grpc-message" {
				t.Errorf("table %v: %v, %v", table, fields, err)
			}
		}
	}
}

// A peer that gives no credit back is told from one that is slow: nothing is sent beyond its windows.
func TestSmallWindowsAreAnError(t *testing.T) {
	c := &conn{fields: fields{name: "v1"}, begun: map[uint32]int64{}, window: 100, initial: 10}
	if err := c.answer(1, make([]byte, 10), false); err != nil {
		t.Error(err)
	}
	if err := c.answer(1, make([]byte, 1), false); err == nil {
		t.Error("11 bytes on a stream of 10")
	}
	c.initial = 1000
	if err := c.answer(3, make([]byte, 90), false); err == nil {
		t.Error("101 bytes on a connection of 100")
	}
}
