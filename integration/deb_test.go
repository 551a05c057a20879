// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/internal/lab"
)

// The package in two Debian 12 systems, each the machine of a node. The system is
// made by `make debroot`, outside of the lab, which has no network.
//
//	host 192.0.2.1 ---- switch ---- gpu-1 192.0.2.2
//	kohaku host                     kohaku runner

// debian is a Debian system in a directory.
type debian struct {
	t    *testing.T
	node *lab.UnderlayHost
	root string
}

func newDebian(t *testing.T, n *lab.UnderlayHost) *debian {
	t.Helper()
	out, err := exec.Command("../packaging/debroot.sh").CombinedOutput()
	tar := strings.TrimSpace(string(out))
	if err != nil {
		t.Fatalf("there is no Debian system to install the package in; `make debroot` makes one: %v\n%s", err, out)
	}
	d := &debian{t: t, node: n, root: must(os.MkdirTemp("", "debian-"))(t)}
	if out, err := exec.Command("tar", "-C", d.root, "-xf", tar).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", tar, err, out)
	}
	d.write("etc/machine-id", fmt.Sprintf("%032x\n", n.V4.As4()))
	for _, m := range []string{"proc", "dev", "sys"} {
		check(t, os.MkdirAll(filepath.Join(d.root, m), 0o755))
		check(t, unix.Mount("/"+m, filepath.Join(d.root, m), "", unix.MS_BIND|unix.MS_REC, ""))
	}
	t.Cleanup(func() {
		for _, m := range []string{"proc", "dev", "sys"} {
			if err := unix.Unmount(filepath.Join(d.root, m), unix.MNT_DETACH); err != nil {
				t.Error(err)
				return // nothing of the machine's is to be removed
			}
		}
		check(t, os.RemoveAll(d.root))
	})
	return d
}

func (d *debian) write(path, text string) {
	d.t.Helper()
	path = filepath.Join(d.root, path)
	check(d.t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(d.t, os.WriteFile(path, []byte(text), 0o644))
}

func (d *debian) read(path string) string {
	d.t.Helper()
	return string(must(os.ReadFile(filepath.Join(d.root, path)))(d.t))
}

var debianEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "HOME=/root"}

// try runs a command in the system, on its machine.
func (d *debian) try(args ...string) (string, error) {
	cmd := d.node.Command(within(d.t, 2*time.Minute), "chroot", append([]string{d.root}, args...)...)
	cmd.Env = debianEnv
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *debian) run(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// install copies a package into the system and installs it.
func (d *debian) install(deb string) string {
	d.t.Helper()
	d.write("tmp/kohaku.deb", string(must(os.ReadFile(deb))(d.t)))
	defer os.Remove(filepath.Join(d.root, "tmp/kohaku.deb"))
	return d.run("dpkg", "-i", "/tmp/kohaku.deb")
}

// daemon starts the installed program.
func (d *debian) daemon(args ...string) *daemon {
	d.t.Helper()
	// It cannot be heard: its supervisor's socket is outside of the system.
	return launchProgram(d.t, d.node.Node, nil, "chroot", append([]string{d.root, "/usr/bin/kohaku"}, args...)...)
}

// files lists all there is, but for what dpkg keeps for itself.
func (d *debian) files() []string {
	d.t.Helper()
	var all []string
	check(d.t, filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(d.root, path)
		switch {
		case err != nil:
			return err
		case rel == "proc" || rel == "dev" || rel == "sys":
			return fs.SkipDir
		case strings.HasPrefix(rel, "var/lib/dpkg/") && !strings.Contains(rel, "kohaku"), rel == "var/log/dpkg.log":
			return nil
		}
		all = append(all, rel)
		return nil
	}))
	slices.Sort(all)
	return all
}

