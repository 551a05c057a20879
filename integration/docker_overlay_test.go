// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/lab"
)

// dockerCluster is a cluster (see cluster_test.go) whose Runners have Docker; the
// containers are real ones.
type dockerCluster struct {
	*cluster
	docker [2]*dockerd
}

func newDockerCluster(t *testing.T, c lab.UnderlayConfig) *dockerCluster {
	t.Helper()
	k := &dockerCluster{cluster: newCluster(t, c)}
	for i, m := range []int{runner1, runner2} {
		k.docker[i] = newDockerd(t, k.Hosts[m].Node)
		text := string(must(os.ReadFile(k.config[m]))(t))
		const off = "[docker]\nenabled = false\n"
		if !strings.Contains(text, off) {
			t.Fatalf("the settings do not switch Docker off:\n%s", text)
		}
		text = strings.Replace(text, off, fmt.Sprintf("[docker]\nsocket = %q\n", k.docker[i].socket()), 1)
		check(t, os.WriteFile(k.config[m], []byte(text), 0o644))
	}
	return k
}

// startEngines starts Docker on both Runners and gives it the image.
func (k *dockerCluster) startEngines() {
	k.t.Helper()
	for _, d := range k.docker {
		d.launch()
	}
	for _, d := range k.docker {
		eventually(k.t, 60*time.Second, "dockerd on "+d.node.Name(), func() error {
			_, err := d.try("version", "--format", "{{.Server.Version}}")
			return err
		})
		d.loadImage()
	}
}

// waitNetwork waits until a Runner's Docker has the network.
func (k *dockerCluster) waitNetwork(i int) {
	k.t.Helper()
	eventually(k.t, 30*time.Second, "the Docker network on "+k.docker[i].node.Name(), func() error {
		_, err := k.docker[i].try("network", "inspect", overlayNetwork)
		return err
	})
}

// noProblems waits until nobody in the cluster has anything to complain of.
func (k *dockerCluster) noProblems() {
	k.t.Helper()
	eventually(k.t, 30*time.Second, "no problems", func() error {
		s, err := k.status()
		if err == nil && len(s.Problems) > 0 {
			err = fmt.Errorf("problems %q", s.Problems)
		}
		return err
	})
}

// serveBoxes starts a container to talk to on each Runner and returns their
// addresses.
func (k *dockerCluster) serveBoxes() (addrs [2]netip.Addr) {
	k.t.Helper()
	for i, d := range k.docker {
		d.docker("run", "-d", "--name", "web", "--network", overlayNetwork, boxImage, "/bin/box", "serve")
		out := d.docker("inspect", "-f", "{{(index .NetworkSettings.Networks \""+overlayNetwork+"\").IPAddress}}", "web")
		addrs[i] = must(netip.ParseAddr(out))(k.t)
	}
	return addrs
}

