// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The defaults are spelled out once more, so that a change to them is seen.
func TestDefaults(t *testing.T) {
	engine := Engine{Device: "tap", FastPath: "auto", Linger: 100 * time.Microsecond, Nice: -20, AntiSpoof: true, Offloads: Offloads{true, true, true, true, false}}
	host := &Host{
		Host: HostSection{Bind: netip.MustParseAddrPort("0.0.0.0:8000"), Join: "token", StateDir: "/var/lib/kohakuriver", LogLevel: slog.LevelInfo, Metrics: netip.MustParseAddrPort("127.0.0.1:8003")},
		Overlay: HostOverlay{
			Enabled: true, Subnet: MustParsePlan("10.0.0.0/8/8/16"), VXLANID: 100, VXLANPort: 4789, MTU: 0,
		},
		Heartbeat: Heartbeat{Interval: 5 * time.Second, TimeoutFactor: 6},
		Engine:    engine,
	}
	if d := DefaultHost(); !d.Equal(host) {
		t.Errorf("DefaultHost:\n%s", d.TOML())
	}
	engine.AntiSpoof = false
	runner := &Runner{
		Runner:  RunnerSection{StateDir: "/var/lib/kohakuriver", LogLevel: slog.LevelInfo, Metrics: netip.MustParseAddrPort("127.0.0.1:8004")},
		Overlay: RunnerOverlay{Enabled: true, NetworkName: "kohakuriver-overlay"},
		Docker:  Docker{Enabled: true},
		Engine:  engine,
	}
	if d := DefaultRunner(); !d.Equal(runner) {
		t.Errorf("DefaultRunner:\n%s", d.TOML())
	}
	if err := host.Validate(); err != nil {
		t.Errorf("the Host's defaults are refused: %v", err)
	}
	if err := runner.Validate(); err == nil || !strings.Contains(err.Error(), "runner settings: runner.host = \"\": is required") {
		t.Errorf("a runner without a Host: %v", err)
	}
	h, err := LoadHost("")
	if err != nil || !h.Equal(host) {
		t.Errorf("LoadHost of no file: %v", err)
	}
	r, err := LoadRunner("")
	if err != nil || !r.Equal(runner) {
		t.Errorf("LoadRunner of no file: %v", err)
	}
	if h, err := ParseHost("host.toml", nil); err != nil || !h.Equal(host) {
		t.Errorf("an empty host.toml: %v", err)
	}
}

// allHost sets every key to something else than its default, in every way that
// TOML has to write a key.
const allHost = `
host.bind = "[::1]:9000"
host.reachable_address = "fd00::53"
host.join = "open"
host.admin_socket = "/srv/x/../s"
host.state_dir = "/srv/x/"
host.log_level = "debug"
host.metrics = "off"
overlay = { enabled = false, subnet = "10.128.0.0/12/6/14", vxlan_id = 0x10, vxlan_port = 8472, mtu = 9000 }
[heartbeat]
interval = "1m30s"
"timeout_factor" = 3
[engine]
device = "tun"
'queues' = 4
fastpath = "off"
linger = "2ms"
nice = 5
anti_spoof = false
ttl = 9
tos = "inherit"
df = "set"
zero_checksum6 = true
[engine.offloads]
tso = false
uso = false
udp_gso = false
udp_gro = false
trust_kernel = true
`

func TestParseHostEveryKey(t *testing.T) {
	h, err := ParseHost("host.toml", []byte(allHost))
	if err != nil {
		t.Fatal(err)
	}
	want := &Host{
		Host: HostSection{
			Bind: netip.MustParseAddrPort("[::1]:9000"), ReachableAddress: netip.MustParseAddr("fd00::53"),
			Join: JoinOpen, AdminSocket: "/srv/s", StateDir: "/srv/x", LogLevel: slog.LevelDebug,
		},
		Overlay: HostOverlay{
			Enabled: false, Subnet: MustParsePlan("10.128.0.0/12/6/14"), VXLANID: 16, VXLANPort: 8472, MTU: 9000,
		},
		Heartbeat: Heartbeat{Interval: 90 * time.Second, TimeoutFactor: 3},
		Engine: Engine{
			Device: DeviceTUN, Queues: 4, FastPath: "off", Linger: 2 * time.Millisecond, Nice: 5, TTL: 9, TOS: TOS{Inherit: true}, DF: true, ZeroChecksum6: true,
			Offloads: Offloads{TrustKernel: true},
		},
	}
	if !h.Equal(want) {
		t.Errorf("got\n%swant\n%s", h.TOML(), want.TOML())
	}
	d := DefaultHost().schema().fields
	for i, f := range h.schema().fields {
		if f.show() == d[i].show() {
			t.Errorf("%s has its default; this test is to change every key", f.key)
		}
	}
}

