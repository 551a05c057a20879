// SPDX-License-Identifier: Apache-2.0

// Package lab builds private test networks on one machine: network namespaces
// as machines, veth pairs as cables, bridges as switches.
//
// A program enters the lab once, early in main or TestMain, with [Enter]. From
// then on it runs in namespaces of its own, and nothing that it does to links,
// addresses, routes, firewall or mounts reaches the machine:
//
//	front (the caller's process, outside)
//	  |  waits, passes signals in, returns the exit code
//	  v
//	init (process 1 of the lab)         mount, pid, net, uts and ipc namespaces;
//	  |  only reaps and passes signals  a user namespace too, unless run by root
//	  v
//	program (same binary, same arguments; Enter returns nil here)
//	  |
//	  +-- everything that it starts, in whatever Node
//
// Because init is process 1 of a pid namespace, the kernel kills everything in
// the lab when it ends, and with the last process the namespaces, links and
// mounts go. That holds after kill -9 of any of the three.
//
// Inside, a [Net] holds [Node] values. Node.Do runs a function in a node,
// Node.Command starts a process there; [Connect] and [Switch] lay cables. The
// names under /run/netns are the usual ones, so `ip netns exec NAME` works for
// whoever is inside.
package lab
