package model

import "time"

// Timeouts are limits of a rule's requests. 0 is none (B-43, B-45).
type Timeouts struct {
	// Request is for the whole exchange with the client, all tries included; then 504 (B-41).
	Request Duration `json:"request,omitempty"`
	// BackendRequest is for each try, to the end of the response (B-42, B-46).
	BackendRequest Duration `json:"backendRequest,omitempty"`
}

// Retry sends requests again that failed.
type Retry struct {
	// Attempts is how many tries may follow the first one (B-51); at least 1.
	Attempts int `json:"attempts"`
	// Codes are the statuses that are tried again, 400 to 599 (B-50). A request that the backend did not process is, whatever they are (B-54).
	Codes []int `json:"codes,omitempty"`
	// Backoff is the least time between two tries (B-53). 0: the route asks for none.
	Backoff Duration `json:"backoff,omitempty"`
}

// Duration is a time.Duration that is written for people: "1m30s".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}