func TestParseRunnerEveryKey(t *testing.T) {
	r, err := ParseRunner("runner.toml", []byte(`
[runner]
host = "host.lan"
address = "::ffff:192.168.88.61"
name = "gpu-01.lab"
state_dir = "/srv/y"
log_level = "error"
metrics = "[::]:9100"
[overlay]
enabled = false
network_name = "mine"
subnet = "10.128.0.0/12/6/14"
vxlan_id = 0
vxlan_port = 1
mtu = 0
[docker]
enabled = false
socket = "/run/docker.sock"
[engine]
queues = 64
fastpath = "off"
linger = "0s"
nice = 0
anti_spoof = true
ttl = 255
tos = 0b100
df = "set"
zero_checksum6 = true
offloads = { tso = false, uso = false, udp_gso = false, udp_gro = false, trust_kernel = true }
`))
	if err != nil {
		t.Fatal(err)
	}
	plan, id, port, mtu := MustParsePlan("10.128.0.0/12/6/14"), uint32(0), uint16(1), 0
	want := &Runner{
		Runner: RunnerSection{
			Host: "host.lan:8000", Address: netip.MustParseAddr("192.168.88.61"), Name: "gpu-01.lab",
			StateDir: "/srv/y", LogLevel: slog.LevelError, Metrics: netip.MustParseAddrPort("[::]:9100"),
		},
		Overlay: RunnerOverlay{NetworkName: "mine", Subnet: &plan, VXLANID: &id, VXLANPort: &port, MTU: &mtu},
		Docker:  Docker{Socket: "unix:///run/docker.sock"},
		Engine: Engine{
			Device: DeviceTAP, Queues: 64, FastPath: "off", AntiSpoof: true, TTL: 255, TOS: TOS{Value: 4}, DF: true, ZeroChecksum6: true,
			Offloads: Offloads{TrustKernel: true},
		},
	}
	if !r.Equal(want) {
		t.Errorf("got\n%swant\n%s", r.TOML(), want.TOML())
	}
	d := DefaultRunner().schema().fields
	for i, f := range r.schema().fields {
		if f.show() == d[i].show() && f.key != "engine.device" { // a Runner has no choice there
			t.Errorf("%s has its default; this test is to change every key", f.key)
		}
	}
	other := *want
	other.Overlay.MTU = nil
	if other.Equal(want) || want.Equal(&other) || want.Equal(nil) {
		t.Error("Equal does not tell a value from none")
	}
}

func TestSamples(t *testing.T) {
	h, err := ParseHost("host.toml", HostSample())
	if err != nil || !h.Equal(DefaultHost()) {
		t.Errorf("host sample: %v", err)
	}
	want := DefaultRunner()
	want.Runner.Host = "192.168.88.53:8000"
	r, err := ParseRunner("runner.toml", RunnerSample())
	if err != nil || !r.Equal(want) {
		t.Errorf("runner sample: %v", err)
	}
	// What the sample leaves out is right, too, once the comment sign is gone.
	full := RunnerSample()
	for _, key := range []string{"subnet", "vxlan_id", "vxlan_port", "mtu"} {
		full = bytes.Replace(full, []byte("# "+key+" ="), []byte(key+" ="), 1)
	}
	r, err = ParseRunner("runner.toml", full)
	if err != nil {
		t.Fatalf("runner sample in full: %v", err)
	}
	d := DefaultHost().Overlay
	if *r.Overlay.Subnet != d.Subnet || *r.Overlay.VXLANID != d.VXLANID || *r.Overlay.VXLANPort != d.VXLANPort || *r.Overlay.MTU != d.MTU {
		t.Errorf("the runner sample's commented values are not the Host's defaults:\n%s", r.TOML())
	}
	// Every key stands in its sample, below a comment.
	for _, c := range []struct {
		fields []field
		at     map[string]mark
		sample []byte
	}{{h.schema().fields, h.src.at, HostSample()}, {r.schema().fields, r.src.at, full}} {
		lines := strings.Split(string(c.sample), "\n")
		for _, f := range c.fields {
			m, ok := c.at[f.key]
			if !ok {
				t.Errorf("%s is not in the sample", f.key)
				continue
			}
			first := m.line - 2 // the line above
			for strings.Contains(lines[first], " = ") && !strings.HasPrefix(lines[first], "#") {
				first--
			}
			if !strings.HasPrefix(lines[first], "# ") {
				t.Errorf("line %d, %s, is not explained", m.line, f.key)
			}
		}
	}
	for name, sample := range map[string][]byte{"host.toml": HostSample(), "runner.toml": RunnerSample()} {
		packaged, err := os.ReadFile(filepath.Join("..", "packaging", name))
		if err != nil || !bytes.Equal(packaged, sample) {
			t.Errorf("packaging/%s is not conf/%s (%v)", name, name, err)
		}
	}
	HostSample()[0] = 'X'
	if HostSample()[0] == 'X' {
		t.Error("HostSample gives its own memory away")
	}
}