// debPackages are two versions of the package.
func debPackages(t *testing.T) (old, next string) {
	t.Helper()
	dir := t.TempDir()
	build := func(version string, env ...string) string {
		cmd := exec.CommandContext(within(t, 5*time.Minute), "../packaging/deb.sh")
		cmd.Env = append(append(os.Environ(), "VERSION="+version, "DIST="+dir, "SOURCE_DATE_EPOCH=1700000000"), env...)
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				out = append(out, exit.Stderr...)
			}
			t.Fatalf("packaging/deb.sh: %v\n%s", err, out)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return lines[len(lines)-1]
	}
	old, next = build("v1.0.0"), build("v1.0.1-3-gabcdef")
	// The same again gives the same bytes.
	first := must(os.ReadFile(old))(t)
	if again := must(os.ReadFile(build("v1.0.0")))(t); string(first) != string(again) {
		t.Error("the package was built twice, with different contents")
	}
	return old, next
}

func TestDebianPackage(t *testing.T) {
	old, next := debPackages(t)
	u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"host", "gpu-1"}})
	host, runner := newDebian(t, u.Hosts[0]), newDebian(t, u.Hosts[1])
	before := host.files()

	for _, d := range []*debian{host, runner} {
		out := d.install(old)
		if !strings.Contains(out, "nothing runs yet") {
			t.Errorf("the installation says:\n%s", out)
		}
		if v := d.run("kohaku", "version"); !strings.Contains(v, "v1.0.0") {
			t.Errorf("kohaku version: %s", v)
		}
	}
	for _, unit := range []string{"kohakuriver-host", "kohakuriver-runner"} {
		if out, err := host.try("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/"+unit+".service"); err != nil || out != "" {
			t.Errorf("systemd-analyze verify %s: %v\n%s", unit, err, out)
		}
		out := host.run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit+".service")
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) (\w+)`).FindStringSubmatch(out)
		if m == nil || m[2] != "OK" {
			t.Errorf("systemd-analyze security:\n%s", out)
		} else {
			t.Logf("%s: exposure %s %s", unit, m[1], m[2])
		}
		if _, err := os.Lstat(filepath.Join(host.root, "etc/systemd/system/multi-user.target.wants", unit+".service")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is enabled by its installation: %v", unit, err)
		}
	}

	// The daemons as the units start them; the Runner joins as the message says.
	hostArgs, runnerArgs := unitCommand(t, host, "host"), unitCommand(t, runner, "runner")
	h := host.daemon(hostArgs...)
	h.waitServing(host)
	token := strings.TrimSpace(host.run("sh", "-c", `kohaku token new --json | sed -n 's/.*"token": "\(.*\)",*/\1/p'`))
	runner.run("kohaku", "runner", "--join", token, "--host", u.Hosts[0].V4.String()+":8000", "--join-only")
	r := runner.daemon(runnerArgs...)
	active := func() string {
		t.Helper()
		var out string
		eventually(t, 20*time.Second, "the Runner", func() error {
			out, _ = host.try("kohaku", "node", "overlay")
			if !regexp.MustCompile(`gpu-1\s+Active`).MatchString(out) {
				return errors.New(out + r.log())
			}
			return nil
		})
		return regexp.MustCompile(`(?m)^gpu-1.*?10\.\d+\.0\.0/16`).FindString(out)
	}
	allocation := active()
	if !strings.Contains(allocation, "10.1.0.0/16") {
		t.Errorf("the allocation: %q", allocation)
	}

	// An upgrade: settings that were changed stay, and so does the allocation; the
	// daemons go on until systemd starts them anew.
	settings := host.read("etc/kohakuriver/host.toml") + "\n# mine\n"
	host.write("etc/kohakuriver/host.toml", settings)
	for _, d := range []*debian{host, runner} {
		calls := d.fakeSystemctl()
		d.install(next)
		if v := d.run("kohaku", "version"); !strings.Contains(v, "v1.0.1-3-gabcdef") {
			t.Errorf("kohaku version: %s", v)
		}
		if got := calls(); got != "daemon-reload\n--no-block try-restart kohakuriver-host.service kohakuriver-runner.service\n" {
			t.Errorf("an upgrade calls systemctl:\n%s", got)
		}
	}
	if got := host.read("etc/kohakuriver/host.toml"); got != settings {
		t.Error("the upgrade replaced host.toml")
	}
	for _, running := range []*daemon{h, r} {
		if err := running.end(syscall.SIGTERM); err != nil {
			t.Errorf("%v\n%s", err, running.log())
		}
	}
	h, r = host.daemon(hostArgs...), runner.daemon(runnerArgs...)
	if now := active(); now != allocation {
		t.Errorf("the allocation was %q, is %q", allocation, now)
	}

	// A removal ends the daemons and takes their devices and rules along, not the
	// settings; a purge leaves nothing.
	ends := map[*debian]*daemon{host: h, runner: r}
	for _, d := range []*debian{host, runner} {
		calls := d.fakeSystemctl()
		check(t, ends[d].end(syscall.SIGTERM)) // what systemctl stop does
		d.run("dpkg", "--remove", "kohaku")
		if got := calls(); got != "stop kohakuriver-host.service kohakuriver-runner.service\ndaemon-reload\nreset-failed kohakuriver-host.service kohakuriver-runner.service\n" {
			t.Errorf("a removal calls systemctl:\n%s", got)
		}
		if _, err := os.Stat(filepath.Join(d.root, "etc/kohakuriver/host.toml")); err != nil {
			t.Errorf("a removal removes the settings: %v", err)
		}
		for _, l := range must(d.node.Handle().LinkList())(t) {
			if strings.HasPrefix(l.Attrs().Alias, "kohaku") {
				t.Errorf("a removal leaves the device %s", l.Attrs().Name)
			}
		}
		if rules := d.run("iptables-save"); strings.Contains(rules, "kohaku") {
			t.Errorf("a removal leaves rules:\n%s", rules)
		}
		d.run("dpkg", "--purge", "kohaku")
		d.forgetSystemctl()
		var left []string
		for _, f := range d.files() {
			if !slices.Contains(before, f) {
				left = append(left, f)
			}
		}
		if len(left) > 0 {
			t.Errorf("a purge leaves %q", left)
		}
	}
}

// unitCommand gives the arguments of a unit's ExecStart.
func unitCommand(t *testing.T, d *debian, name string) []string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/kohaku (.*)$`).FindStringSubmatch(d.read("usr/lib/systemd/system/kohakuriver-" + name + ".service"))
	if m == nil {
		t.Fatal("the unit has no ExecStart")
	}
	return strings.Fields(m[1])
}

