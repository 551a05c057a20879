// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A kernel that refuses an offload in use. The program runs below a seccomp filter
// that hands its sendmsg and writev calls to this process (seccomp(2),
// SECCOMP_RET_USER_NOTIF), which looks into the program's memory at what they want
// and answers some of them in the kernel's place. So it is the real program that
// meets the refusal, and nothing in it knows of the test.

const (
	roleRefuse = "refuse"
	// refuseWhat holds what is refused, the errno, and how many calls of the kind
	// pass before: "send 5 3" or "write 22 0".
	refuseWhat = "KOHAKU_INTEGRATION_REFUSE"
)

// include/uapi/linux/seccomp.h
const (
	seccompSetModeFilter   = 1
	seccompNewListener     = 1 << 3
	seccompRetUserNotif    = 0x7fc00000
	seccompRetAllow        = 0x7fff0000
	seccompNotifRecv       = 0xc0502100
	seccompNotifSend       = 0xc0182101
	seccompNotifIsContinue = 1
)

// seccompNotif is struct seccomp_notif.
type seccompNotif struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// seccompAnswer is struct seccomp_notif_resp.
type seccompAnswer struct {
	id    uint64
	val   int64
	errno int32 // negative
	flags uint32
}

// playRefuse runs the program that the arguments name, below the filter, and ends
// as it does.
func playRefuse() error {
	kind, errno, pass, err := parseRefusal(os.Getenv(refuseWhat))
	if err != nil {
		return err
	}
	// The filter is this thread's, and its children's.
	runtime.LockOSThread()
	listener, err := notifyCalls(unix.SYS_SENDMSG, unix.SYS_WRITEV)
	if err != nil {
		return err
	}
	r := &refuser{listener: listener, kind: kind, errno: errno, pass: pass}
	go r.serve()
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // its parent is this very thread
	if err := cmd.Start(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // has ended, then
		}
	}()
	err = cmd.Wait()
	fmt.Fprintf(os.Stderr, "refused %d calls\n", r.refused)
	return err
}

func parseRefusal(s string) (kind string, errno unix.Errno, pass int, err error) {
	f := strings.Fields(s)
	if len(f) != 3 {
		return "", 0, 0, fmt.Errorf("%s = %q", refuseWhat, s)
	}
	n, err1 := strconv.Atoi(f[1])
	pass, err2 := strconv.Atoi(f[2])
	return f[0], unix.Errno(n), pass, errors.Join(err1, err2)
}

// notifyCalls sets the filter and returns the descriptor on which calls are told.
func notifyCalls(calls ...uint32) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("prctl: %w", err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // seccomp_data.nr
	for i, nr := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(calls) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: seccompRetAllow},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: seccompRetUserNotif})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, seccompSetModeFilter, seccompNewListener, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return -1, fmt.Errorf("seccomp: %w", e)
	}
	return int(fd), nil
}

// refuser answers calls.
type refuser struct {
	listener int
	kind     string
	errno    unix.Errno
	pass     int
	refused  int
}

func (r *refuser) serve() {
	for {
		var n seccompNotif
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), seccompNotifRecv, uintptr(unsafe.Pointer(&n))); e != 0 {
			if e == unix.EINTR || e == unix.ENOENT { // the caller was interrupted
				continue
			}
			return
		}
		a := seccompAnswer{id: n.id, flags: seccompNotifIsContinue}
		if r.refuses(&n) {
			if r.pass > 0 {
				r.pass--
			} else {
				r.refused++
				a = seccompAnswer{id: n.id, errno: -int32(r.errno)}
			}
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), seccompNotifSend, uintptr(unsafe.Pointer(&a))) // the caller may be gone
	}
}

// refuses reports whether a call is of the kind that is refused: a send of several
// datagrams (UDP_SEGMENT), or a super-frame written to a TAP.
func (r *refuser) refuses(n *seccompNotif) bool {
	switch {
	case r.kind == "send" && n.nr == unix.SYS_SENDMSG:
		msg, ok := peek(n.pid, n.args[1], 56) // struct msghdr
		if !ok {
			return false
		}
		at, size := binary.NativeEndian.Uint64(msg[32:]), binary.NativeEndian.Uint64(msg[40:])
		control, ok := peek(n.pid, at, min(size, 256))
		for ok && len(control) >= 16 {
			l := binary.NativeEndian.Uint64(control)
			if binary.NativeEndian.Uint32(control[8:]) == unix.IPPROTO_UDP && binary.NativeEndian.Uint32(control[12:]) == unix.UDP_SEGMENT {
				return true
			}
			l = (l + 7) &^ 7
			if l < 16 || l > uint64(len(control)) {
				return false
			}
			control = control[l:]
		}
	case r.kind == "write" && n.nr == unix.SYS_WRITEV:
		iov, ok := peek(n.pid, n.args[1], 16)
		if !ok {
			return false
		}
		head, ok := peek(n.pid, binary.NativeEndian.Uint64(iov), 2) // struct virtio_net_hdr: flags, gso_type
		return ok && binary.NativeEndian.Uint64(iov[8:]) == 10 && head[1] != 0
	}
	return false
}

// peek reads another process's memory.
func peek(pid uint32, at, n uint64) ([]byte, bool) {
	if n == 0 {
		return nil, false
	}
	b := make([]byte, n)
	local := []unix.Iovec{{Base: &b[0], Len: n}}
	got, err := unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(at), Len: int(n)}}, 0)
	return b, err == nil && uint64(got) == n
}
