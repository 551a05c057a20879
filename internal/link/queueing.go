// SPDX-License-Identifier: Apache-2.0

package link

import (
	"github.com/vishvananda/netlink"
)

// Queueing is what makes packets wait at a device, and what it has lost.
type Queueing struct {
	Qdisc string // kind of the root's, such as "fq_codel"; empty: not known
	Rate  uint64 // bit/s that it lets through; 0: it sets no limit, or none that is known
	// Drops counts since the device exists: packets that the device or its root
	// qdisc dropped, both ways, and errors.
	Drops uint64
}

// Queueing looks at a device. The error matches ErrNotFound when it does not exist.
func (Kernel) Queueing(device string) (Queueing, error) {
	const op = "look at the queues"
	l, err := byName(op, device)
	if err != nil {
		return Queueing{}, err
	}
	var q Queueing
	if s := l.Attrs().Statistics; s != nil {
		q.Drops = s.RxDropped + s.TxDropped + s.RxErrors + s.TxErrors
	}
	all, err := Dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
	if err != nil {
		return q, fail(op, device, err)
	}
	for _, d := range all {
		a := d.Attrs()
		if a.Parent != netlink.HANDLE_ROOT {
			continue
		}
		q.Qdisc = d.Type()
		if tbf, ok := d.(*netlink.Tbf); ok {
			q.Rate = tbf.Rate * 8
		}
		if a.Statistics != nil && a.Statistics.Queue != nil {
			q.Drops += uint64(a.Statistics.Queue.Drops)
		}
	}
	return q, nil
}
