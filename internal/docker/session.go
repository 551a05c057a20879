// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

const (
	// pingTimeout bounds the first answer; a dockerd that systemd starts for its
	// socket takes a while.
	pingTimeout = 20 * time.Second
	// lookTimeout bounds one comparison with all its repairs.
	lookTimeout = time.Minute
	// settle is how long events are gathered before they are acted on.
	settle = 200 * time.Millisecond
	// slowPoll is how often the network is looked at without an event.
	slowPoll = 30 * time.Second
)

// session is one connection with one engine.
type session struct {
	*Keeper
	c       *client.Client
	version apiVersion // the engine's own, whatever was agreed on
}

// session keeps the network for as long as the engine answers. served reports
// whether it did at all; err says why it does not any more.
func (k *Keeper) session(ctx context.Context) (served bool, err error) {
	c, err := k.client()
	if err != nil {
		return false, err
	}
	defer c.Close()
	s := &session{Keeper: k, c: c}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.greet(ctx); err != nil {
		return false, err
	}
	// Events first, so that nothing happens unseen after the first look.
	stream := c.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).
		Add("type", string(events.NetworkEventType), string(events.ContainerEventType)).
		Add("event", "create", "connect", "disconnect", "destroy", "remove", "rename", "update")})
	select {
	case err := <-stream.Err:
		return false, lost(err)
	default:
	}
	k.cfg.Problems.Clear(problemEngine)
	err = s.serve(ctx, stream)
	// The stream's goroutine ends before its client does.
	cancel()
	for range stream.Err {
	}
	return true, err
}

// greet finds out who is there.
func (s *session) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := s.c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return err
	}
	v, err := s.c.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return err
	}
	if s.version, err = parseAPIVersion(v.APIVersion); err != nil {
		return err
	}
	if s.version.less(oldest) {
		return fmt.Errorf("this Docker Engine %s speaks API %s, and %s is needed (install Docker Engine 20.10 or newer)", v.Version, s.version, oldest)
	}
	log := s.cfg.Log.Debug
	if !s.seen {
		log = s.cfg.Log.Info
	}
	log("Docker answers", "engine", v.Version, "api", s.version.String())
	s.seen = true
	return nil
}

// serve looks at the network now, after every event that may concern it, and now
// and then.
func (s *session) serve(ctx context.Context, stream client.EventsResult) error {
	poll := time.NewTicker(slowPoll)
	defer poll.Stop()
	// A new connection deserves a new try.
	s.tried = ""
	select {
	case <-s.wanted: // is looked at anyway
	default:
	}
	look := time.After(0)
	for {
		select {
		case err := <-stream.Err:
			return lost(err)
		case <-stream.Messages:
			if look == nil {
				look = time.After(settle)
			}
			continue
		case <-s.wanted:
			s.tried = ""
		case <-poll.C:
		case <-look:
		}
		look = nil
		wrong, err := s.look(ctx)
		if err != nil {
			return err
		}
		// A dockerd that ends breaks off its answers before it closes the stream.
		if wrong != nil {
			select {
			case err := <-stream.Err:
				return lost(err)
			case <-time.After(settle):
			}
		}
		s.cfg.Problems.Set(problemNetwork, wrong)
	}
}

// errEnded is what a connection ends with when dockerd does.
var errEnded = errors.New("dockerd ended the connection")

// lost says why a stream of events is over.
func lost(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errEnded
	}
	return err
}

// look compares and repairs once. wrong is what is the matter with the network; err
// is one of the connection.
func (s *session) look(ctx context.Context) (wrong, err error) {
	want := s.wants()
	if want == (Network{}) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	used, err := s.ensure(ctx, want)
	if used != nil {
		s.setUsed(used)
	}
	switch {
	case client.IsErrConnectionFailed(err):
		return nil, err
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("dockerd takes more than %v to answer: %w", lookTimeout, err)
	}
	return err, nil
}
