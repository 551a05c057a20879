// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The rows of the house, lowest first. A package imports only packages of rows
// that stand before its own. Tests are free: what they lean on, the program does
// not carry.
//
//	encap < tun < engine < conf < internal < hostd < runnerd < perf < cli < integration
var rows = []string{"encap", "tun", "engine", "conf", "internal", "hostd", "runnerd", "perf", "cli", "integration"}

// rule forbids imports to a row, whatever the row's rank.
type rule struct {
	row       string
	forbidden []string // import paths; what lies below them is meant, too
	direct    bool     // only what the package imports itself, not through others
	why       string
}

var rules = []rule{
	{"encap", []string{"os", "net", "net/http", "syscall", "golang.org/x/sys/unix", "github.com", "sync"}, true,
		"encap is bytes in, bytes out: no I/O and no goroutines, so that it can be tested, fuzzed and measured by itself"},
	{"tun", []string{"net/http", "github.com/moby", "github.com/coreos"}, false,
		"a frame device knows nothing of who uses it"},
	{"engine", []string{"github.com/vishvananda"}, true,
		"the data plane is handed devices and peers; who makes links and addresses is the daemons' affair"},
	{"engine", []string{"net/http", "github.com/moby", "github.com/docker", "github.com/coreos/go-iptables", "github.com/prometheus"}, false,
		"the data plane runs in any program, without the control plane's machinery"},
	{"conf", []string{"net/http", "github.com/vishvananda", "github.com/moby", "kohaku/engine", "kohaku/tun"}, false,
		"settings are read and checked on machines on which nothing of it runs"},
	{"hostd", []string{"kohaku/runnerd", "github.com/moby", "github.com/docker"}, false,
		"the Host has no containers and needs no Docker; what both daemons share is internal"},
	{"runnerd", []string{"kohaku/hostd"}, false,
		"a Runner is not a Host; what both daemons share is internal"},
}

// listed is what go list says of a package.
type listed struct {
	ImportPath                               string
	Imports, TestImports, XTestImports, Deps []string
}

func (p listed) row() string {
	first, _, _ := strings.Cut(strings.TrimPrefix(p.ImportPath, "kohaku/"), "/")
	return first
}

func TestDependencyRules(t *testing.T) {
	packages := list(t)
	seen := map[string]bool{}
	for _, p := range packages {
		rank := slices.Index(rows, p.row())
		if rank < 0 {
			t.Errorf("%s stands in no row of the house; rows are %v", p.ImportPath, rows)
			continue
		}
		seen[p.row()] = true
		for _, i := range p.Imports {
			if other := (listed{ImportPath: i}); strings.HasPrefix(i, "kohaku/") && slices.Index(rows, other.row()) > rank {
				t.Errorf("%s imports %s, which stands above it", p.ImportPath, i)
			}
		}
		for _, r := range rules {
			if r.row == p.row() {
				r.check(t, p)
			}
		}
	}
	for _, row := range []string{"encap", "tun", "engine", "conf", "internal", "hostd", "runnerd", "cli"} {
		if !seen[row] {
			t.Errorf("no package of row %s found: go list was asked the wrong thing", row)
		}
	}
}

func (r rule) check(t *testing.T, p listed) {
	t.Helper()
	imports := p.Deps
	if r.direct {
		imports = p.Imports
	}
	for _, i := range imports {
		for _, f := range r.forbidden {
			// In the standard library a path is not what lies below it: net/netip
			// does no I/O, net does.
			below := strings.Contains(f, ".") || strings.HasPrefix(f, "kohaku")
			if i == f || below && strings.HasPrefix(i, f+"/") {
				t.Errorf("%s imports %s: %s", p.ImportPath, i, r.why)
			}
		}
	}
}

// list returns the program's packages.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "kohaku/...")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, errs.String())
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		check(t, err)
		all = append(all, p)
	}
}
