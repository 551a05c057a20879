// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"kohaku/conf"
	"kohaku/engine"
	"kohaku/internal/dataplane"
	"kohaku/internal/dataplane/dataplanetest"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
)

// A device of ours of the other kind is made anew; what is not ours is left alone.
func TestOpenKinds(t *testing.T) {
	for _, c := range []struct {
		have, alias, want string
		up                bool
		anew, foreign     bool
	}{
		{have: "", want: "tap"},
		{have: "", want: "tun"},
		{have: "tap", alias: "kohaku v=1", want: "tap"},
		{have: "tun", alias: "kohaku v=1", want: "tun"},
		{have: "tap", alias: "kohaku v=1", want: "tun", anew: true},
		{have: "tun", alias: "kohaku v=1", want: "tap", anew: true},
		{have: "tun", alias: "kohaku v=1", want: "", anew: true}, // unset is a TAP
		{have: "tap", up: true, want: "tap", foreign: true},
		{have: "tun", up: true, want: "tap", foreign: true},
		{have: "tap", alias: "somebody's", want: "tun", foreign: true},
	} {
		k := linktest.NewFake(netip.MustParseAddr("192.0.2.1"), 1500)
		if c.have != "" {
			k.Put(link.Info{Name: "vxkr1", Type: c.have, Alias: c.alias, Up: c.up})
		}
		var log bytes.Buffer
		d, err := dataplane.Open(dataplanetest.NewMachine(k), k, slog.New(slog.NewTextHandler(&log, nil)),
			dataplane.Device{Kind: c.want, Name: "vxkr1", MTU: 1450})
		var foreign *link.ForeignError
		if c.foreign != errors.As(err, &foreign) || !c.foreign && (err != nil || d == nil) {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		kind := c.want
		if kind == "" {
			kind = conf.DeviceTAP
		}
		if c.foreign {
			kind = c.have
		}
		info, _ := k.Get("vxkr1")
		if info.Type != kind || strings.Contains(log.String(), "made anew") != c.anew {
			t.Errorf("%+v: it is a %s now; the log says %q", c, info.Type, log.String())
		}
	}
}

func TestOuter(t *testing.T) {
	got := dataplane.Outer(conf.Engine{TTL: 9, TOS: conf.TOS{Value: 8, Inherit: true}, DF: true})
	if got != (engine.Outer{TTL: 9, TOS: 8, InheritTOS: true, DF: true}) {
		t.Errorf("%+v", got)
	}
}
