// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"errors"
	"fmt"
	"net/netip"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/docker"
	"kohaku/internal/link"
)

// openDocker prepares the keeper of the Docker network. Docker need not be there.
func (r *Runner) openDocker() (err error) {
	if !r.cfg.Docker.Enabled || !r.cfg.Overlay.Enabled {
		return nil
	}
	if r.docker = r.opts.Docker; r.docker == nil {
		k, err := docker.New(docker.Config{Socket: r.cfg.Docker.Socket, Log: r.log, Problems: r.problems, Bridge: r.bridgeForDocker})
		if err != nil {
			return err
		}
		r.docker = k
	}
	return nil
}

// bridgeForDocker makes sure that the bridge is there before Docker is told of it.
func (r *Runner) bridgeForDocker() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shape.id == 0 {
		return errors.New("not joined yet")
	}
	return r.ensureBridge(r.shape)
}

// serveContainers tells Docker and the server of facts what was built. Guarded by
// mu.
func (r *Runner) serveContainers(s shape) {
	p := s.plan
	if r.docker != nil {
		r.docker.Want(docker.Network{
			Name: r.cfg.Overlay.NetworkName, Bridge: conf.BridgeDevice,
			Subnet: p.Subnet(s.id), Gateway: p.Gateway(s.id), Host: p.HostOn(s.id), MTU: s.mtu,
		})
	}
	r.facts.serve(Facts{
		RunnerName: r.name, RunnerID: s.id, Overlay: p.Overlay(), Subnet: p.Subnet(s.id), Gateway: p.Gateway(s.id),
		Host: p.HostAddr(), MTU: s.mtu, Network: r.cfg.Overlay.NetworkName,
	})
}

// used are the addresses that containers have, as a heartbeat carries them: nil
// while Docker has not told.
func (r *Runner) used(s shape) []netip.Addr {
	if r.docker == nil {
		return []netip.Addr{}
	}
	used, all := api.FitUsed(r.docker.Used(), s.plan.Subnet(s.id))
	var err error
	if !all {
		err = fmt.Errorf("more than %d containers are on the overlay: the Host is told of so many only, and could reserve the address of another one", api.MaxUsedAddresses)
	}
	r.problems.Set("used addresses", err)
	return used
}

// clearBridgeName makes room for the bridge: what has its name and is ours, but no
// bridge, goes; what is somebody else's stays, and the overlay cannot be built. A
// bridge that says nothing is taken: Docker, or a person, made it for us.
func (r *Runner) clearBridgeName() error {
	info, err := r.links.Device(conf.BridgeDevice)
	if errors.Is(err, link.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	switch ours := link.IsOurs(info.Alias); {
	case info.Type == "bridge" && (ours || info.Alias == ""):
		return nil
	case !ours:
		return &link.ForeignError{Device: info}
	}
	r.log.Warn("a device of ours is no bridge and is made anew", "device", info.Name, "type", info.Type)
	return r.links.Delete(info.Name)
}

// keepPorts puts containers back into a bridge that was deleted under them, and
// remembers who is in it. The kernel sets the ports of a deleted bridge free and
// forgets. Guarded by mu.
func (r *Runner) keepPorts() {
	all, err := r.links.Devices()
	if err != nil {
		r.log.Debug("list the ports of the bridge", "error", err)
		return
	}
	byIndex := make(map[int]link.Info, len(all))
	bridge := 0
	for _, d := range all {
		byIndex[d.Index] = d
		if d.Name == conf.BridgeDevice {
			bridge = d.Index
		}
	}
	for _, was := range r.ports {
		is, ok := byIndex[was.Index]
		// A port that left while its bridge stayed was taken out by somebody.
		if !ok || was.Master == bridge || is.Master != 0 || is.Name != was.Name || is.Type != was.Type {
			continue
		}
		if _, err := r.links.EnsureMaster(is.Name, conf.BridgeDevice); err != nil {
			r.log.Warn("a container's device does not go back into the bridge", "device", is.Name, "error", err)
			continue
		}
		r.log.Info("a container's device is back in the bridge", "device", is.Name)
		is.Master = bridge
		byIndex[is.Index] = is
	}
	r.ports = r.ports[:0]
	for _, d := range byIndex {
		if d.Master == bridge && bridge != 0 {
			r.ports = append(r.ports, d)
		}
	}
}