// waitServing waits until a Host answers at its admin socket.
func (d *daemon) waitServing(on *debian) {
	d.t.Helper()
	eventually(d.t, 20*time.Second, "the Host", func() error {
		out, err := on.try("kohaku", "token", "list")
		if err != nil {
			return fmt.Errorf("%w: %s\n%s", err, out, d.log())
		}
		return nil
	})
}

// fakeSystemctl makes the maintainer scripts believe that systemd runs, and gives
// what they call it for.
func (d *debian) fakeSystemctl() (calls func() string) {
	d.t.Helper()
	check(d.t, os.MkdirAll(filepath.Join(d.root, "run/systemd/system"), 0o755))
	d.write("usr/local/sbin/systemctl", "#!/bin/sh\necho \"$*\" >>/tmp/systemctl\n")
	check(d.t, os.Chmod(filepath.Join(d.root, "usr/local/sbin/systemctl"), 0o755))
	d.write("tmp/systemctl", "")
	return func() string { return d.read("tmp/systemctl") }
}

func (d *debian) forgetSystemctl() {
	d.t.Helper()
	for _, f := range []string{"run/systemd", "usr/local/sbin/systemctl", "tmp/systemctl"} {
		check(d.t, os.RemoveAll(filepath.Join(d.root, f)))
	}
}
