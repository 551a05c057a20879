// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
	hostlink "kohaku/internal/link"
)

// A Host as it comes, with join = "token", and machines that have nothing yet:
//
//	host, 192.0.2.1      fresh, 192.0.2.2     twin, 192.0.2.3
//	  | eth0               | eth0               | eth0
//	  +------------------ switch ----------------+
type tokenHost struct {
	*lab.Underlay
	t      *testing.T
	dir    string
	config string
	daemon *daemon
}

// newTokenHost builds the machines and starts the Host, at all of its addresses.
func newTokenHost(t *testing.T, names ...string) *tokenHost {
	t.Helper()
	h := &tokenHost{Underlay: newUnderlay(t, lab.UnderlayConfig{Names: append([]string{"host"}, names...)}), t: t, dir: t.TempDir()}
	h.config = filepath.Join(h.dir, "host.toml")
	check(t, os.WriteFile(h.config, fmt.Appendf(nil, `[host]
bind = "[::]:%d"
state_dir = %q

[heartbeat]
interval = %q
timeout_factor = %d
`, apiPort, h.dir+"/host", heartbeat, timeoutFactor), 0o644))
	h.start()
	return h
}

func (h *tokenHost) start() {
	h.t.Helper()
	h.daemon = launch(h.t, h.Hosts[0].Node, "host", "--config", h.config)
	h.daemon.waitReady()
}

// admin is a client of the Host's admin socket, which is in the file system that
// all machines of the lab share.
func (h *tokenHost) admin() *api.Client {
	h.t.Helper()
	c := must(api.NewClient("unix:" + h.dir + "/host/host.sock"))(h.t)
	h.t.Cleanup(c.Close)
	return c
}

// kohaku runs the program on a machine and gives what it says.
func (h *tokenHost) kohaku(machine int, args ...string) (string, error) {
	out, err := h.Hosts[machine].Command(h.t.Context(), must(kohakuBinary())(h.t), args...).CombinedOutput()
	return string(out), err
}

// active waits until the Host counts exactly these runners as active.
func (h *tokenHost) active(names ...string) []api.Allocation {
	h.t.Helper()
	var all []api.Allocation
	eventually(h.t, 20*time.Second, "active runners", func() error {
		s, err := h.admin().Status(h.t.Context())
		if err != nil {
			return err
		}
		all = nil
		var got []string
		for _, a := range s.Allocations {
			if a.IsActive {
				got = append(got, a.RunnerName)
				all = append(all, a)
			}
		}
		if !slices.Equal(got, names) {
			return fmt.Errorf("active are %v", got)
		}
		return nil
	})
	return all
}

// reaches waits until a machine reaches an address.
func reaches(t *testing.T, n *lab.Node, to netip.Addr) {
	t.Helper()
	p := open(t, n, func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, to) })
	defer p.Close()
	eventually(t, 20*time.Second, n.Name()+" to "+to.String(), func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Ping(ctx, 56)
		return err
	})
}

// logged waits until a daemon has said something.
func logged(t *testing.T, d *daemon, text string) {
	t.Helper()
	eventually(t, 20*time.Second, d.name, func() error {
		if !strings.Contains(d.log(), text) {
			return fmt.Errorf("it does not say %q", text)
		}
		return nil
	})
}

var joinCommand = regexp.MustCompile(`(?m)^  kohaku (runner --join kj1-\S+ --host) (\S+)$`)

