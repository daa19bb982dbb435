package kube

import (
	"cmp"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a file of the folder, or that is in it and not read.
type Problem struct {
	File   string // as it is found from the working directory
	Line   int    // from 1; 0 where the file as a whole is meant
	Object string // "HTTPRoute ns/name"; "" where no object could be told
	Reason string // what is wrong, and what to do
}

// String is the form of compilers: file:line: object: reason.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line))
	}
	if p.Object != "" {
		b.WriteString(": " + p.Object)
	}
	b.WriteString(": " + p.Reason)
	return b.String()
}

func compareProblems(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Object, b.Object),
		cmp.Compare(a.Reason, b.Reason))
}

// fault is a Problem whose file and object are not known yet.
type fault struct {
	line   int
	reason string
}
