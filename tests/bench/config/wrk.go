package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// wrkMark begins the line that the script's end writes and ParseWrk reads.
const wrkMark = "sluice-bench"

// Wrk renders the script that tells wrk which requests to send, one path after another, and to sum up in one line.
func Wrk(paths []string, closeEach bool) string {
	var b strings.Builder
	b.WriteString("local requests = {\n")
	for _, p := range paths {
		fmt.Fprintf(&b, "  %q,\n", Request(p, closeEach))
	}
	fmt.Fprintf(&b, `}
local n = 0
if #requests == 1 then
  request = function() return requests[1] end
else
  request = function() n = n %% #requests + 1; return requests[n] end
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("%s %%d %%d %%d\n", summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
`, wrkMark)
	return b.String()
}

// Request is one request as bytes.
func Request(path string, closeAfter bool) string {
	connection := ""
	if closeAfter {
		connection = "Connection: close\r\n"
	}
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n%s: %s\r\n%s\r\n", path, Host, MatchName, MatchValue, connection)
}

// WrkResult is what a run of wrk came to. Failures are answers that were no success, and connections that failed.
type WrkResult struct {
	Requests int
	Elapsed  time.Duration
	Failures int
}

// ParseWrk reads what wrk wrote.
func ParseWrk(output string) (WrkResult, error) {
	for line := range strings.Lines(output) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != wrkMark {
			continue
		}
		var n [3]int
		for i := range n {
			v, err := strconv.Atoi(f[i+1])
			if err != nil {
				return WrkResult{}, fmt.Errorf("wrk's summary %q: %w", strings.TrimSpace(line), err)
			}
			n[i] = v
		}
		if n[0] == 0 {
			return WrkResult{}, errors.New("wrk got no answer at all")
		}
		return WrkResult{Requests: n[0], Elapsed: time.Duration(n[1]) * time.Microsecond, Failures: n[2]}, nil
	}
	return WrkResult{}, fmt.Errorf("wrk wrote no summary: %q", output)
}
