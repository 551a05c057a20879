// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Over a restart time goes on by the boot clock; over a reboot it stands still.
func TestRestart(t *testing.T) {
	s, h, dir := ready(t)
	r, token := mustReserve(t, s, Request{Runner: "node1", TTL: time.Minute, Name: "web"})
	h.now.At += 20 * time.Second
	s = newStore(t, dir, h.clock)
	l := s.List("")
	if len(l) != 1 || l[0].Left != 40*time.Second || l[0].ID != r.ID || l[0].Addr != r.Addr || l[0].Name != "web" || l[0].Runner != "node1" {
		t.Fatalf("after a restart: %+v", l)
	}
	h.now = Instant{"another boot", 5 * time.Second}
	s = newStore(t, dir, h.clock)
	if l := s.List(""); len(l) != 1 || l[0].Left != time.Minute {
		t.Fatalf("after a reboot: %+v", l)
	}
	// The Runner is known again only when it has registered, its reservation all
	// the time; its token is good.
	_, _, err := s.Reserve(Request{Runner: "node1"})
	refused(t, err, UnknownRunner)
	s.Bind("node1", PoolOf(plan, 1))
	_, _, err = s.Reserve(Request{Runner: "node1"})
	refused(t, err, NotYet)
	if _, err := s.Release(token); err != nil {
		t.Error(err)
	}
	if s = newStore(t, dir, h.clock); len(s.List("")) != 0 {
		t.Error("what was released is back after a restart")
	}
	// What is in use stays so until the Runner says otherwise.
	s.Bind("node1", PoolOf(plan, 1))
	s.SetUsed("node1", nil)
	r, _ = mustReserve(t, s, Request{Runner: "node1", TTL: time.Second})
	s.SetUsed("node1", []netip.Addr{r.Addr})
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	h.now.At += time.Hour
	if l := newStore(t, dir, h.clock).List(""); len(l) != 1 || !l[0].InUse {
		t.Errorf("what is in use, after a restart: %+v", l)
	}
}

// A Runner that comes back with another subnet, or one that gets the subnet of
// another, ends the reservations that fit no more.
func TestBind(t *testing.T) {
	s, _, _ := ready(t)
	mustReserve(t, s, Request{Runner: "node1"})
	s.Bind("node1", PoolOf(plan, 1))
	if len(s.List("")) != 1 {
		t.Error("registering again ended a reservation")
	}
	mustReserve(t, s, Request{Runner: "node1"})
	s.Bind("node2", PoolOf(plan, 1))
	if len(s.List("")) != 0 {
		t.Error("the reservations of a Runner whose id another has were kept")
	}
	s.SetUsed("node2", nil)
	mustReserve(t, s, Request{Runner: "node2"})
	s.Drop("node2")
	if all, _ := s.Counts(); all != 0 {
		t.Error("the reservations of a released Runner were kept")
	}
	if err := s.Flush(); err != nil {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	s, h, dir := ready(t)
	r, token := mustReserve(t, s, Request{Runner: "node1", TTL: time.Minute})
	for _, bad := range []string{"", "x", tokenPrefix, "kohaku-join-abc", tokenPrefix + "!!!!", token[:len(token)/2], token + "=", token + "\n",
		tokenPrefix + strings.Repeat("A", maxToken)} {
		_, err := s.Release(bad)
		refused(t, err, BadToken)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, tokenPrefix))
	if err != nil {
		t.Fatal(err)
	}
	// Every byte counts.
	for i := range raw {
		spoiled := bytes.Clone(raw)
		spoiled[i] ^= 1
		word := "changed"
		if i < keyIDLen {
			word = "another Host"
		}
		_, err := s.Release(tokenPrefix + base64.RawURLEncoding.EncodeToString(spoiled))
		refused(t, err, BadToken, word)
	}
	other := newStore(t, t.TempDir(), h.clock)
	_, err = other.Release(token)
	refused(t, err, BadToken, "made by another Host")
	if len(s.List("")) != 1 {
		t.Fatal("a bad token released something")
	}
	if _, err := s.Release(token); err != nil {
		t.Fatal(err)
	}
	_, err = s.Release(token)
	refused(t, err, Gone, "was released", r.Addr.String(), "node1")

	// The same address, reserved again: the old token is not good for it.
	_, second := mustReserve(t, s, Request{Runner: "node1", Addr: r.Addr, TTL: time.Minute})
	_, err = s.Release(token)
	refused(t, err, Gone)
	h.now.At += time.Hour
	expired := s.key.sign(claims{ID: newID(), Runner: "node1", Addr: r.Addr, Ends: time.Now().Add(-time.Minute).Unix()})
	_, err = s.Release(expired)
	refused(t, err, Gone, "has expired", "ip-reserve node1")
	_, err = s.Release(second)
	refused(t, err, Gone)

	// Tokens outlive the process, with the key in the file, which is secret.
	s.SetUsed("node1", nil)
	_, token = mustReserve(t, s, Request{Runner: "node1"})
	if info, err := os.Stat(filepath.Join(dir, FileName)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := newStore(t, dir, h.clock).Release(token); err != nil {
		t.Error(err)
	}
}

// A file that cannot be used is set aside, and said; all goes on without it.
func TestDamage(t *testing.T) {
	s, h, dir := ready(t)
	_, token := mustReserve(t, s, Request{Runner: "node1"})
	path := filepath.Join(dir, FileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, with string) string { return strings.Replace(string(good), old, with, 1) }
	for name, text := range map[string]string{
		"empty": "", "half": string(good[:len(good)/2]), "not JSON": "hello", "null": "null", "zeros": strings.Repeat("\x00", 4096),
		"later version": replace(`"version": 1`, `"version": 2`), "unknown field": replace(`"boot"`, `"boots"`),
		"no key": replace(`"key": "`, `"key": "AAAA`), "address": replace("10.1.255.254", "fd00::1"), "runner": replace("node1", "no de"),
		"left": replace(`"left_ms": 300000`, `"left_ms": 300001`), "negative": replace(`"left_ms": 3`, `"left_ms": -3`),
		"ttl": replace(`"ttl_ms": 300000`, `"ttl_ms": 300000000000000000`), "id": replace(`"id": "`, `"id": "00`),
		"too large": strings.Repeat(" ", maxFile+1),
	} {
		if text == string(good) {
			t.Fatalf("%s: nothing was damaged", name)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, damage, err := Open(dir, h.clock)
		if err != nil || damage == nil || !strings.Contains(damage.Error(), path+".damaged") || len(s.List("")) != 0 {
			t.Errorf("%s: %v, %v", name, damage, err)
			continue
		}
		if aside, err := os.ReadFile(path + ".damaged"); err != nil || string(aside) != text {
			t.Errorf("%s: set aside were %d bytes, %v", name, len(aside), err)
		}
		_, err = s.Release(token)
		refused(t, err, BadToken, "state was lost")
		s.Bind("node1", PoolOf(plan, 1))
		s.SetUsed("node1", nil)
		mustReserve(t, s, Request{Runner: "node1"})
	}
	// What cannot be read at all is not damage: it is left as it is.
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, h.clock); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("a directory in its place: %v", err)
	}
}

