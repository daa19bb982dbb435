package worker

import (
	"errors"
	"os"
	"testing"
	"time"
)

func newTestPulse(t *testing.T) (*pulse, *agent, *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		read.Close()
		write.Close()
	})
	p, err := newPulse(write)
	if err != nil {
		t.Fatal(err)
	}
	return p, newAgent(t), read
}

// Connections wait that cannot be accepted: new ones had better go direct, but another worker would be no better off.
func TestALoopThatCannotAcceptBeatsToTheMasterOnly(t *testing.T) {
	p, a, master := newTestPulse(t)
	if err := p.share(a.heartbeat); err != nil {
		t.Fatal(err)
	}
	p.beat(true)
	p.serve()
	before := a.beat()
	if before == 0 {
		t.Fatal("no beat")
	}
	b := make([]byte, 10)
	if n, err := master.Read(b); n != 1 || err != nil {
		t.Fatalf("%d bytes for one beat, %v", n, err)
	}
	p.told -= beatEvery // time passes
	p.beat(false)
	if a.beat() != before {
		t.Error("the kernel was told")
	}
	if n, err := master.Read(b); n != 1 || err != nil {
		t.Errorf("the master was not told: %d, %v", n, err)
	}
	p.beat(true)
	if a.beat() <= before {
		t.Error("the kernel was not told when accepting worked again")
	}
}

// The loop may turn a hundred thousand times a second; the master is told ten times.
func TestTheMasterIsToldNowAndThen(t *testing.T) {
	p, _, master := newTestPulse(t)
	began := time.Now()
	for range 10_000 {
		p.beat(true)
	}
	most := int(time.Since(began)/beatEvery) + 1
	b := make([]byte, 10_000)
	if n, err := master.Read(b); err != nil || n > most {
		t.Errorf("%d bytes, want at most %d (%v)", n, most, err)
	}
}

// A master that does not read does not stop the loop.
func TestAFullPipeDoesNotBlock(t *testing.T) {
	p, _, master := newTestPulse(t)
	done := make(chan struct{})
	go func() {
		for range 1 << 17 { // more than a pipe holds
			p.told = -beatEvery
			p.beat(true)
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Error("the loop is stuck")
	}
	master.Close()
	p.told = -beatEvery
	p.beat(true) // nor does one that ended
}

func TestTheHeartbeatIsLetGoOf(t *testing.T) {
	p, a, _ := newTestPulse(t)
	p.serve()
	for range 3 { // an agent that came back
		if err := p.share(a.heartbeat); err != nil {
			t.Fatal(err)
		}
	}
	p.beat(true)
	before := a.beat()
	if err := errors.Join(p.close(), p.share(a.heartbeat)); err != nil { // it came back once more
		t.Fatal(err)
	}
	p.beat(true)
	p.serve()
	if before == 0 || a.beat() != before {
		t.Errorf("beats %v, and %v after the end", before, a.beat())
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

// Budget: the loop's turns cost no memory.
func TestBeatsDoNotAllocate(t *testing.T) {
	p, a, _ := newTestPulse(t)
	if err := p.share(a.heartbeat); err != nil {
		t.Fatal(err)
	}
	p.serve()
	if n := testing.AllocsPerRun(100, func() {
		p.told = -beatEvery
		p.beat(true)
	}); n != 0 {
		t.Errorf("%v allocations a beat", n)
	}
}
