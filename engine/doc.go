// SPDX-License-Identifier: Apache-2.0

// Package engine is the data plane: it carries Ethernet frames between devices
// and UDP, as VXLAN (RFC 7348), in user space. One Engine has one set of UDP
// sockets and many tunnels; a tunnel is (VNI, device, remote).
//
// # Who runs and who owns what
//
//	device ----> transmitter   one goroutine per device queue, parked while
//	             |             the queue is empty; borrows a transmit context
//	             |             (buffers, message headers) from a pool that all
//	             v             tunnels share, cuts, sends, gives it back
//	        source sockets     16 per address family, chosen by flow hash
//
//	  port 4789 sockets        Receivers per address family
//	             |
//	             v
//	device <---- receiver      one goroutine per socket, owns its buffers and
//	                           merger; finds the tunnel by VNI, checks, merges,
//	                           writes
//
// So memory does not grow with tunnels: an idle one is a parked goroutine and
// a descriptor per queue.
//
// Order is kept within a flow: the kernel gives a flow's frames to one device
// queue, hence one transmitter, hence one source socket; the outer 5-tuple
// picks one receiving socket, hence one receiver; the merger keeps the order.
//
// The tunnels stand in an immutable map behind an atomic pointer, and each
// tunnel's peer likewise, so both can change while traffic flows. A receiver
// may therefore still write a last batch to a tunnel that was just removed;
// the device answers that it is closed.
//
// Close ends the transmitters by closing the devices, then the receivers by
// closing the sockets, and waits for all.
package engine
