// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Notifications of nf_tables (include/uapi/linux/netfilter/nfnetlink.h and
// nf_tables.h). NEWGEN ends every transaction and tells who made it.
const (
	groupNFTables  = 7
	messageNewGen  = 10<<8 | 15 // NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
	nfgenmsgLen    = 4
	attrGenName    = 3 // NFTA_GEN_PROC_NAME
	listenAgain    = 3 * time.Second
	maxProcessName = 16 // TASK_COMM_LEN
)

// listen passes the kernel's notifications of changed nf_tables rules on, until ctx
// ends. iptables-nft, nft, firewalld and dockerd all end up there; only the legacy
// variant does not.
func (f *Firewall) listen(ctx context.Context) {
	said := false
	for ctx.Err() == nil {
		var socket *nl.NetlinkSocket
		var err error
		if failed := f.namespace.do(func() { socket, err = nl.Subscribe(unix.NETLINK_NETFILTER, groupNFTables) }); failed != nil {
			err = failed
		}
		if err == nil {
			f.tables.setTold(true)
			f.tables.wake() // for what happened before
			err = f.receive(ctx, socket)
			f.tables.setTold(false)
		}
		if ctx.Err() != nil {
			return
		}
		if !said {
			f.log.Warn("the kernel does not tell of changed firewall rules: they are looked at every few seconds instead",
				"error", fmt.Errorf("netlink, nf_tables notifications: %w", err))
			said = true
		}
		f.tables.wake()
		waitFor(ctx, nil, listenAgain)
	}
}

// receive reads until the socket fails or ctx ends, and closes it.
func (f *Firewall) receive(ctx context.Context, socket *nl.NetlinkSocket) error {
	stop := context.AfterFunc(ctx, socket.Close)
	defer func() {
		if stop() {
			socket.Close()
		}
	}()
	for {
		messages, _, err := socket.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // some were lost: look
			f.tables.note("")
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		for _, m := range messages {
			if m.Header.Type == messageNewGen {
				f.tables.note(generationBy(m.Data))
			}
		}
	}
}

// generationBy reads the name of the program that made a transaction, empty when the
// kernel does not tell.
func generationBy(data []byte) string {
	if len(data) < nfgenmsgLen {
		return ""
	}
	// Not nl.ParseRouteAttr, which looks beyond an attribute that ends unpadded.
	for b := data[nfgenmsgLen:]; len(b) >= unix.SizeofNlAttr; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			break
		}
		value := b[unix.SizeofNlAttr:n]
		if binary.NativeEndian.Uint16(b[2:]) == attrGenName && len(value) <= maxProcessName {
			return unix.ByteSliceToString(value)
		}
		b = b[min((n+3)&^3, len(b)):] // NLA_ALIGN
	}
	return ""
}
