// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/netip"

	"kohaku/internal/link"
)

// Links is what both daemons change of a machine's network; link.Kernel has it.
type Links interface {
	EnsureMTU(device string, mtu int) (bool, error)
	EnsureAlias(device string, alias link.Alias) (bool, error)
	EnsureAddrs(device string, want []netip.Prefix, stale func(netip.Prefix) bool) (bool, error)
	EnsureNoQueue(device string) (bool, error)
	EnsureUp(device string) (bool, error)
	EnsureSysctl(path, value string) (bool, error)
	Delete(device string) error
}

// CountedLinks passes everything on to Links, and counts in Set what changed
// something. A daemon embeds it beside what else it needs, one level above that.
type CountedLinks struct {
	Links Links
	Set   *Set
}

// EnsureMTU is Links'.
func (l CountedLinks) EnsureMTU(device string, mtu int) (bool, error) {
	return l.Set.Changed("mtu")(l.Links.EnsureMTU(device, mtu))
}

// EnsureAlias is Links'.
func (l CountedLinks) EnsureAlias(device string, alias link.Alias) (bool, error) {
	return l.Set.Changed("alias")(l.Links.EnsureAlias(device, alias))
}

// EnsureAddrs is Links'.
func (l CountedLinks) EnsureAddrs(device string, want []netip.Prefix, stale func(netip.Prefix) bool) (bool, error) {
	return l.Set.Changed("address")(l.Links.EnsureAddrs(device, want, stale))
}

// EnsureNoQueue is Links'.
func (l CountedLinks) EnsureNoQueue(device string) (bool, error) {
	return l.Set.Changed("queueing")(l.Links.EnsureNoQueue(device))
}

// EnsureUp is Links'.
func (l CountedLinks) EnsureUp(device string) (bool, error) {
	return l.Set.Changed("up")(l.Links.EnsureUp(device))
}

// EnsureSysctl is Links'.
func (l CountedLinks) EnsureSysctl(path, value string) (bool, error) {
	return l.Set.Changed("sysctl")(l.Links.EnsureSysctl(path, value))
}

// Delete is Links'.
func (l CountedLinks) Delete(device string) error {
	_, err := l.Set.Changed("device_delete")(true, l.Links.Delete(device))
	return err
}
