// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/tun"
	"kohaku/tun/tuntest"
)

// A peer whose route leads into its tunnel is refused; one whose route comes to do
// so gets nothing until that is over.
func TestCircularRoute(t *testing.T) {
	var loop atomic.Bool
	c := allOffloads
	c.Circular = func(remote netip.Addr, device string) (bool, error) {
		if device != "dev5-0" && device != "dev5-1" && device != "other" || remote != addrs[0] && remote != addrs[1] {
			t.Errorf("asked for %s by %s", remote, device)
		}
		return loop.Load(), nil
	}
	p := newPair(t, c)
	d := p.tunnel(5, tun.Offloads{})
	f := udpFrame(1, []byte("x"))
	counted := func() uint64 { return p.e[0].Tunnels()[0].Drops["loop"] }
	send := func() { d[0].Inject(0, f, encap.Offload{}) }
	send()
	receive(t, d[1])

	loop.Store(true)
	eventually(t, "counted", func() bool { send(); return counted() > 0 })
	err := p.e[0].Add(Tunnel{VNI: 6, Device: tuntest.New(tuntest.Config{Name: "other"}), Peer: Peer{Remote: addrs[1]}})
	if !errors.Is(err, ErrCircular) {
		t.Errorf("add: %v", err)
	}
	if err := p.e[0].Update(5, Peer{Remote: addrs[1]}); !errors.Is(err, ErrCircular) {
		t.Errorf("update: %v", err)
	}

	loop.Store(false)
	for len(d[1].Received()) > 0 {
		<-d[1].Received()
	}
	eventually(t, "it flows again", func() bool { send(); return len(d[1].Received()) > 0 })
}

// What a send's error means to the frames in it.
func TestSendDrop(t *testing.T) {
	for err, want := range map[error]Drop{
		unix.EMSGSIZE: DropTooLong, unix.ENETUNREACH: DropNoRoute, unix.EHOSTUNREACH: DropNoRoute, unix.ENODEV: DropNoRoute,
		unix.EINVAL: DropNoRoute, unix.EAGAIN: DropSocketFull, unix.ENOBUFS: DropSocketFull, unix.EPERM: DropSendRefused,
	} {
		if got := sendDrop(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// An address of ours that goes away makes the kernel answer EINVAL, as if segments
// were too large. It must not cost UDP_SEGMENT for good.
func TestAddressGone(t *testing.T) {
	p := newPair(t, allOffloads)
	d := p.tunnel(5, tun.Offloads{TSO: true})
	gone := netip.MustParseAddr("192.0.2.77") // nobody's here
	if err := p.e[0].Update(5, Peer{Remote: addrs[1], Local: gone}); err != nil {
		t.Fatal(err)
	}
	f, o := tcpSuper(pattern(10*1000), 1000)
	d[0].Inject(0, f, o)
	eventually(t, "counted", func() bool { return p.e[0].Tunnels()[0].Drops["no_route"] == 10 })
	if n := p.e[0].lookup(5).peer.Load().gsoLimit.Load(); n != 0 {
		t.Errorf("UDP_SEGMENT is given up from %d bytes", n)
	}
}

// Every reason has a name of its own.
func TestDropNames(t *testing.T) {
	seen := map[string]bool{"unknown": true, "": true}
	for d := range numDrops {
		if name := d.String(); seen[name] {
			t.Errorf("reason %d is called %q", d, name)
		} else {
			seen[name] = true
		}
	}
	if numDrops.String() != "unknown" {
		t.Error("what is no reason has a name")
	}
}
