// SPDX-License-Identifier: Apache-2.0

// Package firewall keeps this machine's packet filters from standing in the
// overlay's way, in three layers:
//
//   - iptables, in the variant that the machine uses (nf_tables or legacy) and in the
//     other one as well when somebody has rules there: forwarded traffic of the
//     overlay is accepted before any other rule of FORWARD looks at it; what leaves
//     the overlay on a Runner is masqueraded; VXLAN is let in where INPUT would drop
//     it;
//   - firewalld, where it runs: the overlay's devices stand in its trusted zone, and
//     the underlay's zone lets VXLAN in;
//   - nftables chains of others, where a drop is final whatever other chains accept:
//     these are read, never written, and reported with what to add to them.
//
// Every iptables rule of ours carries the comment "kohaku", every rule in firewalld
// the priority that only ours have. Nothing else is ever changed. Only IPv4 is
// forwarded: the overlay has no IPv6 of its own, and an IPv6 underlay needs INPUT
// alone.
package firewall

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"kohaku/internal/api"
)

// Comment marks our iptables rules.
const Comment = "kohaku"

// ErrNoIPTables is matched by the error of a machine without the iptables program.
var ErrNoIPTables = errors.New("the iptables program is not installed")

// Rules is what a machine of the cluster needs.
type Rules struct {
	Overlay netip.Prefix
	// Masquerade hides the overlay's addresses from the outside; for Runners.
	Masquerade bool
	// Port is the UDP port of VXLAN; 0: nothing is let in.
	Port uint16
	// Peer is the only machine that VXLAN comes from; the zero Addr: there are
	// many, and the engine tells them apart.
	Peer netip.Addr
	// Trusted are our devices, for firewalld's trusted zone.
	Trusted []string
	// Underlay are the devices that VXLAN arrives by, for firewalld.
	Underlay []string
}

// Equal reports whether both ask for the same.
func (r Rules) Equal(o Rules) bool {
	return r.Overlay == o.Overlay && r.Masquerade == o.Masquerade && r.Port == o.Port && r.Peer == o.Peer &&
		slices.Equal(r.Trusted, o.Trusted) && slices.Equal(r.Underlay, o.Underlay)
}

// Firewall keeps the rules of one network namespace. It is safe for concurrent use.
type Firewall struct {
	log       *slog.Logger // constant
	namespace *namespace   // constant
	tables    *keeper      // constant: iptables
	zones     *keeper      // constant: firewalld

	mu        sync.Mutex
	want      Rules
	wanted    bool // want was set
	watching  bool
	history   []api.FirewallEvent
	repairs   uint64 // events since the start
	obstacles obstacles
}

// New makes a Firewall that acts on the network namespace of the calling thread,
// whatever thread its methods are called on later. Nothing is changed yet.
func New(log *slog.Logger) *Firewall {
	f := &Firewall{log: log, namespace: currentNamespace()}
	z := newZones()
	f.tables, f.zones = newKeeper("iptables", newTables(), ownProgram), newKeeper("firewalld", z, func(string) bool { return true })
	z.changed = f.zones.note
	return f
}

// Ensure makes r the rules that this machine has from now on, and brings them about
// before it returns. It reports what it changed, one sentence each; nothing when all
// was in place. The error says what is wrong now: a layer that could not be brought
// about, or somebody else's chain that stands in the way.
//
// While Watch runs and r is what it looks after already, nothing is looked at again:
// the error is what Watch found last.
func (f *Firewall) Ensure(r Rules) (changes []string, err error) {
	f.mu.Lock()
	known := f.wanted && f.watching && f.want.Equal(r)
	f.want, f.wanted = r, true
	f.mu.Unlock()
	if known {
		return nil, f.problems()
	}
	for _, k := range []*keeper{f.tables, f.zones} {
		p := f.pass(context.Background(), k, r)
		changes = append(changes, p.changes...)
	}
	f.inspect(r, true)
	return changes, f.problems()
}

// Watch notices what others change of our rules and puts it back, until ctx ends.
func (f *Firewall) Watch(ctx context.Context) {
	f.setWatching(true)
	defer f.setWatching(false)
	var running sync.WaitGroup
	running.Go(func() { f.listen(ctx) })
	running.Go(func() { f.keep(ctx, f.tables) })
	running.Go(func() { f.keep(ctx, f.zones) })
	running.Wait()
	f.tables.close()
	f.zones.close()
}

func (f *Firewall) setWatching(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watching = on
}

// Report says which layers are in use, and what others did to our rules of late.
func (f *Firewall) Report() api.Firewall {
	backends := append(f.tables.inUse(), f.zones.inUse()...)
	f.mu.Lock()
	defer f.mu.Unlock()
	return api.Firewall{Backends: backends, Events: slices.Clone(f.history)}
}

// Repairs counts the times, since the start, that rules of ours had vanished and
// were put back.
func (f *Firewall) Repairs() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.repairs
}

// Remove deletes all rules of ours on this machine, whatever their configuration,
// and reports what it removed. Call it while no Watch runs.
func (f *Firewall) Remove() (changes []string, err error) {
	f.mu.Lock()
	f.want, f.wanted = Rules{}, false
	f.mu.Unlock()
	var errs []error
	for _, k := range []*keeper{f.tables, f.zones} {
		done, err := k.remove(f.namespace)
		changes = append(changes, done...)
		errs = append(errs, err)
		k.close()
	}
	return changes, joinSentences(errs)
}

// problems is what is wrong now.
func (f *Firewall) problems() error {
	tables, zones := f.tables.failure(), f.zones.failure()
	f.mu.Lock()
	defer f.mu.Unlock()
	return joinSentences(append(f.obstacles.err(tables), zones))
}

// target is what to look after.
func (f *Firewall) target() (Rules, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.want, f.wanted
}

// maxHistory bounds the events that are kept.
const maxHistory = 16

// record keeps an event and writes the one line that tells of it.
func (f *Firewall) record(e api.FirewallEvent) {
	verb := "rules of ours had vanished from the firewall and are back"
	if e.What == api.FirewallDisplaced {
		verb = "others' rules had come before ours in the firewall; ours are first again"
	}
	back := time.Duration(e.BackAfter * float64(time.Second)).Round(time.Millisecond)
	f.log.Warn(verb, "rules", e.Lost, "by", e.By, "after", back, "at_most", e.AtMost)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repairs++
	f.history = append(f.history, e)
	if len(f.history) > maxHistory {
		f.history = slices.Delete(f.history, 0, len(f.history)-maxHistory)
	}
}

// sentences are several errors that read as one line.
type sentences []error

func (s sentences) Error() string {
	var b strings.Builder
	for i, err := range s {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

func (s sentences) Unwrap() []error { return s }

func joinSentences(errs []error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return sentences(errs)
}
