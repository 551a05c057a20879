// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// Label marks networks that were made here.
const Label = "kohaku"

const labelValue = "overlay"

// hostName is the name under which the Host's address is kept from containers.
const hostName = "host"

// Options of the bridge driver (daemon/libnetwork/drivers/bridge/labels.go and
// daemon/libnetwork/netlabel of moby).
const (
	optBridge      = "com.docker.network.bridge.name"
	optMTU         = "com.docker.network.driver.mtu"
	optMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	optICC         = "com.docker.network.bridge.enable_icc"
	optGatewayMode = "com.docker.network.bridge.gateway_mode_ipv4"
	optInhibitIPv4 = "com.docker.network.bridge.inhibit_ipv4"
)

// gatewayMode lets routed packets reach containers; see the package comment.
const gatewayMode = "nat-unprotected"

var (
	// oldest is what Engine 20.10 speaks.
	oldest = apiVersion{1, 41}
	// filtersRouted is the first version, Engine 28.0, that drops packets routed to
	// containers, and that knows gatewayMode.
	filtersRouted = apiVersion{1, 48}
)

// Network is the Docker network that is wanted. It is comparable; the zero value
// is none.
type Network struct {
	Name    string
	Bridge  string // device; exists already
	Subnet  netip.Prefix
	Gateway netip.Addr // the bridge's address
	Host    netip.Addr // of the subnet, and not for containers
	MTU     int        // bytes
}

// options are what the engine's bridge driver is told.
func (n Network) options(v apiVersion) map[string]string {
	o := map[string]string{
		optBridge:     n.Bridge,
		optMTU:        strconv.Itoa(n.MTU),
		optMasquerade: "false",
		optICC:        "true",
	}
	if !v.less(filtersRouted) {
		o[optGatewayMode] = gatewayMode
	}
	return o
}

// create is the request that makes the network.
func (n Network) create(v apiVersion) client.NetworkCreateOptions {
	return client.NetworkCreateOptions{
		Driver: "bridge",
		IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{
			Subnet: n.Subnet, Gateway: n.Gateway, AuxAddress: map[string]netip.Addr{hostName: n.Host},
		}}},
		Options: n.options(v),
		Labels:  map[string]string{Label: labelValue},
	}
}

// defaults are what the driver does when an option is not there; an option that is
// missing here has no fixed default.
var defaults = map[string]string{optMasquerade: "true", optICC: "true", optInhibitIPv4: "false", optGatewayMode: "nat"}

// differences says what about a network is not as wanted, property by property;
// nothing when all is. A label is no such property: a network that a person made
// with the right settings serves as well.
func (n Network) differences(have network.Network, v apiVersion) (diff []string) {
	differ := func(what string, is, want any) {
		if is != want {
			diff = append(diff, fmt.Sprintf("%s is %v, not %v", what, is, want))
		}
	}
	differ("the driver", have.Driver, "bridge")
	differ("the scope", have.Scope, "local")
	differ("internal", have.Internal, false)
	differ("ingress", have.Ingress, false)
	differ("config-only", have.ConfigOnly, false)
	differ("IPv6", have.EnableIPv6, false)
	if !v.less(filtersRouted) { // earlier ones do not say
		differ("IPv4", have.EnableIPv4, true)
	}
	differ("the IPAM driver", have.IPAM.Driver, "default")
	if len(have.IPAM.Config) == 1 {
		c := have.IPAM.Config[0]
		differ("the subnet", c.Subnet, n.Subnet)
		differ("the gateway", c.Gateway, n.Gateway)
		if c.IPRange.IsValid() && c.IPRange != n.Subnet {
			diff = append(diff, fmt.Sprintf("containers get addresses of %s only", c.IPRange))
		}
		if !slices.Contains(slices.Collect(maps.Values(c.AuxAddress)), n.Host) {
			diff = append(diff, fmt.Sprintf("the Host's address %s is not reserved", n.Host))
		}
	} else {
		diff = append(diff, fmt.Sprintf("it has %d subnets, not one", len(have.IPAM.Config)))
	}
	want := n.options(v)
	want[optInhibitIPv4] = "false"
	for _, key := range slices.Sorted(maps.Keys(want)) {
		is, ok := have.Options[key]
		if !ok {
			is = defaults[key]
		}
		if !sameValue(is, want[key]) {
			diff = append(diff, fmt.Sprintf("%s is %q, not %q", key, is, want[key]))
		}
	}
	return diff
}

// sameValue compares an option's values; those of switches may be written in
// several ways.
func sameValue(a, b string) bool {
	if x, err := strconv.ParseBool(a); err == nil {
		if y, err := strconv.ParseBool(b); err == nil {
			return x == y
		}
	}
	return a == b
}

// ours reports whether a network of the wanted name may be removed: it was made
// here, or it sits on our bridge, as one made by hand or by the system before does.
func (n Network) ours(have network.Network) bool {
	return have.Labels[Label] != "" || have.Driver == "bridge" && have.Options[optBridge] == n.Bridge
}

// apiVersion is a version of Docker's API. It is no decimal fraction.
type apiVersion struct{ major, minor int }

func parseAPIVersion(s string) (apiVersion, error) {
	major, minor, ok := strings.Cut(s, ".")
	a, err := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if !ok || err != nil || err2 != nil || a < 0 || b < 0 {
		return apiVersion{}, fmt.Errorf("%q is no version of Docker's API", s)
	}
	return apiVersion{a, b}, nil
}

func (v apiVersion) less(o apiVersion) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

func (v apiVersion) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }
