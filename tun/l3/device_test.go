// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"kohaku/encap"
	"kohaku/tun"
)

// arpAnswer is the peer's answer to our request.
func arpAnswer() []byte { return appendARP(nil, arpReply, ourMAC, peerMAC, peer4, ourMAC, our4) }

func ndAnswer() []byte {
	return appendAdvertisement(nil, ourMAC, peerMAC, our6, peer6, ndSolicited|ndOverride)
}

func requireFrames(t *testing.T, got [][]byte, want ...[]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames %x, want %d", len(got), got, len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d\n got %x\nwant %x", i, got[i], want[i])
		}
	}
}

// The first packet to a neighbour becomes a request and waits; the answer
// releases all that waits, in order, in front of what comes later.
func TestResolution(t *testing.T) {
	for name, c := range map[string]struct {
		us, peer        netip.Addr
		request, answer []byte
	}{
		"IPv4": {our4, peer4, appendARP(nil, arpRequest, broadcastMAC, ourMAC, our4, [6]byte{}, peer4), arpAnswer()},
		"IPv6": {our6, peer6, appendSolicitation(nil, [6]byte{0x33, 0x33, 0xff, 0, 0, 1}, ourMAC, our6, solicitedNode(peer6), peer6), ndAnswer()},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			p := func(i int) []byte { return udp(c.us, c.peer, fmt.Sprint("packet ", i)) }
			r.f.kernel <- [][]byte{p(0), p(1)}
			requireFrames(t, r.read(), c.request)
			r.f.kernel <- [][]byte{p(2)}
			for r.d.Stats().Waiting < 3 {
				if f := r.pending(); f != nil {
					t.Fatalf("%x left before the answer", f)
				}
			}
			r.write(c.answer)
			r.f.kernel <- [][]byte{p(3)}
			var got [][]byte
			for len(got) < 4 {
				got = append(got, r.read()...)
			}
			var want [][]byte
			for i := range 4 {
				want = append(want, eth(peerMAC, ourMAC, p(i)))
			}
			requireFrames(t, got, want...)
			if s := r.d.Stats(); s.Neighbours != 1 || s.Asking != 0 || s.Waiting != 0 || s.Requests != 1 {
				t.Errorf("%+v", s)
			}
			if w := r.f.take(); len(w) != 0 {
				t.Errorf("the kernel got %x", w)
			}
			r.drops(nil)
		})
	}
}

