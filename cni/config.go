package main

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/sluice-mesh/sluice/cni/netconf"
	"github.com/sluice-mesh/sluice/cni/wire"
)

// config is what comes on the standard input: our entry, and what the runtime puts into it.
type config struct {
	netconf.Entry

	CNIVersion string          `json:"cniVersion"`
	Name       string          `json:"name"`
	PrevResult json.RawMessage `json:"prevResult"`
	Valid      json.RawMessage `json:"cni.dev/valid-attachments"` // null is an empty list, nothing is none
}

// parse reads the configuration. Its errors carry the specification's codes.
func parse(stdin []byte) (config, error) {
	var c config
	if err := json.Unmarshal(stdin, &c); err != nil {
		return config{}, types.NewError(types.ErrDecodingFailure, "the configuration of sluice-cni cannot be read", err.Error())
	}
	entry, err := c.Complete()
	if err != nil {
		return config{}, types.NewError(types.ErrInvalidNetworkConfig, "the configuration of sluice-cni is wrong", err.Error())
	}
	c.Entry = entry
	return c, nil
}

// previous is what we read of the result of the plugins before us.
type previous struct {
	CNIVersion string `json:"cniVersion"`
	IPs        []struct {
		Address netip.Prefix `json:"address"`
	} `json:"ips"`
}

// previous reads that result. Without one we are not chained, and there is no pod's interface.
func (c *config) previous() (previous, error) {
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return previous{}, types.NewError(types.ErrInvalidNetworkConfig, "sluice-cni has no prevResult",
			"it makes no interface itself: it has to stand behind a plugin that does, in one list")
	}
	var p previous
	if err := json.Unmarshal(c.PrevResult, &p); err != nil {
		return previous{}, types.NewError(types.ErrDecodingFailure, "the prevResult for sluice-cni cannot be read", err.Error())
	}
	return p, nil
}

// result is what ADD prints: the bytes that came, unless they are of another version than they should be.
func (c *config) result(p previous) ([]byte, error) {
	switch p.CNIVersion {
	case c.CNIVersion:
		return c.PrevResult, nil
	case "":
		var members map[string]json.RawMessage
		if err := json.Unmarshal(c.PrevResult, &members); err != nil {
			return nil, err
		}
		members["cniVersion"] = json.RawMessage(fmt.Sprintf("%q", c.CNIVersion))
		return json.Marshal(members)
	}
	old, err := version.NewResult(p.CNIVersion, c.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the prevResult for sluice-cni cannot be read", err.Error())
	}
	wanted, err := old.GetAsVersion(c.CNIVersion)
	if err != nil {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, "the prevResult for sluice-cni cannot be converted", err.Error())
	}
	return json.Marshal(wanted)
}

// valid are the attachments that a GC leaves, and whether it names any list of them.
func (c *config) valid() (_ []wire.Attachment, named bool, _ error) {
	if len(c.Valid) == 0 {
		return nil, false, nil
	}
	var valid []types.GCAttachment
	if err := json.Unmarshal(c.Valid, &valid); err != nil {
		return nil, true, types.NewError(types.ErrDecodingFailure, "cni.dev/valid-attachments cannot be read", err.Error())
	}
	told := make([]wire.Attachment, len(valid))
	for i, v := range valid {
		told[i] = wire.Attachment{ContainerID: v.ContainerID, IfName: v.IfName}
	}
	return told, true, nil
}

// podArgs are what the kubelet's runtimes say of a pod.
type podArgs struct {
	types.CommonArgs

	K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID types.UnmarshallableString // their names
}

// request is what the agent is told of one attachment. Arguments that cannot be read are an error, beside which the rest
// stands.
func request(cmd wire.Command, c *config, args *skel.CmdArgs) (wire.Request, error) {
	r := wire.Request{Command: cmd, Network: c.Name, ContainerID: args.ContainerID, NetNS: args.Netns, IfName: args.IfName}
	var pod podArgs
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS cannot be read", err.Error())
	}
	r.Namespace, r.Name, r.UID = string(pod.K8S_POD_NAMESPACE), string(pod.K8S_POD_NAME), string(pod.K8S_POD_UID)
	return r, nil
}
