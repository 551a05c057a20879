// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sourceSockets is how many source ports, per address family, flows are
// spread over. RFC 7348 section 4 wants the port to depend on the inner flow,
// so that an underlay that spreads load by 5-tuple sees many.
const sourceSockets = 16

// sourcePools holds the sockets that datagrams leave from, one pool for each
// address family and setting of DF, which belongs to the socket.
type sourcePools struct {
	mu    sync.Mutex
	pools [4][]*sourceSocket
}

// listening reports whether datagrams of the family are received at all.
func (p *sourcePools) listening(v6 bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pools[poolIndex(v6, false)]) > 0
}

func poolIndex(v6, df bool) (i int) {
	if v6 {
		i = 1
	}
	if df && !v6 {
		i |= 2 // IPv6 knows no DF: routers never fragment
	}
	return i
}

// get returns a pool, opened when it is first asked for.
func (p *sourcePools) get(v6, df bool) ([]*sourceSocket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pool := &p.pools[poolIndex(v6, df)]
	if len(*pool) > 0 {
		return *pool, nil
	}
	var made []*sourceSocket
	for range sourceSockets {
		s, err := openSource(v6, df)
		if err != nil {
			for _, s := range made {
				unix.Close(s.fd)
			}
			return nil, err
		}
		made = append(made, s)
	}
	*pool = made
	return made, nil
}

// close closes all sockets. No transmitter may be alive.
func (p *sourcePools) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.pools {
		for _, s := range p.pools[i] {
			unix.Close(s.fd)
		}
		p.pools[i] = nil
	}
}

// A sourceSocket is one that datagrams leave from.
type sourceSocket struct{ fd int }

func openSource(v6, df bool) (*sourceSocket, error) {
	fd, err := udpSocket(v6)
	if err != nil {
		return nil, err
	}
	if df && !v6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	var sa unix.Sockaddr = &unix.SockaddrInet4{}
	if v6 {
		sa = &unix.SockaddrInet6{}
	}
	// Nobody has business sending to this port, so the kernel is told to drop
	// what arrives before it fills a buffer that nobody reads.
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &sourceSocket{fd}, nil
}

// sendPatience is how long a full socket buffer is waited for, in
// milliseconds, before the frames are dropped.
const sendPatience = 20

// send sends one message. The errors are those of sendmsg(2), comparable with
// ==. The descriptor stays open as long as any transmitter lives.
func (s *sourceSocket) send(m *rawMessage, st *stages) error {
	st.sends.Add(1)
	e := sendmsg(s.fd, m)
	if e == unix.EAGAIN {
		since := time.Now()
		p := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
		_, _ = unix.Poll(p, sendPatience) // whether it helped, the next send tells
		st.noteBlocked(since)
		e = sendmsg(s.fd, m)
	}
	if e != 0 {
		return e
	}
	return nil
}