// Three requests, one second apart; then the kernel is told.
func TestUnresolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		start := time.Now()
		for _, p := range [][]byte{udp(our4, peer4, "a"), udp(our6, peer6, "b")} {
			r.f.kernel <- [][]byte{p}
			for i := range 3 {
				if f := r.read(); len(f) != 1 || time.Since(start) != time.Duration(i)*time.Second {
					t.Fatalf("request %d: %x after %v", i, f, time.Since(start))
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if f := r.pending(); f != nil {
				t.Errorf("%x after the third request", f)
			}
			got := r.f.take()
			if want := appendUnreachable(nil, p); len(got) != 1 || !bytes.Equal(got[0], want) {
				t.Errorf("the kernel got %x, want %x", got, want)
			}
			start = time.Now()
		}
		r.drops(map[string]uint64{"unresolved": 2})
		if s := r.d.Stats(); s.Neighbours != 0 || s.Requests != 6 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAnswers(t *testing.T) {
	r := newRig(t, Options{Router: true})
	ll := linkLocal(ourMAC)
	r.write(
		appendARP(nil, arpRequest, broadcastMAC, peerMAC, peer4, [6]byte{}, our4),
		appendARP(nil, arpRequest, ourMAC, peerMAC, netip.IPv4Unspecified(), [6]byte{}, our4), // a probe
		appendSolicitation(nil, groupMAC(solicitedNode(our6)), peerMAC, peer6, solicitedNode(our6), our6),
		appendSolicitation(nil, groupMAC(solicitedNode(ll)), peerMAC, peer6, solicitedNode(ll), ll),
		dadFor(our6),
	)
	const flags = ndRouter | ndSolicited | ndOverride
	requireFrames(t, r.read(),
		appendARP(nil, arpReply, peerMAC, ourMAC, our4, peerMAC, peer4),
		appendARP(nil, arpReply, peerMAC, ourMAC, our4, peerMAC, netip.IPv4Unspecified()),
		appendAdvertisement(nil, peerMAC, ourMAC, peer6, our6, flags),
		appendAdvertisement(nil, peerMAC, ourMAC, peer6, ll, flags),
		appendAdvertisement(nil, groupMAC(allNodes), ourMAC, allNodes, our6, ndRouter|ndOverride),
	)
	if s := r.d.Stats(); s.Neighbours != 2 || s.Replies != 5 {
		t.Errorf("%+v", s)
	}
	// The request taught us: a packet goes out at once, and a question with it.
	r.f.kernel <- [][]byte{udp(our4, peer4, "x")}
	requireFrames(t, r.read(),
		eth(peerMAC, ourMAC, udp(our4, peer4, "x")),
		appendARP(nil, arpRequest, peerMAC, ourMAC, our4, [6]byte{}, peer4))
	if w := r.f.take(); w != nil {
		t.Errorf("the kernel got %x", w)
	}

	other4 := netip.MustParseAddr("10.1.0.253")
	r.d.SetAddrs([]netip.Addr{other4})
	r.write(appendARP(nil, arpRequest, broadcastMAC, peerMAC, peer4, [6]byte{}, our4),
		appendARP(nil, arpRequest, broadcastMAC, peerMAC, peer4, [6]byte{}, other4))
	requireFrames(t, r.read(), appendARP(nil, arpReply, peerMAC, ourMAC, other4, peerMAC, peer4))
	r.drops(map[string]uint64{"request_for_others": 1})
}

// dadFor is the solicitation of a machine that wants to take a (RFC 4862).
func dadFor(a netip.Addr) []byte {
	ns := []byte{ndSolicitation, 0, 0, 0, 0, 0, 0, 0}
	ns = append(ns, a.AsSlice()...)
	return icmp6Frame(groupMAC(solicitedNode(a)), netip.IPv6Unspecified(), solicitedNode(a), 255, ns)
}

func icmp6Frame(dstMAC [6]byte, src, dst netip.Addr, hops byte, msg []byte) []byte {
	msg[2], msg[3] = 0, 0
	sum := ^icmp6Sum(src, dst, msg)
	msg[2], msg[3] = byte(sum>>8), byte(sum)
	return eth(dstMAC, peerMAC, append(ipHeader(src, dst, 58, len(msg), hops), msg...))
}

// Everything that must be dropped, one by one, with its reason.
func TestDrops(t *testing.T) {
	ns := func(change func(m []byte) []byte, hops byte) []byte {
		m := append([]byte{ndSolicitation, 0, 0, 0, 0, 0, 0, 0}, our6.AsSlice()...)
		m = append(m, ndOptSource, 1)
		m = append(m, peerMAC[:]...)
		return icmp6Frame(ourMAC, peer6, our6, hops, change(m))
	}
	same := func(m []byte) []byte { return m }
	arp := func(i int, v byte) []byte {
		f := appendARP(nil, arpRequest, broadcastMAC, peerMAC, peer4, [6]byte{}, our4)
		f[ethLen+i] = v
		return f
	}
	good := eth(ourMAC, peerMAC, udp(peer4, our4, "x"))
	edit := func(i int, v byte) []byte { f := bytes.Clone(good); f[i] = v; return f }
	for name, c := range map[string]struct {
		f   []byte
		why string
	}{
		"short":                     {good[:13], "frame_short"},
		"another station":           {edit(5, 9), "other_mac"},
		"a bridge's group":          {append(unhex(t, "0180c2000000"), good[6:]...), "other_mac"},
		"VLAN":                      {edit(12, 0x81), "protocol"},
		"IPv6 type, IPv4 packet":    {eth6(good), "ip_invalid"},
		"longer than the frame":     {edit(17, 0xff), "ip_invalid"},
		"short header":              {edit(14, 0x44), "ip_invalid"},
		"empty":                     {good[:14], "ip_invalid"},
		"ARP, cut":                  {arp(0, 0)[:ethLen+27], "arp_invalid"},
		"ARP, another hardware":     {arp(1, 6), "arp_invalid"},
		"ARP, another protocol":     {arp(2, 0x86), "arp_invalid"},
		"ARP, MAC length":           {arp(4, 8), "arp_invalid"},
		"ARP, IP length":            {arp(5, 16), "arp_invalid"},
		"ARP, operation":            {arp(7, 3), "arp_invalid"},
		"ARP, group as sender":      {arp(8, 1), "arp_invalid"},
		"ARP, multicast sender":     {arp(14, 224), "arp_invalid"},
		"ARP, for somebody else":    {arp(27, 9), "request_for_others"},
		"ARP, our address":          {appendARP(nil, arpRequest, broadcastMAC, peerMAC, our4, [6]byte{}, our4), "address_conflict"},
		"ARP, announcement":         {appendARP(nil, arpRequest, broadcastMAC, peerMAC, peer4, [6]byte{}, peer4), "unsolicited"},
		"ARP, answer unasked":       {arpAnswer(), "unsolicited"},
		"ND, hop limit":             {ns(same, 254), "nd_invalid"},
		"ND, code":                  {ns(func(m []byte) []byte { m[1] = 1; return m }, 255), "nd_invalid"},
		"ND, short":                 {ns(func(m []byte) []byte { return m[:20] }, 255), "nd_invalid"},
		"ND, option of length 0":    {ns(func(m []byte) []byte { m[25] = 0; return m }, 255), "nd_invalid"},
		"ND, option too long":       {ns(func(m []byte) []byte { m[25] = 2; return m }, 255), "nd_invalid"},
		"ND, option cut":            {ns(func(m []byte) []byte { return append(m, 1) }, 255), "nd_invalid"},
		"ND, group as MAC":          {ns(func(m []byte) []byte { m[26] = 1; return m }, 255), "nd_invalid"},
		"ND, multicast target":      {ns(func(m []byte) []byte { m[8] = 0xff; return m }, 255), "nd_invalid"},
		"ND, checksum":              {func() []byte { f := ns(same, 255); f[len(f)-1]++; return f }(), "nd_invalid"},
		"ND, DAD to one":            {icmp6Frame(ourMAC, netip.IPv6Unspecified(), our6, 255, append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, our6.AsSlice()...)), "nd_invalid"},
		"ND, solicited to all":      {appendAdvertisement(nil, groupMAC(allNodes), peerMAC, allNodes, peer6, ndSolicited), "nd_invalid"},
		"ND, answer unasked":        {ndAnswer(), "unsolicited"},
		"ND, our address":           {appendAdvertisement(nil, ourMAC, peerMAC, our6, our6, ndSolicited), "address_conflict"},
		"router advertisement":      {icmp6Frame(groupMAC(allNodes), peer6, allNodes, 255, make16(134)), "nd_router"},
		"redirect":                  {icmp6Frame(ourMAC, peer6, our6, 255, make16(137)), "nd_router"},
		"longer than any IP packet": {append(bytes.Clone(good), make([]byte, 65536)...), "too_long"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.write(c.f, good)
			r.drops(map[string]uint64{c.why: 1})
			if got := r.f.take(); len(got) != 1 || !bytes.Equal(got[0], good[ethLen:]) {
				t.Errorf("the kernel got %x", got)
			}
			if s := r.d.Stats(); s.Neighbours != 0 || s.Replies != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func make16(kind byte) []byte { return append([]byte{kind}, make([]byte, 15)...) }

func eth6(f []byte) []byte {
	f = bytes.Clone(f)
	f[12], f[13] = 0x86, 0xdd
	return f
}

// Padding is cut off, groups are taken, a checksum left to hardware is finished.
func TestIncoming(t *testing.T) {
	r := newRig(t, Options{})
	p4, p6 := udp(peer4, our4, "four"), udp(peer6, our6, "six")
	r.write(append(eth(ourMAC, peerMAC, p4), make([]byte, 14)...), eth(broadcastMAC, peerMAC, p4),
		eth(groupMAC(allNodes), peerMAC, p6))
	partial := bytes.Clone(p4)
	sum := encap.Checksum(p4[12:20], 17+12)
	partial[26], partial[27] = byte(sum>>8), byte(sum)
	runs := []encap.Run{
		{Parts: [][]byte{eth(ourMAC, peerMAC, partial)}, Offload: encap.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 6}},
		{Parts: [][]byte{eth(ourMAC, peerMAC, partial)}, Offload: encap.Offload{NeedsCsum: true, CsumStart: 900, CsumOffset: 6}},
	}
	if n, err := r.d.Queues()[0].Write(runs); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	requireFrames(t, r.f.take(), p4, p4, p6, p4)
	r.drops(map[string]uint64{"bad_offload": 1})

	// Groups and broadcast need no resolution on their way out.
	g4, g6 := udp(our4, netip.MustParseAddr("224.0.0.251"), "m"), udp(our6, netip.MustParseAddr("ff02::fb"), "m")
	b4 := udp(our4, netip.MustParseAddr("255.255.255.255"), "b")
	r.f.kernel <- [][]byte{g4, g6, {0x45, 0}, b4}
	requireFrames(t, r.read(), eth(groupMAC(netip.MustParseAddr("224.0.0.251")), ourMAC, g4),
		eth(groupMAC(netip.MustParseAddr("ff02::fb")), ourMAC, g6), eth(broadcastMAC, ourMAC, b4))
	r.drops(map[string]uint64{"bad_offload": 1, "packet_invalid": 1})
}

func TestNextHop(t *testing.T) {
	far := netip.MustParseAddr("10.200.0.1")
	r := newRig(t, Options{Routes: []Route{{Prefix: netip.MustParsePrefix("10.200.0.0/16"), Via: peer4}}})
	r.f.kernel <- [][]byte{udp(our4, far, "x")}
	requireFrames(t, r.read(), appendARP(nil, arpRequest, broadcastMAC, ourMAC, our4, [6]byte{}, peer4))
	r.write(arpAnswer())
	requireFrames(t, r.read(), eth(peerMAC, ourMAC, udp(our4, far, "x")))

	r = newRig(t, Options{NextHop: func(netip.Addr) netip.Addr { return netip.Addr{} }})
	r.f.kernel <- [][]byte{udp(our4, far, "x"), udp(our4, netip.MustParseAddr("224.0.0.1"), "x")}
	if got := r.read(); len(got) != 1 {
		t.Errorf("%x", got)
	}
	r.drops(map[string]uint64{"no_next_hop": 1})
}

// What the kernel refuses is reported once a batch, and merging is given up
// when it is to blame.
func TestWriteErrors(t *testing.T) {
	r := newRig(t, Options{})
	good := eth(ourMAC, peerMAC, udp(peer4, our4, "x"))
	runs := make([]encap.Run, 20) // batches of 8, 8 and 4
	for i := range runs {
		runs[i] = encap.Run{Parts: [][]byte{good}}
	}
	q := r.d.Queues()[0]
	r.f.writeErr = func(n int) error {
		if n > 1 {
			return errors.Join(&os.PathError{Op: "write", Path: "tun", Err: syscall.EINVAL})
		}
		return nil
	}
	var we *tun.WriteError
	if n, err := q.Write(runs); n != 7 || !errors.As(err, &we) || !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err := q.Write(runs[8:]); n != 12 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if got := r.f.take(); len(got) != 12 {
		t.Errorf("%d packets were written one by one", len(got))
	}
	r.drops(map[string]uint64{"write_failed": 8})

	super := encap.Run{Parts: [][]byte{good}, Offload: encap.Offload{GSO: encap.GSOTCP4}}
	if n, err := q.Write([]encap.Run{runs[0], super, runs[0]}); n != 1 || !errors.As(err, &we) || !we.Super {
		t.Errorf("%d, %v", n, err)
	}
	if got := r.f.take(); len(got) != 1 {
		t.Errorf("%d packets before the super-frame", len(got))
	}
	r.f.writeErr = func(int) error { return os.ErrClosed }
	if n, err := q.Write(runs[:1]); n != 0 || !errors.Is(err, tun.ErrGone) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestEnds(t *testing.T) {
	wait := func(d *Device) chan error {
		c := make(chan error)
		go func() {
			arena, frames := make([]byte, tun.MinArena), make([]tun.Frame, 1)
			q := d.Queues()[0]
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
	r := newRig(t, Options{})
	c := wait(r.d)
	r.f.kernel <- [][]byte{udp(our4, peer4, "x")}
	r.d.Close()
	if err := <-c; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := r.d.Queues()[0].Write(make([]encap.Run, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}

	for _, e := range []error{os.ErrClosed, syscall.EIO, errors.New("of no name")} {
		r := newRig(t, Options{})
		c := wait(r.d)
		r.f.readErr = e
		close(r.f.gone)
		if err := <-c; !errors.Is(err, tun.ErrGone) || !errors.Is(err, e) {
			t.Errorf("%v became %v", e, err)
		}
	}
	// A super-frame of too many segments costs the rest of it.
	r = newRig(t, Options{})
	b, seen := newBatch(1), 0
	rd := reader{dev: &tooMany{r.f, &seen}, count: &r.d.count, closed: &r.d.closed}
	for range 2 * maxFaults {
		if err := rd.read(b); err != nil || b.n != 1 {
			t.Fatalf("%v, %d packets after %d calls", err, b.n, seen)
		}
	}
}

type tooMany struct {
	*fake
	seen *int
}

func (m *tooMany) Read([][]byte, []int, int) (int, error) {
	*m.seen++
	return 1, wgtun.ErrTooManySegments
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"group MAC":   {HardwareAddr: [6]byte{1}},
		"MTU":         {MTU: 100},
		"large MTU":   {MTU: 70000},
		"no prefix":   {Routes: []Route{{Via: peer4}}},
		"group route": {Routes: []Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("224.0.0.1")}}},
	} {
		if _, err := New(newFake(1), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// In steady state neither direction allocates.
func TestNoAllocs(t *testing.T) {
	r := newRig(t, Options{})
	r.f.kernel <- [][]byte{udp(our4, peer4, "x")}
	r.read()
	r.write(arpAnswer())
	r.read()
	q := r.d.Queues()[0]
	arena, frames := make([]byte, tun.MinArena), make([]tun.Frame, 8)
	p := [][]byte{udp(our4, peer4, "x"), udp(our4, peer4, "y")}
	if n := testing.AllocsPerRun(200, func() {
		r.f.kernel <- p
		for got := 0; got < 2; {
			if err := q.Wait(); err != nil {
				t.Fatal(err)
			}
			n, err := q.Read(arena, frames)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}); n != 0 {
		t.Errorf("%v allocations for two packets out", n)
	}
	quiet := &quiet{r.f}
	r.d.dev = quiet
	runs := []encap.Run{{Parts: [][]byte{eth(ourMAC, peerMAC, p[0])}}, {Parts: [][]byte{eth(ourMAC, peerMAC, p[1])}}}
	if n := testing.AllocsPerRun(200, func() {
		if n, err := q.Write(runs); n != 2 || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for two packets in", n)
	}
}

// quiet is a fake that keeps nothing of what is written.
type quiet struct{ *fake }

func (q *quiet) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

// Losses leaves out what nobody misses.
func TestLosses(t *testing.T) {
	var d Device
	for r := range numDrops {
		d.count.drop(r, 1)
	}
	got := d.Losses()
	for r := range numDrops {
		_, there := got[r.String()]
		if benign := r == DropOtherMAC || r == DropRouterND || r == DropNotAsked || r == DropUnsolicited; there == benign {
			t.Errorf("%s: counted as lost: %v", r, there)
		}
	}
}
