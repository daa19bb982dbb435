package wire

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Ask sends a request to the agent and returns its answer. The context's deadline ends the wait, and is what the agent
// is told. Version is filled in. An error says that the agent is away, hangs, or does not speak the protocol; what the
// agent itself finds wrong is the answer's Error.
func Ask(ctx context.Context, socket string, r Request) (Answer, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return Answer{}, fmt.Errorf("reach the agent: %w", err)
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		r.WaitMillis = max(1, time.Until(deadline).Milliseconds())
		if err := c.SetDeadline(deadline); err != nil {
			return Answer{}, fmt.Errorf("ask the agent: %w", err)
		}
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })() // ends what is under way
	r.Version = Version
	sendErr := write(c, r, MaxRequest)
	if errors.Is(sendErr, errTooLong) {
		return Answer{}, fmt.Errorf("ask the agent: %w", sendErr)
	}
	// One who is refused at once may find the connection closed while he writes: the answer is there all the same.
	line, err := readLine(c, MaxAnswer)
	switch {
	case err != nil && sendErr != nil:
		return Answer{}, fmt.Errorf("ask the agent: %w", explained(sendErr))
	case err != nil:
		return Answer{}, fmt.Errorf("read the agent's answer: %w", explained(err))
	}
	var a Answer
	if err := json.Unmarshal(line, &a); err != nil {
		return Answer{}, fmt.Errorf("read the agent's answer: it is no answer: %w", err)
	}
	if err := a.Validate(); err != nil {
		return Answer{}, fmt.Errorf("read the agent's answer: %w", err)
	}
	return a, nil
}

// explained says of a time-out what it means.
func explained(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the agent did not answer in time: %w", err)
	}
	return err
}

var errTooLong = errors.New("the message is too long")

// write sends a message and its newline.
func write(w io.Writer, msg any, limit int) error {
	line, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	if len(line) >= limit {
		return fmt.Errorf("%w: it has %d bytes, of which at most %d are allowed", errTooLong, len(line)+1, limit)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// readLine reads up to a newline, and never more than limit bytes.
func readLine(r io.Reader, limit int) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, int64(limit))).ReadBytes('\n')
	switch {
	case err == nil:
		return line, nil
	case !errors.Is(err, io.EOF):
		return nil, err
	case len(line) == limit:
		return nil, fmt.Errorf("the message is longer than %d bytes", limit)
	case len(line) == 0:
		return nil, errors.New("the connection was closed before a message came")
	}
	return nil, fmt.Errorf("the connection was closed after %d bytes, in the middle of a message", len(line))
}
