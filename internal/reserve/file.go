// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kohaku/internal/api"
)

// fileVersion is the form of the file. Another one is not guessed at.
const fileVersion = 1

// maxFile bounds what is read: MaxTotal reservations with the longest names.
const maxFile = 4 << 20

// file is what the state file holds, as JSON.
type file struct {
	Version int    `json:"version"`
	Key     []byte `json:"key"` // signs tokens
	Boot    string `json:"boot"`
	// At is when the file was written, by that boot's clock.
	At           int64       `json:"at_ms"`
	Reservations []fileLease `json:"reservations"`
}

type fileLease struct {
	ID     ID         `json:"id"`
	Runner string     `json:"runner"`
	Addr   netip.Addr `json:"ip"`
	Name   string     `json:"name,omitempty"`
	TTL    int64      `json:"ttl_ms"`
	Left   int64      `json:"left_ms"`
	InUse  bool       `json:"in_use,omitempty"`
}

// encode writes the state down as of now.
func encode(key Key, leases map[netip.Addr]*lease, now Instant) []byte {
	f := file{Version: fileVersion, Key: key[:], Boot: now.Boot, At: now.At.Milliseconds(), Reservations: []fileLease{}}
	for _, l := range leases {
		f.Reservations = append(f.Reservations, fileLease{
			ID: l.id, Runner: l.runner, Addr: l.addr, Name: l.name,
			// Rounded up: nothing ends early.
			TTL: l.ttl.Milliseconds(), Left: (l.left(now.At) + time.Millisecond - 1).Milliseconds(), InUse: l.inUse,
		})
	}
	slices.SortFunc(f.Reservations, func(a, b fileLease) int { return a.Addr.Compare(b.Addr) })
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		panic("reserve: " + err.Error()) // there is nothing in file that could fail
	}
	return append(data, '\n')
}

// decode reads what encode wrote. It takes all or nothing. Leases whose time was
// over before now are left out.
func decode(data []byte, now Instant) (Key, map[netip.Addr]*lease, error) {
	fail := func(format string, args ...any) (Key, map[netip.Addr]*lease, error) {
		return Key{}, nil, fmt.Errorf(format, args...)
	}
	var f file
	// The version first: another one may have other fields.
	if err := json.Unmarshal(data, &struct {
		Version *int `json:"version"`
	}{&f.Version}); err != nil {
		return fail("not the JSON of a reservations file: %w", err)
	}
	if f.Version != fileVersion {
		return fail("it is of version %d, this kohaku knows version %d", f.Version, fileVersion)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return fail("not the JSON of a reservations file: %w", err)
	}
	if len(f.Key) != len(Key{}) {
		return fail("the key has %d bytes, not %d", len(f.Key), len(Key{}))
	}
	if len(f.Reservations) > MaxTotal {
		return fail("it holds %d reservations, at most %d are possible", len(f.Reservations), MaxTotal)
	}
	gone := time.Duration(0)
	if at := time.Duration(f.At) * time.Millisecond; f.At >= 0 && f.Boot == now.Boot && f.Boot != "" && now.At > at {
		gone = now.At - at
	}
	leases := make(map[netip.Addr]*lease, len(f.Reservations))
	for _, r := range f.Reservations {
		l := &lease{
			id: r.ID, runner: r.Runner, addr: r.Addr, name: r.Name, inUse: r.InUse,
			ttl: time.Duration(r.TTL) * time.Millisecond,
			end: now.At + time.Duration(r.Left)*time.Millisecond - gone,
		}
		name, err := api.CanonicalHostname(l.runner)
		switch {
		case err != nil || name != l.runner:
			return fail("%q is not the name of a runner", l.runner)
		case !l.addr.Is4():
			return fail("%q is not an IPv4 address", l.addr)
		case leases[l.addr] != nil:
			return fail("%s is there twice", l.addr)
		case CheckName(l.name) != nil:
			return fail("%s: %w", l.addr, CheckName(l.name))
		case r.TTL < MinTTL.Milliseconds() || r.TTL > MaxTTL.Milliseconds():
			return fail("%s: a time to live of %d ms", l.addr, r.TTL)
		case r.Left < 0 || r.Left > r.TTL:
			return fail("%s: %d ms are left of %d", l.addr, r.Left, r.TTL)
		}
		if l.left(now.At) > 0 {
			leases[l.addr] = l
		}
	}
	return Key(f.Key), leases, nil
}
