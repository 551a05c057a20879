// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
)

func TestRemove(t *testing.T) {
	e := newEngine(t, "1.41")
	e.start()
	socket := "unix://" + e.socket
	remove := func(dry bool) map[string]error {
		t.Helper()
		done, err := Remove(t.Context(), socket, wanted.Bridge, dry)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]error{}
		for _, d := range done {
			out[d.Network] = d.Err
		}
		return out
	}
	if got := remove(false); len(got) != 0 {
		t.Errorf("an engine without networks: %v", got)
	}
	e.change(func() {
		e.put(network.Network{Name: wanted.Name, Driver: "bridge", Options: map[string]string{optBridge: wanted.Bridge}})
	})
	e.change(func() {
		e.put(network.Network{Name: "another", Driver: "bridge", Options: map[string]string{optBridge: "br7"}})
	})
	if got := remove(true); len(got) != 1 || got[wanted.Name] != nil {
		t.Errorf("a dry run: %v", got)
	}
	n, ok := e.named(wanted.Name)
	if !ok {
		t.Fatal("a dry run removed the network")
	}
	e.attach(n.ID, "box", netip.MustParsePrefix("10.1.0.2/16"))
	if got := remove(false); got[wanted.Name] == nil || !strings.Contains(got[wanted.Name].Error(), "in use by box") {
		t.Errorf("a network in use: %v", got)
	}
	e.detach(n.ID, "box")
	if got := remove(false); len(got) != 1 || got[wanted.Name] != nil {
		t.Errorf("removed: %v", got)
	}
	if _, ok := e.named(wanted.Name); ok {
		t.Error("the network is still there")
	}
	if got, err := Remove(t.Context(), "unix://"+filepath.Join(t.TempDir(), "none"), wanted.Bridge, false); err != nil || got != nil {
		t.Errorf("without Docker: %v, %v", got, err)
	}
}
