package channel

import (
	"fmt"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// nameOf returns the name that a message has in a frame, or "" for what is no message.
func nameOf(msg any) string {
	switch msg.(type) {
	case *model.Register, model.Register:
		return "Register"
	case *model.Hello, model.Hello:
		return "Hello"
	case *model.Update, model.Update:
		return "Update"
	case *model.Pods, model.Pods:
		return "Pods"
	case *model.Ack, model.Ack:
		return "Ack"
	case *model.Draining, model.Draining:
		return "Draining"
	case *model.Released, model.Released:
		return "Released"
	}
	return ""
}

// empty returns a pointer to an empty message of the type that name names, or nil.
func empty(name string) any {
	switch name {
	case "Register":
		return &model.Register{}
	case "Hello":
		return &model.Hello{}
	case "Update":
		return &model.Update{}
	case "Pods":
		return &model.Pods{}
	case "Ack":
		return &model.Ack{}
	case "Draining":
		return &model.Draining{}
	case "Released":
		return &model.Released{}
	}
	return nil
}

// checkDescriptors compares the number of descriptors with what the message is about: without that, one pod would get
// the listener of another.
func checkDescriptors(msg any, name string, fds int) error {
	want := 0
	switch m := msg.(type) {
	case *model.Register, model.Register, *model.Hello, model.Hello:
		want = 1
	case *model.Pods:
		want = descriptorsOf(m)
	case model.Pods:
		want = descriptorsOf(&m)
	}
	switch {
	case fds != want:
		return fmt.Errorf("%s has %d descriptors and needs %d", name, fds, want)
	case fds > MaxDescriptors:
		return fmt.Errorf("%s has %d descriptors, of which at most %d are allowed: split it", name, fds, MaxDescriptors)
	}
	return nil
}

func descriptorsOf(p *model.Pods) int {
	n := 0
	for i := range p.Added {
		n += 1 + len(p.Added[i].Families)
	}
	return n
}
