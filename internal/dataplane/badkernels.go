// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kohaku/conf"
)

// Kernels that are known to break an offload that they offer, in a way that the
// engine cannot notice, or only by losing frames. Distributions number their
// kernels as upstream does and may have the fix, or the fault, in another release;
// hence conf.Offloads.TrustKernel, and hence the engine's own fallbacks, which do
// without a list.
var badKernels = []badKernel{
	{
		offload: "tso", first: version{5, 15, 165}, fixed: version{5, 15, 168},
		why: tunEINVAL, source: virtioFault,
	},
	{
		offload: "tso", first: version{6, 1, 103}, fixed: version{6, 1, 108},
		why: tunEINVAL, source: virtioFault,
	},
	{
		offload: "tso", first: version{6, 6, 44}, fixed: version{6, 6, 47},
		why: tunEINVAL, source: virtioFault,
	},
	{
		offload: "tso", first: version{6, 10, 3}, fixed: version{6, 10, 6},
		why: tunEINVAL, source: virtioFault,
	},
	{
		offload: "uso", first: version{6, 2, 0}, fixed: version{6, 8, 5},
		why:    "UDP super-frames from a TUN or TAP are lost when a tunnel of the kernel's carries them on",
		source: "https://github.com/tailscale/tailscale/issues/11026",
	},
	{
		offload: "udp_gso", first: version{7, 0, 0}, fixed: version{7, 1, 5},
		why:    "UDP headers and checksums of datagrams sent with UDP_SEGMENT are mangled with some network drivers",
		source: "https://github.com/tailscale/tailscale/pull/19918 (since torvalds/linux b10b446, fixed by 78effd8 and 5f17ae0)",
	},
}

const (
	tunEINVAL   = "super-frames whose last segment is short are refused when they are written to a TUN or TAP"
	virtioFault = "https://github.com/tailscale/tailscale/issues/13041 (since torvalds/linux e269d79c7d35, fixed by 89add40066f9)"
)

// A badKernel is a range of versions, first included and fixed not, in which one
// offload is broken.
type badKernel struct {
	offload      string // as it is called in the settings
	first, fixed version
	why          string
	source       string // where this was found
}

// version is the first three numbers of a kernel release.
type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// parseVersion reads a kernel release such as "6.1.0-18-amd64" or "7.1-rc3"; what
// is missing, or is no number, is 0.
func parseVersion(release string) (v version) {
	numbers, _, _ := strings.Cut(release, "-")
	for i, s := range strings.SplitN(numbers, ".", 4) {
		if i == len(v) {
			break
		}
		end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if end >= 0 {
			s = s[:end]
		}
		v[i], _ = strconv.Atoi(s)
		if end >= 0 {
			break
		}
	}
	return v
}

// judge takes from want what the kernel of that release is known to break, and
// says why.
func judge(release string, want conf.Offloads) (conf.Offloads, []badKernel) {
	if want.TrustKernel {
		return want, nil
	}
	v := parseVersion(release)
	var found []badKernel
	for _, b := range badKernels {
		if v.less(b.first) || !v.less(b.fixed) {
			continue
		}
		on := map[string]*bool{"tso": &want.TSO, "uso": &want.USO, "udp_gso": &want.UDPGSO, "udp_gro": &want.UDPGRO}[b.offload]
		if *on {
			*on = false
			found = append(found, b)
		}
	}
	return want, found
}

// Offloads are those that are wanted, less what this machine's kernel is known to
// break; log, unless nil, gets a line for each of these.
func Offloads(want conf.Offloads, log *slog.Logger) conf.Offloads {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return want // nothing is known of this kernel
	}
	release := unix.ByteSliceToString(u.Release[:])
	allowed, found := judge(release, want)
	for _, b := range found {
		if log != nil {
			log.Warn("an offload stays off, since this kernel is known to break it; trust_kernel = true in [engine] offloads uses it regardless",
				"offload", b.offload, "kernel", release, "broken", fmt.Sprintf("%s to before %s", b.first, b.fixed), "why", b.why, "source", b.source)
		}
	}
	return allowed
}
