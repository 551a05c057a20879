// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"

	"github.com/vishvananda/netlink"
)

// The topology is that of cluster_test.go, but what joins the machines is at first
// the kernel's, made as the existing system does:
//
//	box1 <==== TCP both ways, small UDP ====> box2
//	  |                                         |
//	kohaku-overlay 10.1.0.1/16               kohaku-overlay 10.2.0.1/16
//	vxlan0 type vxlan, VNI 101               vxlan0 type vxlan, VNI 102
//	  |                                         |
//	  +--- vxkr1 type vxlan --- host --- vxkr2 type vxlan
//	       10.1.0.254/16                 10.2.0.254/16      kohaku-host 10.0.0.1/8
//
// One machine after the other gets our daemon, in the traffic.

// guideOverlay makes the overlay of kernel devices, with a container on each Runner.
func guideOverlay(k *cluster) {
	t := k.t
	t.Helper()
	host := k.Hosts[theHost]
	check(t, host.AddBridge("kohaku-host", 1500)) // a dummy, where the kernel has that
	check(t, host.AddAddr("kohaku-host", netip.MustParsePrefix("10.0.0.1/8")))
	check(t, host.Sysctl("net.ipv4.ip_forward", "1"))
	boxes := must(lab.NewNet())(t)
	t.Cleanup(func() {
		if err := boxes.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, m := range []int{runner1, runner2} {
		r, id := k.Hosts[m], byte(i+1)
		at := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, id, 0, last}) }
		vxkr := fmt.Sprint("vxkr", id)
		check(t, host.AddKernelVXLAN(lab.KernelVXLAN{Name: vxkr, VNI: 100 + uint32(id), Local: host.V4, Remote: r.V4, MTU: 1450}))
		check(t, host.AddAddr(vxkr, netip.PrefixFrom(at(254), 16)))
		check(t, r.AddBridge("kohaku-overlay", 1450))
		check(t, r.AddAddr("kohaku-overlay", netip.PrefixFrom(at(1), 16)))
		check(t, r.AddKernelVXLAN(lab.KernelVXLAN{Name: "vxlan0", VNI: 100 + uint32(id), Local: r.V4, Remote: host.V4, MTU: 1450}))
		check(t, r.AddPort("kohaku-overlay", "vxlan0"))
		check(t, r.AddRoute(netip.MustParsePrefix("10.0.0.0/8"), at(254)))
		check(t, r.Sysctl("net.ipv4.ip_forward", "1"))

		box := must(boxes.Node(fmt.Sprintf("box%d", id)))(t)
		_, end, err := lab.Connect(box, "eth0", r.Node, "vethbox", 1450)
		check(t, err)
		check(t, r.AddPort("kohaku-overlay", end.Name))
		check(t, box.AddAddr("eth0", netip.PrefixFrom(at(2), 16)))
		check(t, box.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), at(1)))
		check(t, box.WaitUp(within(t, 20*time.Second), "eth0"))
		k.boxes[i] = box
	}
}

// guideBox is a container's address.
func guideBox(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i + 1), 0, 2}) }

func TestTakeOver(t *testing.T) {
	for _, order := range [][]int{{runner1, theHost, runner2}, {theHost, runner2, runner1}} {
		var names []string
		for _, m := range order {
			names = append(names, []string{"host", "runner1", "runner2"}[m])
		}
		t.Run(strings.Join(names, " "), func(t *testing.T) { testTakeOver(t, order) })
	}
}