// The one command that the Host prints makes a Runner of a fresh machine; it stays
// one over restarts of either side, until it is removed. Over IPv4 and over IPv6.
func TestJoinFreshMachine(t *testing.T) {
	for name, addr := range map[string]func(*lab.UnderlayHost) netip.Addr{
		"IPv4": func(h *lab.UnderlayHost) netip.Addr { return h.V4 },
		"IPv6": func(h *lab.UnderlayHost) netip.Addr { return h.V6 },
	} {
		t.Run(name, func(t *testing.T) {
			h := newTokenHost(t, "fresh", "twin")
			fresh := h.Hosts[1]
			overlay := netip.MustParseAddr("10.0.0.1")
			logged(t, h.daemon, "Another token: kohaku token new")
			printed := joinCommand.FindStringSubmatch(h.daemon.log())
			if printed == nil || printed[2] != fmt.Sprintf("%s:%d", h.Hosts[0].V4, apiPort) {
				t.Fatalf("the Host prints no command with its address:\n%s", h.daemon.log())
			}
			// What is set is kept; who the Host is, is added.
			config := filepath.Join(h.dir, "runner.toml")
			check(t, os.WriteFile(config, fmt.Appendf(nil, "# mine\n[runner]\nstate_dir = %q\n[docker]\nenabled = false\n", h.dir+"/fresh"), 0o644))
			host := netip.AddrPortFrom(addr(h.Hosts[0]), apiPort).String()
			command := append(strings.Fields(printed[1]), host, "--config", config)

			run := func() *daemon {
				t.Helper()
				d := launch(t, fresh.Node, command...)
				d.waitReady()
				return d
			}
			d := run()
			first := h.active("fresh")[0]
			reaches(t, fresh.Node, overlay)
			if first.PhysicalIP != addr(fresh) {
				t.Errorf("the tunnel leads to %s", first.PhysicalIP)
			}
			if r, err := conf.LoadRunner(config); err != nil || r.Runner.Host != host || r.Docker.Enabled {
				t.Errorf("the settings: %v, %+v", err, r)
			}
			same := func(what string) {
				t.Helper()
				if a := h.active("fresh")[0]; a.RunnerID != first.RunnerID || a.Subnet != first.Subnet {
					t.Errorf("%s: %+v, was %+v", what, a, first)
				}
				reaches(t, fresh.Node, overlay)
			}
			// The same command again, after either way to end.
			for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				_ = d.end(s)
				d = run()
				logged(t, d, "joined already")
				same("the Runner started again")
			}
			for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				_ = h.daemon.end(s)
				h.start()
				if joinCommand.MatchString(h.daemon.log()) {
					t.Error("a later start prints the command, too")
				}
				same("the Host started again")
			}

			// A second machine with that name, whose id is another one.
			token := must(h.admin().NewToken(t.Context(), api.TokenRequest{}))(t)
			check(t, os.WriteFile(filepath.Join(h.dir, "twin.toml"), fmt.Appendf(nil, "[runner]\nname = \"fresh\"\nstate_dir = %q\n", h.dir+"/twin"), 0o644))
			out, err := h.twin(2, "runner", "--join", token.Secret, "--host", host, "--config", h.dir+"/twin.toml", "--join-only")
			if err == nil || !strings.Contains(out, "belongs to the machine "+first.MachineID) || !strings.Contains(out, "kohaku node remove fresh") {
				t.Errorf("the second machine: %v\n%s", err, out)
			}
			same("a second machine was refused")

			// Removed: told so, and gone from the Host; the command of the beginning
			// does not bring it back, a fresh token does.
			out, err = h.kohaku(0, "node", "remove", "fresh", "--host", "unix:"+h.dir+"/host/host.sock")
			if err != nil || !strings.Contains(out, "its credential is revoked") {
				t.Errorf("remove: %v\n%s", err, out)
			}
			logged(t, d, "the credential has been revoked")
			if s := must(h.admin().Status(t.Context()))(t); len(s.Allocations) != 0 {
				t.Errorf("still there: %+v", s.Allocations)
			}
			out, err = h.kohaku(1, "runner", "--join", token.Secret, "--config", config, "--join-only")
			if err != nil || !strings.Contains(out, "joining anew") {
				t.Errorf("join anew: %v\n%s", err, out)
			}
			// The daemon that runs takes it up.
			same("joined anew")
		})
	}
}

