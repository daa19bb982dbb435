package netconf

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAndWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                   `{"type":"sluice-cni","socket":"/run/sluice/cni.sock","whenAway":"start","waitSeconds":1,"exemptNamespaces":["kube-system"]}`,
		`{"exemptNamespaces":[]}`:              `{"type":"sluice-cni","socket":"/run/sluice/cni.sock","whenAway":"start","waitSeconds":1,"exemptNamespaces":[]}`,
		`{"whenAway":"wait","waitSeconds":60}`: `{"type":"sluice-cni","socket":"/run/sluice/cni.sock","whenAway":"wait","waitSeconds":60,"exemptNamespaces":["kube-system"]}`,
		`{"type":"bridge"}`:                    "is not sluice-cni",
		`{"socket":"x"}`:                       "no absolute path",
		`{"whenAway":"never"}`:                 "none of start, wait, refuse",
		`{"waitSeconds":61}`:                   "not within 1 and 60",
		`{"waitSeconds":-1}`:                   "not within 1 and 60",
		`{"exemptNamespaces":["a",""]}`:        "empty name",
	} {
		var e Entry
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		e, err := e.Complete()
		got, encodeErr := json.Marshal(e)
		if encodeErr != nil {
			t.Fatal(encodeErr)
		}
		if err != nil {
			got = []byte(err.Error())
		}
		if (err == nil) != (want[0] == '{') || !strings.Contains(string(got), want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestPatienceStaysBelowItsBound(t *testing.T) {
	for _, c := range []struct {
		e     Entry
		bound time.Duration
	}{
		{Entry{WhenAway: Start, WaitSeconds: 30}, time.Second},
		{Entry{WhenAway: Refuse, WaitSeconds: 30}, time.Second},
		{Entry{WhenAway: Wait, WaitSeconds: 1}, time.Second},
		{Entry{WhenAway: Wait, WaitSeconds: 30}, 30 * time.Second},
	} {
		if p := c.e.Patience(); p >= c.bound || p < c.bound-200*time.Millisecond {
			t.Errorf("%+v: %v, of at most %v", c.e, p, c.bound)
		}
	}
}