func testTakeOver(t *testing.T, order []int) {
	k := newCluster(t, lab.UnderlayConfig{})
	guideOverlay(k)
	for i, box := range k.boxes {
		reach(t, box, guideBox(1-i))
		reach(t, box, netip.MustParseAddr("10.0.0.1"))
	}
	before := identity(t, k)

	l := startLoad(t, k)
	for _, m := range order {
		h := k.Hosts[m]
		role := "runner"
		if m == theHost {
			role = "host"
		}
		// First it is shown, which changes nothing.
		was := machineDump(t, h)
		out := must(h.Command(t.Context(), must(kohakuBinary())(t), role, "--dry-run", "--config", k.config[m]).Output())(t)
		if !strings.Contains(string(out), "take over") || !strings.Contains(string(out), "as runner") {
			t.Errorf("%s --dry-run says\n%s", role, out)
		}
		check(t, differ(was, machineDump(t, h)))

		l.reset()
		k.start(m)
		l.flows(t) // it goes on, after the take-over
		t.Logf("%s: longest silence %v", h.Name(), l.worst().Round(time.Millisecond))
		check(t, differ(before, identity(t, k)))
		for i, box := range k.boxes {
			reach(t, box, guideBox(1-i))
			reach(t, box, netip.MustParseAddr("10.0.0.1"))
		}
	}
	k.waitActive("runner1", "runner2")
	if got := k.ids(); got != "runner1=1/101/vxkr1/10.1.0.0/16 runner2=2/102/vxkr2/10.2.0.0/16" {
		t.Errorf("the Host's table is %s", got)
	}
	for _, m := range []int{theHost, runner1, runner2} {
		for _, link := range must(k.Hosts[m].Handle().LinkList())(t) {
			if link.Type() == "vxlan" || link.Attrs().Name == "kohaku-try" {
				t.Errorf("%s still has %s of type %s", k.Hosts[m].Name(), link.Attrs().Name, link.Type())
			}
		}
	}
	if s := must(k.status())(t); len(s.Problems) != 0 {
		t.Errorf("problems %q", s.Problems)
	}
	l.stopAndCheck(t)

	// And it lasts: the next start of each finds its own.
	for _, m := range order {
		k.kill(m)
		k.start(m)
	}
	k.waitActive("runner1", "runner2")
	check(t, differ(before, identity(t, k)))
}

// A device of somebody else that holds the port is named, and nothing is touched,
// neither by a Host nor by a Runner. One on another port is no hindrance.
func TestTakeOverWithForeignDevices(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	guideOverlay(k)
	for _, m := range []int{theHost, runner1} {
		h := k.Hosts[m]
		far := lab.KernelVXLAN{Name: "far", VNI: 7, Remote: k.Hosts[outside].V4, Port: 8472}
		check(t, h.AddKernelVXLAN(far))
		near := lab.KernelVXLAN{Name: "near", VNI: 9, Remote: k.Hosts[outside].V4}
		check(t, h.AddKernelVXLAN(near))
		was := machineDump(t, h)
		d := k.launch(m)
		select {
		case <-d.done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s runs\n%s", d.name, d.log())
		}
		for _, want := range []string{"kernel VXLAN device near (VNI 9, remote 192.0.2.4, UDP port 4789)", "ip link delete near", "nothing was touched"} {
			if !strings.Contains(d.log(), want) {
				t.Errorf("%s does not say %q:\n%s", d.name, want, d.log())
			}
		}
		if d.err == nil {
			t.Errorf("%s ended with status 0", d.name)
		}
		check(t, differ(was, machineDump(t, h)))
		check(t, h.Delete("near"))
		was = ofDevice(machineDump(t, h), "far")
		k.start(m)
		check(t, differ(was, ofDevice(machineDump(t, h), "far")))
	}
	k.waitActive("runner1")
}

// load is traffic between the two containers.
type load struct {
	stop    chan struct{}
	wg      sync.WaitGroup
	udp     *traffic.UDPSink
	results [2]traffic.TCPResult
	errs    [2]error

	longest atomic.Int64 // silence, ns
}

// startLoad starts streams both ways and a flow of small datagrams.
func startLoad(t *testing.T, k *cluster) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	ctx := within(t, 2*time.Minute)
	for i := range k.boxes {
		sink := closeAfter(t, open(t, k.boxes[1-i], func() (*traffic.TCPSink, error) {
			return traffic.ListenTCP(netip.AddrPortFrom(guideBox(1-i), 0))
		}))
		s := open(t, k.boxes[i], func() (*traffic.TCPStream, error) { return traffic.DialTCP(ctx, guideBox(i), sink.Addr()) })
		l.wg.Go(func() { l.results[i], l.errs[i] = s.SendUntil(ctx, uint64(i)+1, l.stop) })
	}
	l.udp = closeAfter(t, open(t, k.boxes[1], func() (*traffic.UDPSink, error) {
		return traffic.ListenUDP(netip.AddrPortFrom(guideBox(1), 0))
	}))
	sender := closeAfter(t, open(t, k.boxes[0], func() (*traffic.UDPSender, error) { return traffic.DialUDP(guideBox(0), l.udp.Addr()) }))
	l.wg.Go(func() {
		for !l.ended() {
			_ = sender.Send(64) // in the gap a router may answer that nobody is there
			time.Sleep(time.Millisecond)
		}
	})
	l.wg.Go(func() {
		last, since := uint64(0), time.Now()
		for !l.ended() {
			if n := l.udp.Stats().Received; n != last {
				last, since = n, time.Now()
			}
			if silence := int64(time.Since(since)); silence > l.longest.Load() {
				l.longest.Store(silence)
			}
			time.Sleep(200 * time.Microsecond)
		}
	})
	t.Cleanup(l.end)
	l.flows(t)
	return l
}

