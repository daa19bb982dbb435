package install

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/cni/netconf"
	"github.com/sluice-mesh/sluice/tests/need"
)

// world is a node's two folders, and an installer for them.
type world struct {
	*testing.T

	cfg Config
	*Installer

	clock time.Time
	log   *logged
}

// logged keeps what is logged.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logged) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root := t.TempDir()
	w := &world{T: t, clock: time.Now(), log: &logged{}}
	w.cfg = Config{
		BinDir: filepath.Join(root, "bin"), ConfDir: filepath.Join(root, "net.d"), Plugin: filepath.Join(root, "plugin"),
		Namespace: "sluice-system", Log: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	for _, dir := range []string{w.cfg.BinDir, w.cfg.ConfDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.write(w.cfg.Plugin, "the plugin")
	w.Installer = w.another()
	return w
}

// another is an installer with the world's Config as it is now.
func (w *world) another() *Installer {
	i := New(w.cfg)
	i.now = func() time.Time { return w.clock }
	return i
}

func (w *world) write(path, text string) {
	w.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
}

// conf writes a configuration as most do: a new file in the place of the old one.
func (w *world) conf(name, text string) {
	w.Helper()
	temp := filepath.Join(w.cfg.ConfDir, "."+name+".new")
	w.write(temp, text)
	if err := os.Rename(temp, filepath.Join(w.cfg.ConfDir, name)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) read(name string) string {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(w.cfg.ConfDir, name))
	if err != nil {
		w.Fatal(err)
	}
	return string(text)
}

// files are the names in the folder of configurations.
func (w *world) files() []string {
	w.Helper()
	entries, err := os.ReadDir(w.cfg.ConfDir)
	if err != nil {
		w.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// with is a list with our entry, as the world's installer writes it.
func (w *world) with(text string) string {
	w.Helper()
	entry, err := w.cfg.entry("")
	if err != nil {
		w.Fatal(err)
	}
	got, err := withEntry([]byte(text), entry)
	if err != nil {
		w.Fatal(err)
	}
	return string(got)
}

// expect looks once and checks how things stand.
func (w *world) expect(state State, file, problem string) {
	w.Helper()
	w.look()
	w.stands(w.Status(), state, file, problem)
}

func (w *world) stands(s Status, state State, file, problem string) {
	w.Helper()
	if s.State != state || s.File != file || !strings.Contains(s.Problem, problem) || (s.Problem == "") != (state == Installed) {
		w.Errorf("status %+v, want %s of %q: %q", s, state, file, problem)
	}
}

func (w *world) remove() {
	w.Helper()
	if err := Remove(w.cfg); err != nil {
		w.Error(err)
	}
}

func TestInstallAndRemove(t *testing.T) {
	need.Root(t) // for the owner
	w := newWorld(t)
	w.conf("10-calico.conflist", calico)
	w.conf("20-other.conflist", oneLine)
	path := filepath.Join(w.cfg.ConfDir, "10-calico.conflist")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12, 34); err != nil {
		t.Fatal(err)
	}
	w.expect(Installed, "10-calico.conflist", "")
	if got := w.read("10-calico.conflist"); got != w.with(calico) {
		t.Errorf("the list:\n%s", got)
	}
	if got := w.read("20-other.conflist"); got != oneLine {
		t.Errorf("a list that nobody uses was changed:\n%s", got)
	}
	list, err := libcni.ConfListFromFile(path)
	if err != nil || list.Plugins[2].Network.Type != netconf.Type {
		t.Errorf("a runtime reads %+v, %v", list, err)
	}
	hasMode(t, path, 0o640, 12, 34)
	binary := filepath.Join(w.cfg.BinDir, netconf.Type)
	hasMode(t, binary, 0o755, 0, 0)
	if text, err := os.ReadFile(binary); err != nil || string(text) != "the plugin" {
		t.Errorf("the plugin: %s, %v", text, err)
	}

	w.remove()
	if got := w.read("10-calico.conflist"); got != calico {
		t.Errorf("after removal:\n%s", got)
	}
	hasMode(t, path, 0o640, 12, 34)
	if got := w.files(); !slices.Equal(got, []string{"10-calico.conflist", "20-other.conflist"}) {
		t.Errorf("after removal there are %v", got)
	}
	if left, err := os.ReadDir(w.cfg.BinDir); err != nil || len(left) > 0 {
		t.Errorf("of the plugin is left: %v, %v", left, err)
	}
	w.remove() // what is gone is no error
}

func hasMode(t *testing.T, path string, mode os.FileMode, uid, gid uint32) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	owner, _ := st.Sys().(*syscall.Stat_t)
	if st.Mode().Perm() != mode || owner.Uid != uid || owner.Gid != gid {
		t.Errorf("%s has mode %o and is of %d:%d", path, st.Mode().Perm(), owner.Uid, owner.Gid)
	}
}

// A look that finds everything in place writes nothing and logs nothing.
func TestNothingToDoIsNothingDone(t *testing.T) {
	w := newWorld(t)
	w.conf("10-x.conflist", oneLine)
	w.expect(Installed, "10-x.conflist", "")
	since := w.Status().Since
	conf, binary := filepath.Join(w.cfg.ConfDir, "10-x.conflist"), filepath.Join(w.cfg.BinDir, netconf.Type)
	before := []os.FileInfo{stat(t, conf), stat(t, binary)}
	w.clock = w.clock.Add(time.Hour)
	w.expect(Installed, "10-x.conflist", "")
	w.Installer = w.another() // an upgrade
	w.expect(Installed, "10-x.conflist", "")
	for i, path := range []string{conf, binary} {
		if !os.SameFile(before[i], stat(t, path)) {
			t.Errorf("%s was replaced", path)
		}
	}
	if since.Equal(w.Status().Since) {
		t.Error("the successor knows what it cannot know")
	}
	if n := w.log.count(""); n != 2 {
		t.Errorf("%d lines were logged: %v", n, w.log.lines)
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestParametersAreUpdatedInPlace(t *testing.T) {
	w := newWorld(t)
	w.conf("10-calico.conflist", calico)
	w.expect(Installed, "10-calico.conflist", "")
	w.cfg.Entry = netconf.Entry{WhenAway: netconf.Wait, WaitSeconds: 20}
	w.Installer = w.another()
	w.expect(Installed, "10-calico.conflist", "")
	if got := w.read("10-calico.conflist"); got != w.with(calico) || !strings.Contains(got, `"whenAway":"wait"`) {
		t.Errorf("the list:\n%s", got)
	}
	w.remove()
	if got := w.read("10-calico.conflist"); got != calico {
		t.Errorf("after removal:\n%s", got)
	}
}

// What is malformed or missing is named, once, and left alone; and picked up when it is good.
func TestConfigurationThatIsNotGood(t *testing.T) {
	w := newWorld(t)
	if err := os.Remove(w.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	w.expect(Missing, "", "there is no folder "+w.cfg.ConfDir)
	if err := os.Mkdir(w.cfg.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.expect(Missing, "", "no network configuration in "+w.cfg.ConfDir)
	w.conf("notes.txt", oneLine)
	w.expect(Missing, "", "no network configuration in "+w.cfg.ConfDir)
	w.conf("20-good.conflist", oneLine)
	for name, c := range map[string]struct {
		text  string
		state State
	}{
		"empty":       {"", Malformed},
		"no JSON":     {"plugins: []", Malformed},
		"old version": {strings.Replace(oneLine, "1.0.0", "0.1.0", 1), Unsupported},
		"too long":    {oneLine + strings.Repeat(" ", maxFile), Failed},
	} {
		w.conf("10-bad.conflist", c.text)
		logged := w.log.count("")
		w.expect(c.state, "10-bad.conflist", "10-bad.conflist")
		w.expect(c.state, "10-bad.conflist", "10-bad.conflist")
		if n := w.log.count("") - logged; n != 1 {
			t.Errorf("%s: it was logged %d times", name, n)
		}
		if got := w.read("10-bad.conflist"); got != c.text {
			t.Errorf("%s: it was changed", name)
		}
		if got := w.read("20-good.conflist"); got != oneLine {
			t.Errorf("%s: a list that nobody uses was changed", name)
		}
	}
	w.conf("10-bad.conflist", calico)
	w.expect(Installed, "10-bad.conflist", "")
}

func TestFileThatIsNoFile(t *testing.T) {
	w := newWorld(t)
	if err := unix.Mkfifo(filepath.Join(w.cfg.ConfDir, "10-x.conflist"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.expect(Failed, "10-x.conflist", "no regular file")
	if err := os.Mkdir(filepath.Join(w.cfg.ConfDir, "00-folder.conflist"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.expect(Failed, "10-x.conflist", "no regular file")
	w.remove()
}

// Links lead to where they lead: inside the folder the file behind them is changed and they stay; what is outside is not
// ours to see.
func TestLinks(t *testing.T) {
	w := newWorld(t)
	if err := os.Mkdir(filepath.Join(w.cfg.ConfDir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(filepath.Join(w.cfg.ConfDir, "real/x"), oneLine)
	link := filepath.Join(w.cfg.ConfDir, "10-x.conflist")
	if err := os.Symlink("real/x", link); err != nil {
		t.Fatal(err)
	}
	w.expect(Installed, "10-x.conflist", "")
	if got := w.read("real/x"); got != w.with(oneLine) {
		t.Errorf("behind the link: %s", got)
	}
	if target, err := os.Readlink(link); err != nil || target != "real/x" {
		t.Errorf("the link leads to %s, %v", target, err)
	}
	w.remove()
	if got := w.read("real/x"); got != oneLine {
		t.Errorf("behind the link after removal: %s", got)
	}
	outside := filepath.Join(t.TempDir(), "y")
	w.write(outside, oneLine)
	for i, target := range []string{outside, "/nowhere/at/all"} {
		if err := os.Symlink(target, filepath.Join(w.cfg.ConfDir, fmt.Sprintf("0%d-y.conflist", 9-i))); err != nil {
			t.Fatal(err)
		}
		w.expect(Unsupported, fmt.Sprintf("0%d-y.conflist", 9-i), "is a link to "+target)
	}
	w.remove()
	if text, err := os.ReadFile(outside); err != nil || string(text) != oneLine {
		t.Errorf("outside: %s, %v", text, err)
	}
}

func TestReadOnlyFolders(t *testing.T) {
	need.Root(t)
	for _, which := range []string{"bin", "net.d"} {
		t.Run(which, func(t *testing.T) {
			w := newWorld(t)
			w.conf("10-x.conflist", oneLine)
			dir := filepath.Join(filepath.Dir(w.cfg.BinDir), which)
			if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
				t.Skipf("skipped: no bind mount: %v", err)
			}
			defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // the test's own folder
			if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			file := map[string]string{"bin": "", "net.d": "10-x.conflist"}[which]
			w.expect(Failed, file, "read-only file system")
			if got := w.read("10-x.conflist"); got != oneLine {
				t.Errorf("the list: %s", got)
			}
			if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT, ""); err != nil {
				t.Fatal(err)
			}
			w.expect(Installed, "10-x.conflist", "")
			if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			if err := Remove(w.cfg); err == nil || !strings.Contains(err.Error(), "read-only file system") {
				t.Errorf("Remove: %v", err)
			}
			if which == "net.d" {
				stat(t, filepath.Join(w.cfg.BinDir, netconf.Type)) // the configuration still names it
			}
		})
	}
}

// Without the plugin's file nobody may name it.
func TestEntryWaitsForTheBinary(t *testing.T) {
	w := newWorld(t)
	w.conf("10-x.conflist", oneLine)
	binary := filepath.Join(w.cfg.BinDir, netconf.Type)
	if err := os.Mkdir(binary, 0o755); err != nil {
		t.Fatal(err)
	}
	w.expect(Failed, "", "is no regular file")
	if got := w.read("10-x.conflist"); got != oneLine {
		t.Errorf("the list: %s", got)
	}
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	w.expect(Installed, "10-x.conflist", "")
	for name, spoil := range map[string]func(){
		"removed":     func() { _ = os.Remove(binary) },
		"overwritten": func() { w.write(binary, "not our plugin") },
		"same length": func() { w.write(binary, "THE PLUGIN") },
		"mode":        func() { _ = os.Chmod(binary, 0o644) },
		"new plugin":  func() { w.write(w.cfg.Plugin, "a newer plugin") },
	} {
		spoil()
		// A file system's clock is coarse.
		changed := binary
		if name == "new plugin" {
			changed = w.cfg.Plugin
		}
		if err := os.Chtimes(changed, time.Time{}, time.Now().Add(time.Hour)); err != nil && name != "removed" {
			t.Fatal(err)
		}
		w.expect(Installed, "10-x.conflist", "")
		want, err := os.ReadFile(w.cfg.Plugin)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(binary)
		if err != nil || !bytes.Equal(got, want) || stat(t, binary).Mode().Perm() != 0o755 {
			t.Errorf("%s: %s, %v, %v", name, got, stat(t, binary).Mode(), err)
		}
	}
	if err := os.Remove(w.cfg.Plugin); err != nil {
		t.Fatal(err)
	}
	w.expect(Failed, "", "no such file")
}

// A predecessor was killed between writing and renaming.
func TestWhatACrashLeftIsSweptAway(t *testing.T) {
	w := newWorld(t)
	w.conf("10-x.conflist", oneLine)
	for _, dir := range []string{w.cfg.ConfDir, w.cfg.BinDir} {
		w.write(filepath.Join(dir, tempStart+"123"+tempEnd), "half a fi")
	}
	w.sweep()
	w.expect(Installed, "10-x.conflist", "")
	if got := w.files(); !slices.Equal(got, []string{"10-x.conflist"}) {
		t.Errorf("there are %v", got)
	}
	if got, err := os.ReadDir(w.cfg.BinDir); err != nil || len(got) != 1 {
		t.Errorf("there are %v, %v", got, err)
	}
	// No runtime reads such a file meanwhile.
	if ext := filepath.Ext(tempStart + "123" + tempEnd); ext == ".conf" || ext == ".conflist" || ext == ".json" {
		t.Errorf("a runtime may read %s", ext)
	}
}

// A single plugin's file stays as it is; the runtimes choose the list that is made of it.
func TestFileOfASinglePlugin(t *testing.T) {
	for _, ext := range []string{".conf", ".json"} {
		t.Run(ext, func(t *testing.T) {
			w := newWorld(t)
			base, derived := "10-x"+ext, "10-x-sluice.conflist"
			const text = `{"cniVersion":"0.4.0","name":"n","type":"bridge"}`
			w.conf(base, text)
			w.conf("20-y.conflist", oneLine)
			w.expect(Installed, base, "")
			names, err := libcni.ConfFiles(w.cfg.ConfDir, []string{".conf", ".conflist", ".json"})
			slices.Sort(names)
			if err != nil || filepath.Base(names[0]) != derived {
				t.Fatalf("a runtime chooses of %v, %v", names, err)
			}
			list, err := libcni.ConfListFromFile(names[0])
			if err != nil || len(list.Plugins) != 2 || list.Plugins[0].Network.Type != "bridge" || list.Name != "n" {
				t.Errorf("it reads %+v, %v", list, err)
			}
			if got := w.read(base); got != text {
				t.Errorf("the file itself: %s", got)
			}
			w.expect(Installed, base, "")
			changed := strings.Replace(text, "bridge", "ptp", 1)
			w.conf(base, changed)
			w.expect(Installed, base, "")
			if got := w.read(derived); !strings.Contains(got, "ptp") || strings.Contains(got, "bridge") {
				t.Errorf("after a change: %s", got)
			}
			w.remove()
			if got := w.files(); !slices.Equal(got, []string{base, "20-y.conflist"}) || w.read(base) != changed {
				t.Errorf("after removal there are %v", got)
			}
			w.expect(Installed, base, "")
			if err := os.Remove(filepath.Join(w.cfg.ConfDir, base)); err != nil {
				t.Fatal(err)
			}
			w.expect(Installed, "20-y.conflist", "")
			if got := w.files(); !slices.Equal(got, []string{"20-y.conflist"}) {
				t.Errorf("after its file went there are %v", got)
			}
		})
	}
}

// A list of somebody else's that is called as ours would be is theirs.
func TestNameAloneMakesNoFileOurs(t *testing.T) {
	w := newWorld(t)
	w.conf("10-x-sluice.conflist", oneLine)
	w.expect(Installed, "10-x-sluice.conflist", "")
	w.expect(Installed, "10-x-sluice.conflist", "")
	w.remove()
	if got := w.read("10-x-sluice.conflist"); got != oneLine {
		t.Errorf("after removal: %s", got)
	}
	// Nor does the mark alone: somebody copied what was in ours.
	entry, err := w.cfg.entry("10-other.conf")
	if err != nil {
		t.Fatal(err)
	}
	copied := strings.Replace(oneLine, `"}]`, `"},`+string(entry)+"]", 1)
	w.conf("10-x-sluice.conflist", copied)
	w.expect(Installed, "10-x-sluice.conflist", "")
	w.remove()
	if got := w.read("10-x-sluice.conflist"); got != oneLine {
		t.Errorf("after removal: %s", got)
	}
}

// Remove finds our entry wherever somebody keeps a copy, and leaves the plugin where a configuration may still name it.
func TestRemoveLooksEverywhere(t *testing.T) {
	w := newWorld(t)
	w.conf("10-calico.conflist", calico)
	w.expect(Installed, "10-calico.conflist", "")
	w.conf("05-flannel.conflist.cilium_bak", w.with(oneLine))
	w.conf("kubeconfig", "apiVersion: v1")
	multus := `{"cniVersion":"1.0.0","name":"m","type":"multus","delegates":[` + w.with(oneLine) + `]}`
	w.conf("00-multus.conf", multus)
	if err := Remove(w.cfg); err == nil || !strings.Contains(err.Error(), "take sluice-cni out of 00-multus.conf") {
		t.Fatalf("Remove: %v", err)
	}
	binary := filepath.Join(w.cfg.BinDir, netconf.Type)
	stat(t, binary)
	w.conf("00-multus.conf", `{"plugins":[{"type":"a","delegate":"sluice-cni"}]}`)
	if err := Remove(w.cfg); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Fatalf("Remove: %v", err)
	}
	w.conf("00-multus.conf", `{"type":"sluice-cni"`)
	if err := Remove(w.cfg); err == nil || !strings.Contains(err.Error(), "00-multus.conf") {
		t.Fatalf("Remove: %v", err)
	}
	stat(t, binary)
	for name, want := range map[string]string{"10-calico.conflist": calico, "05-flannel.conflist.cilium_bak": oneLine} {
		if got := w.read(name); got != want {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	w.conf("00-multus.conf", strings.Replace(multus, w.with(oneLine), oneLine, 1))
	w.remove()
	if _, err := os.Lstat(binary); err == nil {
		t.Error("the plugin is still there")
	}
}

// One who takes our entry out each time gets his way; from time to time it is tried again.
func TestContestedFileIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	fight := func(rounds int) (lost int) {
		for range rounds {
			w.conf("05-cilium.conflist", oneLine)
			w.look()
			if w.read("05-cilium.conflist") == oneLine {
				lost++
			}
			w.clock = w.clock.Add(time.Second)
		}
		return lost
	}
	if lost := fight(20); lost != 20-maxLosses {
		t.Errorf("%d times it was left alone", lost)
	}
	w.stands(w.Status(), Contested, "05-cilium.conflist", "somebody takes the entry")
	if n := w.log.count("somebody takes the entry"); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
	w.clock = w.clock.Add(contestRest)
	if lost := fight(20); lost != 19 {
		t.Errorf("after a rest it was left alone %d times", lost)
	}
	w.clock = w.clock.Add(contestRest)
	w.expect(Installed, "05-cilium.conflist", "") // he has been told to share
	w.clock = w.clock.Add(lossWindow + time.Second)
	w.expect(Installed, "05-cilium.conflist", "")
	w.conf("05-cilium.conflist", oneLine) // he only starts anew
	w.expect(Installed, "05-cilium.conflist", "")
}

// Two programs change one file by renaming at the same time. Neither loses what the other wrote.
func TestConcurrentWriters(t *testing.T) {
	w := newWorld(t)
	const name, writes = "10-x.conflist", 300
	path := filepath.Join(w.cfg.ConfDir, name)
	number := func(i int) string { return strings.Replace(oneLine, `"bridge"`, fmt.Sprintf(`"bridge","n":%d`, i), 1) }
	w.conf(name, number(0))
	done := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		defer close(done)
		for i := 1; i <= writes; i++ {
			temp := filepath.Join(w.cfg.ConfDir, "other")
			if err := os.WriteFile(temp, []byte(number(i)), 0o644); err != nil {
				t.Error(err)
				return
			}
			if err := os.Rename(temp, path); err != nil {
				t.Error(err)
				return
			}
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Errorf("a moment without a configuration: %v", err)
				} else if _, err := parseList(text); err != nil {
					t.Errorf("half a file was seen: %v\n%s", err, text)
				}
				if i%5 != 0 || bytes.Contains(text, []byte(entryText)) {
					break // each fifth waits for ours, the others come in between
				}
			}
		}
	})
	installs := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		f, err := read(w.cfg.ConfDir, name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := withEntry(f.text, []byte(entryText))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(text, f.text) {
			continue
		}
		if err := replace(w.cfg.ConfDir, f, text); err == nil {
			installs++
		}
	}
	both.Wait()
	if last := w.read(name); !strings.Contains(last, fmt.Sprintf(`"n":%d}`, writes)) {
		t.Errorf("the last one's text was lost: %s", last)
	}
	if installs < writes/10 {
		t.Errorf("only %d changes of ours", installs)
	}
	if got := w.files(); !slices.Equal(got, []string{name}) {
		t.Errorf("there are %v", got)
	}
	t.Logf("%d writes of the other, %d of ours", writes, installs)
}

// Somebody's newer file is given back its place, exactly when it came between reading and exchanging.
func TestFileThatChangedMeanwhileIsLeft(t *testing.T) {
	w := newWorld(t)
	for name, exchange := range map[string]func(temp, path string, old, ours []byte) error{
		"exchange": exchange,
		"rename":   func(temp, path string, old, _ []byte) error { return rename(temp, path, old) },
	} {
		path, temp := filepath.Join(w.cfg.ConfDir, "10-x.conflist"), filepath.Join(w.cfg.ConfDir, "temp")
		w.write(temp, "ours")
		w.write(path, "newer")
		if err := exchange(temp, path, []byte("old"), []byte("ours")); err != errChanged { //nolint:errorlint // it is not wrapped here
			t.Errorf("%s: %v", name, err)
		}
		if got := w.read("10-x.conflist"); got != "newer" {
			t.Errorf("%s: %s", name, got)
		}
		if err := exchange(temp, path, []byte("newer"), []byte("ours")); err != nil || w.read("10-x.conflist") != "ours" {
			t.Errorf("%s: %v, %s", name, err, w.read("10-x.conflist"))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.write(temp, "ours")
		if err := exchange(temp, path, []byte("old"), []byte("ours")); err != errChanged { //nolint:errorlint // it is not wrapped here
			t.Errorf("%s of a file that is gone: %v", name, err)
		}
	}
}

// run starts the installer. The returned function waits until a look has found what is wanted.
func (w *world) run() (until func(state State, file, text string)) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	looks := make(chan struct{}, 1)
	w.looked = func() {
		select {
		case looks <- struct{}{}:
		default:
		}
	}
	w.now = time.Now
	ended := make(chan error, 1)
	go func() { ended <- w.Installer.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})
	return func(state State, file, text string) {
		w.Helper()
		deadline := time.After(30 * time.Second)
		for {
			s := w.Status()
			if s.State == state && s.File == file {
				if got, err := os.ReadFile(filepath.Join(w.cfg.ConfDir, file)); text == "" || err == nil && string(got) == text {
					return
				}
			}
			select {
			case <-looks:
			case <-deadline:
				w.Fatalf("status %+v, files %v; want %s of %s", w.Status(), w.files(), state, file)
			}
		}
	}
}

// The entry is kept in place while others come and go, sooner than the next poll.
func TestRunKeepsTheEntryInPlace(t *testing.T) {
	w := newWorld(t)
	start := time.Now()
	until := w.run()
	until(Missing, "", "")
	w.conf("10-x.conflist", oneLine)
	until(Installed, "10-x.conflist", w.with(oneLine))
	w.conf("10-x.conflist", calico) // another writer replaces it
	until(Installed, "10-x.conflist", w.with(calico))
	w.write(filepath.Join(w.cfg.ConfDir, "10-x.conflist"), tabs) // or writes into it
	until(Installed, "10-x.conflist", w.with(tabs))
	w.conf("05-y.conflist", oneLine) // an earlier one appears
	until(Installed, "05-y.conflist", w.with(oneLine))
	w.conf("05-y.conflist", "{")
	until(Malformed, "05-y.conflist", "{")
	if err := os.Remove(filepath.Join(w.cfg.ConfDir, "05-y.conflist")); err != nil {
		t.Fatal(err)
	}
	until(Installed, "10-x.conflist", w.with(tabs))
	if err := os.Remove(filepath.Join(w.cfg.BinDir, netconf.Type)); err != nil {
		t.Fatal(err)
	}
	w.conf("10-x.conflist", oneLine)
	until(Installed, "10-x.conflist", w.with(oneLine))
	stat(t, filepath.Join(w.cfg.BinDir, netconf.Type))
	if took := time.Since(start); took > 3*pollTime {
		t.Errorf("it took %v: the events are not heard", took)
	} else {
		t.Logf("eight changes took %v", took)
	}
}

// A folder that is not there yet is found when it is.
func TestRunWaitsForTheFolder(t *testing.T) {
	w := newWorld(t)
	if err := os.Remove(w.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	until := w.run()
	until(Missing, "", "")
	if err := os.Mkdir(w.cfg.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.conf("10-x.conflist", oneLine)
	until(Installed, "10-x.conflist", w.with(oneLine))
}

func TestTwoInstallersWithTheSameParametersLiveTogether(t *testing.T) {
	w := newWorld(t)
	w.conf("10-x.conflist", oneLine)
	other := &world{T: t, cfg: w.cfg, Installer: New(w.cfg), log: w.log}
	first, second := w.run(), other.run()
	for range 2 { // seldom enough for no contest
		for _, text := range []string{calico, oneLine} {
			w.conf("10-x.conflist", text)
			first(Installed, "10-x.conflist", w.with(text))
			second(Installed, "10-x.conflist", w.with(text))
		}
	}
}

func TestRunSaysWhatIsWrongWithItsConfig(t *testing.T) {
	w := newWorld(t)
	w.cfg.Entry.WhenAway = "sleep"
	if err := w.another().Run(t.Context()); err == nil || !strings.Contains(err.Error(), `whenAway "sleep"`) {
		t.Errorf("Run: %v", err)
	}
	if got := w.files(); len(got) > 0 {
		t.Errorf("there are %v", got)
	}
}

// Run leaves everything in place: an upgrade follows.
func TestRunLeavesEverythingInPlace(t *testing.T) {
	w := newWorld(t)
	w.conf("10-x.conflist", oneLine)
	ctx, cancel := context.WithCancel(t.Context())
	w.looked = cancel
	if err := w.Installer.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.read("10-x.conflist"); got != w.with(oneLine) {
		t.Errorf("the list: %s", got)
	}
	stat(t, filepath.Join(w.cfg.BinDir, netconf.Type))
}