// twin runs the program as a machine of another id.
func (h *tokenHost) twin(machine int, args ...string) (string, error) {
	id := filepath.Join(h.t.TempDir(), "machine-id")
	check(h.t, os.WriteFile(id, []byte("00112233445566778899aabbccddeeff\n"), 0o444))
	// In a mount namespace of its own, so that nobody else has it.
	script := `mount --bind "$0" /etc/machine-id && exec "$@"`
	full := append([]string{"-m", "sh", "-c", script, id, must(kohakuBinary())(h.t)}, args...)
	out, err := h.Hosts[machine].Command(h.t.Context(), "unshare", full...).CombinedOutput()
	return string(out), err
}

// A runner registers with another address while something at its old address still
// sends: the tunnel is changed in place, the old source is refused, nothing is left
// over. The runner is the kernel's VXLAN device, on two machines in turn:
//
//	host 192.0.2.1          old 192.0.2.2            new 192.0.2.3
//	vxkr1 10.1.0.254        vx 10.1.0.1, VNI 101     vx 10.1.0.1, VNI 101
func TestRunnerMoves(t *testing.T) {
	h := newTokenHost(t, "old", "new")
	host, admin := h.Hosts[0], h.admin()
	const machine = "0123456789abcdef0123456789abcdef"
	register := func(from *lab.UnderlayHost) {
		t.Helper()
		a := must(admin.Register(t.Context(), api.RegisterRequest{Hostname: "mover", MachineID: machine, Address: from.V4}))(t)
		if a.RunnerID != 1 || a.VNI != 101 {
			t.Fatalf("%+v", a)
		}
	}
	device := func() hostlink.Info {
		t.Helper()
		var all []hostlink.Info
		check(t, host.Do(func() (err error) { all, err = hostlink.Kernel{}.Devices(); return err }))
		all = slices.DeleteFunc(all, func(d hostlink.Info) bool { _, ok := conf.RunnerIDOfDevice(d.Name); return !ok })
		if len(all) != 1 {
			t.Fatalf("devices: %+v", all)
		}
		return all[0]
	}
	for _, end := range h.Hosts[1:] {
		check(t, end.AddKernelVXLAN(lab.KernelVXLAN{Name: "vx", VNI: 101, Local: end.V4, Remote: host.V4, MTU: 1450}))
		check(t, end.AddAddr("vx", netip.MustParsePrefix("10.1.0.1/16")))
	}
	old, moved := h.Hosts[1], h.Hosts[2]
	there := netip.MustParseAddr("10.1.0.254")
	register(old)
	reaches(t, old.Node, there)
	was := device()

	// The old end goes on sending all the while.
	stop, sent := make(chan struct{}), make(chan struct{})
	p := open(t, old.Node, func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, there) })
	go func() {
		defer close(sent)
		for {
			select {
			case <-stop:
				return
			default:
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
				_, _ = p.Ping(ctx, 56) // answered before the move, not after it
				cancel()
			}
		}
	}()
	defer func() { close(stop); <-sent; p.Close() }()
	for range 3 {
		for _, end := range []*lab.UnderlayHost{moved, old, moved} {
			register(end)
		}
	}
	reaches(t, moved.Node, there)
	now := device()
	if now.Index != was.Index {
		t.Errorf("the device was made anew: index %d, was %d", now.Index, was.Index)
	}
	if a, err := hostlink.ParseAlias(now.Alias); err != nil || a.Remote != moved.V4 || a.Runner != "mover" || a.Machine != machine {
		t.Errorf("alias %q, %v", now.Alias, err)
	}
	refused := func() uint64 {
		s := must(admin.Status(t.Context()))(t)
		if len(s.Allocations) != 1 || s.Allocations[0].Counters == nil {
			t.Fatalf("%+v", s.Allocations)
		}
		return s.Allocations[0].Counters.Drops["wrong_peer"]
	}
	before := refused()
	eventually(t, 20*time.Second, "the old source", func() error {
		if refused() < before+5 {
			return errors.New("it is not refused")
		}
		return nil
	})
	reaches(t, moved.Node, there)
}
