// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// Paths of the calls about addresses of containers. PathIPInfo is followed by the
// name of a Runner.
const (
	PathIPAvailable    = "/api/overlay/ip/available"
	PathIPInfo         = "/api/overlay/ip/info/"
	PathIPReservations = "/api/overlay/ip/reservations"
	PathIPReserve      = "/api/overlay/ip/reserve"
	PathIPRelease      = "/api/overlay/ip/release"
)

// Bounds of the calls. What is inside of them may still be refused by the Host.
const (
	// DefaultAvailable is how many free addresses of a Runner are listed when
	// nothing else is asked for, MaxAvailable how many at most.
	DefaultAvailable = 100
	MaxAvailable     = 1000

	maxTokenText = 1024
	maxNameText  = 128
)

// ReserveRequest is the body of POST /api/overlay/ip/reserve. Without a body the
// same names are looked for in the query.
type ReserveRequest struct {
	Runner string     `json:"runner"`
	IP     netip.Addr `json:"ip,omitzero"`    // zero: any
	TTL    float64    `json:"ttl,omitempty"`  // seconds; 0: the Host's default
	Name   string     `json:"name,omitempty"` // of the container it is for; may be empty
}

// ReserveAnswer is a new reservation.
type ReserveAnswer struct {
	Reservation
	// Token is needed to release it. The Host does not show it again.
	Token string `json:"token"`
}

// States of a Reservation.
const (
	StateReserved = "reserved"
	StateInUse    = "in use"
)

// Reservation is an address that is kept.
type Reservation struct {
	IP     netip.Addr `json:"ip"`
	Runner string     `json:"runner"`
	Name   string     `json:"name,omitempty"`
	ID     string     `json:"id"`    // hex digits; names it without giving power over it
	State  string     `json:"state"` // StateReserved or StateInUse
	IsUsed bool       `json:"is_used"`
	TTL    float64    `json:"ttl_seconds"`
	// Remaining is in seconds. In use it does not go down.
	Remaining float64 `json:"remaining_seconds"`
	// ExpiresAt is when it ends, by the Host's clock as it is now; in use, if the
	// container ended now.
	ExpiresAt time.Time `json:"expires_at"`
}

// Reservations is the answer of GET /api/overlay/ip/reservations, which takes
// runner=NAME in its query.
type Reservations struct {
	Reservations []Reservation `json:"reservations"`
}

// ReleaseIPRequest is the body of POST /api/overlay/ip/release. Without a body the
// same name is looked for in the query.
type ReleaseIPRequest struct {
	Token string `json:"token"`
}

// ReleaseIPAnswer tells what was released.
type ReleaseIPAnswer struct {
	Released bool       `json:"released"` // true
	IP       netip.Addr `json:"ip"`
	Runner   string     `json:"runner"`
}

// AvailableIPs is the answer of GET /api/overlay/ip/available, which takes
// runner=NAME and limit=N in its query.
type AvailableIPs struct {
	// AvailableIPs are the lowest free addresses by Runner, at most the limit.
	AvailableIPs map[string][]netip.Addr `json:"available_ips"`
	// Unknown are Runners that have not said yet which addresses are in use.
	Unknown []string `json:"unknown,omitempty"`
}

// IPRange is the addresses from First to Last, both included.
type IPRange struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// IPInfo is the answer of GET /api/overlay/ip/info/{runner}.
type IPInfo struct {
	RunnerName string       `json:"runner_name"`
	RunnerID   int          `json:"runner_id"`
	Subnet     netip.Prefix `json:"subnet"`
	Gateway    netip.Addr   `json:"gateway"`
	// HostOnSubnet lies inside IPRange, and no container can have it.
	HostOnSubnet netip.Addr `json:"host_on_subnet"`
	IPRange      IPRange    `json:"ip_range"`
	Total        int        `json:"total_ips"` // that containers can have
	Available    int        `json:"available"`
	Reserved     int        `json:"reserved"` // and not in use
	Used         int        `json:"used"`
	// Known is false while the Runner has not said yet which addresses are in use:
	// Used is then 0, and none can be reserved.
	Known bool `json:"known"`
}

// DecodeReserve reads and checks a request for a reservation: the body, or when
// that is empty the query. The runner's name comes back in canonical form.
func DecodeReserve(body io.Reader, query url.Values) (q ReserveRequest, err error) {
	empty, body := isEmpty(body)
	if !empty {
		err = decode(body, &q)
	} else {
		q.Runner, q.Name = query.Get("runner"), query.Get("name")
		if ip := query.Get("ip"); ip != "" && err == nil {
			if q.IP, err = netip.ParseAddr(ip); err != nil {
				err = &FieldError{"ip", fmt.Sprintf("%q is no address", Printable(cut(ip, maxNameText)))}
			}
		}
		if ttl := query.Get("ttl"); ttl != "" && err == nil {
			if q.TTL, err = strconv.ParseFloat(ttl, 64); err != nil {
				err = &FieldError{"ttl", "it is not a number of seconds"}
			}
		}
	}
	if err != nil {
		return ReserveRequest{}, err
	}
	if q.Runner, err = CanonicalHostname(q.Runner); err != nil {
		return ReserveRequest{}, &FieldError{"runner", err.Error()}
	}
	q.IP = q.IP.Unmap()
	switch {
	case q.IP.IsValid() && !q.IP.Is4():
		return ReserveRequest{}, &FieldError{"ip", fmt.Sprintf("%s is not an IPv4 address, and the overlay has no others", q.IP)}
	case math.IsNaN(q.TTL) || q.TTL < 0 || q.TTL > 1e9:
		return ReserveRequest{}, &FieldError{"ttl", fmt.Sprintf("%v seconds are no time to live", q.TTL)}
	}
	if err := checkText("name", q.Name, maxNameText); err != nil {
		return ReserveRequest{}, err
	}
	return q, nil
}

