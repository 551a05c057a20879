// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A PortInUseError says that the VXLAN port is taken.
type PortInUseError struct {
	Addr   netip.AddrPort // what was to be bound
	Holder string         // who has it, as far as can be seen
}

func (e *PortInUseError) Error() string {
	return fmt.Sprintf("listen on UDP %s: the port is taken by %s; end it, or choose another port (overlay.vxlan_port) on every machine", e.Addr, e.Holder)
}

// Unwrap makes errors.Is(err, unix.EADDRINUSE) true.
func (e *PortInUseError) Unwrap() error { return unix.EADDRINUSE }

// portHolder finds who has a UDP port of this network namespace. A kernel VXLAN
// device's socket stands in the table like any other, but no process has it.
func portHolder(at netip.AddrPort) string {
	// thread-self, since this thread may be in another namespace than the
	// process's first one.
	for _, table := range []string{"udp", "udp6"} {
		for _, inode := range socketInodes("/proc/thread-self/net/"+table, at.Port()) {
			if who := socketOwner(inode); who != "" {
				return who
			}
		}
	}
	return "no process that can be seen from here: most likely a kernel VXLAN device (ip -d link show type vxlan lists them, " +
		"ip link delete NAME removes one), else a process of another user or in a container (ss -ulpn as root)"
}

// socketInodes lists the inodes of the sockets bound to port in a table of
// /proc/net.
func socketInodes(table string, port uint16) (inodes []string) {
	f, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer f.Close()
	want := fmt.Sprintf(":%04X", port)
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], want) {
			inodes = append(inodes, fields[9])
		}
	}
	return inodes
}

// socketOwner finds a process that has the socket open.
func socketOwner(inode string) string {
	want := "socket:[" + inode + "]"
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if l, err := os.Readlink(fd); err != nil || l != want {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		if pid == strconv.Itoa(os.Getpid()) {
			return "this very process (pid " + pid + ")"
		}
		return fmt.Sprintf("process %s (pid %s)", strings.TrimSpace(string(name)), pid)
	}
	return ""
}
