// SPDX-License-Identifier: Apache-2.0

// Package engine is the data plane: it carries Ethernet frames between devices
// and UDP, as VXLAN (RFC 7348), in user space. One Engine has one set of UDP
// sockets and many tunnels; a tunnel is (VNI, device, remote).
//
// # Who runs and who owns what
//
//	device ----> poller        a thread that sleeps on the queues of all
//	             |             tunnels at once; owns its buffers, cuts, sends
//	             v
//	        source sockets     16 per address family, chosen by flow hash
//
//	  port 4789 sockets        Receivers per address family
//	             |
//	             v
//	device <---- receiver      a thread per socket; owns its buffers and
//	                           merger; finds the tunnel by VNI, checks, merges,
//	                           writes
//
// So memory does not grow with tunnels: an idle one is a descriptor per queue.
// A device whose queues have no descriptor (one in memory) has a goroutine per
// queue instead, parked while the queue is empty, and these borrow buffers from
// a pool.
//
// Order is kept within a flow: the kernel gives a flow's frames to one device
// queue, hence one poller, hence one source socket; the outer 5-tuple
// picks one receiving socket, hence one receiver; the merger keeps the order.
//
// The tunnels stand in an immutable map behind an atomic pointer, and each
// tunnel's peer likewise, so both can change while traffic flows. A receiver
// may therefore still write a last batch to a tunnel that was just removed;
// the device answers that it is closed.
//
// Close takes the devices from the pollers and closes them, ends the pollers and
// the receivers, waits for all, and closes the sockets last.
package engine
