// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	sectionLine = regexp.MustCompile(`^\s*\[([^\]]*)\]`)
	// hostLine is a line with the key host, or one that was commented out, as
	// "config init" leaves it; its value; and what follows.
	hostLine = regexp.MustCompile(`^(\s*)#?\s*(host\s*=\s*)("[^"]*"|'[^']*')(.*)$`)
)

// SetRunnerHost gives the text of a runner.toml with another runner.host, and
// everything else as it was, comments too. An error means that the text does not
// parse with the new value, an *[Error], or is written in a way that only a person
// can change.
func SetRunnerHost(name string, text []byte, host string) ([]byte, *Runner, error) {
	want, err := ParseRunner("--host", []byte("runner.host = "+strconv.Quote(host)))
	if err != nil {
		return nil, nil, err
	}
	lines := strings.SplitAfter(string(text), "\n")
	section, at := "", -1
	header := -1
	for i, line := range lines {
		if m := sectionLine.FindStringSubmatch(line); m != nil {
			section = strings.TrimSpace(m[1])
			if section == "runner" {
				header = i
			}
			continue
		}
		if section == "runner" && hostLine.MatchString(strings.TrimRight(line, "\r\n")) && (at < 0 || !commented(line)) {
			at = i
		}
	}
	value := strconv.Quote(want.Runner.Host)
	switch {
	case at >= 0:
		end := lines[at][len(strings.TrimRight(lines[at], "\r\n")):]
		m := hostLine.FindStringSubmatch(strings.TrimRight(lines[at], "\r\n"))
		lines[at] = m[1] + m[2] + value + m[4] + end
	case header >= 0:
		if !strings.HasSuffix(lines[header], "\n") {
			lines[header] += "\n"
		}
		lines[header] += "host = " + value + "\n"
	default:
		if n := len(lines) - 1; lines[n] != "" {
			lines[n] += "\n"
		}
		lines = append(lines, "[runner]\nhost = "+value+"\n")
	}
	changed := []byte(strings.Join(lines, ""))
	after, err := ParseRunner(name, changed)
	if err != nil {
		return nil, nil, err
	}
	// Whatever way it was written: only the one value may have changed.
	before, err := ParseRunner(name, text)
	if err == nil {
		before.Runner.Host = want.Runner.Host
	}
	if after.Runner.Host != want.Runner.Host || err == nil && !after.Equal(before) {
		return nil, nil, fmt.Errorf("%s: host in [runner] is written in a way that only a person can change", name)
	}
	return changed, after, nil
}

func commented(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "#") }
