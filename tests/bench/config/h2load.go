package config

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// GRPCPath is the method that is called.
const GRPCPath = "/bench.Echo/Echo"

// MessageSize is the length of a gRPC message of the workloads, without its prefix.
const MessageSize = 16

// GRPCFields are those of a call as a gRPC library sends it, apart from the pseudo-fields.
func GRPCFields() [][2]string {
	return [][2]string{
		{"te", "trailers"}, {"content-type", "application/grpc"}, {"user-agent", "grpc-go/1.80.0"}, {"grpc-timeout", "10S"},
		{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, {MatchName, MatchValue},
	}
}

// StreamFields are those of a call with its pseudo-fields, as a stream that has no end in sight has them.
func StreamFields() [][2]string {
	fields := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", GRPCPath}, {":authority", Host}}
	for _, f := range GRPCFields() {
		if f[0] != "grpc-timeout" {
			fields = append(fields, f)
		}
	}
	return fields
}

// Message is a call's message with gRPC's prefix.
func Message() []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, MessageSize)
	return append(b, "sixteen bytes ok"[:MessageSize]...)
}

// H2load are the arguments that tell h2load to make calls from one thread for a time. file holds the Message.
func H2load(target, file string, connections, streams int, duration time.Duration) []string {
	args := []string{
		"-t1", "-c" + strconv.Itoa(connections), "-m" + strconv.Itoa(streams), "-D" + strconv.Itoa(int(duration/time.Second)),
		"-d", file, "-H", ":authority: " + Host,
	}
	for _, f := range GRPCFields() {
		args = append(args, "-H", f[0]+": "+f[1])
	}
	return append(args, "http://"+target+GRPCPath)
}

// H2loadResult is what a run of h2load came to.
type H2loadResult struct {
	Requests  int // that were answered
	Succeeded int // with a status of 2xx
	Failures  int // answers of another status, and requests that had none although the time was not over
	Data      int // bytes of the answers' messages
	Rate      float64
}

var (
	h2loadRequests = regexp.MustCompile(`(?m)^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	h2loadFinished = regexp.MustCompile(`(?m)^finished in [^,]+, ([0-9.]+) req/s`)
	h2loadTraffic  = regexp.MustCompile(`(?m)^traffic: .* \((\d+)\) data$`)
	h2loadProtocol = regexp.MustCompile(`(?m)^Application protocol: h2c$`)
)

// ParseH2load reads what h2load wrote.
func ParseH2load(output string) (H2loadResult, error) {
	requests, finished, traffic := h2loadRequests.FindStringSubmatch(output), h2loadFinished.FindStringSubmatch(output), h2loadTraffic.FindStringSubmatch(output)
	if requests == nil || finished == nil || traffic == nil {
		return H2loadResult{}, fmt.Errorf("h2load wrote no summary: %.500q", output)
	}
	var n []int
	for _, text := range append(requests[1:], traffic[1]) {
		v, err := strconv.Atoi(text)
		if err != nil {
			return H2loadResult{}, fmt.Errorf("h2load's summary: %w", err)
		}
		n = append(n, v)
	}
	rate, err := strconv.ParseFloat(finished[1], 64)
	if err != nil {
		return H2loadResult{}, fmt.Errorf("h2load's rate: %w", err)
	}
	r := H2loadResult{Requests: n[2], Succeeded: n[3], Failures: n[4] + n[6], Data: n[7], Rate: rate}
	switch {
	case r.Requests == 0:
		return r, errors.New("h2load got no answer at all")
	case !h2loadProtocol.MatchString(output):
		return r, fmt.Errorf("h2load did not speak HTTP/2: %.500q", output)
	}
	return r, nil
}

// Check says whether the answers of a run are as many, and as long, as those that succeeded: each has one message. What was
// on its way at the end may have been counted by halves.
func (r H2loadResult) Check(inFlight int) error {
	want, slack := r.Succeeded*len(Message()), inFlight*len(Message())
	if r.Data < want-slack || r.Data > want+slack {
		return fmt.Errorf("the answers to %d calls had %d bytes of messages, want %d", r.Succeeded, r.Data, want)
	}
	return nil
}

// GRPCTitle is connections and streams in words.
func GRPCTitle(connections, streams int) string {
	plural := func(n int, what string) string {
		if n != 1 {
			what += "s"
		}
		return strconv.Itoa(n) + " " + what
	}
	return strings.Join([]string{plural(connections, "connection"), plural(streams, "stream")}, ", ")
}
