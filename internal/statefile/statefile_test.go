// SPDX-License-Identifier: Apache-2.0

package statefile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) (n []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		n = append(n, e.Name())
	}
	return n
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "state")
	path := filepath.Join(dir, "f")
	for _, text := range []string{"one", "two, longer", ""} {
		if err := Write(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != 0o600 || content(t, path) != text {
			t.Errorf("%q, mode %v, %v", content(t, path), info.Mode(), err)
		}
	}
	// What a killed writer left disappears with the next write.
	if err := os.WriteFile(filepath.Join(dir, ".f.new-123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("beside it: %v", got)
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Create(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("two"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	if content(t, path) != "one" || len(names(t, filepath.Dir(path))) != 1 {
		t.Errorf("%q, %v", content(t, path), names(t, filepath.Dir(path)))
	}
}

// A write that fails for want of space leaves the old file, and nothing else.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=8k,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "f")
	if err := Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, bytes.Repeat([]byte("x"), 1<<16), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if content(t, path) != "old" || len(names(t, dir)) != 1 {
		t.Errorf("%q, %v", content(t, path), names(t, dir))
	}
}

// Readers see one version or the other, never a mixture.
func TestReadersDuringWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	versions := [2][]byte{bytes.Repeat([]byte("a"), 9000), bytes.Repeat([]byte("b"), 7000)}
	if err := Write(path, versions[0], 0o600); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			got, err := Read(path, 1<<16)
			if err != nil || !bytes.Equal(got, versions[0]) && !bytes.Equal(got, versions[1]) {
				t.Errorf("read %d bytes, %v", len(got), err)
				return
			}
		}
	})
	for i := range 200 {
		if err := Write(path, versions[i%2], 0o600); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
}

func TestReadLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := Read(path, 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	for text, want := range map[string]error{"four": nil, "fives": ErrTooLarge} {
		if err := Write(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, 4); !errors.Is(err, want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "two"} {
		if err := Write(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		aside, err := SetAside(path)
		if err != nil || content(t, aside) != text || len(names(t, filepath.Dir(path))) != 1 {
			t.Errorf("%s, %v", aside, err)
		}
	}
	if _, err := SetAside(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
