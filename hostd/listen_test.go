// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A port that is given up in a moment is waited for; one that is not is named.
func TestListenPortTaken(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bind := netip.MustParseAddrPort(other.Addr().String())
	if l, err := listen(t.Context(), bind); err == nil {
		l.Close()
		t.Fatal("listens where another does")
	} else if !strings.Contains(err.Error(), "the port is taken") {
		t.Errorf("the error does not say so: %v", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { other.Close() })
	l, err := listen(t.Context(), bind)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
