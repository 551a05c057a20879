// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"kohaku/internal/lab"
)

// needs gives the missing function of a data path that is a program.
func needs(program string) func() string {
	return func() string {
		if _, err := exec.LookPath(program); err != nil {
			return program + " is not on PATH"
		}
		return ""
	}
}

const (
	wireGuardMTU  = 1420 // what wg-quick gives on an underlay of 1500
	wireGuardPort = 51820
)

// upWireGuard runs wireguard-go, one process for each end of a tunnel, and
// configures it through its socket (https://www.wireguard.com/xplatform/).
func upWireGuard(ctx context.Context, b *bench) (endpoints, error) {
	// Both ends of a link need each other's public key.
	keys := map[string]*ecdh.PrivateKey{}
	for i := range b.hosts {
		for link := range b.hosts[1:] {
			k, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				return endpoints{}, err
			}
			keys[fmt.Sprint(i, link)] = k
		}
	}
	return b.tunnelled(netWireGuard, wireGuardMTU, func(i int, ends []tunnelEnd) error {
		for _, end := range ends {
			link := int(end.VNI - vni(0))
			// The program's socket is named after the device, and the machines of
			// the lab share one file system.
			end.Device = fmt.Sprintf("wg%dl%d", i, link)
			peer := link
			if peer == i {
				peer = link + 1
			}
			err := b.startWireGuard(ctx, b.hosts[i].Node, end, keys[fmt.Sprint(i, link)], keys[fmt.Sprint(peer, link)].PublicKey())
			if err != nil {
				return fmt.Errorf("wireguard-go in %s: %w", b.hosts[i].Name(), err)
			}
		}
		return nil
	})
}

func (b *bench) startWireGuard(ctx context.Context, node *lab.Node, end tunnelEnd, own *ecdh.PrivateKey, peer *ecdh.PublicKey) error {
	cmd := node.Command(ctx, "wireguard-go", "-f", end.Device)
	cmd.Env = append(os.Environ(), "LOG_LEVEL=error")
	cmd.WaitDelay = 5 * time.Second
	socket := "/var/run/wireguard/" + end.Device + ".sock"
	if err := cmd.Start(); err != nil {
		return err
	}
	b.others = append(b.others, func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
		return os.Remove(socket)
	})
	port := wireGuardPort + int(end.VNI)
	settings := fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=%d\nreplace_peers=true\npublic_key=%s\nendpoint=%v:%d\nreplace_allowed_ips=true\nallowed_ip=0.0.0.0/0\n\n",
		hex.EncodeToString(own.Bytes()), port, hex.EncodeToString(peer.Bytes()), end.Remote, port)
	if err := tellWireGuard(ctx, socket, settings); err != nil {
		return err
	}
	if err := node.SetMTU(end.Device, end.MTU); err != nil {
		return err
	}
	if err := node.AddAddr(end.Device, end.Address); err != nil {
		return err
	}
	return node.SetUp(end.Device)
}

// tellWireGuard sends settings, once the program listens.
func tellWireGuard(ctx context.Context, socket, settings string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", socket)
		if err == nil {
			defer conn.Close()
			if _, err := io.WriteString(conn, settings); err != nil {
				return err
			}
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			answer := make([]byte, 256)
			n, err := conn.Read(answer)
			if err != nil {
				return err
			}
			if !strings.HasPrefix(string(answer[:n]), "errno=0") {
				return fmt.Errorf("it refuses its settings: %s", strings.TrimSpace(string(answer[:n])))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("it does not listen for settings"), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
