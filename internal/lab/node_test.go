// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newNet(t *testing.T) *Net {
	t.Helper()
	n, err := NewNet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing the network: %v", err)
		}
	})
	return n
}

func newNode(t *testing.T, n *Net, name string) *Node {
	t.Helper()
	node, err := n.Node(name)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func netnsOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestDoRunsInTheNodeAndRestoresThreads(t *testing.T) {
	node := newNode(t, newNet(t), "a")
	outside := netnsOf(t, "/proc/self/ns/net")
	want := netnsOf(t, node.Path())
	if want == outside {
		t.Fatal("the node is in the lab's own network namespace")
	}
	for range 50 {
		err := node.Do(func() error {
			if got := netnsOf(t, "/proc/thread-self/ns/net"); got != want {
				t.Errorf("Do runs in namespace %d, want %d", got, want)
			}
			name, err := os.Hostname()
			if err != nil || name != "a" {
				t.Errorf("host name %q, %v; want the node's", name, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if got := netnsOf(t, "/proc/self/task/"+task.Name()+"/ns/net"); got != outside {
			t.Errorf("thread %s stays in namespace %d", task.Name(), got)
		}
	}
}

func TestDoCarriesGoexit(t *testing.T) {
	node := newNode(t, newNet(t), "a")
	done := make(chan bool)
	go func() {
		defer close(done)
		_ = node.Do(func() error { runtime.Goexit(); return nil })
		done <- true
	}()
	if <-done {
		t.Error("the caller went on after Goexit in Do")
	}
}

func TestUnderlay(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, profile := range []Profile{Offload, Wire} {
		t.Run(string(profile), func(t *testing.T) {
			u, err := newNet(t).Underlay(ctx, UnderlayConfig{Names: []string{"a", "b"}, Profile: profile})
			if err != nil {
				t.Fatal(err)
			}
			a, b := u.Hosts[0], u.Hosts[1]
			for _, addr := range []netip.Addr{b.V4, b.V6} {
				var l net.Listener
				err := b.Do(func() (err error) {
					l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 4711).String())
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				err = a.Do(func() error {
					c, err := net.Dial("tcp", l.Addr().String())
					if err == nil {
						c.Close()
					}
					return err
				})
				l.Close()
				if err != nil {
					t.Error(err)
				}
			}
			on, err := a.Port.Features()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := on["tx-tcp-segmentation"], profile == Offload; got != want {
				t.Errorf("tx-tcp-segmentation is %v with profile %s", got, profile)
			}
		})
	}
}

func TestCommandRunsInTheNode(t *testing.T) {
	node := newNode(t, newNet(t), "lonely")
	out, err := node.Command(t.Context(), "sh", "-c", "uname -n; readlink /proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(out))
	if len(f) != 2 || f[0] != "lonely" || !strings.Contains(f[1], strconv.FormatUint(netnsOf(t, node.Path()), 10)) {
		t.Errorf("the process says %q", out)
	}
}
