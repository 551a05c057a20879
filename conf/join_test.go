// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"strings"
	"testing"
)

func TestSocketPath(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "/run/kohakuriver/host.sock"},
		{`host.state_dir = "/srv/x"`, "/srv/x/host.sock"},
		{`host.admin_socket = "/srv/s"`, "/srv/s"},
		{"host.admin_socket = \"/srv/s\"\nhost.state_dir = \"/srv/x\"", "/srv/s"},
	} {
		h, err := ParseHost("host.toml", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.Host.SocketPath(); got != c.want {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`host.join = "yes"`:                                       `must be "token", or "open"`,
		`host.admin_socket = "host.sock"`:                         "must be an absolute path",
		`host.admin_socket = "/` + strings.Repeat("x", 107) + `"`: "at most 107 bytes",
	} {
		if _, err := ParseHost("host.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