// DecodeReleaseIP reads and checks a request for a release: the body, or when that
// is empty the query. Whether the token is one is not looked at.
func DecodeReleaseIP(body io.Reader, query url.Values) (q ReleaseIPRequest, err error) {
	empty, body := isEmpty(body)
	if !empty {
		err = decode(body, &q)
	} else {
		q.Token = query.Get("token")
	}
	if err != nil {
		return ReleaseIPRequest{}, err
	}
	if q.Token == "" {
		return ReleaseIPRequest{}, &FieldError{"token", "missing; a reservation is released with the token that came with it"}
	}
	if err := checkText("token", q.Token, maxTokenText); err != nil {
		return ReleaseIPRequest{}, err
	}
	return q, nil
}

// DecodeAvailable reads the query of a call for free addresses: a Runner's name in
// canonical form, or "" for all, and how many are wanted of each.
func DecodeAvailable(query url.Values) (runner string, limit int, err error) {
	if runner, err = DecodeRunnerFilter(query); err != nil {
		return "", 0, err
	}
	limit = DefaultAvailable
	if text := query.Get("limit"); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n < 1 || n > MaxAvailable {
			return "", 0, &FieldError{"limit", fmt.Sprintf("a number in 1..%d is expected", MaxAvailable)}
		}
		limit = int(n)
	}
	return runner, limit, nil
}

// DecodeRunnerFilter reads runner=NAME from a query: its canonical form, or "" when
// there is none.
func DecodeRunnerFilter(query url.Values) (string, error) {
	name := query.Get("runner")
	if name == "" {
		return "", nil
	}
	name, err := CanonicalHostname(name)
	if err != nil {
		return "", &FieldError{"runner", err.Error()}
	}
	return name, nil
}

// isEmpty reports whether nothing comes from r, and gives a reader that gives what
// r would have.
func isEmpty(r io.Reader) (bool, io.Reader) {
	if r == nil {
		return true, nil
	}
	var first [1]byte
	n, err := io.ReadFull(r, first[:])
	if n == 0 && err == io.EOF {
		return true, nil
	}
	return false, &pushedBack{first[:n], r}
}

// pushedBack gives some bytes, and then what a reader has.
type pushedBack struct {
	bytes []byte
	rest  io.Reader
}

func (p *pushedBack) Read(b []byte) (int, error) {
	if len(p.bytes) == 0 {
		return p.rest.Read(b)
	}
	n := copy(b, p.bytes)
	p.bytes = p.bytes[n:]
	return n, nil
}

func cut(s string, limit int) string { return s[:min(len(s), limit)] }

// ReserveIP makes a reservation.
func (c *Client) ReserveIP(ctx context.Context, q ReserveRequest) (ReserveAnswer, error) {
	var a ReserveAnswer
	err := c.call(ctx, fmt.Sprintf("reserve an address on runner %q", q.Runner), http.MethodPost, PathIPReserve, q, &a)
	return a, err
}

// ReleaseIP ends the reservation that the token stands for.
func (c *Client) ReleaseIP(ctx context.Context, token string) (ReleaseIPAnswer, error) {
	var a ReleaseIPAnswer
	err := c.call(ctx, "release a reservation", http.MethodPost, PathIPRelease, ReleaseIPRequest{token}, &a)
	return a, err
}

// IPReservations lists the reservations on one Runner, or on all with "".
func (c *Client) IPReservations(ctx context.Context, runner string) (Reservations, error) {
	var a Reservations
	err := c.call(ctx, "list the reservations", http.MethodGet, PathIPReservations+queryOf("runner", runner), nil, &a)
	return a, err
}

// AvailableIPs lists free addresses of one Runner, or of all with "". A limit of 0
// is DefaultAvailable.
func (c *Client) AvailableIPs(ctx context.Context, runner string, limit int) (AvailableIPs, error) {
	var a AvailableIPs
	n := ""
	if limit != 0 {
		n = strconv.Itoa(limit)
	}
	err := c.call(ctx, "list free addresses", http.MethodGet, PathIPAvailable+queryOf("runner", runner, "limit", n), nil, &a)
	return a, err
}

// IPInfo sums up the addresses of a Runner.
func (c *Client) IPInfo(ctx context.Context, runner string) (IPInfo, error) {
	var a IPInfo
	err := c.call(ctx, fmt.Sprintf("ask for the addresses of runner %q", runner), http.MethodGet, PathIPInfo+url.PathEscape(runner), nil, &a)
	return a, err
}

// queryOf makes a query of names and values in turn, without those that are empty.
func queryOf(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}
