// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

// Packet is a frame as a device of a node saw it.
type Packet struct {
	Time     time.Time
	Data     []byte // from the destination MAC, VLAN tag in place, without frame check sequence
	Outgoing bool   // sent by this machine, else received
	// Partial: the checksum of the outermost TCP or UDP header was left to the
	// device (TP_STATUS_CSUMNOTREADY), so the field holds only the
	// pseudo-header's sum.
	Partial bool
}

// Capture watches a device with a packet socket. It begins when Port.Capture
// returns and ends with Stop.
type Capture struct {
	f    *os.File
	done chan struct{}

	mu      sync.Mutex
	packets []Packet
	dropped uint32
	err     error
}

// captureBuffer is the room for packets not yet taken from the socket, in bytes.
const captureBuffer = 64 << 20

// maxFrame holds the largest frame a device can show: a super-frame.
const maxFrame = 1 << 18

// Capture begins to watch the device, both directions. A nil filter keeps
// everything; otherwise it sees each packet, whose Data is its to keep, from
// the capture's goroutine, and says whether to keep it in memory.
func (p Port) Capture(filter func(Packet) bool) (*Capture, error) {
	l, err := p.Link()
	if err != nil {
		return nil, err
	}
	c := &Capture{done: make(chan struct{})}
	err = p.Node.Do(func() error {
		fd, err := packetSocket(l.Attrs().Index)
		if err != nil {
			return err
		}
		c.f = os.NewFile(uintptr(fd), "capture "+p.Name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("lab: capture %s in node %s: %w", p.Name, p.Node.name, err)
	}
	go c.run(filter)
	return c, nil
}

// packetSocket opens a packet socket bound to a device, ready for auxiliary data.
func packetSocket(ifindex int) (int, error) {
	// Protocol 0 receives nothing until bind names the device.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	// The forced size needs CAP_NET_ADMIN in the first user namespace; the
	// plain one is capped by net.core.rmem_max.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

func (c *Capture) run(filter func(Packet) bool) {
	defer close(c.done)
	raw, err := c.f.SyscallConn()
	if err != nil {
		c.fail(err)
		return
	}
	buf := make([]byte, maxFrame)
	oob := make([]byte, 256)
	for {
		var pkt Packet
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			pkt, recvErr = receive(int(fd), buf, oob)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		switch {
		case errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded):
			// Stop was called. Some of what it wants may still be in the socket.
			_ = raw.Control(func(fd uintptr) {
				for {
					pkt, err := receive(int(fd), buf, oob)
					if err != nil {
						break
					}
					c.keep(pkt, filter)
				}
				if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
					c.mu.Lock()
					c.dropped = s.Drops
					c.mu.Unlock()
				}
			})
			return
		case err != nil:
			c.fail(err)
			return
		case recvErr != nil && !errors.Is(recvErr, unix.EINTR) && !errors.Is(recvErr, unix.ENETDOWN):
			c.fail(recvErr)
			return
		case recvErr == nil:
			c.keep(pkt, filter)
		}
	}
}

func (c *Capture) keep(p Packet, filter func(Packet) bool) {
	if filter != nil && !filter(p) {
		return
	}
	c.mu.Lock()
	c.packets = append(c.packets, p)
	c.mu.Unlock()
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
}

// receive takes one packet from the socket.
func receive(fd int, buf, oob []byte) (Packet, error) {
	n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Time: time.Now()}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		p.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
	}
	data := buf[:n]
	var tag []byte
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return p, err
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20:
			p.Partial = binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
			if t, ok := vlanTag(m.Data); ok {
				tag = t[:]
			}
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16:
			p.Time = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	if tag != nil && len(data) >= 12 {
		// The kernel takes the tag out of the frame and hands it over beside it.
		p.Data = append(append(append(make([]byte, 0, n+4), data[:12]...), tag...), data[12:]...)
	} else {
		p.Data = append([]byte(nil), data...)
	}
	return p, nil
}

// Packets returns what has been captured so far.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Packet(nil), c.packets...)
}

// Stop ends the capture and returns everything captured. It is an error if the
// socket lost packets, or failed.
func (c *Capture) Stop() ([]Packet, error) {
	deadlineErr := c.f.SetReadDeadline(time.Unix(1, 0))
	if deadlineErr == nil {
		<-c.done
	}
	closeErr := c.f.Close()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.packets, fmt.Errorf("lab: capture: %w", c.err)
	}
	if c.dropped != 0 {
		return c.packets, fmt.Errorf("lab: capture: the socket lost %d packets", c.dropped)
	}
	return c.packets, errors.Join(deadlineErr, closeErr)
}

// WritePcap writes packets as a capture file that tcpdump and tshark read.
func WritePcap(w io.Writer, packets []Packet) error {
	pw := pcapgo.NewWriterNanos(w)
	if err := pw.WriteFileHeader(maxFrame, layers.LinkTypeEthernet); err != nil {
		return fmt.Errorf("lab: write capture: %w", err)
	}
	for _, p := range packets {
		ci := gopacket.CaptureInfo{Timestamp: p.Time, CaptureLength: len(p.Data), Length: len(p.Data)}
		if err := pw.WritePacket(ci, p.Data); err != nil {
			return fmt.Errorf("lab: write capture: %w", err)
		}
	}
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
