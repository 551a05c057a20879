// SPDX-License-Identifier: Apache-2.0

// Package reset takes away from a machine what the daemons made of it: the Docker
// network, firewall rules and devices that carry our mark, and nothing else.
package reset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"kohaku/conf"
	"kohaku/internal/docker"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
)

// Links is what is needed of this machine's network; link.Kernel has it.
type Links interface {
	Devices() ([]link.Info, error)
	AtWork() ([]string, error)
	Delete(device string) error
}

// Firewall is what is needed of this machine's firewall; firewall.Firewall has it.
type Firewall interface {
	Mine(context.Context) ([]string, error)
	Remove() ([]string, error)
}

// Options are the surroundings. Zero fields mean the real ones.
type Options struct {
	DryRun       bool   // change nothing
	DockerSocket string // "": DOCKER_HOST or the usual one
	Links        Links
	Firewall     Firewall
	// Docker removes the networks on a bridge; see docker.Remove.
	Docker func(ctx context.Context, socket, bridge string, dry bool) ([]docker.Removal, error)
}

// Kinds of things.
const (
	KindDocker   = "docker network"
	KindFirewall = "firewall"
	KindDevice   = "device"
)

// Thing is one thing of ours.
type Thing struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Gone: it was removed, or in a dry run would be.
	Gone bool `json:"gone"`
	// Why it stays.
	Why string `json:"why,omitempty"`
}

// AtWorkError says that a daemon would only make anew what is removed.
type AtWorkError struct{ Devices []string }

func (e *AtWorkError) Error() string {
	return "a kohaku daemon is at work on " + strings.Join(e.Devices, ", ")
}

// ErrLeft is what Run ends with when something of ours is left.
var ErrLeft = errors.New("not all of it could be removed")

// Run removes everything of ours and tells of each thing what became of it. It
// removes nothing while a daemon is at work (*AtWorkError). What cannot be removed
// is told with the reason, and the rest is removed all the same; the error is then
// ErrLeft.
func Run(ctx context.Context, o Options) ([]Thing, error) {
	if o.Links == nil {
		o.Links = link.Kernel{}
	}
	if o.Firewall == nil {
		o.Firewall = firewall.New(slog.New(slog.DiscardHandler))
	}
	if o.Docker == nil {
		o.Docker = docker.Remove
	}
	if !o.DryRun {
		busy, err := o.Links.AtWork()
		if err != nil {
			return nil, err
		}
		if len(busy) > 0 {
			return nil, &AtWorkError{busy}
		}
	}
	r := run{Options: o}
	// Docker first: it holds the bridge. Devices last: what is left of the others
	// may need them.
	inUse := r.docker(ctx)
	r.firewall(ctx)
	r.devices(inUse)
	for _, t := range r.things {
		if !t.Gone {
			return r.things, ErrLeft
		}
	}
	return r.things, nil
}

type run struct {
	Options
	things []Thing
}

func (r *run) add(kind, name string, err error) {
	t := Thing{Kind: kind, Name: name, Gone: err == nil}
	if err != nil {
		t.Why = err.Error()
	}
	r.things = append(r.things, t)
}

// docker reports whether a network on our bridge stays.
func (r *run) docker(ctx context.Context) (stays bool) {
	done, err := r.Docker(ctx, r.DockerSocket, conf.BridgeDevice, r.DryRun)
	if err != nil {
		r.add(KindDocker, conf.DockerNetwork, err)
	}
	for _, d := range done {
		r.add(KindDocker, d.Network, d.Err)
		stays = stays || d.Err != nil
	}
	return stays
}

func (r *run) firewall(ctx context.Context) {
	rules, err := r.Firewall.Mine(ctx)
	if !r.DryRun {
		_, err = r.Firewall.Remove()
	}
	for _, rule := range rules {
		r.add(KindFirewall, rule, nil)
	}
	if err != nil && !errors.Is(err, firewall.ErrNoIPTables) {
		r.add(KindFirewall, "rules with the comment "+firewall.Comment, err)
	}
}

func (r *run) devices(bridgeInUse bool) {
	all, err := r.Links.Devices()
	if err != nil {
		r.add(KindDevice, "all", err)
		return
	}
	var bridge *link.Info
	for _, d := range all {
		switch {
		case !link.OurName(d.Name) || !link.IsOurs(d.Alias):
		case d.Name == conf.BridgeDevice:
			bridge = &d
		default:
			r.delete(d.Name)
		}
	}
	if bridge == nil {
		return
	}
	// Whatever Docker says: a container's end on the bridge is one.
	var ports []string
	for _, d := range all {
		if d.Master == bridge.Index && !link.OurName(d.Name) {
			ports = append(ports, d.Name)
		}
	}
	switch {
	case len(ports) > 0:
		r.add(KindDevice, bridge.Name, fmt.Errorf("it is in use by %s (containers?)", strings.Join(ports, ", ")))
	case bridgeInUse:
		r.add(KindDevice, bridge.Name, errors.New("a Docker network is on it"))
	default:
		r.delete(bridge.Name)
	}
}

func (r *run) delete(name string) {
	var err error
	if !r.DryRun {
		err = r.Links.Delete(name)
	}
	r.add(KindDevice, name, err)
}
