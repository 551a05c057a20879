// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// ensure makes the network what it must be. It returns the addresses in use on it,
// nil when they are not known. The error is a sentence for a person.
func (s *session) ensure(ctx context.Context, want Network) (used []netip.Addr, err error) {
	if err := s.dropRenamed(ctx, want); err != nil {
		return nil, err
	}
	have, err := s.find(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	if have == nil {
		return s.make(ctx, want, "missing")
	}
	all, err := s.attached(ctx, *have)
	if err != nil {
		return nil, err
	}
	if !want.ours(have.Network) {
		return nil, fmt.Errorf("the Docker network %s (driver %s) was not made for the overlay and is left alone: containers on it are not in the overlay "+
			"(remove it: docker network rm %[1]s; or set another network_name in the [overlay] section)", want.Name, have.Driver)
	}
	diff := want.differences(have.Network, s.version)
	if len(diff) == 0 {
		s.tried = ""
		return all.addrs(), nil
	}
	text := strings.Join(diff, "; ")
	switch {
	case len(all) > 0:
		return all.addrs(), fmt.Errorf("the Docker network %s is wrong and in use, so it is left: %s; attached: %s "+
			"(remove those containers, stopped ones too, with docker rm -f, or detach them with docker network disconnect -f %[1]s NAME; "+
			"the network is then made anew at once, and they can be started again)", want.Name, text, all)
	case s.tried == text:
		return nil, fmt.Errorf("the Docker network %s is wrong although it was just made: %s "+
			"(does default-network-opts in /etc/docker/daemon.json set something else?)", want.Name, text)
	}
	s.cfg.Log.Warn("the Docker network is wrong, nothing is attached to it, and it is made anew", "network", want.Name, "wrong", text)
	if _, err := s.c.NetworkRemove(ctx, have.ID, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("remove the wrong Docker network %s (%s): %w", want.Name, text, err)
	}
	return s.make(ctx, want, "wrong")
}

// make makes the network and looks at what came of it.
func (s *session) make(ctx context.Context, want Network, was string) ([]netip.Addr, error) {
	if err := s.cfg.Bridge(); err != nil {
		return nil, fmt.Errorf("make the Docker network %s: its bridge %s is not there: %w", want.Name, want.Bridge, err)
	}
	made, err := s.c.NetworkCreate(ctx, want.Name, want.create(s.version))
	if err != nil {
		return nil, fmt.Errorf("make the Docker network %s: %w%s", want.Name, err, s.inTheWay(ctx, want))
	}
	s.cfg.Log.Info("Docker network is made", "network", want.Name, "was", was, "subnet", want.Subnet, "bridge", want.Bridge, "mtu", want.MTU)
	have, err := s.c.NetworkInspect(ctx, made.ID, client.NetworkInspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("look at the Docker network %s: %w", want.Name, err)
	}
	if diff := want.differences(have.Network.Network, s.version); len(diff) > 0 {
		s.tried = strings.Join(diff, "; ")
		return nil, fmt.Errorf("the Docker network %s was made and came out wrong: %s "+
			"(does default-network-opts in /etc/docker/daemon.json set something else?)", want.Name, s.tried)
	}
	s.tried = ""
	return []netip.Addr{}, nil
}

// find gives the network of a name, nil when there is none. The engine's filter
// takes any name that contains the text.
func (s *session) find(ctx context.Context, name string) (*network.Inspect, error) {
	list, err := s.c.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("name", name)})
	if err != nil {
		return nil, fmt.Errorf("list the Docker networks: %w", err)
	}
	var ids []string
	for _, n := range list.Items {
		if n.Name == name {
			ids = append(ids, n.ID)
		}
	}
	switch len(ids) {
	case 0:
		return nil, nil
	case 1:
	default:
		return nil, fmt.Errorf("there are %d Docker networks called %s: %s (remove all but one: docker network rm ID)", len(ids), name, strings.Join(ids, ", "))
	}
	got, err := s.c.NetworkInspect(ctx, ids[0], client.NetworkInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at the Docker network %s: %w", name, err)
	}
	return &got.Network, nil
}

// dropRenamed removes networks that were made here under another name, which
// network_name had before: they hold the bridge.
func (s *session) dropRenamed(ctx context.Context, want Network) error {
	list, err := s.c.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("label", Label+"="+labelValue)})
	if err != nil {
		return fmt.Errorf("list the Docker networks: %w", err)
	}
	for _, n := range list.Items {
		if n.Name == want.Name {
			continue
		}
		have, err := s.find(ctx, n.Name)
		if err != nil || have == nil {
			return err
		}
		all, err := s.attached(ctx, *have)
		if err != nil {
			return err
		}
		if len(all) > 0 {
			return fmt.Errorf("the overlay's Docker network was called %s, is to be called %s, and is still in use by %s "+
				"(remove those containers with docker rm -f, or set network_name = %[1]q)", n.Name, want.Name, all)
		}
		if _, err := s.c.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove the Docker network %s, which is now to be called %s: %w", n.Name, want.Name, err)
		}
		s.cfg.Log.Info("Docker network of an earlier name is removed", "network", n.Name)
	}
	return nil
}

// inTheWay names what may have kept a network from being made.
func (s *session) inTheWay(ctx context.Context, want Network) string {
	list, err := s.c.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return ""
	}
	for _, n := range list.Items {
		why := ""
		if n.Options[optBridge] == want.Bridge {
			why = "uses the bridge " + want.Bridge
		}
		for _, c := range n.IPAM.Config {
			if c.Subnet.IsValid() && c.Subnet.Overlaps(want.Subnet) {
				why = "has the subnet " + c.Subnet.String()
			}
		}
		if why != "" && n.Name != want.Name {
			return fmt.Sprintf(" (the Docker network %s %s: remove it with docker network rm %[1]s)", n.Name, why)
		}
	}
	return ""
}
