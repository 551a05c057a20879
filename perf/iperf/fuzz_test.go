// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzParams asserts that whatever is accepted is within the bounds that the
// server builds on, and reads the same after it was written again.
func FuzzParams(f *testing.F) {
	for _, s := range []string{
		stockParams, `{}`, `{"tcp":true,"time":10,"parallel":4,"len":131072,"reverse":true}`,
		`{"udp":true,"len":1e400}`, `{"parallel":128,"len":1048576,"window":536870912}`,
		`{"num":18446744073709551615}`, `{"kohaku":{"version":1,"mode":"rr"}}`, `{"kohaku":null}`, `{"tcp":1,"TCP":0}`,
		`{"len":0.5}`, `{"time":1e0}`, `{"authtoken":"AAAA","title":"x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseParams(b)
		if err != nil {
			return
		}
		if p.Parallel < 1 || p.Parallel > MaxStreams || p.Len < 1 || p.Len > MaxBlockSize || p.Time < 0 || p.Time > MaxDuration ||
			p.Bandwidth < 0 || p.Window < 0 || p.Window > MaxWindow || p.Omit < 0 || p.TCP == p.UDP ||
			bool(p.UDP) && (p.Len < HeaderLen64 || p.Len > MaxUDPBlockSize) {
			t.Fatalf("accepted %+v", p)
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseParams(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if d := cmp.Diff(p, q); d != "" {
			t.Fatalf("not the same when read again:\n%s", d)
		}
	})
}

// FuzzResults asserts that accepted results hold no impossible figure.
func FuzzResults(f *testing.F) {
	for _, s := range []string{
		stockResults, `{"streams":[]}`, `{"streams":[{"id":3,"omitted_errors":1,"omitted_packets":2}]}`,
		`{"streams":[{"end_time":1e308,"start_time":-1e308}]}`, `{"streams":[{"packets":-1}]}`,
		`{"streams":[{"retransmits":18446744073709551615}],"kohaku":{"cpu_seconds":1,"cpus":2}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseResults(b)
		if err != nil {
			return
		}
		if len(r.Streams) > 2*MaxStreams {
			t.Fatalf("%d streams", len(r.Streams))
		}
		for _, s := range r.Streams {
			if s.Bytes < 0 || s.Packets < 0 || s.Errors < 0 || s.Jitter < 0 || s.EndTime < s.StartTime {
				t.Fatalf("accepted %+v", s)
			}
			if _, ok := r.Stream(int(s.ID)); !ok {
				t.Fatalf("stream %d is not found", s.ID)
			}
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzFrame asserts that a frame is what was announced, and no more is read.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}rest"))
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Add([]byte("\x00\x00\x20\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		got, err := ReadFrame(r, MaxParams)
		if err != nil {
			return
		}
		if len(got) == 0 || len(got) > MaxParams || !bytes.Equal(got, b[4:4+len(got)]) || r.Len() != len(b)-4-len(got) {
			t.Fatalf("frame of %d bytes from %d", len(got), len(b))
		}
	})
}

// FuzzDatagram asserts that a header reads back as written and that the
// accounting never breaks its own sum.
func FuzzDatagram(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), true)
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1}, false)
	f.Add([]byte{0, 0, 0, 1, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 1}, false)
	f.Add(bytes.Repeat([]byte{0xff}, 16), true)
	f.Fuzz(func(t *testing.T, b []byte, wide bool) {
		sent, seq, ok := ParseHeader(b, wide)
		_, _ = ConnectReply(b)
		if !ok {
			return
		}
		again := make([]byte, HeaderLen64)
		PutHeader(again, sent, seq, wide)
		n := HeaderLen32
		if wide {
			n = HeaderLen64
		}
		if !bytes.Equal(again[:n], b[:n]) {
			t.Fatalf("% x reads as %v, %d and writes as % x", b[:n], sent, seq, again[:n])
		}
		var tr Tracker
		tr.Add(1, 0, 0)
		tr.Add(seq, sent, time.Second)
		if tr.Received != 2 || tr.Lost > tr.Highest || tr.Jitter < 0 {
			t.Fatalf("after %d: %+v", seq, tr)
		}
	})
}
