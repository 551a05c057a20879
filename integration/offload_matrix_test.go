// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"kohaku/conf"
	"kohaku/internal/lab/traffic"
)

// Inner protocol by size by offloads, 24 in all, between two ends of ours and
// between us and the kernel, in both directions. The topology is that of
// ends_test.go. What arrives is compared with what was sent, by hash or byte by
// byte.
func TestMatrix(t *testing.T) {
	for _, right := range []kind{ours, kernel} {
		for offloads, off := range map[string]conf.Offloads{"on": {}, "off": without["without any"]} {
			t.Run(fmt.Sprintf("ours-%s, offloads %s", right, offloads), func(t *testing.T) {
				l := newLink(t, linkConfig{left: ours, right: right, off: off})
				for _, size := range []string{"small", "MTU", "super-frame"} {
					for _, v6 := range []bool{false, true} {
						t.Run(size+" TCP "+underlayName(v6), func(t *testing.T) { l.matrix(t, offloads == "on", size, v6, matrixTCP) })
						t.Run(size+" UDP "+underlayName(v6), func(t *testing.T) { l.matrix(t, offloads == "on", size, v6, matrixUDP) })
					}
				}
				l.noDrops(t)
			})
		}
	}
}

// matrix sends both ways, and looks whether super-frames were used.
func (l *link) matrix(t *testing.T, on bool, size string, v6 bool, send func(t *testing.T, from, to *end, mtu int, size string, v6 bool)) {
	before := l.left.engine.Tunnels()[0]
	for _, d := range l.directions() {
		send(t, d[0], d[1], l.mtu, size, v6)
	}
	after := l.left.engine.Tunnels()[0]
	read, written := after.Tx.SuperFrames-before.Tx.SuperFrames, after.Rx.SuperFrames-before.Rx.SuperFrames
	if on && size == "super-frame" && (read == 0 || written == 0) || !on && read != 0 {
		t.Errorf("%d super-frames were read, %d written", read, written)
	}
}

// matrixTCP sends a stream in writes of one size.
func matrixTCP(t *testing.T, from, to *end, mtu int, size string, v6 bool) {
	t.Helper()
	headers := 40 + 12 // IPv4, TCP, timestamps
	if v6 {
		headers += 20
	}
	write, total := map[string]int{"small": 57, "MTU": mtu - headers, "super-frame": 1 << 16}[size], 0
	sink := closeAfter(t, open(t, to.Node, func() (*traffic.TCPSink, error) { return traffic.ListenTCP(netip.AddrPortFrom(to.addr(v6), 0)) }))
	c := open(t, from.Node, func() (net.Conn, error) { return net.DialTimeout("tcp", sink.Addr().String(), 20*time.Second) })
	defer c.Close()
	check(t, c.SetDeadline(time.Now().Add(time.Minute)))
	h, source, buf := sha256.New(), traffic.NewSource(uint64(write)), make([]byte, write)
	for range map[string]int{"small": 2000, "MTU": 1000, "super-frame": 64}[size] {
		must(io.ReadFull(source, buf))(t)
		n := must(io.MultiWriter(c, h).Write(buf))(t)
		total += n
	}
	check(t, c.(*net.TCPConn).CloseWrite())
	if got := must(io.ReadAll(c))(t); !bytes.Equal(got, h.Sum(nil)) {
		t.Errorf("%s to %s: of %d bytes something else arrived", from.Name(), to.Name(), total)
	}
}

// matrixUDP sends datagrams of one size, or trains of them in one call.
func matrixUDP(t *testing.T, from, to *end, mtu int, size string, v6 bool) {
	t.Helper()
	largest := mtu - 28
	if v6 {
		largest -= 20
	}
	sink := closeAfter(t, open(t, to.Node, func() (*traffic.UDPSink, error) { return traffic.ListenUDP(netip.AddrPortFrom(to.addr(v6), 0)) }))
	s := closeAfter(t, open(t, from.Node, func() (*traffic.UDPSender, error) { return traffic.DialUDP(from.addr(v6), sink.Addr()) }))
	ctx := within(t, time.Minute)
	for range 20 {
		var err error
		switch size {
		case "small":
			for range 20 {
				err = errors.Join(err, s.Send(64))
			}
		case "MTU":
			for range 20 {
				err = errors.Join(err, s.Send(largest))
			}
		default:
			err = s.SendTrain(largest, 40)
		}
		check(t, err)
		check(t, waitFor(ctx, sink, s.Sent()))
	}
	if got := sink.Stats(); got.Received != s.Sent() || got.Duplicated+got.Reordered+got.Corrupt != 0 {
		t.Errorf("%s to %s: sent %d, arrived %+v", from.Name(), to.Name(), s.Sent(), got)
	}
}
