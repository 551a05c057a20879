// SPDX-License-Identifier: Apache-2.0

// Package docker keeps the Docker network that puts containers on the overlay: a
// network of driver bridge on a bridge that is ours, not Docker's. It makes the
// network when it is missing, compares it when it is there, makes it anew when it
// is wrong and nothing is attached, and learns from Docker which addresses its
// containers have.
//
// Docker is never waited for: a machine without it, or on which dockerd is not up
// yet or restarts, is looked at again and again by Keeper.Run.
//
// # Engines
//
// Engine 20.10 (API 1.41) to 29 are spoken to; the client agrees on a version with
// each engine. They differ in what they do to packets for a bridge network:
//
//   - up to 27 (API 1.47) a packet routed to a container is judged by the FORWARD
//     chain alone, where rules that stand before Docker's decide;
//   - from 28 (API 1.48) a packet that is routed to a container, and did not come in
//     by the network's own bridge, is dropped by a last rule of the chain DOCKER, and
//     by one rule per container in the raw table's PREROUTING chain, before any
//     FORWARD rule sees it. Both are left out, and an accepting rule stands in their
//     place, for a network whose gateway mode is nat-unprotected
//     (filterDirectAccess and setDefaultForwardRule in
//     daemon/libnetwork/drivers/bridge/internal/iptabler of moby; the nftables
//     backend of 29 does the same). So that mode is chosen where it is known.
//     Engines before 28 refuse it or do not know it.
//
// Traffic of the overlay is not even touched by those rules: it comes in by a port
// of the bridge, so its incoming device is the bridge itself.
package docker