// A state that cannot be written is not changed, and the old file is whole.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=8k,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	h := &hand{Instant{"boot", time.Hour}}
	s := newStore(t, dir, h.clock)
	s.Bind("node1", PoolOf(plan, 1))
	s.SetUsed("node1", nil)
	_, token := mustReserve(t, s, Request{Runner: "node1"})
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	_, none, err := s.Reserve(Request{Runner: "node1"})
	refused(t, err, Unwritable, "as before", "state_dir")
	if !errors.Is(err, syscall.ENOSPC) || none != "" {
		t.Errorf("error %v, token %q", err, none)
	}
	_, err = s.Release(token)
	refused(t, err, Unwritable)
	s.Drop("node9")
	s.table.dirty = true
	refused(t, s.Flush(), Unwritable)
	if after, err := os.ReadFile(filepath.Join(dir, FileName)); err != nil || !bytes.Equal(before, after) || len(s.List("")) != 1 {
		t.Errorf("after it %d reservations; the file has changed: %v, %v", len(s.List("")), !bytes.Equal(before, after), err)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Error(err)
	}
	if _, err := s.Release(token); err != nil {
		t.Error(err)
	}
}

func TestBootClock(t *testing.T) {
	a, b := BootClock(), BootClock()
	if a.Boot == "" || a.Boot != b.Boot || b.At < a.At || a.At <= 0 {
		t.Errorf("%+v, then %+v", a, b)
	}
}

// A Runner with another name has the reservations of the old one; the token, which
// tells the old name, is good.
func TestRename(t *testing.T) {
	s, h, dir := ready(t)
	r, token := mustReserve(t, s, Request{Runner: "node1"})
	s.Rename("node1", "gpu1")
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, dir, h.clock)
	s.Bind("gpu1", PoolOf(plan, 1))
	if l := s.List("gpu1"); len(l) != 1 || l[0].Addr != r.Addr {
		t.Errorf("%+v", l)
	}
	if _, err := s.Release(token); err != nil {
		t.Error(err)
	}
}
