// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/internal/endpoint"
	"kohaku/internal/lab"
	"kohaku/perf"
)

// TestUserspaceClient measures every mode from a TCP/IP stack in this process,
// through an engine without any device, against a perf server behind a kernel
// VXLAN device.
//
//	this process (stack, engine) -- runner1:eth0 -- switch -- runner2:eth0 -- VXLAN -- perf server
func TestUserspaceClient(t *testing.T) {
	o := &Options{Program: self}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	b, err := newBench(t.Context(), o, Hop, Wire)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	var own tunnelEnd
	ends, err := b.tunnelled(netKernel, innerMTU(), func(i int, ends []tunnelEnd) error {
		if i == 0 {
			own = ends[0]
			return nil
		}
		end := ends[0]
		err := b.hosts[i].AddKernelVXLAN(lab.KernelVXLAN{Name: end.Device, VNI: end.VNI, Local: end.Local, Remote: end.Remote, MTU: end.MTU})
		if err != nil {
			return err
		}
		return b.hosts[i].AddAddr(end.Device, end.Address)
	})
	if err != nil {
		t.Fatal(err)
	}
	var e *endpoint.Endpoint
	err = b.hosts[0].Do(func() (err error) {
		e, err = endpoint.Open(endpoint.Config{
			VNI: encap.VNI(own.VNI), Remote: own.Remote, Local: own.Local, Addrs: []netip.Prefix{own.Address},
			UDPGSO: true, UDPGRO: true,
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := b.serve(ends.to); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]perf.ClientConfig{
		"TCP":             {Streams: 2},
		"TCP, reverse":    {Reverse: true},
		"TCP, both ways":  {Bidir: true},
		"TCP, at a rate":  {Rate: 20e6},
		"UDP":             {UDP: true, Length: 1400, Rate: 20e6},
		"UDP, reverse":    {UDP: true, Length: 1400, Rate: 20e6, Reverse: true},
		"round trips":     {UDP: true, Mode: perf.RoundTrip},
		"TCP round trips": {Mode: perf.RoundTrip},
		"connections":     {Mode: perf.Connect},
	} {
		cfg.Server, cfg.Duration, cfg.Dial = ends.to.String(), 300*time.Millisecond, e.DialContext
		r, err := perf.RunClient(t.Context(), cfg)
		for err == nil && cfg.UDP && cfg.Mode == perf.Throughput && cfg.Duration < 5*time.Second && r.Streams[0].Received.Datagrams == 0 {
			cfg.Duration *= 4 // a machine that is busy may sleep through a short one
			r, err = perf.RunClient(t.Context(), cfg)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if cfg.Mode != perf.Throughput {
			if r.Latency == nil || r.Latency.Count == 0 || r.Latency.P50 <= 0 {
				t.Errorf("%s: %+v", name, r.Latency)
			}
			continue
		}
		for _, s := range r.Streams {
			if s.Received.Bytes == 0 || s.Sent.Bytes == 0 {
				t.Errorf("%s: stream %d: sent %+v, received %+v", name, s.ID, s.Sent, s.Received)
			}
			if cfg.UDP && s.Received.Datagrams == 0 {
				t.Errorf("%s: no datagrams arrived: %+v; the tunnel: %+v", name, s.Received, e.Stats())
			}
		}
	}
	if s := e.Stats(); s.Tx.Frames == 0 || s.Rx.Frames == 0 {
		t.Errorf("the measurements did not go through the tunnel: %+v", s)
	}
}

// TestPeers measures over each tunnel program of others that is installed, in
// both topologies.
func TestPeers(t *testing.T) {
	var peers []string
	names, missing := DataPaths()
	for _, n := range names {
		if n != Veth && n != Kernel && n != Userspace && missing[n] == "" {
			peers = append(peers, n)
		}
	}
	if len(peers) == 0 {
		return // they are not needed for anything else: TestRun says that they are listed as missing
	}
	r, err := Run(t.Context(), Options{
		DataPaths: peers, Profiles: []string{Wire}, Workloads: []string{"tcp1", "rr"}, Rounds: 1, Program: self,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Measurements {
		if m.Rounds != 1 || m.Value <= 0 {
			t.Errorf("%+v: value %v, error %q", m.key(), m.Value, m.Error)
		}
	}
}