func (l *load) ended() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *load) reset()               { l.longest.Store(0) }
func (l *load) worst() time.Duration { return time.Duration(l.longest.Load()) }

// flows waits until datagrams arrive that were sent after it was called.
func (l *load) flows(t *testing.T) {
	t.Helper()
	start := l.udp.Stats().Received
	eventually(t, 20*time.Second, "traffic", func() error {
		if n := l.udp.Stats().Received; n < start+100 {
			return fmt.Errorf("%d datagrams arrived", n-start)
		}
		return nil
	})
}

func (l *load) end() {
	if !l.ended() {
		close(l.stop)
	}
	l.wg.Wait()
}

// stopAndCheck ends the traffic; every byte of the streams must have arrived.
func (l *load) stopAndCheck(t *testing.T) {
	t.Helper()
	l.end()
	for i, err := range l.errs {
		if err != nil {
			t.Errorf("the connection from box%d did not survive: %v", i+1, err)
			continue
		}
		t.Logf("box%d sent %d MiB on one connection, content the same", i+1, l.results[i].Bytes>>20)
	}
	if s := l.udp.Stats(); s.Corrupt != 0 || s.Duplicated != 0 {
		t.Errorf("datagrams: %+v", s)
	}
}

// reach waits until an address answers to a container.
func reach(t *testing.T, from *lab.Node, to netip.Addr) {
	t.Helper()
	p := closeAfter(t, open(t, from, func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, to) }))
	eventually(t, 20*time.Second, fmt.Sprintf("%s to %s", from.Name(), to), func() error {
		_, err := p.Ping(within(t, time.Second), 56)
		return err
	})
}

// identity is what must be the same whoever makes the devices: their names, VNIs,
// remotes, addresses, MTUs and bridges.
func identity(t *testing.T, k *cluster) string {
	t.Helper()
	var lines []string
	for _, m := range []int{theHost, runner1, runner2} {
		h := k.Hosts[m]
		links := must(h.Handle().LinkList())(t)
		names := map[int]string{}
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
		for _, l := range links {
			a := l.Attrs()
			if !strings.HasPrefix(a.Name, "vx") && !strings.HasPrefix(a.Name, "kohaku") {
				continue
			}
			line := fmt.Sprintf("%s %s mtu %d master %q", h.Name(), a.Name, a.MTU, names[a.MasterIndex])
			if v, ok := l.(*netlink.Vxlan); ok {
				line += fmt.Sprintf(" vni=%d remote=%s", v.VxlanId, v.Group)
			} else if strings.HasPrefix(a.Name, "vx") {
				for _, f := range strings.Fields(a.Alias) {
					if strings.HasPrefix(f, "vni=") || strings.HasPrefix(f, "remote=") {
						line += " " + f
					}
				}
			}
			for _, addr := range must(h.Handle().AddrList(l, netlink.FAMILY_V4))(t) {
				line += " " + addr.IPNet.String()
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// timers of bridge ports run by themselves.
var timers = regexp.MustCompile(`[a-z_]+_timer +[0-9.]+ `)

// machineDump is a machine's links, addresses, routes and rules as tools show them.
func machineDump(t *testing.T, h *lab.UnderlayHost) string {
	t.Helper()
	var b strings.Builder
	for _, c := range []string{"ip -4 addr", "ip -d link show type vxlan", "ip -4 route show table all", "iptables-save", "ip link"} {
		f := strings.Fields(c)
		out := must(h.Command(t.Context(), f[0], f[1:]...).Output())(t)
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") {
				b.WriteString(timers.ReplaceAllString(line, ""))
			}
		}
	}
	return b.String()
}

// ofDevice are the lines of a dump that name a device.
func ofDevice(dump, device string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		if strings.Contains(line, " "+device) {
			b.WriteString(line)
		}
	}
	return b.String()
}
