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
	"io/fs"
	"net"
	"os"
	"strings"
	"time"
)

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
			end.Device = fmt.Sprintf("wg%c%s%dl%d", b.profile[0], b.topology, i, link)
			peer := link
			if peer == i {
				peer = link + 1
			}
			err := b.startWireGuard(ctx, i, end, keys[fmt.Sprint(i, link)], keys[fmt.Sprint(peer, link)].PublicKey())
			if err != nil {
				return fmt.Errorf("wireguard-go in %s: %w", b.hosts[i].Name(), err)
			}
		}
		return nil
	})
}

func (b *bench) startWireGuard(ctx context.Context, i int, end tunnelEnd, own *ecdh.PrivateKey, peer *ecdh.PublicKey) error {
	dir, err := b.workspace("wireguard")
	if err != nil {
		return err
	}
	socket := "/var/run/wireguard/" + end.Device + ".sock"
	b.others = append(b.others, func() error {
		if err := os.Remove(socket); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if _, err := b.start(ctx, i, dir, []string{"LOG_LEVEL=error"}, "wireguard-go", "-f", end.Device); err != nil {
		return err
	}
	port := wireGuardPort + int(end.VNI)
	settings := fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=%d\nreplace_peers=true\npublic_key=%s\nendpoint=%v:%d\nreplace_allowed_ips=true\nallowed_ip=0.0.0.0/0\n\n",
		hex.EncodeToString(own.Bytes()), port, hex.EncodeToString(peer.Bytes()), end.Remote, port)
	if err := tellWireGuard(ctx, socket, settings); err != nil {
		return err
	}
	return b.deviceUp(i, end)
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
