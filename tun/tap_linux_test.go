// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kohaku/encap"
)

// The tests use real TAP devices, so they run in a user and network namespace
// of their own: root is not needed, and nothing stays behind.
func TestMain(m *testing.M) {
	const inside = "KOHAKU_TUN_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "enter a private user and network namespace:", err)
		os.Exit(1)
	}
}

func open(t *testing.T, name string, o Options) Device {
	t.Helper()
	d, err := OpenTAP(name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOpenTAP(t *testing.T) {
	mac := net.HardwareAddr{2, 1, 2, 3, 4, 5}
	d := open(t, "tap0", Options{Queues: 3, MTU: 1450, HardwareAddr: mac, TSO: true, USO: true, SuperFrame: 61000})
	if d.Name() != "tap0" || len(d.Queues()) != 3 || d.HardwareAddr() != [6]byte(mac) {
		t.Errorf("%s, %d queues, MAC %x", d.Name(), len(d.Queues()), d.HardwareAddr())
	}
	if o := d.Offloads(); !o.TSO || !o.USO {
		t.Errorf("this kernel gives %+v; it has both", o)
	}
	l, err := netlink.LinkByName("tap0")
	if err != nil {
		t.Fatal(err)
	}
	if a := l.Attrs(); a.MTU != 1450 || !bytes.Equal(a.HardwareAddr, mac) || a.GSOMaxSize != 61000 {
		t.Errorf("MTU %d, MAC %s, gso_max_size %d", a.MTU, a.HardwareAddr, a.GSOMaxSize)
	}
	d.Close()
	d.Close()
	if _, err := netlink.LinkByName("tap0"); err == nil {
		t.Error("a device without Persist outlived Close")
	}
}

func TestTakeOver(t *testing.T) {
	d := open(t, "tap1", Options{Queues: 2, Persist: true, TSO: true})
	mac := d.HardwareAddr()
	_, err := OpenTAP("tap1", Options{Queues: 2})
	if !errors.Is(err, ErrInUse) {
		t.Errorf("a second opening: %v, want ErrInUse", err)
	}
	d.Close()
	d = open(t, "tap1", Options{Queues: 1, Persist: true})
	if d.HardwareAddr() != mac || len(d.Queues()) != 1 {
		t.Error("the device was not taken over as it was")
	}
	// The offload mask belongs to the device, so leaving it out must clear it.
	if d.Offloads() != (Offloads{}) {
		t.Errorf("%+v", d.Offloads())
	}
	d.Close()
	d = open(t, "tap1", Options{Queues: 1})
	d.Close()
	if _, err := netlink.LinkByName("tap1"); err == nil {
		t.Error("opening without Persist left the device persistent")
	}
}

func TestOpenTAPRefuses(t *testing.T) {
	for name, l := range map[string]netlink.Link{
		"br9":  &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br9"}},
		"tun9": &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun9"}, Mode: netlink.TUNTAP_MODE_TUN},
		"tap9": &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap9"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI, Queues: 1},
	} {
		if err := netlink.LinkAdd(l); err != nil {
			t.Fatal(err)
		}
		defer netlink.LinkDel(l)
		_, err := OpenTAP(name, Options{})
		if !errors.Is(err, ErrNotTAP) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want ErrNotTAP", name, err)
		}
	}
	for _, name := range []string{"", "sixteen-bytes-xx"} {
		if _, err := OpenTAP(name, Options{}); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	for _, q := range []int{-1, MaxQueues + 1} {
		if _, err := OpenTAP("tap8", Options{Queues: q}); err == nil {
			t.Errorf("%d queues were taken", q)
		}
	}
	fds := func() int { l, _ := os.ReadDir("/proc/self/fd"); return len(l) }
	before := fds()
	for range 5 {
		_, _ = OpenTAP("br9", Options{})
		_, _ = OpenTAP("tap7", Options{MTU: 5}) // fails after the queues were opened
	}
	if after := fds(); after > before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
	if _, err := netlink.LinkByName("tap7"); err == nil {
		t.Error("a half-made device was left")
	}
}

// readAll reads until want frames came, and returns copies.
func readAll(t *testing.T, q Queue, want int, match func([]byte) bool) (out []Frame) {
	t.Helper()
	arena, frames := make([]byte, 2*MinArena), make([]Frame, 8)
	for len(out) < want {
		if err := q.Wait(); err != nil {
			t.Fatal(err)
		}
		n, err := q.Read(arena, frames)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames[:n] {
			if match(f.Data()) {
				out = append(out, Frame{bytes.Clone(f.Buf), f.Offload})
			}
		}
	}
	return out
}

// What the kernel routes into the device comes out of Read, and what is
// written comes into the kernel: a UDP datagram each way, over the TAP's own
// subnet, with the peer played by the test.
func TestReadWrite(t *testing.T) {
	d := open(t, "tap2", Options{Queues: 1, MTU: 1400})
	l := up(t, "tap2")
	addr, _ := netlink.ParseAddr("198.51.100.1/24")
	if err := netlink.AddrAdd(l, addr); err != nil {
		t.Fatal(err)
	}
	peerMAC := net.HardwareAddr{2, 9, 9, 9, 9, 9}
	err := netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.IPv4(198, 51, 100, 2), HardwareAddr: peerMAC, State: netlink.NUD_PERMANENT})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 5000}, &net.UDPAddr{IP: net.IPv4(198, 51, 100, 2), Port: 6000})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, s := range []string{"one", "two", "three"} {
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	q := d.Queues()[0]
	got := readAll(t, q, 3, func(f []byte) bool { return len(f) > 42 && f[12] == 8 && f[23] == 17 && f[37] == 0x70 })
	for i, want := range []string{"one", "two", "three"} {
		f := got[i]
		if string(f.Data()[42:]) != want || !bytes.Equal(f.Data()[:6], peerMAC) {
			t.Fatalf("frame %d: %x", i, f.Data())
		}
		if err := encap.FinishChecksum(f.Data(), f.Offload); err != nil {
			t.Fatal(err)
		}
	}

	// Send the first one back, in two parts, with addresses and ports turned
	// round, which leaves the checksums right.
	f := bytes.Clone(got[0].Data())
	swap := func(a, b, n int) {
		x := bytes.Clone(f[a : a+n])
		copy(f[a:], f[b:b+n])
		copy(f[b:], x)
	}
	swap(0, 6, 6)
	swap(26, 30, 4)
	swap(34, 36, 2)
	if n, err := q.Write([]encap.Run{{Parts: [][]byte{f[:20], f[20:]}}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	buf := make([]byte, 100)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "one" {
		t.Fatalf("the kernel got %q, %v", buf[:n], err)
	}

	// Too short a frame, between two good ones.
	n, err := q.Write([]encap.Run{{Parts: [][]byte{f}}, {Parts: [][]byte{f[:13]}}, {Parts: [][]byte{f}}})
	var we *WriteError
	if n != 1 || !errors.As(err, &we) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("writing a short frame: %d, %v", n, err)
	}
	if err := netlink.LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	if _, err = q.Write([]encap.Run{{Parts: [][]byte{f}}}); !errors.Is(err, unix.EIO) {
		t.Errorf("writing to a device that is down: %v", err)
	}
}

func TestWaitEnds(t *testing.T) {
	d := open(t, "tap3", Options{Queues: 1, Persist: true})
	l := up(t, "tap3")
	wait := func(q Queue) chan error {
		c := make(chan error)
		go func() {
			arena, frames := make([]byte, MinArena), make([]Frame, 1)
			for {
				if err := q.Wait(); err != nil {
					c <- err
					return
				}
				if _, err := q.Read(arena, frames); err != nil {
					c <- err
					return
				}
			}
		}()
		return c
	}
	c := wait(d.Queues()[0])
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	if err := <-c; !errors.Is(err, ErrGone) {
		t.Errorf("after deletion: %v, want ErrGone", err)
	}
	if _, err := d.Queues()[0].Write([]encap.Run{{Parts: [][]byte{make([]byte, 60)}}}); !errors.Is(err, ErrGone) {
		t.Errorf("writing after deletion: %v, want ErrGone", err)
	}
	d.Close()

	d = open(t, "tap3", Options{Queues: 1})
	c = wait(d.Queues()[0])
	d.Close()
	if err := <-c; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v, want net.ErrClosed", err)
	}
	if _, err := d.Queues()[0].Write([]encap.Run{{Parts: [][]byte{make([]byte, 60)}}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}
}

func BenchmarkTAPWrite(b *testing.B) {
	d, err := OpenTAP("tap4", Options{Queues: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	l, err := netlink.LinkByName("tap4")
	if err != nil {
		b.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		b.Fatal(err)
	}
	f := make([]byte, 60)
	f[12] = 0x88 // a protocol that nobody takes
	runs := []encap.Run{{Parts: [][]byte{f}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Queues()[0].Write(runs); err != nil {
			b.Fatal(err)
		}
	}
}
