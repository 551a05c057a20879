// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What iperf 3.12 puts on the wire, written down by hand.
const (
	stockParams  = `{"udp":true,"omit":0,"time":10,"num":0,"blockcount":0,"parallel":1,"len":1460,"bandwidth":1048576,"pacing_timer":1000,"client_version":"3.12"}`
	stockResults = `{"cpu_util_total":1.22,"cpu_util_user":0,"cpu_util_system":1.22,"sender_has_retransmits":1.8446744073709552e+19,"congestion_used":"bbr","streams":[{"id":1,"bytes":131072,"retransmits":18446744073709551615,"jitter":4.453125e-06,"errors":2,"packets":100,"start_time":0,"end_time":1.004025}]}`
)

func TestFrame(t *testing.T) {
	in := append([]byte{0, 0, 0, 4}, `{"a"and more`...)
	r := iotest.OneByteReader(bytes.NewReader(in))
	got, err := ReadFrame(r, 10)
	if err != nil || string(got) != `{"a"` {
		t.Errorf("frame %q, %v", got, err)
	}
	for name, in := range map[string]string{
		"empty": "\x00\x00\x00\x00", "too long": "\x00\x00\x00\x0b...........", "huge": "\xff\xff\xff\xff",
	} {
		var size *SizeError
		if _, err := ReadFrame(strings.NewReader(in), 10); !errors.As(err, &size) {
			t.Errorf("%s: %v, want a *SizeError", name, err)
		}
	}
	for name, in := range map[string]string{"no length": "", "half a length": "\x00\x00", "short": "\x00\x00\x00\x09abc"} {
		if _, err := ReadFrame(strings.NewReader(in), 10); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var buf bytes.Buffer
	if err := WriteFrame(&buf, map[string]int{"x": 1}); err != nil || buf.String() != "\x00\x00\x00\x07{\"x\":1}" {
		t.Errorf("wrote %q, %v", buf.String(), err)
	}
}

// TestFrameGrowth asserts that announcing much costs little.
func TestFrameGrowth(t *testing.T) {
	allocated := testing.AllocsPerRun(10, func() {
		_, _ = ReadFrame(strings.NewReader("\x00\x1f\xff\xff{"), MaxResults)
	})
	if allocated > 20 {
		t.Errorf("%v allocations for one byte of an announced 2 MiB", allocated)
	}
}

func TestParseParams(t *testing.T) {
	got, err := ParseParams([]byte(stockParams))
	want := &Params{UDP: true, Time: 10, Parallel: 1, Len: 1460, Bandwidth: 1 << 20, PacingTimer: 1000, ClientVersion: "3.12"}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	got, err = ParseParams([]byte(`{}`))
	if err != nil || !bool(got.TCP) || got.Parallel != 1 || got.Len != DefaultTCPBlock {
		t.Errorf("defaults: %+v, %v", got, err)
	}
	// Numbers as cJSON may print them.
	got, err = ParseParams([]byte(`{"tcp":true,"bandwidth":1e+10,"num":2.5e9,"udp_counters_64bit":1,"nodelay":true}`))
	if err != nil || got.Bandwidth != 1e10 || got.Num != 2_500_000_000 || got.Counters64 != 1 || !bool(got.NoDelay) {
		t.Errorf("floating numbers: %+v, %v", got, err)
	}
}

func TestParseParamsRefuses(t *testing.T) {
	for _, tt := range []struct {
		in   string
		code Code
	}{
		{`[]`, CodeRecvParams},
		{`{"tcp":`, CodeRecvParams},
		{`{"sctp":true}`, CodeUnsupported},
		{`{"tcp":true,"udp":true}`, CodeRecvParams},
		{`{"parallel":129}`, CodeStreams},
		{`{"parallel":-1}`, CodeStreams},
		{`{"time":86401}`, CodeDuration},
		{`{"time":-1}`, CodeDuration},
		{`{"omit":601}`, CodeOmit},
		{`{"num":-5}`, CodeRecvParams},
		{`{"udp":true,"len":15}`, CodeUDPBlockSize},
		{`{"udp":true,"len":65508}`, CodeUDPBlockSize},
		{`{"len":1048577}`, CodeBlockSize},
		{`{"window":536870913}`, CodeBufferSize},
		{`{"bandwidth":-1}`, CodeRecvParams},
		{`{"bandwidth":1e300}`, CodeRecvParams},
		{`{"time":"ten"}`, CodeRecvParams},
		{`{"reverse":true,"bidirectional":true}`, CodeRecvParams},
		{`{"congestion":"a-name-far-too-long"}`, CodeRecvParams},
		{`{"kohaku":{"version":1,"mode":"teleport"}}`, CodeUnsupported},
		{`{"udp":true,"kohaku":{"version":1,"mode":"crr"}}`, CodeUnsupported},
	} {
		_, err := ParseParams([]byte(tt.in))
		var pe *ParamError
		if !errors.As(err, &pe) || pe.Code != tt.code || pe.What == "" {
			t.Errorf("%s: %v, want code %d", tt.in, err, tt.code)
		}
	}
}

func TestParseResults(t *testing.T) {
	got, err := ParseResults([]byte(stockResults))
	want := &Results{
		CPUTotal: 1.22, CPUSystem: 1.22, SenderHasRetransmits: -1, CongestionUsed: "bbr",
		Streams: []StreamResult{{ID: 1, Bytes: 131072, Retransmits: -1, Jitter: 4.453125e-06, Errors: 2, Packets: 100, EndTime: 1.004025}},
	}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	if s, ok := got.Stream(1); !ok || s.Packets != 100 {
		t.Errorf("stream 1: %+v, %v", s, ok)
	}
	if _, ok := got.Stream(2); ok {
		t.Error("there is no stream 2")
	}
	for _, in := range []string{
		`{}`, `{"streams":null}`, `{"streams":{}}`, `{"streams":[{"bytes":-1}]}`, `{"streams":[{"jitter":-1}]}`,
		`{"streams":[{"packets":-1}]}`, `{"streams":[{"start_time":2,"end_time":1}]}`, `{"streams":[{"end_time":1e300}]}`,
		`{"streams":[],"kohaku":{"cpu_seconds":-1}}`,
		`{"streams":[` + strings.Repeat(`{},`, 256) + `{}]}`,
	} {
		if r, err := ParseResults([]byte(in)); err == nil {
			t.Errorf("%.60s: accepted as %+v", in, r)
		}
	}
}

func TestStreamID(t *testing.T) {
	for i, want := range []int{1, 3, 4, 5} {
		if got := StreamID(i); got != want {
			t.Errorf("stream %d has id %d, want %d", i, got, want)
		}
	}
}

func TestCookie(t *testing.T) {
	a, b := NewCookie(), NewCookie()
	if a.Equal(b) || !a.Equal(a) || len(a.String()) != 36 {
		t.Errorf("cookies %q and %q", a, b)
	}
	got, err := ReadCookie(bytes.NewReader(a[:]))
	if err != nil || !got.Equal(a) {
		t.Errorf("read %q, %v", got, err)
	}
	old := append([]byte("host.1795451348.123456.0af3"), make([]byte, 10)...)
	if got, err := ReadCookie(bytes.NewReader(old)); err != nil || got.String() != "host.1795451348.123456.0af3" {
		t.Errorf("an old client's cookie: %q, %v", got, err)
	}
	for name, in := range map[string]string{
		"http":         "GET / HTTP/1.1\r\nHost: some.example\r\n\r\n",
		"unterminated": strings.Repeat("a", 37),
		"binary":       strings.Repeat("\x80", 36) + "\x00",
		"hole":         strings.Repeat("a", 20) + "\x00" + strings.Repeat("a", 15) + "\x00",
		"zeroes":       strings.Repeat("\x00", 37),
	} {
		if c, err := ReadCookie(strings.NewReader(in)); !errors.Is(err, ErrCookie) {
			t.Errorf("%s: %q, %v", name, c, err)
		}
	}
}

func TestDatagram(t *testing.T) {
	b := make([]byte, 16)
	PutHeader(b, 3*time.Second+4*time.Microsecond, 0x0102030405060708, true)
	if want := []byte{0, 0, 0, 3, 0, 0, 0, 4, 1, 2, 3, 4, 5, 6, 7, 8}; !bytes.Equal(b, want) {
		t.Errorf("64 bits: % x", b)
	}
	PutHeader(b, 3*time.Second+4*time.Microsecond, 9, false)
	if want := []byte{0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 9}; !bytes.Equal(b[:12], want) {
		t.Errorf("32 bits: % x", b)
	}
	if sent, seq, ok := ParseHeader(b[:12], false); sent != 3*time.Second+4*time.Microsecond || seq != 9 || !ok {
		t.Errorf("read back %v %d %v", sent, seq, ok)
	}
	if _, _, ok := ParseHeader(b[:12], true); ok {
		t.Error("12 bytes were taken for a header of 16")
	}
	b[4] = 0xff
	if _, _, ok := ParseHeader(b, false); ok {
		t.Error("4278190084 microseconds were accepted")
	}
	if n := testing.AllocsPerRun(100, func() { PutHeader(b, 1, 1, true); _, _, _ = ParseHeader(b, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestConnectMessages(t *testing.T) {
	for _, tt := range []struct{ ask, answer string }{
		{"9876", "6789"},                         // 0x36373839 and 0x39383736, little-endian
		{"6789", "9876"},                         // the same of a big-endian client
		{"\x15\xcd\x5b\x07", "\xb1\x68\xde\x3a"}, // 123456789 and 987654321
		{"\x07\x5b\xcd\x15", "\x3a\xde\x68\xb1"},
	} {
		got, ok := ConnectReply([]byte(tt.ask))
		if !ok || string(got) != tt.answer || !IsConnectReply(got) {
			t.Errorf("%q is answered by %q (%v), want %q", tt.ask, got, ok, tt.answer)
		}
	}
	for _, b := range []string{"", "abcd", "98765", "987"} {
		if _, ok := ConnectReply([]byte(b)); ok || IsConnectReply([]byte(b)) {
			t.Errorf("%q was taken for a connect message", b)
		}
	}
}

func TestServerError(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteServerError(&buf, &RemoteError{Code: CodeStreams, Errno: 111}); err != nil {
		t.Fatal(err)
	}
	if want := []byte{0xfe, 0, 0, 0, 6, 0, 0, 0, 111}; !bytes.Equal(buf.Bytes(), want) {
		t.Errorf("wrote % x", buf.Bytes())
	}
	buf.Next(1)
	e, err := ReadServerError(&buf)
	if err != nil || e.Code != CodeStreams || !strings.Contains(e.Error(), "streams") || !strings.Contains(e.Error(), "refused") {
		t.Errorf("%v, %v", e, err)
	}
}

func TestNumber(t *testing.T) {
	for in, want := range map[string]Number{
		"0": 0, "-1": -1, "18446744073709551615": -1, "1.8446744073709552e+19": -1, "1e3": 1000, "2.0": 2, "null": 0,
	} {
		var n Number
		if err := n.UnmarshalJSON([]byte(in)); err != nil || n != want {
			t.Errorf("%s: %d, %v", in, n, err)
		}
	}
	for _, in := range []string{"1e400", "9007199254740994", "true", `"1"`, "1.8e19"} {
		var n Number
		if err := n.UnmarshalJSON([]byte(in)); err == nil {
			t.Errorf("%s: accepted as %d", in, n)
		}
	}
	if b, err := Real(math.Inf(1)).MarshalJSON(); err != nil || string(b) != "0" {
		t.Errorf("infinity: %s, %v", b, err)
	}
}