// Containers, started as the README says, on two Runners: they reach each other,
// the Host, their Runner's facts, and the outside.
func TestDocker(t *testing.T) {
	k := newDockerCluster(t, lab.UnderlayConfig{})
	// The Runners come first and wait for dockerd without keeping anybody waiting.
	k.startAll()
	k.startEngines()
	for i := range k.docker {
		k.waitNetwork(i)
	}
	k.noProblems()
	addrs := k.serveBoxes()
	for i, a := range addrs {
		if subnet := k.allocation(k.Hosts[runner1+i].Name()).Subnet; !subnet.Contains(a) || a.As4()[3] == 254 && a.As4()[2] == 0 {
			t.Errorf("the container has %s in %s", a, subnet)
		}
	}
	for i, d := range k.docker {
		for _, to := range []netip.Addr{addrs[1-i], netip.MustParseAddr("10.0.0.1"), k.Hosts[outside].V4} {
			d.run(boxImage, "/bin/ping", "-c", "3", "-i", "0.2", "-W", "5", to.String())
		}
	}

	// The Host hears which addresses are taken.
	for _, m := range []int{runner1, runner2} {
		name := k.Hosts[m].Name()
		eventually(t, 20*time.Second, "used addresses of "+name, func() error {
			var info api.IPInfo
			err := k.call(http.MethodGet, api.PathIPInfo+name, &info)
			if err == nil && info.Used != 1 {
				err = fmt.Errorf("%d are in use, not 1", info.Used)
			}
			return err
		})
	}

	// A gigabyte each way, compared by hash.
	for i, d := range k.docker {
		r := parseBox(t, d.run(boxImage, "/bin/box", "send", addrs[1-i].String(), fmt.Sprint(1<<30)))
		if r.Bytes != 1<<30 {
			t.Errorf("%d bytes arrived", r.Bytes)
		}
		t.Logf("container to container, from %s: 1 GiB, hash agrees, %.2f Gbit/s", d.node.Name(), r.Gbits)
	}

	// Out of the Runner, under the Runner's address.
	l := closeAfter(t, open(t, k.Hosts[outside].Node, func() (*net.TCPListener, error) {
		return net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(k.Hosts[outside].V4, 0)))
	}))
	for i, d := range k.docker {
		done := make(chan string, 1)
		go func() {
			check(t, l.SetDeadline(time.Now().Add(30*time.Second)))
			c, err := l.Accept()
			if err != nil {
				done <- err.Error()
				return
			}
			done <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().String()
			c.Close()
		}()
		at := l.Addr().(*net.TCPAddr).AddrPort()
		d.run(boxImage, "/bin/sh", "-c", fmt.Sprintf("nc %s %d </dev/null", at.Addr(), at.Port()))
		if got, want := <-done, k.Hosts[runner1+i].V4.String(); got != want {
			t.Errorf("outside, a container of %s is seen as %s, want %s", d.node.Name(), got, want)
		}
	}

	// Facts, and what --env-file makes of them.
	for i, d := range k.docker {
		gateway := k.allocation(k.Hosts[runner1+i].Name()).Gateway
		env := d.run(boxImage, "/bin/wget", "-q", "-O", "-", fmt.Sprintf("http://%s:8001/overlay/env", gateway))
		file := d.path("facts.env")
		check(t, os.WriteFile(file, []byte(env+"\n"), 0o600))
		if got := d.run("--env-file", file, boxImage, "/bin/sh", "-c", "echo $KOHAKU_GATEWAY $KOHAKU_RUNNER"); got != "10.0.0.1 "+d.node.Name() {
			t.Errorf("the container's environment: %q", got)
		}
		if got := d.run(boxImage, "/bin/wget", "-q", "-O", "-", fmt.Sprintf("http://%s:8001/overlay", gateway)); !strings.Contains(got, `"host":"10.0.0.1"`) {
			t.Errorf("facts %s", got)
		}
	}
	k.noProblems()
}

// Whatever restarts, containers that talk to each other do not notice more than a
// gap, and the network is what it was.
func TestDockerRestarts(t *testing.T) {
	k := newDockerCluster(t, lab.UnderlayConfig{})
	k.startEngines()
	k.startAll()
	for i := range k.docker {
		k.waitNetwork(i)
	}
	addrs := k.serveBoxes()
	network := func() string { return k.docker[0].docker("network", "inspect", "-f", "{{.Id}}", overlayNetwork) }
	bridge := func() string {
		l := must(lab.Port{Node: k.Hosts[runner1].Node, Name: "kohaku-overlay"}.Link())(t)
		return fmt.Sprint(l.Attrs().Index, l.Attrs().HardwareAddr, must(k.Hosts[runner1].Handle().AddrList(l, 0))(t))
	}
	id, device := network(), bridge()
	for _, c := range []struct {
		name    string
		restart func()
	}{
		{"nothing", func() { time.Sleep(500 * time.Millisecond) }},
		{"dockerd restarts", func() { k.docker[0].stop(); k.docker[0].start() }},
		{"dockerd is killed", func() { check(t, k.docker[0].cmd.Process.Kill()); <-k.docker[0].done; k.docker[0].start() }},
		{"the Host restarts", func() { k.stop(theHost); k.start(theHost) }},
		{"the Host is killed", func() { k.kill(theHost); k.start(theHost) }},
		{"the Runner restarts", func() { k.stop(runner1); k.start(runner1) }},
		{"the Runner is killed", func() { k.kill(runner1); k.start(runner1) }},
	} {
		k.docker[0].docker("run", "-d", "--name", "flow", "--network", overlayNetwork, boxImage, "/bin/box", "flow", addrs[1].String())
		time.Sleep(300 * time.Millisecond)
		c.restart()
		k.waitActive("runner1", "runner2")
		k.noProblems()
		time.Sleep(300 * time.Millisecond)
		k.docker[0].docker("stop", "-t", "20", "flow")
		r := parseBox(t, k.docker[0].docker("logs", "flow"))
		k.docker[0].docker("rm", "flow")
		t.Logf("%s: longest gap %d ms, %d of %d datagrams lost, %d MB by TCP, hash agrees", c.name, r.GapMS, r.Lost, r.Sent, r.Bytes>>20)
		if r.GapMS > 5000 || r.Bytes == 0 {
			t.Errorf("%s: %+v", c.name, r)
		}
		if network() != id || bridge() != device {
			t.Errorf("%s: the network was %s, is %s; the bridge was %s, is %s", c.name, id, network(), device, bridge())
		}
	}
}
