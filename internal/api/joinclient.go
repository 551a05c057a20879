// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"kohaku/internal/trust"
)

// Joining is what Join needs to know.
type Joining struct {
	Host    string // the API's ADDRESS:PORT
	Token   trust.Token
	Name    string // canonical hostname
	Machine string // machine id
	Version string
	Keeper  *trust.Keeper // where the credential goes
	Dialer  *net.Dialer   // nil: the usual one
}

const opJoin = "join the Host"

// Join gets a credential for this machine from the Host and stores it. Errors are
// *CallError when it was the Host, or the way there.
func Join(ctx context.Context, j Joining) error {
	if err := checkHostPort(j.Host); err != nil {
		return err
	}
	key, err := j.Keeper.JoinKey(j.Token)
	if err != nil {
		return err
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*CallTimeout)
	defer cancel()
	fail := &CallError{Op: opJoin, URL: "https://" + j.Host}
	conn, err := j.dial(ctx)
	if err != nil {
		fail.Hint, fail.Err = explain(err)
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			fail.Err = errors.New("no TLS there")
			fail.Hint = "is this the address of kohaku's API? A Host with join = \"open\" needs no token"
		}
		return fail
	}
	defer conn.Close()
	state := conn.ConnectionState()
	ca, err := j.Token.HostCA(&state)
	if err != nil {
		fail.Err = err
		return fail
	}
	session, err := trust.SessionOf(&state)
	if err != nil {
		fail.Err = err
		return fail
	}
	proof := j.Token.Prove(trust.Claim{Name: j.Name, Machine: j.Machine, CSR: csr}, session)
	var a JoinAnswer
	l := overConn(conn, j.Host)
	err = l.call(ctx, l.http, opJoin, http.MethodPost, PathJoin, JoinRequest{
		Token: proof.TokenID, Hostname: j.Name, MachineID: j.Machine, CSR: csr,
		Session: proof.Session[:], Signature: proof.Signature, Version: j.Version,
	}, &a)
	if err != nil {
		return err
	}
	credential, err := trust.NewCredential(key, a.Certificate, ca, j.Token.ID)
	if err != nil {
		fail.Err = err
		return fail
	}
	return j.Keeper.Replace(credential)
}

func (j Joining) dial(ctx context.Context) (*tls.Conn, error) {
	dialer := j.Dialer
	if dialer == nil {
		dialer = &net.Dialer{Timeout: CallTimeout}
	}
	plain, err := dialer.DialContext(ctx, "tcp", j.Host)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(plain, j.Token.JoinTLS())
	if err := conn.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, err
	}
	return conn, nil
}

// overConn gives a line that makes its one call on a connection that is there
// already.
func overConn(conn *tls.Conn, addr string) *line {
	given := make(chan net.Conn, 1)
	given <- conn
	l := &line{base: "https://" + addr, show: "https://" + addr}
	l.http = &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
				select {
				case c := <-given:
					return c, nil
				default:
					return nil, errors.New("the connection broke")
				}
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return l
}

// renewRetry lies between two attempts to renew a credential.
const renewRetry = 10 * time.Minute

// renew fetches a new credential, as the Host asked. A failure is logged and tried
// again after a while: there is time.
func (c *Client) renew(ctx context.Context) {
	c.mu.Lock()
	due := c.renewed.IsZero() || time.Since(c.renewed) > renewRetry
	if due {
		c.renewed = time.Now()
	}
	c.mu.Unlock()
	if !due || c.keeper == nil {
		return
	}
	switch err := c.renewNow(ctx); {
	case err == nil:
		c.keeper.Log().Info("this runner has a new credential, as the Host asked")
	case ctx.Err() == nil:
		c.keeper.Log().Warn("the credential could not be renewed; it will be tried again", "in", renewRetry, "error", err)
	}
}

func (c *Client) renewNow(ctx context.Context) error {
	l, err := c.connect()
	if err != nil || l.credential == nil {
		return err
	}
	key, err := trust.NewKey()
	if err != nil {
		return err
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		return err
	}
	var a RenewAnswer
	if err := l.call(ctx, l.http, "renew the credential", http.MethodPost, PathRenew, RenewRequest{CSR: csr}, &a); err != nil {
		return err
	}
	renewed, err := trust.NewCredential(key, a.Certificate, l.credential.CA, l.credential.Token)
	if err != nil {
		return err
	}
	return c.keeper.Replace(renewed)
}

// Credential asks the Host whose credential this is. IsUnauthorized tells that it
// is void.
func (c *Client) Credential(ctx context.Context) (CredentialAnswer, error) {
	var a CredentialAnswer
	err := c.call(ctx, "show the credential to the Host", http.MethodGet, PathCredential, nil, &a)
	return a, err
}

// NewToken makes a join token.
func (c *Client) NewToken(ctx context.Context, q TokenRequest) (NewToken, error) {
	var a NewToken
	err := c.call(ctx, "make a join token", http.MethodPost, PathTokens, q, &a)
	return a, err
}

// Tokens lists the join tokens.
func (c *Client) Tokens(ctx context.Context) (TokenList, error) {
	var a TokenList
	err := c.call(ctx, "list the join tokens", http.MethodGet, PathTokens, nil, &a)
	return a, err
}

// RevokeToken makes a join token useless.
func (c *Client) RevokeToken(ctx context.Context, id string) (TokenRevoked, error) {
	var a TokenRevoked
	err := c.call(ctx, "revoke the join token "+id, http.MethodDelete, PathTokens+"/"+url.PathEscape(id), nil, &a)
	return a, err
}

// Remove revokes a Runner's credential and frees its allocation.
func (c *Client) Remove(ctx context.Context, name string) (RemoveAnswer, error) {
	var a RemoveAnswer
	err := c.call(ctx, "remove runner "+name, http.MethodPost, PathRemove+url.PathEscape(name), nil, &a)
	return a, err
}
