package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/channel"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// refusal is what refuse is told.
type refusal struct {
	Socket  string           `json:"socket"` // of the agent
	Service model.ServiceKey `json:"service"`
	Reason  string           `json:"reason"`
}

// refuse is a proxy beside the node's own that takes all units but that of one Service: what an agent makes of a refusal cannot be
// seen otherwise, as it sends nothing that a proxy of its own release would refuse. It serves nothing.
func refuse(ctx context.Context, told string) error {
	var r refusal
	if err := json.Unmarshal([]byte(told), &r); err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	context.AfterFunc(ctx, func() { conn.Close() })
	agent := channel.New(conn.(*net.UnixConn))
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(self)
	if err := agent.Send(&model.Register{Protocol: model.ProtocolVersion, PID: os.Getpid()}, self); err != nil {
		return err
	}
	for {
		msg, fds, err := agent.Receive()
		for _, fd := range fds {
			unix.Close(fd)
		}
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.answer(agent, msg); err != nil {
			return err
		}
	}
}

func (r refusal) answer(agent *channel.Conn, msg any) error {
	switch m := msg.(type) {
	case *model.Update:
		ack := &model.Ack{Version: m.Version}
		for i := range m.Services {
			if m.Services[i].ServiceKey == r.Service {
				ack.Refused = append(ack.Refused, model.Refusal{Service: &r.Service, Reason: r.Reason})
				fmt.Println("refused") // tells that the condition may be looked for now
			}
		}
		return agent.Send(ack)
	case *model.Pods:
		return agent.Send(&model.Ack{Version: m.Version})
	}
	return nil
}
