// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"kohaku/internal/problem"
)

const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// Keys of the problems that a Keeper reports.
const (
	problemEngine  = "docker"
	problemNetwork = "docker network"
)

// Config says what a Keeper works with.
type Config struct {
	// Socket is where dockerd listens, "unix:///PATH" or "tcp://ADDRESS:PORT";
	// empty: DOCKER_HOST, or else the usual socket.
	Socket   string
	Log      *slog.Logger
	Problems *problem.Set
	// Bridge makes sure that the bridge exists. It is called right before Docker is
	// told to use it: Docker makes a bridge that is missing, and then also deletes it.
	Bridge func() error
}

// Keeper keeps one network in one Docker. Its methods are safe for concurrent use.
type Keeper struct {
	cfg    Config
	wanted chan struct{} // has a token when want changed

	mu   sync.Mutex
	want Network
	used []netip.Addr

	// Used by Run alone.
	seen  bool   // an engine has answered
	tried string // differences that making the network anew did not cure
}

// New makes a Keeper. Nothing is dialled yet. The error is one of the settings: a
// socket, or DOCKER_HOST and its like, that make no sense.
func New(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg, wanted: make(chan struct{}, 1)}
	c, err := k.client()
	if err != nil {
		return nil, err
	}
	return k, c.Close()
}

func (k *Keeper) client() (*client.Client, error) {
	opts := []client.Opt{client.FromEnv}
	from := "DOCKER_HOST or its like in the environment"
	if k.cfg.Socket != "" {
		opts = []client.Opt{client.WithHost(k.cfg.Socket)}
		from = "socket in the [docker] section"
	}
	c, err := client.New(append(opts, client.WithUserAgent("kohaku"))...)
	if err != nil {
		return nil, fmt.Errorf("use Docker as %s says: %w", from, err)
	}
	return c, nil
}

// Want says how the network must be from now on. It returns at once.
func (k *Keeper) Want(n Network) {
	k.mu.Lock()
	same := k.want == n
	k.want = n
	k.mu.Unlock()
	if !same {
		select {
		case k.wanted <- struct{}{}:
		default:
		}
	}
}

func (k *Keeper) wants() Network {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.want
}

// Used lists the addresses that containers on the network have, or will have when
// they start, as far as Docker has told. It is nil while Docker, though it is there,
// has not told yet. While it does not answer, the last list stays: containers may
// well run on. The caller owns the list.
func (k *Keeper) Used() []netip.Addr {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.used)
}

func (k *Keeper) setUsed(used []netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used = used
}

// Run keeps the network until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	retry := firstRetry
	var quiet string
	for ctx.Err() == nil {
		served, err := k.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if served {
			retry, quiet = firstRetry, ""
		}
		switch missing := k.missing(err); {
		case missing != "":
			// No Docker is no problem. It may still be installed, so the look-out goes on.
			if missing != quiet {
				k.cfg.Log.Info("no Docker on this machine: the Runner works without; the network for containers is made when Docker appears", "looked_at", missing)
				quiet = missing
				k.setUsed([]netip.Addr{})
			}
		case errors.Is(err, errEnded):
			// What a restart looks like from here. Whether it is one, the next try tells.
			k.cfg.Log.Debug("Docker went away", "error", err)
		default:
			k.cfg.Problems.Set(problemEngine, explain(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, maxRetry)
	}
}

// missing gives the socket's path when err means that no Docker was ever here.
func (k *Keeper) missing(err error) string {
	if k.seen || k.cfg.Socket != "" && !strings.HasPrefix(k.cfg.Socket, "unix://") {
		return ""
	}
	host := k.cfg.Socket
	if host == "" {
		if host = os.Getenv(client.EnvOverrideHost); host == "" {
			host = client.DefaultDockerHost
		}
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return ""
	}
	// The client's error does not keep the cause, so the socket itself is asked.
	if _, statErr := os.Stat(path); err != nil && errors.Is(statErr, fs.ErrNotExist) {
		return path
	}
	return ""
}

// explain makes a sentence of why Docker cannot be used. While dockerd restarts the
// kernel's answers vary; the sentence does not, so that it is logged once.
func explain(err error) error {
	const effect = "; running containers keep their traffic, new ones cannot be attached"
	switch {
	case errors.Is(err, fs.ErrPermission), strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("this user may not talk to Docker: %w (run as root, or as a member of the group docker)%s", err, effect)
	case client.IsErrConnectionFailed(err), errors.Is(err, errEnded):
		return errors.New("dockerd does not answer (start it: systemctl start docker; or set enabled = false in the [docker] section)" + effect)
	}
	return fmt.Errorf("talk to Docker: %w%s", err, effect)
}
