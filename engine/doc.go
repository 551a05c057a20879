// SPDX-License-Identifier: Apache-2.0

// Package engine is the data plane: it carries Ethernet frames between devices
// and UDP, as VXLAN (RFC 7348), in user space. One Engine has one set of UDP
// sockets and many tunnels; a tunnel is (VNI, device, remote).
//
// # Who runs and who owns what
//
//	            +--------- worker: one thread --------+
//	            |                                     |
//	device ---->|  read, cut    (txContext)           |----> source sockets, 16 per
//	queues of   |                                     |      family, by flow hash
//	all tunnels |                                     |
//	       <----|  write, merge, check    (receiver)  |<---- its socket on port 4789,
//	            |                                     |      one per address
//	            +-------------------------------------+
//
// Each of Workers threads sleeps on all of its sockets and queues at once, and
// owns its buffers. So memory does not grow with tunnels: an idle one is a
// descriptor per queue. A device whose queues have no descriptor (one in memory)
// has a goroutine per queue instead, parked while the queue is empty, and these
// borrow buffers from a pool.
//
// Order is kept within a flow: the kernel gives a flow's frames to one device
// queue, hence one worker, hence one source socket; the outer 5-tuple
// picks one receiving socket, hence one worker; the merger keeps the order.
//
// The tunnels stand in an immutable map behind an atomic pointer, and each
// tunnel's peer likewise, so both can change while traffic flows. A worker may
// therefore still write a last batch to a tunnel that was just removed; the
// device answers that it is closed.
//
// Close takes the devices from the workers and closes them, ends the workers,
// and closes the sockets last.
package engine
