// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// refusal returns the message for text as host.toml or, with a [runner] table
// or runner keys, as runner.toml.
func refusal(t *testing.T, name, text string) string {
	t.Helper()
	var err error
	if name == "host.toml" {
		_, err = ParseHost(name, []byte(text))
	} else {
		_, err = ParseRunner(name, []byte(text))
	}
	if err == nil {
		t.Errorf("%s parsed:\n%s", name, text)
		return ""
	}
	var e *Error
	if !errors.As(err, &e) || e.File != name || len(e.Problems) == 0 {
		t.Errorf("not an *Error: %#v", err)
	}
	return err.Error()
}

func TestRefusesHostValues(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{`overlay.vxlan_port = 70000`, `: must be 1..65535`},
		{`overlay.vxlan_port = 0`, `: must be 1..65535`},
		{`overlay.vxlan_port = -1`, `: must be 1..65535`},
		{`overlay.vxlan_port = "4789"`, `: must be a whole number without quotes, 1..65535`},
		{`overlay.vxlan_port = 4789.0`, `overlay.vxlan_port = 4789: must be a whole number`},
		{`overlay.vxlan_id = 16777216`, `: must be 0..16777214`},
		{`overlay.vxlan_id = 16776961`, `: must be 0..16776960, so that all 255 runners of overlay.subnet 10.0.0.0/8/8/16 have a VNI of at most 16777215`},
		{`overlay.vxlan_id = 4294967396`, `: must be 0..16777214`},
		{`overlay.mtu = 575`, `: must be 0 (find out) or 576..65471`},
		{`overlay.mtu = 65472`, `: must be 0 (find out) or 576..65471`},
		{`overlay.mtu = -1`, `: must be 0 (find out) or`},
		{`overlay.enabled = "true"`, `: must be true or false, without quotes`},
		{`overlay.enabled = 1`, `: must be true or false`},
		{`overlay.subnet = "10.0.0.0/8"`, `: must be BASE/PREFIX/NODE_BITS/SUBNET_BITS: it has 2 parts instead of the four of BASE/PREFIX/NODE_BITS/SUBNET_BITS; did you mean "10.0.0.0/8/8/16"?`},
		{`overlay.subnet = "10.0.0.0/8/8/15"`, `8+8+15 = 31, must sum to 32; did you mean "10.0.0.0/8/8/16"?`},
		{`overlay.subnet = 10`, `: must be a string in quotes, such as "10.0.0.0/8/8/16"`},
		{`overlay.subnet = ["10.0.0.0/8/8/16"]`, `overlay.subnet = [...]: must be a string`},
		{`overlay.subnet = { base = "x" }`, `overlay.subnet = {...}: must be a string`},
		{`overlay = 3`, `overlay = 3: must be a table, [overlay]`},
		{`overlay = []`, `overlay = [...]: must be a table, [overlay]`},
		{`[[overlay]]`, `overlay = [...]: must be a table, [overlay]`},
		{`engine.offloads = true`, `engine.offloads = true: must be a table, [engine.offloads]`},
		{`host.bind = "8000"`, `: must be ADDRESS:PORT; did you mean "0.0.0.0:8000" or "[::]:8000"?`},
		{`host.bind = ":8000"`, `; did you mean "0.0.0.0:8000" or "[::]:8000"?`},
		{`host.bind = "*:80"`, `; did you mean "0.0.0.0:80" or "[::]:80"?`},
		{`host.bind = "192.168.88.53"`, `; did you mean "192.168.88.53:8000"?`},
		{`host.bind = "fd00::53"`, `; did you mean "[fd00::53]:8000"?`},
		{`host.bind = "[fd00::53]"`, `; did you mean "[fd00::53]:8000"?`},
		{`host.bind = "localhost:8000"`, `; did you mean "127.0.0.1:8000"? A name is not taken here`},
		{`host.bind = "example.org:8000"`, `, such as "0.0.0.0:8000" or "[::]:8000"`},
		{`host.bind = "0.0.0.0:http"`, `, such as "0.0.0.0:8000"`},
		{`host.bind = "0.0.0.0:65536"`, `, such as "0.0.0.0:8000"`},
		{`host.bind = "1.2.3.4:0"`, `: must have a port of 1..65535, such as "1.2.3.4:8000"`},
		{`host.bind = "224.0.0.1:8000"`, `not a multicast address`},
		{`host.bind = "[fe80::1%e h]:8000"`, `: must have a network device behind the %`},
		{`host.bind = "10.1.2.3:8000"`, `: must be outside the overlay 10.0.0.0/8`},
		{`host.bind = 8000`, `: must be a string in quotes, such as "0.0.0.0:8000"`},
		{`host.reachable_address = "127.0.0.1"`, `not a loopback address: tunnels to it would end on the machine they start from`},
		{`host.reachable_address = "::1"`, `not a loopback address`},
		{`host.reachable_address = "::ffff:127.0.0.1"`, `not a loopback address`},
		{`host.reachable_address = "0.0.0.0"`, `not the unspecified one`},
		{`host.reachable_address = "239.0.0.1"`, `not a multicast or broadcast address`},
		{`host.reachable_address = "255.255.255.255"`, `not a multicast or broadcast address`},
		{`host.reachable_address = "fe80::1%eth0"`, `not a link-local IPv6 address`},
		{`host.reachable_address = "192.168.1.5:8000"`, `without a port; did you mean "192.168.1.5"?`},
		{`host.reachable_address = "192.168.1.5/24"`, `without a prefix length; did you mean "192.168.1.5"?`},
		{`host.reachable_address = "my-host"`, `: must be an IPv4 or IPv6 address`},
		{`host.reachable_address = "10.9.8.7"`, `: must be outside the overlay 10.0.0.0/8, as tunnels cannot run inside themselves; write the machine's address on the underlay, or an overlay.subnet that does not cover it, such as "10.128.0.0/9/8/15"`},
		{`host.state_dir = ""`, `: must be an absolute path, such as "/var/lib/kohakuriver"`},
		{`host.state_dir = "~/x"`, `~ and variables are not expanded`},
		{`host.state_dir = "/a\u0000b"`, `host.state_dir = "/a\u0000b": must be a path without control characters`},
		{`host.log_level = "warning"`, `: must be "debug", "info", "warn" or "error"; did you mean "warn"?`},
		{`host.log_level = "DEBUG"`, `; did you mean "debug"?`},
		{`host.metrics = "8003"`, `: must be an address and port of this machine, such as "127.0.0.1:8003", or "off"`},
		{`host.log_level = "loud"`, `: must be "debug", "info", "warn" or "error"`},
		{`heartbeat.interval = 5`, `: must be a string in quotes, such as "5s"`},
		{`heartbeat.interval = "5"`, `: must have a unit; did you mean "5s"?`},
		{`heartbeat.interval = "99ms"`, `: must be "100ms".."1h"`},
		{`heartbeat.interval = "61m"`, `: must be "100ms".."1h"`},
		{`heartbeat.interval = "often"`, `: must be a number with a unit, such as "5s" or "500ms"`},
		{`heartbeat.interval = 07:32:00`, `: must be a string in quotes`},
		{`heartbeat.timeout_factor = 1`, `: must be 2..1000`},
		{`engine.queues = 65`, `: must be 0 (as many as help) or 1..64`},
		{`engine.queues = -1`, `: must be 0 (as many as help) or 1..64`},
		{`engine.fastpath = "on"`, `: must be "auto" or "off"`},
		{`engine.linger = "often"`, `: must be a number with a unit, such as "100us"`},
		{`engine.nice = -21`, `: must be -20..19`},
		{`engine.linger = "11ms"`, `: must be "0s" (not at all) .. "10ms"`},
		{`engine.device = "tunnel"`, `: must be "tap" or "tun"`},
		{`engine.ttl = 256`, `: must be 0 (the system's default) or 1..255`},
		{`engine.tos = 253`, `: must be 0..252 and a multiple of 4 (the two low bits are ECN's), or "inherit"`},
		{`engine.tos = 3`, `: must be 0..252 and a multiple of 4`},
		{`engine.tos = "0x20"`, `: must be a number without quotes, 0..252`},
		{`engine.tos = "inherited"`, `: must be 0..252 and a multiple of 4`},
		{`engine.tos = true`, `: must be 0..252 and a multiple of 4`},
		{`engine.df = "inherit"`, `: must be "unset" or "set"`},
		{`engine.df = true`, `: must be a string in quotes, such as "unset"`},
		{`engine.zero_checksum6 = 1`, `: must be true or false`},
		{`engine.offloads = { tso = 1 }`, `engine.offloads.tso = 1: must be true or false`},
	} {
		got := refusal(t, "host.toml", "# comment\n\n"+c.line+"\n")
		if !strings.HasPrefix(got, "host.toml:3: ") || !strings.HasSuffix(got, c.want) && !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s:\n got %s\nwant host.toml:3: ... %s", c.line, got, c.want)
		}
	}
}

