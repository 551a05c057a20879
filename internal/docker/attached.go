// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// user is a container on the network, running or not.
type user struct {
	name string
	addr netip.Addr // zero: gets one when it starts
}

// users are all that would miss the network: a stopped container, too, remembers
// it by its id and could not be started on another of the same name.
type users []user

// attached finds a network's users. The network itself knows those that run, the
// list of containers also those that do not, with the addresses that a person
// chose for them.
func (s *session) attached(ctx context.Context, n network.Inspect) (users, error) {
	by := make(map[string]user)
	for id, e := range n.Containers {
		by[id] = user{cmp.Or(e.Name, id), e.IPv4Address.Addr()}
	}
	list, err := s.c.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("network", n.Name, n.ID),
	})
	if err != nil {
		return nil, fmt.Errorf("list the containers on the Docker network %s: %w", n.Name, err)
	}
	for _, c := range list.Items {
		if _, ok := by[c.ID]; ok {
			continue
		}
		u := user{name: c.ID}
		if len(c.Names) > 0 {
			u.name = strings.TrimPrefix(c.Names[0], "/")
		}
		if c.NetworkSettings != nil {
			if e := c.NetworkSettings.Networks[n.Name]; e != nil && e.IPAMConfig != nil {
				u.addr = e.IPAMConfig.IPv4Address
			}
		}
		by[c.ID] = u
	}
	all := make(users, 0, len(by))
	for _, u := range by {
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b user) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// addrs are the addresses in use; never nil.
func (u users) addrs() []netip.Addr {
	out := []netip.Addr{}
	for _, one := range u {
		if one.addr.IsValid() {
			out = append(out, one.addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// String names the first few.
func (u users) String() string {
	const most = 5
	var names []string
	for _, one := range u[:min(len(u), most)] {
		names = append(names, one.name)
	}
	text := strings.Join(names, ", ")
	if len(u) > most {
		text += fmt.Sprintf(" and %d more", len(u)-most)
	}
	return text
}
