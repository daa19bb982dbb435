package rollup

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Bounds of what a node says of its refusals, in bytes. The API server takes 256 KiB of annotations of an object.
const (
	maxReason = 512
	maxText   = 32 << 10
)

// wire is the form of refusals in an annotation.
type wire struct {
	Refused map[string]Refusal `json:"refused,omitempty"` // by namespace/name
	More    int                `json:"more,omitempty"`    // that there was no room for
}

// Encode gives refusals the form of an annotation, in at most 32 KiB: long reasons are cut, and what has no room is
// counted. The same refusals have the same form; none is "".
func Encode(all Refusals) string {
	if len(all) == 0 {
		return ""
	}
	w := wire{Refused: map[string]Refusal{}}
	size := len(`{"refused":{},"more":1000000}`)
	for _, service := range slices.SortedFunc(maps.Keys(all), model.ServiceKey.Compare) {
		r := all[service]
		r.Reason = cut(r.Reason, maxReason)
		entry := marshal(map[string]Refusal{service.String(): r})
		if size += len(entry); size > maxText {
			w.More++
			continue
		}
		w.Refused[service.String()] = r
	}
	return marshal(w)
}

// Decode reads what Encode wrote; more counts those that had no room.
func Decode(text string) (all Refusals, more int, err error) {
	if text == "" {
		return nil, 0, nil
	}
	var w wire
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, 0, fmt.Errorf("decode refusals: %w", err)
	}
	all = make(Refusals, len(w.Refused))
	for name, r := range w.Refused {
		namespace, service, ok := strings.Cut(name, "/")
		if !ok {
			return nil, 0, fmt.Errorf("decode refusals: %q is not namespace/name", name)
		}
		r.Reason = cut(r.Reason, maxReason) // whoever wrote it
		all[model.ServiceKey{Namespace: namespace, Name: service}] = r
	}
	return all, w.More, nil
}

// cut shortens a text to at most limit bytes.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-4], "") + " ..."
}

// marshal encodes what consists of strings and numbers, which cannot fail.
func marshal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}