func TestRefusesRunnerValues(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{`runner.host = ""`, `: is required`},
		{`engine.device = "tun"`, `: must be "tap" on a Runner: vxlan0 is a port of the bridge kohaku-overlay`},
		{`runner.host = "http://192.168.88.53:8000/api"`, `: must not be a URL; did you mean "192.168.88.53:8000"?`},
		{`runner.host = "fd00::53:8000"`, `did you mean "[fd00::53]:8000"?`},
		{`runner.host = "192.168.88.53:0"`, `with a port of 1..65535`},
		{`runner.host = "192.168.88.53:99999"`, `with a port of 1..65535`},
		{`runner.host = "192.168.88.300"`, `: must be the Host's ADDRESS:PORT or NAME:PORT`},
		{`runner.host = "a b"`, `: must be the Host's ADDRESS:PORT or NAME:PORT`},
		{`runner.host = "host:"`, `with a port of 1..65535`},
		{`runner.host = ":8000"`, `: must be the Host's ADDRESS:PORT`},
		{`runner.host = "[host]"`, `: must be the Host's ADDRESS:PORT`},
		{`runner.host = "[192.168.1.1"`, `: must be the Host's ADDRESS:PORT`},
		{`runner.host = "0.0.0.0:8000"`, `an address that this machine can connect to`},
		{`runner.host = "://://"`, `: must be the Host's ADDRESS:PORT`},
		{`runner.name = "-x"`, `: must be at most 64 letters`},
		{`runner.name = "` + strings.Repeat("x", 65) + `"`, `: must be at most 64 letters`},
		{`runner.name = "a/b"`, `: must be at most 64 letters`},
		{`overlay.network_name = ""`, `: must be 2 to 64 letters`},
		{`overlay.network_name = "bridge"`, `that Docker has built in`},
		{`overlay.vxlan_id = 16777215`, `: must be 0..16777214`},
		{`overlay.vxlan_port = 0`, `: must be 1..65535`},
		{`overlay.mtu = 1`, `: must be 0 (find out) or`},
		{`overlay.subnet = "x"`, `it has 1 part`},
		{`overlay.subnet = 1`, `such as "10.0.0.0/8/8/16"`},
		{`docker.socket = "docker.sock"`, `: must be "unix:///PATH" or "tcp://ADDRESS:PORT"`},
		{`docker.socket = "unix://docker.sock"`, `: must be "unix:///PATH"`},
		{`docker.socket = "tcp://1.2.3.4"`, `: must be "unix:///PATH"`},
		{`docker.socket = "ssh://a@b"`, `: must be "unix:///PATH"`},
	} {
		text := "# comment\n\n" + c.line + "\n"
		if !strings.HasPrefix(c.line, "runner.host") {
			text += "runner.host = \"h\"\n"
		}
		got := refusal(t, "runner.toml", text)
		if !strings.HasPrefix(got, "runner.toml:3: ") || !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s:\n got %s\nwant runner.toml:3: ... %s", c.line, got, c.want)
		}
	}
	if got := refusal(t, "runner.toml", ""); !strings.HasPrefix(got, "runner.toml: runner.host: is required") {
		t.Errorf("an empty runner.toml: %s", got)
	}
	both := "runner.host = \"10.9.8.7\"\nrunner.address = \"10.9.8.6\"\noverlay.subnet = \"10.0.0.0/8/16/8\"\noverlay.vxlan_id = 16777000"
	got := refusal(t, "runner.toml", both)
	for i, want := range []string{"1: runner.host", "2: runner.address", "4: overlay.vxlan_id = 16777000: must be 0..16711680"} {
		if lines := strings.Split(got, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[i], "runner.toml:"+want) {
			t.Errorf("problem %d of\n%s\nis not %s", i, got, want)
		}
	}
}

