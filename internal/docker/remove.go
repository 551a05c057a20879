// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"kohaku/internal/problem"
)

// A Removal is what became, or would become, of one network.
type Removal struct {
	Network string
	// Err says why it stays; nil: it is removed, or would be.
	Err error
}

// Remove removes the networks that were made here or sit on bridge. One that
// containers use stays. With dry set nothing is removed. A machine without Docker
// has none.
func Remove(ctx context.Context, socket, bridge string, dry bool) ([]Removal, error) {
	log := slog.New(slog.DiscardHandler)
	k := &Keeper{cfg: Config{Socket: socket, Log: log, Problems: problem.NewSet(log)}}
	c, err := k.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s := &session{Keeper: k, c: c}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := s.greet(ctx); err != nil {
		if k.missing(err) != "" {
			return nil, nil
		}
		return nil, fmt.Errorf("ask Docker for the overlay's network: %w", err)
	}
	list, err := c.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the Docker networks: %w", err)
	}
	var done []Removal
	for _, n := range list.Items {
		if (Network{Bridge: bridge}).ours(n.Network) {
			done = append(done, Removal{n.Name, s.removeUnused(ctx, n.Network, dry)})
		}
	}
	return done, nil
}

func (s *session) removeUnused(ctx context.Context, n network.Network, dry bool) error {
	have, err := s.c.NetworkInspect(ctx, n.ID, client.NetworkInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	users, err := s.attached(ctx, have.Network)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fmt.Errorf("it is in use by %s (remove those containers, stopped ones too, with docker rm -f)", users)
	}
	if dry {
		return nil
	}
	if _, err := s.c.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
