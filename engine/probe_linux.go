// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelHasUDPGSO asks the kernel for UDP_SEGMENT (Linux 4.18).
func kernelHasUDPGSO() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptInt(fd, solUDP, udpSegment)
	return err == nil
}

// kernelHasUDPGRO goes by the version: kernels before 5.12 know the option but
// hand out merged datagrams whose segments cannot be told apart when they
// came through some paths.
func kernelHasUDPGRO() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	major, minor := parseRelease(unix.ByteSliceToString(u.Release[:]))
	return major > 5 || major == 5 && minor >= 12
}

// parseRelease reads the first two numbers of a kernel release such as
// "6.1.0-18-amd64"; what is missing is 0.
func parseRelease(s string) (major, minor int) {
	a, rest, _ := strings.Cut(s, ".")
	b := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		b = rest[:i]
	}
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}
