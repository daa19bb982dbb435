// Package bpf is what runs in the kernel, compiled, with the types and constants that the programs share with Go. The
// programs are in C (redirect.bpf.c, steer.bpf.c), what they and the agent agree on is in abi.h; the rest is generated.
package bpf
