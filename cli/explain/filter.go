package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// describeFilters tells what filters do.
func describeFilters(filters []model.Filter) []string {
	var all []string
	for i := range filters {
		switch f := &filters[i]; {
		case f.RequestHeaders != nil:
			all = append(all, describeEdit(f.RequestHeaders, "request header")...)
		case f.ResponseHeaders != nil:
			all = append(all, describeEdit(f.ResponseHeaders, "response header")...)
		case f.Rewrite != nil:
			all = append(all, describeRewrite(f.Rewrite)...)
		case f.Redirect != nil:
			all = append(all, describeRedirect(f.Redirect))
		case f.Mirror != nil:
			all = append(all, fmt.Sprintf("sends a copy of %s to %s", describeShare(f.Mirror.Share), f.Mirror.Endpoints))
		case f.CORS != nil:
			all = append(all, describeCORS(f.CORS))
		}
	}
	return all
}

func describeEdit(e *model.HeaderEdit, what string) []string {
	var all []string
	for _, h := range e.Set {
		all = append(all, fmt.Sprintf("sets %s %s: %s", what, h.Name, h.Value))
	}
	for _, h := range e.Add {
		all = append(all, fmt.Sprintf("adds %s %s: %s", what, h.Name, h.Value))
	}
	for _, name := range e.Remove {
		all = append(all, fmt.Sprintf("removes %s %s", what, name))
	}
	return all
}

func describeRewrite(r *model.Rewrite) []string {
	var all []string
	if r.Host != "" {
		all = append(all, "rewrites the host to "+r.Host)
	}
	if r.Path != nil {
		all = append(all, "rewrites "+describePathEdit(r.Path))
	}
	return all
}

func describePathEdit(e *model.PathEdit) string {
	if e.Prefix == "" {
		return "the path to " + quote(e.Value)
	}
	return fmt.Sprintf("the path's prefix %s to %s", quote(e.Prefix), quote(e.Value))
}

func describeRedirect(r *model.Redirect) string {
	var parts []string
	if r.Scheme != "" {
		parts = append(parts, "scheme "+r.Scheme)
	}
	if r.Host != "" {
		parts = append(parts, "host "+r.Host)
	}
	if r.Port != 0 {
		parts = append(parts, fmt.Sprintf("port %d", r.Port))
	}
	if r.Path != nil {
		parts = append(parts, describePathEdit(r.Path))
	}
	if len(parts) == 0 {
		return fmt.Sprintf("redirects with %d", r.Status)
	}
	return fmt.Sprintf("redirects with %d, changing %s", r.Status, strings.Join(parts, ", "))
}

func describeShare(f model.Fraction) string {
	if f.Numerator == f.Denominator {
		return "every request"
	}
	return percent(uint64(f.Numerator), uint64(f.Denominator)) + " of the requests"
}

// percent is a share of a whole, which is not 0.
func percent(part, whole uint64) string {
	return fmt.Sprintf("%.4g %%", 100*float64(part)/float64(whole))
}

func describeCORS(c *model.CORS) string {
	all := "answers preflights of CORS, for pages of " + listOr(c.Origins, "no origin")
	all += "; methods " + listOr(c.Methods, "GET, HEAD, POST") + "; request headers " + listOr(c.Headers, "safe ones")
	if len(c.Expose) > 0 {
		all += "; shows response headers " + strings.Join(c.Expose, ", ")
	}
	if c.Credentials {
		all += "; with credentials"
	}
	return all + fmt.Sprintf("; kept for %d s", c.MaxAge)
}

func listOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	if slices.Equal(list, []string{"*"}) {
		return "any"
	}
	return strings.Join(list, ", ")
}

// describePolicies tells a rule's time-outs and retries.
func describePolicies(r *model.Rule, grpc bool) []string {
	var all []string
	if r.Timeouts.Request > 0 {
		all = append(all, fmt.Sprintf("answers %s when the whole request takes more than %v", answered(504, grpc), r.Timeouts.Request))
	}
	if r.Timeouts.BackendRequest > 0 {
		all = append(all, fmt.Sprintf("gives up a try after %v", r.Timeouts.BackendRequest))
	}
	if r.Retry != nil {
		after := "what the backend did not process"
		if len(r.Retry.Codes) > 0 {
			after = numbers(r.Retry.Codes) + " and " + after
		}
		line := fmt.Sprintf("tries up to %d times more, after %s", r.Retry.Attempts, after)
		if r.Retry.Backoff > 0 {
			line += fmt.Sprintf("; waits %v or more between tries", r.Retry.Backoff)
		}
		all = append(all, line)
	}
	return all
}

// numbers are as people list them.
func numbers[N int | uint16](list []N) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]")
}

// answered is a status as an HTTP client gets it, or a gRPC client (B-20 to B-25).
func answered(status int, grpc bool) string {
	if !grpc {
		return fmt.Sprint(status)
	}
	switch status {
	case 404:
		return "UNIMPLEMENTED"
	case 504:
		return "DEADLINE_EXCEEDED"
	}
	return "UNAVAILABLE"
}
