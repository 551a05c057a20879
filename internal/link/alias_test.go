// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"kohaku/conf"
)

const machineID = "0123456789abcdef0123456789abcdef"

var full = Alias{
	VNI: 101, Remote: netip.MustParseAddr("192.168.88.61"), Runner: "node1", Machine: machineID,
	Subnet: conf.MustParsePlan("10.0.0.0/8/8/16"), ID: 1, Port: 4789,
}

const fullText = "kohaku v1 vni=101 remote=192.168.88.61 runner=node1 machine=" + machineID +
	" subnet=10.0.0.0/8/8/16 id=1 port=4789"

func TestAliasText(t *testing.T) {
	cases := map[string]Alias{
		fullText:                       full,
		"kohaku v1":                    {},
		"kohaku v1 vni=101 runner=n-1": {VNI: 101, Runner: "n-1"},
		"kohaku v1 remote=2001:db8::1": {Remote: netip.MustParseAddr("2001:db8::1")},
		"kohaku v1 vni=16777215":       {VNI: 1<<24 - 1},
	}
	for text, alias := range cases {
		if got := alias.String(); got != text {
			t.Errorf("String() = %q, want %q", got, text)
		}
		if got, err := ParseAlias(text); err != nil || got != alias {
			t.Errorf("ParseAlias(%q) = %+v, %v", text, got, err)
		}
	}
}

func TestAliasFitsTheKernel(t *testing.T) {
	longest := Alias{
		VNI: 1<<24 - 1, Remote: netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666"),
		Runner: strings.Repeat("a", 63) + "b", Machine: machineID,
		Subnet: conf.MustParsePlan("100.127.240.0/20/1/11"), ID: 1<<16 - 1, Port: 1<<16 - 1,
	}
	longest.Runner = strings.Repeat("a", 31) + "." + strings.Repeat("b", 32)
	text := longest.String()
	if len(text) > MaxAlias {
		t.Errorf("the longest alias has %d bytes", len(text))
	}
	if got, err := ParseAlias(text); err != nil || got != longest {
		t.Errorf("ParseAlias(%q) = %+v, %v", text, got, err)
	}
}

func TestAliasRefused(t *testing.T) {
	for _, text := range []string{
		"kohaku", "kohaku ", "kohaku v2 vni=1", "kohaku v1 ", "kohaku v1  vni=1", "kohaku v1 vni=0", "kohaku v1 vni=16777216",
		"kohaku v1 vni=01", "kohaku v1 vni=+1", "kohaku v1 vni=1 vni=1", "kohaku v1 runner=a vni=1", "kohaku v1 vni",
		"kohaku v1 remote=::ffff:192.0.2.1", "kohaku v1 remote=fe80::1%eth0", "kohaku v1 remote=0.0.0.0",
		"kohaku v1 remote=224.0.0.1", "kohaku v1 runner=A", "kohaku v1 runner=a_b", "kohaku v1 runner=", "kohaku v1 machine=12",
		"kohaku v1 subnet=10.0.0.0/8", "kohaku v1 colour=red", "kohaku v1 id=0", "kohaku v1 port=65536", "kohaku v1 vni=1\n",
		"kohaku v1 runner=" + strings.Repeat("a.", 150),
	} {
		if a, err := ParseAlias(text); err == nil {
			t.Errorf("ParseAlias(%q) = %+v, want an error", text, a)
		} else if errors.Is(err, ErrForeignAlias) {
			t.Errorf("ParseAlias(%q) calls it foreign", text)
		}
	}
	for _, text := range []string{"", "eth0 of the rack", "kohakuriver", "kohakuv1"} {
		if _, err := ParseAlias(text); !errors.Is(err, ErrForeignAlias) {
			t.Errorf("ParseAlias(%q): %v, want ErrForeignAlias", text, err)
		}
	}
}

func FuzzParseAlias(f *testing.F) {
	f.Add(fullText)
	f.Add("kohaku v1")
	f.Add("kohaku v1 vni=101 remote=2001:db8::1")
	f.Add("kohaku v1 vni=1 vni=2")
	f.Add("uplink")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAlias(text)
		if err != nil {
			return
		}
		if !IsOurs(text) || len(text) > MaxAlias {
			t.Fatalf("accepted %q", text)
		}
		if a.String() != text {
			t.Fatalf("%q came back as %q", text, a.String())
		}
	})
}
