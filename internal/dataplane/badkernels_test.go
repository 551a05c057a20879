// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"kohaku/conf"
)

func TestParseVersion(t *testing.T) {
	for release, want := range map[string]version{
		"6.18.44-fc-v509":          {6, 18, 44},
		"6.1.0-18-amd64":           {6, 1, 0},
		"5.15.0-1234-generic":      {5, 15, 0},
		"7.1-rc3":                  {7, 1, 0},
		"7.0.2-6-pve":              {7, 0, 2},
		"4.18.0-553.el8_10.x86_64": {4, 18, 0},
		"6.6.44+":                  {6, 6, 44},
		"6":                        {6, 0, 0},
		"":                         {},
		"six":                      {},
		"6.x.9":                    {6, 0, 0},
		"99999999999999999999.1.2": {9223372036854775807, 1, 2},
	} {
		if got := parseVersion(release); got != want {
			t.Errorf("%q: %v, want %v", release, got, want)
		}
	}
}

func TestBadKernels(t *testing.T) {
	all := conf.Offloads{TSO: true, USO: true, UDPGSO: true, UDPGRO: true}
	for release, off := range map[string]string{
		"5.15.164":        "",
		"5.15.165":        "tso",
		"6.1.102":         "",
		"6.1.103-unraid":  "tso",
		"6.2.0":           "uso",
		"6.6.43":          "uso",
		"6.6.44":          "tso uso",
		"6.6.47":          "uso",
		"6.8.4":           "uso",
		"6.8.5":           "",
		"6.10.3":          "tso",
		"6.11.0":          "",
		"6.18.44-fc-v509": "",
		"7.0.0":           "udp_gso",
		"7.0.2-6-pve":     "udp_gso",
		"7.1.4":           "udp_gso",
		"7.1.5":           "",
		"7.2.0":           "",
		"unheard of":      "",
	} {
		got, found := judge(release, all)
		var names []string
		for _, b := range found {
			names = append(names, b.offload)
			if b.why == "" || !strings.HasPrefix(b.source, "https://") || !b.first.less(b.fixed) {
				t.Errorf("%s: incomplete entry %+v", release, b)
			}
		}
		if strings.Join(names, " ") != off {
			t.Errorf("%s: off are %q, want %q", release, names, off)
		}
		want := conf.Offloads{
			TSO: !strings.Contains(off, "tso"), USO: !strings.Contains(off, "uso"),
			UDPGSO: !strings.Contains(off, "udp_gso"), UDPGRO: true,
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", release, got, want)
		}
		trusting := all
		trusting.TrustKernel = true
		if got, found := judge(release, trusting); got != trusting || found != nil {
			t.Errorf("%s, trusted: %+v, %v", release, got, found)
		}
		if got, found := judge(release, conf.Offloads{}); got != (conf.Offloads{}) || found != nil {
			t.Errorf("%s, nothing wanted: %+v, %v", release, got, found)
		}
	}
}

// This kernel is on the list or it is not; what is off was said.
func TestOffloadsOfThisKernel(t *testing.T) {
	var log bytes.Buffer
	all := conf.Offloads{TSO: true, USO: true, UDPGSO: true, UDPGRO: true}
	got := Offloads(all, slog.New(slog.NewTextHandler(&log, nil)))
	if (got == all) != (log.Len() == 0) {
		t.Errorf("%+v, and the log says %q", got, log.String())
	}
}
