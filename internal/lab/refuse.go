// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// EnterError says why a lab could not be made.
type EnterError struct {
	Step   string // what was tried, as "create namespaces" or "mount /proc"
	Err    error  // what the kernel answered
	Advice string // what to do about it; may be empty
}

// Error gives step, answer and advice in one line.
func (e *EnterError) Error() string {
	s := fmt.Sprintf("cannot enter a private network lab: %s: %v", e.Step, e.Err)
	if e.Advice != "" {
		s += "; " + e.Advice
	}
	return s
}

// Unwrap returns what the kernel answered.
func (e *EnterError) Unwrap() error { return e.Err }

func refused(step string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err // the path is /proc/self/exe, which tells nobody anything
	}
	return &EnterError{Step: step, Err: err, Advice: advice(step, err, os.Geteuid() == 0, readSysctl)}
}

// advice finds the likely cause of a refusal. The sysctls it looks at are the
// ones by which distributions switch unprivileged user namespaces off:
// kernel.unprivileged_userns_clone (a Debian patch),
// kernel.apparmor_restrict_unprivileged_userns (Ubuntu 23.10 and newer; there
// the namespace is made, but without any capability in it) and
// user.max_user_namespaces (mainline; clone answers ENOSPC).
func advice(step string, err error, root bool, sysctl func(string) string) string {
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		return "this kernel lacks a kind of namespace (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS)"
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS):
		return "the limit of namespaces is reached: user.max_user_namespaces is " + orUnknown(sysctl("user.max_user_namespaces")) +
			", `sysctl -w user.max_user_namespaces=10000` raises it (user.max_net_namespaces, user.max_pid_namespaces likewise)"
	case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES):
		return ""
	case root && step == "create namespaces":
		return "root here lacks CAP_SYS_ADMIN, as in most containers: run it on the machine itself or in a privileged container"
	case !root && sysctl("kernel.unprivileged_userns_clone") == "0":
		return "user namespaces are switched off for ordinary users: `sysctl -w kernel.unprivileged_userns_clone=1`, or run it as root"
	case !root && sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1":
		return "AppArmor restricts user namespaces of ordinary users: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run it as root"
	case !root && step == "create namespaces":
		return "user namespaces are refused here, by a seccomp filter or a security module as containers have them: run it on the machine itself or as root"
	case step == "mount /proc":
		return "parts of /proc are hidden here, as in most containers, and then the kernel allows no second one: run it on the machine itself or in a privileged container"
	default:
		return "a security module or a container's restrictions forbid it: run it on the machine itself or as root"
	}
}

// readSysctl returns the value of a sysctl, "" if the kernel has none of that name.
func readSysctl(key string) string {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

const tunPath = "/dev/net/tun"

// CheckTUN reports, as an [*EnterError], why this user cannot open /dev/net/tun.
func CheckTUN() error {
	f, err := os.OpenFile(tunPath, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err == nil {
		return f.Close()
	}
	e := &EnterError{Step: "open " + tunPath, Err: err}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		e.Err = pe.Err
	}
	switch {
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		e.Advice = "distributions make it 0666, here it is not: `chmod 0666 " + tunPath + "` as root (it lets users attach only to devices in their own namespaces)"
	case errors.Is(err, unix.ENOENT):
		e.Advice = "`modprobe tun`, or `mkdir -p /dev/net && mknod -m 0666 " + tunPath + " c 10 200` as root"
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		e.Advice = "the kernel has no TUN/TAP driver: `modprobe tun`"
	}
	return e
}
