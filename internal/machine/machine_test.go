// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kohaku/internal/api"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// The expectation comes from systemd-id128 machine-id
// --app-specific=6bb10f5e27c44d3a9e815d70f21ca846 with this machine id.
func TestIDMatchesSystemd(t *testing.T) {
	file := write(t, "machine-id", "0123456789abcdef0123456789abcdef\n")
	got, err := id(file, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const want = "1e8af097303e48ec9d485f5f7ee85703"
	if got != want {
		t.Errorf("id = %s, systemd says %s", got, want)
	}
	if err := api.CheckMachineID(got); err != nil {
		t.Error(err)
	}
}

func TestIDFallsBackAndStays(t *testing.T) {
	contents := map[string]string{"empty": "", "uninitialized": "uninitialized\n", "short": "0123\n",
		"zero": strings.Repeat("0", 32), "no hex": strings.Repeat("z", 32)}
	for name, text := range contents {
		t.Run(name, func(t *testing.T) {
			file, state := write(t, "machine-id", text), filepath.Join(t.TempDir(), "a", "b")
			first, err := id(file, state)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := id(file, state); err != nil || again != first {
				t.Errorf("second id %s, %v; the first was %s", again, err, first)
			}
			if other, err := id(file, t.TempDir()); err != nil || other == first {
				t.Errorf("another state directory gave %s, %v; the first was %s", other, err, first)
			}
			left, err := os.ReadDir(state)
			if err != nil || len(left) != 1 {
				t.Errorf("state directory holds %v, %v; want the id alone", left, err)
			}
		})
	}
}

func TestIDFallbackRace(t *testing.T) {
	state := t.TempDir()
	ids := make([]string, 16)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() { ids[i], _ = id("/nonexistent/machine-id", state) })
	}
	group.Wait()
	for _, got := range ids {
		if got == "" || got != ids[0] {
			t.Fatalf("ids of one machine differ: %v", ids)
		}
	}
}

func TestIDReplacesDamagedFallback(t *testing.T) {
	state := t.TempDir()
	file := filepath.Join(state, fallbackName)
	if err := os.WriteFile(file, []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	first, err := id("/nonexistent/machine-id", state)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := id("/nonexistent/machine-id", state); err != nil || again != first {
		t.Errorf("second id %s, %v; the first was %s", again, err, first)
	}
	if kept, err := os.ReadFile(file + ".damaged"); err != nil || string(kept) != "garbage" {
		t.Errorf("the damaged file was not kept: %q, %v", kept, err)
	}
}

func TestIDUnwritableState(t *testing.T) {
	_, err := id("/nonexistent/machine-id", "/proc/kohaku")
	if err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("error %v does not say what to set", err)
	}
}

func TestDeriveHidesTheID(t *testing.T) {
	raw := []byte("0123456789abcdef")
	if strings.Contains(derive(raw), hex.EncodeToString(raw)[:8]) {
		t.Error("the derived id shows the machine id")
	}
}

func TestHostname(t *testing.T) {
	if got, err := Hostname("Node-1.Lab"); err != nil || got != "node-1.lab" {
		t.Errorf("Hostname = %q, %v", got, err)
	}
	for _, bad := range []string{"localhost", "localhost.localdomain", "a_b", "-a", strings.Repeat("a", 65)} {
		if got, err := Hostname(bad); err == nil || !strings.Contains(err.Error(), "`name`") {
			t.Errorf("Hostname(%q) = %q, %v; want an error that names the setting", bad, got, err)
		}
	}
}
