// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/lab"
	hostlink "kohaku/internal/link"
	"kohaku/internal/trust"
)

// 255 Runners register at once with a Host that makes real devices. They live in
// one process, each with a credential, a machine id and an address of its own, and
// speak the real API:
//
//	host                          runners: one process
//	vxkr1 ... vxkr73              198.18.0.1 ... 198.18.0.255, all on eth0
//	eth0 198.18.255.254 -- switch -- eth0
const (
	manyRunners     = 255
	roleManyRunners = "many-runners"
	roleManyJoin    = "KOHAKU_INTEGRATION_JOIN" // manyTask as JSON
)

// manyTask is what the runners' process is told.
type manyTask struct {
	Host, Token, Dir string
}

// manyJoined is what it tells.
type manyJoined struct {
	Joined, Registered time.Duration // all of them
	IDs                map[string]int
}

func manyName(i int) string           { return fmt.Sprintf("many-%d", i) }
func manyRunnerAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}) }
func manyMachine(i int) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[8:], uint64(i)+1)
	return hex.EncodeToString(id[:])
}

// playManyRunners is the runners' process. On a first line it joins, on a second
// it registers, each as often as it takes, and then reports.
func playManyRunners() error {
	var task manyTask
	if err := json.Unmarshal([]byte(os.Getenv(roleManyJoin)), &task); err != nil {
		return err
	}
	token, err := trust.ParseToken(task.Token)
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	result := manyJoined{IDs: make(map[string]int)}
	var mu sync.Mutex
	everybody := func(do func(ctx context.Context, i int) error) (time.Duration, error) {
		if !in.Scan() {
			return 0, errors.New("nobody says go")
		}
		fmt.Println("going")
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		start := time.Now()
		errs := make([]error, manyRunners)
		var group sync.WaitGroup
		for i := range manyRunners {
			group.Go(func() {
				for {
					errs[i] = do(ctx, i+1)
					// A Host that is down is waited for; a refusal is an answer.
					if errs[i] == nil || api.Answered(errs[i]) || ctx.Err() != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		group.Wait()
		return time.Since(start), errors.Join(errs...)
	}
	dialer := func(i int) *net.Dialer {
		return &net.Dialer{Timeout: api.CallTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(manyRunnerAddr(i), 0))}
	}
	keepers := make([]*trust.Keeper, manyRunners+1)
	for i := range keepers {
		keepers[i] = trust.NewKeeper(filepath.Join(task.Dir, manyName(i)), nil)
	}
	if result.Joined, err = everybody(func(ctx context.Context, i int) error {
		return api.Join(ctx, api.Joining{Host: task.Host, Token: token, Name: manyName(i), Machine: manyMachine(i), Keeper: keepers[i], Dialer: dialer(i)})
	}); err != nil {
		return err
	}
	fmt.Println("joined")
	if result.Registered, err = everybody(func(ctx context.Context, i int) error {
		c, err := api.NewClient(task.Host, api.WithCredential(keepers[i]), api.WithDialer(dialer(i)))
		if err != nil {
			return err
		}
		defer c.Close()
		a, err := c.Register(ctx, api.RegisterRequest{Hostname: manyName(i), MachineID: manyMachine(i), Address: manyRunnerAddr(i)})
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			result.IDs[a.RunnerName] = a.RunnerID
		}
		return err
	}); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func TestManyRunnersJoin(t *testing.T) {
	for name, kill := range map[string]bool{"at once": false, "the Host killed halfway": true} {
		t.Run(name, func(t *testing.T) {
			h := newTokenHost(t, "runners")
			host, runners := h.Hosts[0], h.Hosts[1]
			check(t, host.AddAddr("eth0", netip.MustParsePrefix("198.18.255.254/16")))
			for i := range manyRunners {
				check(t, runners.AddAddr("eth0", netip.PrefixFrom(manyRunnerAddr(i+1), 16)))
			}
			token := must(h.admin().NewToken(t.Context(), api.TokenRequest{Uses: manyRunners}))(t)
			p := startManyRunners(t, runners.Node, manyTask{Host: fmt.Sprintf("198.18.255.254:%d", apiPort), Token: token.Secret, Dir: t.TempDir()})

			p.say(t, "join")
			p.hear(t, "going")
			if kill {
				h.killWhen(func() int { return len(h.manyMembers()) })
			}
			p.hear(t, "joined")
			p.say(t, "register")
			p.hear(t, "going")
			if kill {
				h.killWhen(func() int { return len(h.tunnelDevices()) })
			}
			var r manyJoined
			check(t, json.Unmarshal(must(p.out.ReadBytes('\n'))(t), &r))
			t.Logf("%d runners joined within %v and registered within %v", manyRunners, r.Joined.Round(time.Millisecond), r.Registered.Round(time.Millisecond))
			if !kill && r.Registered > time.Minute {
				t.Errorf("they took %v to register", r.Registered)
			}
			h.agree(r.IDs)
			// And once more after the Host, which nobody disturbs now, starts again.
			began := time.Now()
			_ = h.daemon.end(syscall.SIGKILL)
			h.start()
			t.Logf("the Host was killed, and started with %d devices, within %v", manyRunners, time.Since(began).Round(time.Millisecond))
			h.agree(r.IDs)
			list := must(h.admin().Tokens(t.Context()))(t).Tokens
			i := slices.IndexFunc(list, func(x api.Token) bool { return x.ID == token.ID })
			if i < 0 || list[i].Used != manyRunners {
				t.Errorf("tokens %+v", list)
			}
		})
	}
}

// killWhen kills the Host with -9 when half of something is done, and starts it
// again.
func (h *tokenHost) killWhen(done func() int) {
	h.t.Helper()
	eventually(h.t, time.Minute, "half of it", func() error {
		if n := done(); n < manyRunners/2 {
			return fmt.Errorf("%d of %d", n, manyRunners)
		}
		return nil
	})
	_ = h.daemon.end(syscall.SIGKILL) // "signal: killed"
	n := done()
	h.start()
	h.t.Logf("the Host was killed when %d of %d were done", n, manyRunners)
	if n == manyRunners {
		h.t.Log("that was not halfway; what follows holds all the same")
	}
}

// manyMembers are the runners that the Host's file knows.
func (h *tokenHost) manyMembers() []json.RawMessage {
	h.t.Helper()
	var s struct{ Runners []json.RawMessage }
	check(h.t, json.Unmarshal(must(os.ReadFile(filepath.Join(h.dir, "host", trust.StateFile)))(h.t), &s))
	return s.Runners
}

// tunnelDevices are the Host's, by name.
func (h *tokenHost) tunnelDevices() map[string]hostlink.Info {
	h.t.Helper()
	var all []hostlink.Info
	check(h.t, h.Hosts[0].Do(func() (err error) { all, err = hostlink.Kernel{}.Devices(); return err }))
	found := make(map[string]hostlink.Info)
	for _, d := range all {
		if _, ok := conf.RunnerIDOfDevice(d.Name); ok {
			found[d.Name] = d
		}
	}
	return found
}

// agree asserts that what the runners were told, the Host's table, its devices and
// their aliases say the same, and that no id was given twice.
func (h *tokenHost) agree(ids map[string]int) {
	h.t.Helper()
	t := h.t
	s := must(h.admin().Status(t.Context()))(t)
	devices := h.tunnelDevices()
	if len(ids) != manyRunners || len(s.Allocations) != manyRunners || len(devices) != manyRunners || len(h.manyMembers()) != manyRunners {
		t.Errorf("%d runners have an id, %d allocations, %d devices, %d credentials", len(ids), len(s.Allocations), len(devices), len(h.manyMembers()))
	}
	seen := make(map[int]string)
	for name, id := range ids {
		if other, twice := seen[id]; twice || id < 1 || id > manyRunners {
			t.Errorf("id %d of %s is out of range, or was given to %q, too", id, name, other)
		}
		seen[id] = name
	}
	plan := conf.DefaultHost().Overlay.Subnet
	for _, a := range s.Allocations {
		var i int
		if _, err := fmt.Sscanf(a.RunnerName, "many-%d", &i); err != nil {
			t.Errorf("%q is nobody", a.RunnerName)
			continue
		}
		if ids[a.RunnerName] != a.RunnerID || a.MachineID != manyMachine(i) || a.PhysicalIP != manyRunnerAddr(i) || a.VXLANDevice != conf.HostDevice(a.RunnerID) || a.Counters == nil {
			t.Errorf("%s was told id %d; the table has %+v", a.RunnerName, ids[a.RunnerName], a)
		}
		d := devices[a.VXLANDevice]
		want := hostlink.Alias{VNI: uint32(100 + a.RunnerID), Remote: manyRunnerAddr(i), Runner: a.RunnerName, Machine: manyMachine(i), Subnet: plan, ID: a.RunnerID, Port: 4789}
		if got, err := hostlink.ParseAlias(d.Alias); err != nil || got != want {
			t.Errorf("%s: alias %q, %v", a.VXLANDevice, d.Alias, err)
		}
		if addr := netip.PrefixFrom(plan.HostOn(a.RunnerID), 16); !d.Up || !slices.Contains(d.Addrs, addr) {
			t.Errorf("%s: %+v", a.VXLANDevice, d)
		}
	}
}

// manyRunnersProcess is the runners' process as the test holds it.
type manyRunnersProcess struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startManyRunners(t *testing.T, n *lab.Node, task manyTask) *manyRunnersProcess {
	t.Helper()
	// Not the test's context: the process is asked to end, in Cleanup.
	cmd := n.Command(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+roleManyRunners, roleManyJoin+"="+string(must(json.Marshal(task))(t)))
	cmd.Stderr = os.Stderr
	p := &manyRunnersProcess{in: must(cmd.StdinPipe())(t), out: bufio.NewReader(must(cmd.StdoutPipe())(t))}
	check(t, cmd.Start())
	t.Cleanup(func() {
		p.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the runners' process: %v", err)
		}
	})
	return p
}

func (p *manyRunnersProcess) say(t *testing.T, line string) {
	t.Helper()
	must(io.WriteString(p.in, line+"\n"))(t)
}

func (p *manyRunnersProcess) hear(t *testing.T, line string) {
	t.Helper()
	if got := must(p.out.ReadString('\n'))(t); got != line+"\n" {
		t.Fatalf("the runners' process says %q, not %q", got, line)
	}
}
