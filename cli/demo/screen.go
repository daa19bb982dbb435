package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// screen shows what is done while it is done. On a terminal the line of the current work is written over; elsewhere only
// what is finished is printed.
type screen struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex
	doing string
	since time.Time
	drawn bool
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		if info, err := f.Stat(); err == nil {
			s.terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return s
}

// paint colours text where colours are welcome (no-color.org).
func (s *screen) paint(code, text string) string {
	if !s.terminal || os.Getenv("NO_COLOR") != "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) bold(text string) string  { return s.paint("1", text) }
func (s *screen) faint(text string) string { return s.paint("2", text) }
func (s *screen) tick() string             { return s.paint("32", "✓") }
func (s *screen) cross() string            { return s.paint("31", "✗") }

// start animates the line of current work until the returned function is called.
func (s *screen) start() (stop func()) {
	if !s.terminal {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-t.C:
				s.draw(i)
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		s.clear()
	}
}

func (s *screen) draw(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doing == "" {
		return
	}
	frame := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	fmt.Fprintf(s.out, "\r\x1b[2K  %c %s %s", frame[i%len(frame)], s.doing, s.faint(fmt.Sprintf("%.1f s", time.Since(s.since).Seconds())))
	s.drawn = true
}

// clear takes the line of current work away.
func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing = ""
	s.erase()
}

func (s *screen) erase() {
	if s.drawn {
		fmt.Fprint(s.out, "\r\x1b[2K")
		s.drawn = false
	}
}

// now tells what is being done.
func (s *screen) now(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing, s.since = fmt.Sprintf(format, args...), time.Now()
}

// print writes a line that stays.
func (s *screen) print(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing = ""
	s.erase()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// table prints rows in columns, the first of them as a heading.
func (s *screen) table(rows [][]string) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, "      "+strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory: it cannot fail
	for i, line := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		if i == 0 {
			line = s.faint(line)
		}
		s.print("%s", strings.TrimRight(line, " "))
	}
}
