// SPDX-License-Identifier: Apache-2.0

// Package integration holds the end-to-end tests: real network namespaces, real
// devices, real daemons, and the kernel's own VXLAN driver as the other end. It
// has no code of its own. Every test file opens with a drawing of its topology;
// the namespaces come from internal/lab, so nothing outlives a run.
package integration
