// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kohaku/internal/dataplane"
	"kohaku/tun"
	"kohaku/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// freePort finds a UDP port that nobody uses at the moment.
func freePort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func TestEngineAsPlane(t *testing.T) {
	plane, err := dataplane.System{}.NewPlane(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	defer plane.Close()
	device := tuntest.New(tuntest.Config{Name: "vxkr1", MAC: [6]byte{2, 0, 0, 0, 0, 1}})
	peer := dataplane.Peer{Remote: netip.MustParseAddr("127.0.0.2")}
	if err := plane.Add(dataplane.Tunnel{VNI: 101, Peer: peer, Device: device}); err != nil {
		t.Fatal(err)
	}
	if err := plane.Update(101, dataplane.Peer{Remote: netip.MustParseAddr("127.0.0.3")}); err != nil {
		t.Error(err)
	}
	if err := plane.Update(102, peer); err == nil {
		t.Error("a tunnel that does not exist was updated")
	}
	if all := plane.Tunnels(); len(all) != 1 || all[0].VNI != 101 || all[0].Device != "vxkr1" || all[0].Err != "" {
		t.Errorf("tunnels %+v", all)
	}
	device.Fail()
	select {
	case f := <-plane.Failures():
		if f.VNI != 101 || f.Device != "vxkr1" || !errors.Is(f.Err, tun.ErrGone) {
			t.Errorf("failure %+v", f)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the death of a device was not reported")
	}
	if all := plane.Tunnels(); len(all) != 1 || all[0].Err == "" {
		t.Errorf("tunnels after it: %+v", all)
	}
	for range 2 {
		if err := plane.Remove(101); err != nil {
			t.Error(err)
		}
	}
	if !device.Closed() {
		t.Error("the device is still open")
	}
}

func TestPlaneClosesWithAFailureUnread(t *testing.T) {
	plane, err := dataplane.System{}.NewPlane(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	device := tuntest.New(tuntest.Config{Name: "vxkr1", MAC: [6]byte{2, 0, 0, 0, 0, 1}})
	if err := plane.Add(dataplane.Tunnel{VNI: 101, Peer: dataplane.Peer{Remote: netip.MustParseAddr("127.0.0.2")}, Device: device}); err != nil {
		t.Fatal(err)
	}
	device.Fail()
	if err := plane.Close(); err != nil {
		t.Error(err)
	}
}
