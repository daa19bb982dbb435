package echo

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// orders are what a request tells the server to do.
type orders struct {
	only     string        // the one backend that is to
	times    int           // only for so many first requests of a nonce; 0: for all
	status   int           // of the answer
	grpc     int           // of a call
	early    bool          // answer before the request's body is read
	head     time.Duration // before the head of the answer
	body     time.Duration // between its halves
	end      string        // "reset": no answer; "cut": half of one
	pad      int           // bytes that the answer is longer
	fields   []string      // of the answer, "Name: value"
	trailers []string
}

// parseOrders reads a DoField: the form of a query, as in "status=503&times=2".
func parseOrders(s string) (orders, error) {
	o := orders{status: http.StatusOK}
	q, err := url.ParseQuery(s)
	if err != nil {
		return o, fmt.Errorf("%s: %w", DoField, err)
	}
	for name, values := range q {
		if err := o.set(name, values); err != nil {
			return o, fmt.Errorf("%s: %s: %w", DoField, name, err)
		}
	}
	return o, nil
}

func (o *orders) set(name string, values []string) (err error) {
	v := values[0]
	switch name {
	case "times":
		o.times, err = strconv.Atoi(v)
	case "status":
		o.status, err = strconv.Atoi(v)
	case "grpc":
		o.grpc, err = strconv.Atoi(v)
	case "pad":
		o.pad, err = strconv.Atoi(v)
	case "head":
		o.head, err = time.ParseDuration(v)
	case "body":
		o.body, err = time.ParseDuration(v)
	case "only":
		o.only = v
	case "early":
		o.early = true
	case "end":
		o.end = v
	case "field":
		o.fields = values
	case "trailer":
		o.trailers = values
	default:
		err = fmt.Errorf("there is no such order")
	}
	return err
}
