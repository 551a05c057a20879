// SPDX-License-Identifier: Apache-2.0

package reset

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kohaku/internal/docker"
	"kohaku/internal/link"
)

// machine is what reset meets.
type machine struct {
	devices  []link.Info
	busy     []string
	rules    []string
	networks []docker.Removal
	noDocker error

	deleted []string
	removed bool
	dry     bool
}

func (m *machine) Devices() ([]link.Info, error) { return m.devices, nil }
func (m *machine) AtWork() ([]string, error)     { return m.busy, nil }
func (m *machine) Delete(name string) error {
	if name == "vxkr2" {
		return errors.New("the kernel says no")
	}
	m.deleted = append(m.deleted, name)
	return nil
}
func (m *machine) Mine(context.Context) ([]string, error) { return m.rules, nil }
func (m *machine) Remove() ([]string, error)              { m.removed = true; return m.rules, nil }

func (m *machine) run(t *testing.T, dry bool) ([]Thing, error) {
	t.Helper()
	return Run(t.Context(), Options{DryRun: dry, Links: m, Firewall: m,
		Docker: func(_ context.Context, _, bridge string, dry bool) ([]docker.Removal, error) {
			if bridge != "kohaku-overlay" {
				t.Errorf("networks on %s", bridge)
			}
			m.dry = dry
			return m.networks, m.noDocker
		}})
}

func full() *machine {
	return &machine{
		devices: []link.Info{
			{Name: "eth0", Index: 1},
			{Name: "vxkr1", Index: 2, Alias: "kohaku vni=101"},
			{Name: "vxkr3", Index: 3, Alias: "somebody's"},
			{Name: "mine0", Index: 4, Alias: "kohaku"}, // an alias anybody may give to anything
			{Name: "kohaku-overlay", Index: 5, Alias: "kohaku id=1"},
			{Name: "vxlan0", Index: 6, Alias: "kohaku id=1", Master: 5},
			{Name: "kohaku-host", Index: 7, Alias: "kohaku"},
		},
		rules:    []string{"iptables-nft FORWARD -s 10.0.0.0/8 -j ACCEPT"},
		networks: []docker.Removal{{Network: "kohakuriver-overlay"}},
	}
}

var all = []Thing{
	{Kind: KindDocker, Name: "kohakuriver-overlay", Gone: true},
	{Kind: KindFirewall, Name: "iptables-nft FORWARD -s 10.0.0.0/8 -j ACCEPT", Gone: true},
	{Kind: KindDevice, Name: "vxkr1", Gone: true},
	{Kind: KindDevice, Name: "vxlan0", Gone: true},
	{Kind: KindDevice, Name: "kohaku-host", Gone: true},
	{Kind: KindDevice, Name: "kohaku-overlay", Gone: true},
}

func TestReset(t *testing.T) {
	m := full()
	got, err := m.run(t, false)
	if diff := cmp.Diff(all, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if want := []string{"vxkr1", "vxlan0", "kohaku-host", "kohaku-overlay"}; !slices.Equal(m.deleted, want) || !m.removed || m.dry {
		t.Errorf("deleted %v, rules removed: %v, dry: %v", m.deleted, m.removed, m.dry)
	}
}

func TestDryRun(t *testing.T) {
	m := full()
	m.busy = []string{"vxkr1"} // no matter, when nothing is done
	got, err := m.run(t, true)
	if diff := cmp.Diff(all, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if m.deleted != nil || m.removed || !m.dry {
		t.Errorf("a dry run deleted %v, removed rules: %v, dry: %v", m.deleted, m.removed, m.dry)
	}
}

func TestWhatStays(t *testing.T) {
	m := full()
	m.networks[0].Err = errors.New("in use by box")
	m.devices = append(m.devices, link.Info{Name: "veth1", Index: 8, Master: 5}, link.Info{Name: "vxkr2", Index: 9, Alias: "kohaku x"})
	got, err := m.run(t, false)
	if !errors.Is(err, ErrLeft) {
		t.Errorf("error %v", err)
	}
	left := map[string]string{}
	for _, thing := range got {
		if !thing.Gone {
			left[thing.Name] = thing.Why
		}
	}
	want := map[string]string{
		"kohakuriver-overlay": "in use by box",
		"vxkr2":               "the kernel says no",
		"kohaku-overlay":      "it is in use by veth1 (containers?)",
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !slices.Contains(m.deleted, "vxlan0") || slices.Contains(m.deleted, "kohaku-overlay") {
		t.Errorf("deleted %v", m.deleted)
	}
	m = full()
	m.noDocker = errors.New("dockerd does not answer")
	if got, err := m.run(t, false); !errors.Is(err, ErrLeft) || got[0].Why != "dockerd does not answer" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestDaemonAtWork(t *testing.T) {
	m := full()
	m.busy = []string{"vxkr1"}
	_, err := m.run(t, false)
	var busy *AtWorkError
	if !errors.As(err, &busy) || m.deleted != nil || m.removed {
		t.Errorf("%v, deleted %v", err, m.deleted)
	}
}
