// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bytes"
	"strings"
	"testing"
)

func TestSetRunnerHost(t *testing.T) {
	const host = "192.0.2.1:8000"
	for name, c := range map[string]struct{ before, after string }{
		"nothing":       {"", "[runner]\nhost = \"192.0.2.1:8000\"\n"},
		"no section":    {"[docker]\nenabled = false", "[docker]\nenabled = false\n[runner]\nhost = \"192.0.2.1:8000\"\n"},
		"no host":       {"[runner]\nname = \"a\"\n", "[runner]\nhost = \"192.0.2.1:8000\"\nname = \"a\"\n"},
		"only a header": {"[runner]", "[runner]\nhost = \"192.0.2.1:8000\"\n"},
		"another, with a comment": {"# host = 1\n[runner] # x\n  host='a:1' # theirs\r\nname = \"a\"\n[docker]\nenabled = true\n",
			"# host = 1\n[runner] # x\n  host=\"192.0.2.1:8000\" # theirs\r\nname = \"a\"\n[docker]\nenabled = true\n"},
		"commented out":      {"[runner]\n#host = \"a:1\"\n", "[runner]\nhost = \"192.0.2.1:8000\"\n"},
		"both":               {"[runner]\n# host = \"a:1\"\nhost = \"b:1\"\n", "[runner]\n# host = \"a:1\"\nhost = \"192.0.2.1:8000\"\n"},
		"both, other order":  {"[runner]\nhost = \"b:1\"\n# host = \"a:1\"\n", "[runner]\nhost = \"192.0.2.1:8000\"\n# host = \"a:1\"\n"},
		"dotted":             {"runner.host = \"a:1\"\n", ""},
		"inline":             {"runner = { host = \"a:1\" }\n", ""},
		"wrong in another":   {"[runner]\nnaem = \"a\"\n", ""},
		"several lines long": {"[runner]\nhost = \"\"\"\na:1\"\"\"\n", ""},
	} {
		got, r, err := SetRunnerHost("runner.toml", []byte(c.before), host)
		if c.after == "" {
			if err == nil {
				t.Errorf("%s: got\n%s", name, got)
			}
			continue
		}
		if err != nil || string(got) != c.after || r.Runner.Host != host {
			t.Errorf("%s: %v, got\n%s", name, err, got)
		}
	}
	sample, r, err := SetRunnerHost("runner.toml", RunnerSample(), "[fd00::1]")
	if err != nil || r.Runner.Host != "[fd00::1]:8000" || bytes.Count(sample, []byte("\n")) != bytes.Count(RunnerSample(), []byte("\n")) {
		t.Errorf("the sample: %v\n%s", err, sample)
	}
	if _, _, err := SetRunnerHost("runner.toml", RunnerSample(), "http://x"); err == nil || !strings.Contains(err.Error(), "runner.host") {
		t.Errorf("a wrong host: %v", err)
	}
}

func FuzzSetRunnerHost(f *testing.F) {
	f.Add([]byte("# mine\n[runner]\nname = \"a\"\n#host = \"b\"\n[docker]\nenabled = false\n"), "192.0.2.1:8000")
	f.Add([]byte("[runner]\nhost='x:1'"), "\"\n[docker]")
	f.Fuzz(func(t *testing.T, text []byte, host string) {
		before, beforeErr := ParseRunner("x", text)
		got, r, err := SetRunnerHost("x", text, host)
		if err != nil {
			return
		}
		again, err := ParseRunner("x", got)
		if err != nil || !again.Equal(r) {
			t.Fatalf("%v\n%s", err, got)
		}
		if beforeErr == nil {
			if before.Runner.Host = again.Runner.Host; !before.Equal(again) {
				t.Fatalf("something else has changed:\n%s\n%s", text, got)
			}
		}
	})
}