func TestTOMLTellsOrigins(t *testing.T) {
	h, err := ParseHost("etc/host.toml", []byte("[overlay]\n\nmtu = 1400\nengine = 1\n"))
	if err == nil {
		t.Fatalf("parsed:\n%s", h.TOML())
	}
	h, err = ParseHost("etc/host.toml", []byte("[overlay]\n\nmtu = 1400\nvxlan_id = 100\n[engine.offloads]\nuso = false"))
	if err != nil {
		t.Fatal(err)
	}
	h.Heartbeat.TimeoutFactor = 9
	h.Overlay.VXLANID = 200
	var got []string
	for _, line := range strings.Split(string(h.TOML()), "\n") {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := `[host]
bind = "0.0.0.0:8000" # default
reachable_address = "" # default
join = "token" # default
admin_socket = "" # default
state_dir = "/var/lib/kohakuriver" # default
log_level = "info" # default
metrics = "127.0.0.1:8003" # default

[overlay]
enabled = true # default
subnet = "10.0.0.0/8/8/16" # default
vxlan_id = 200 # set by the program
vxlan_port = 4789 # default
mtu = 1400 # from etc/host.toml:3

[heartbeat]
interval = "5s" # default
timeout_factor = 9 # set by the program

[engine]
device = "tap" # default
queues = 0 # default
fastpath = "auto" # default
linger = "100µs" # default
nice = -20 # default
anti_spoof = true # default
ttl = 0 # default
tos = 0 # default
df = "unset" # default
zero_checksum6 = false # default
offloads.tso = true # default
offloads.uso = false # from etc/host.toml:6
offloads.udp_gso = true # default
offloads.udp_gro = true # default
offloads.trust_kernel = false # default
`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	again, err := ParseHost("again", h.TOML())
	if err != nil || !again.Equal(h) {
		t.Errorf("does not come back: %v", err)
	}

	r := DefaultRunner()
	r.Runner.Host = "192.168.88.53:8000"
	if out := string(r.TOML()); !strings.Contains(out, "# vxlan_id: whatever the Host says\n") {
		t.Errorf("what is left to the Host is not said:\n%s", out)
	}
	id := uint32(7)
	r.Overlay.VXLANID = &id
	back, err := ParseRunner("again", r.TOML())
	if err != nil || !back.Equal(r) {
		t.Errorf("does not come back: %v", err)
	}
	// A name that could break out of the comment does not.
	odd, err := ParseHost("a\nbind = \"x\"", []byte("[overlay]\nmtu = 1400"))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseHost("again", odd.TOML()); err != nil || !back.Equal(odd) {
		t.Errorf("an odd file name does harm: %v\n%s", err, odd.TOML())
	}
}

func TestValidate(t *testing.T) {
	h := DefaultHost()
	h.Overlay.VXLANPort = 0
	h.Overlay.Subnet = Plan{}
	h.Engine.FastPath = "on"
	h.Host.LogLevel = 2
	h.Host.StateDir = strings.Repeat("x", 4096)
	err := h.Validate()
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 5 {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, p := range e.Problems {
		got = append(got, p.Key)
	}
	if fmt.Sprint(got) != "[host.state_dir host.log_level overlay.subnet overlay.vxlan_port engine.fastpath]" {
		t.Errorf("blames %v", got)
	}
	if len(err.Error()) > 2000 {
		t.Errorf("repeats too much: %v", err)
	}
	r := DefaultRunner()
	r.Runner.Host = "10.1.2.3:8000"
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	p := MustParsePlan("10.0.0.0/8/8/16")
	r.Overlay.Subnet = &p
	if err := r.Validate(); err == nil || !strings.Contains(err.Error(), "outside the overlay 10.0.0.0/8") {
		t.Errorf("a Host inside the overlay: %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "none.toml")
	if _, err := LoadHost(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := LoadRunner(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := LoadHost(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: %v", err)
	}
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	h, err := LoadHost(write("host.toml", []byte("[overlay]\nmtu = 1400")))
	if err != nil || h.Overlay.MTU != 1400 {
		t.Errorf("LoadHost: %v", err)
	}
	r, err := LoadRunner(write("runner.toml", []byte("[runner]\nhost = \"h\"")))
	if err != nil || r.Runner.Host != "h:8000" {
		t.Errorf("LoadRunner: %v", err)
	}
	big := bytes.Repeat([]byte("#\n"), maxFile/2)
	if _, err := LoadHost(write("big.toml", big)); err != nil {
		t.Errorf("a file of %d bytes: %v", len(big), err)
	}
	_, err = LoadHost(write("big.toml", append(big, '\n')))
	if err == nil || !strings.Contains(err.Error(), "big.toml: is larger than 1048576 bytes") {
		t.Errorf("a file of %d bytes: %v", len(big)+1, err)
	}
}

func TestPaths(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("no file at home", HostPath(""), "/etc/kohakuriver/host.toml")
	check("no file at home", RunnerPath(""), "/etc/kohakuriver/runner.toml")
	own := filepath.Join(home, ".kohakuriver", "host.toml")
	if err := os.MkdirAll(filepath.Dir(own), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("a file at home", HostPath(""), own)
	check("the other file", RunnerPath(""), "/etc/kohakuriver/runner.toml")
	check("a flag", HostPath("x.toml"), "x.toml")
	check("a flag", RunnerPath("y.toml"), "y.toml")
	t.Setenv("HOME", "")
	check("no home", HostPath(""), "/etc/kohakuriver/host.toml")
	t.Setenv("HOME", "relative")
	check("a relative home", HostPath(""), "/etc/kohakuriver/host.toml")
}