func TestRunnerHostForms(t *testing.T) {
	for in, want := range map[string]string{
		"192.168.88.53:8000":   "192.168.88.53:8000",
		"192.168.88.53":        "192.168.88.53:8000",
		"192.168.88.53:80":     "192.168.88.53:80",
		"127.0.0.1:8000":       "127.0.0.1:8000",
		"host":                 "host:8000",
		"host.lan.:9000":       "host.lan.:9000",
		"1password":            "1password:8000",
		"fd00::53":             "[fd00::53]:8000",
		"[fd00::53]":           "[fd00::53]:8000",
		"[fd00::53]:9000":      "[fd00::53]:9000",
		"[FD00:0:0::53]:9000":  "[fd00::53]:9000",
		"[fe80::1%eth0.5]:80":  "[fe80::1%eth0.5]:80",
		"fe80::1%eth0":         "[fe80::1%eth0]:8000",
		"::ffff:192.168.88.53": "192.168.88.53:8000",
	} {
		r, err := ParseRunner("runner.toml", fmt.Appendf(nil, "runner.host = %q", in))
		if err != nil || r.Runner.Host != want {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func TestUnknownKeys(t *testing.T) {
	for _, c := range []struct{ file, line, want string }{
		{"host.toml", `overlay.vxlan_prt = 1`, `overlay.vxlan_prt = 1: is not a known key; did you mean overlay.vxlan_port?`},
		{"host.toml", `overlay.MTU = 1400`, `did you mean overlay.mtu?`},
		{"host.toml", `overlay.port = 1400`, `did you mean overlay.vxlan_port?`},
		{"host.toml", `mtu = 1400`, `mtu = 1400: is not a known key; did you mean overlay.mtu?`},
		{"host.toml", `host.mtu = 1400`, `did you mean overlay.mtu?`},
		{"host.toml", `host.address = "x"`, `did you mean host.reachable_address?`},
		{"host.toml", `engine.offload.tso = true`, `engine.offload = {...}: is not a known table; did you mean engine.offloads?`},
		{"host.toml", `overlays.mtu = 1`, `did you mean overlay?`},
		{"host.toml", `[overlai]`, `overlai = {...}: is not a known table; did you mean overlay?`},
		{"host.toml", `host.zzz = 1`, `is not a known key; known here: bind, reachable_address, join, admin_socket, state_dir, log_level, metrics`},
		{"host.toml", `zzz = 1`, `is not a known key; known here: [host], [overlay], [heartbeat], [engine]`},
		{"host.toml", `engine.zzz = 1`, `known here: device, queues, fastpath, linger, nice, anti_spoof, ttl, tos, df, zero_checksum6, offloads`},
		{"host.toml", `docker.enabled = true`, `docker = {...}: is not a known table of host.toml; it belongs in runner.toml`},
		{"host.toml", `overlay.network_name = "x"`, `is not a known key of host.toml; it belongs in runner.toml`},
		{"host.toml", `OVERLAY_SUBNET = "x"`, `here it is called overlay.subnet`},
		{"host.toml", `"" = 1`, `"" = 1: is not a known key`},
		{"host.toml", `overlay."a.b" = 1`, `overlay."a.b" = 1: is not a known key`},
		{"host.toml", `overlay."a\u202e\n" = 1`, `is not a known key`},
		{"host.toml", `x = ` + "\"\x7f\u009b31m\"", `is not`},
		{"runner.toml", `heartbeat.interval = "5s"`, `is not a known table of runner.toml; it belongs in host.toml`},
		{"runner.toml", `HOST_ADDRESS = "x"`, `here it is called runner.host`},
		{"runner.toml", `LOG_LEVEL = "x"`, `here it is called runner.log_level`},
	} {
		text := "\n\n" + c.line + "\n[runner]\nhost = \"h\"\n"
		if c.file == "host.toml" {
			text = "\n\n" + c.line + "\n"
		}
		got := refusal(t, c.file, text)
		if !strings.HasPrefix(got, c.file+":3:") || !strings.Contains(got, c.want) {
			t.Errorf("%s:\n got %s\nwant %s:3: ... %s", c.line, got, c.file, c.want)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 || r == 0x202e }) {
			t.Errorf("%s: control characters in %q", c.line, got)
		}
	}
}

// Every way to write a key leads to its line.
func TestLines(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"plain":             {"[overlay]\nmtu = 1\n", "2: overlay.mtu = 1"},
		"dotted":            {"\noverlay.mtu = 1\n", "2: overlay.mtu = 1"},
		"spaces":            {"[ overlay ]\n\n\t mtu \t=  1\n", "3: overlay.mtu = 1"},
		"quoted":            {"[\"overlay\"]\n# mtu = 3\n'mtu' = 1\n", "3: overlay.mtu = 1"},
		"escaped":           {"[overlay]\n\"\\u006dtu\" = 1\n", "2: overlay.mtu = 1"},
		"inline":            {"# x\noverlay = { enabled = true, mtu = 1 }\n", "2: overlay.mtu = 1"},
		"inline over lines": {"overlay = {\n enabled = true,\n mtu = 1,\n}\n", "3: overlay.mtu = 1"},
		"inline dotted":     {"\nengine = { offloads.tso = 1 }\n", "2: engine.offloads.tso = 1"},
		"inline in table":   {"[engine]\nqueues = 1\noffloads = { tso = 1 }\n", "3: engine.offloads.tso = 1"},
		"sub-table":         {"[engine]\n[engine.offloads]\ntso = 1\n", "3: engine.offloads.tso = 1"},
		"lookalikes": {"# overlay.mtu = 1\n[host]\nstate_dir = \"\"\"/\\\n\n[overlay]\\\nmtu=1\"\"\"\n[overlay]\n# mtu = 2\nsubnet = \"10.0.0.0/8/8/16\" # mtu = 3\nmtu = 1\n",
			"10: overlay.mtu = 1"},
		"multi-line value":    {"[host]\nlog_level = \"\"\"\nloud\n\n\"\"\"\n", `2: host.log_level = "loud\u000a\u000a"`},
		"multi-line literal":  {"[host]\nlog_level = '''\n#\n'''\n", `2: host.log_level = "#\u000a"`},
		"array":               {"[host]\nlog_level = [\n1,\n# x\n]\n", "2: host.log_level = [...]"},
		"after an array":      {"[host]\nlog_level = \"info\"\n[overlay]\nmtu = [\n]\n", "4: overlay.mtu = [...]"},
		"CRLF":                {"# x\r\n[overlay]\r\nmtu = 1\r\n", "3: overlay.mtu = 1"},
		"BOM":                 {"\ufeff[overlay]\nmtu = 1\n", "2: overlay.mtu = 1"},
		"BOM, first line":     {"\ufeffoverlay.mtu = 1\n", "1: overlay.mtu = 1"},
		"no end of line":      {"[overlay]\nmtu = 1", "2: overlay.mtu = 1"},
		"table twice named":   {"[engine.offloads]\ntso = true\n[engine]\nqueues = 99\n", "4: engine.queues = 99"},
		"unknown table":       {"\n[nonsense]\na = 1\n", "2: nonsense = {...}"},
		"unknown implied":     {"\nnonsense.a.b = 1\n", "2: nonsense = {...}"},
		"unknown deep":        {"\n\na.b.c.d.e.f = 1\n", "3: a = {...}"},
		"unknown deep header": {"\n\n[a.b.c.d]\nx = 1\n", "3: a = {...}"},
	} {
		got := refusal(t, "host.toml", c.text)
		if !strings.HasPrefix(got, "host.toml:"+c.want+": ") || strings.Contains(got, "\n") {
			t.Errorf("%s:\n got %s\nwant host.toml:%s", name, got, c.want)
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no value":        {"[overlay]\nmtu =\n", ":2:6: is not TOML: "},
		"Python":          {"OVERLAY_ENABLED: bool = True\n", ":1:16: is not TOML: "},
		"duplicate key":   {"[overlay]\nmtu = 1400\nmtu = 1500\n", ":3:1: is not TOML: Key 'overlay.mtu' has already been defined."},
		"twice, dotted":   {"overlay.mtu = 1\n[overlay]\nmtu = 1\n", ":3:1: is not TOML: Key 'overlay.mtu' has already been defined."},
		"table twice":     {"[overlay]\n[overlay]\n", ":2:2: is not TOML: Key 'overlay' has already been defined."},
		"bare word":       {"[overlay]\nenabled = yes\n", ":2:"},
		"no quotes":       {"[overlay]\nsubnet = 10.0.0.0/8/8/16\n", ":2:"},
		"end of file":     {"[overlay", ":1:"},
		"open string":     {"[host]\nbind = \"x\n", ":2:"},
		"UTF-16":          {"\xff\xfe[\x00h\x00", ":1: is UTF-16 text"},
		"no UTF-8":        {"[host]\nlog_level = \"\xff\"\n", ":2:"},
		"NUL":             {"a\x00", ":1:"},
		"big integer":     {"[overlay]\nmtu = 99999999999999999999\n", ":2:"},
		"dots":            {"\n" + strings.Repeat("a.", 40000) + "a = 1", ":2: has more than 32 dots in one line"},
		"braces":          {"x = 1\n" + strings.Repeat("a={", 40000), ":2: has more than 8 \"{\" up to here"},
		"brackets":        {"x=" + strings.Repeat("[", maxFile-2), ":1: has more than 1000 \"[\" up to here"},
		"many brackets":   {"x=" + strings.Repeat("[", 1000), ":1:"},
		"behind a string": {"x=[\"\"\"\n#\"\"\"," + strings.Repeat("[", maxFile/2), ":2: has more than 1000 \"[\" up to here"},
		"behind another":  {"x=['''\n#'''," + strings.Repeat("[", maxFile/2), ":2: has more than 1000 \"[\" up to here"},
		"huge":            {strings.Repeat("#", maxFile+1), ": is larger than 1048576 bytes"},
	} {
		got := refusal(t, "host.toml", c.text)
		if !strings.HasPrefix(got, "host.toml:") || !strings.Contains(got, c.want) || strings.Contains(got, "\n") || len(got) > 400 {
			t.Errorf("%s:\n got %s\nwant host.toml%s", name, got, c.want)
		}
	}
	// Dots and braces that cannot nest are nobody's business.
	if _, err := ParseHost("host.toml", []byte(" # "+strings.Repeat(".", 500)+strings.Repeat("{", 500))); err != nil {
		t.Error(err)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	got := refusal(t, "host.toml", `[host]
bind = "8000"
[overlay]
vxlan_port = 70000
subnet = "10.0.0.0/8"
vxlan_id = 16777000
vxlan = 3
[heartbeat]
interval = 5
[what]
`)
	var lines []string
	for _, l := range strings.Split(got, "\n") {
		head, _, _ := strings.Cut(l, ": must")
		head, _, _ = strings.Cut(head, ": is not")
		lines = append(lines, head)
	}
	want := `host.toml:2: host.bind = "8000"
host.toml:4: overlay.vxlan_port = 70000
host.toml:5: overlay.subnet = "10.0.0.0/8"
host.toml:7: overlay.vxlan = 3
host.toml:9: heartbeat.interval = 5
host.toml:10: what = {...}`
	if strings.Join(lines, "\n") != want {
		t.Errorf("got\n%s", got)
	}
}

func TestManyUnknownKeys(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "key%d = 1\n", i)
	}
	got := strings.Split(refusal(t, "host.toml", b.String()), "\n")
	if len(got) != maxProblems+1 || !strings.HasPrefix(got[0], "host.toml:1: key0 = 1: ") ||
		got[maxProblems] != "host.toml: 4950 more keys that are not known" {
		t.Errorf("%d lines, %s ... %s", len(got), got[0], got[len(got)-1])
	}
}
