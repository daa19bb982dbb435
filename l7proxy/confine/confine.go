// Package confine takes from the worker what it never needs. It keeps CAP_SYS_ADMIN, for setns(2) into the clients' network
// namespaces, which opens much more than that to whoever takes the process over: a seccomp filter refuses the rest.
package confine

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process confines this process, all of its threads, for good: what is refused fails with EPERM. Nothing can be executed
// any more.
func Process() error {
	filter, err := program(runtime.GOARCH)
	if err != nil {
		return err
	}
	// Without privileges a filter needs this; it is set for all threads with the filter.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	stray, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	switch {
	case errno != 0:
		return fmt.Errorf("set the seccomp filter: %w", errno)
	case stray != 0:
		return fmt.Errorf("set the seccomp filter: thread %d cannot have it", stray)
	}
	return nil
}

// refused are the system calls that change what the process or the machine is. clone3 is one whose flags no filter sees:
// it is said not to exist, as in a kernel before 5.3.
func refused() []uint32 {
	return []uint32{
		// Programs, processes of others, other programs.
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
		unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		// File systems.
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN,
		unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_MKNODAT, unix.SYS_OPEN_BY_HANDLE_AT,
		unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_QUOTACTL, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_FANOTIFY_INIT,
		// Namespaces; setns and clone are looked at more closely.
		unix.SYS_UNSHARE,
		// The kernel, its keys, the machine.
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
		unix.SYS_SYSLOG, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_ACCT,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_VHANGUP, unix.SYS_IO_URING_SETUP,
	}
}

// newNamespaces are the flags of clone(2) that make one.
const newNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

// Offsets in struct seccomp_data; of an argument the low 32 bits, on machines that are little-endian.
const (
	numberAt    = 0
	archAt      = 4
	firstArgAt  = 16
	secondArgAt = 24
)

// What becomes of a system call.
const (
	allow    = unix.SECCOMP_RET_ALLOW
	refuse   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	notThere = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// x32 marks the numbers of the ABI with 32-bit pointers, which amd64 has beside its own.
const x32 = 0x40000000

// program is the filter in the language of the classic BPF (seccomp(2)).
func program(arch string) ([]unix.SockFilter, error) {
	var audit uint32
	switch arch {
	case "amd64":
		audit = unix.AUDIT_ARCH_X86_64
	case "arm64":
		audit = unix.AUDIT_ARCH_AARCH64
	default:
		return nil, errors.New("there is no seccomp filter for " + arch)
	}
	p := slices.Concat(
		[]unix.SockFilter{load(archAt), ifEqual(audit, 1), ret(refuse), load(numberAt)}, // numbers of another ABI are other calls
		when(unix.BPF_JGE, x32, ret(refuse)),
		when(unix.BPF_JEQ, unix.SYS_CLONE3, ret(notThere)),
		// setns into a network namespace only: with 0 it would be any that a descriptor names.
		when(unix.BPF_JEQ, unix.SYS_SETNS, load(secondArgAt), ifEqual(unix.CLONE_NEWNET, 1), ret(refuse), ret(allow)),
		when(unix.BPF_JEQ, unix.SYS_CLONE, load(firstArgAt), ifAny(newNamespaces, 1), ret(allow), ret(refuse)),
	)
	for _, nr := range refused() {
		p = append(p, when(unix.BPF_JEQ, nr, ret(refuse))...)
	}
	return append(p, ret(allow)), nil
}

// when does the instructions if the number compares so.
func when(compare uint16, nr uint32, then ...unix.SockFilter) []unix.SockFilter {
	return append([]unix.SockFilter{{Code: unix.BPF_JMP | compare | unix.BPF_K, Jf: uint8(len(then)), K: nr}}, then...)
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(what uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what}
}

// ifEqual skips so many instructions if the value is k, ifAny if it has any of the bits.
func ifEqual(k uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: skip, K: k}
}

func ifAny(bits uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: skip, K: bits}
}
