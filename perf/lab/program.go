// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// needs gives the missing function of a data path that takes these programs.
func needs(programs ...string) func() string {
	return func() string {
		for _, p := range programs {
			if _, err := exec.LookPath(p); err != nil {
				return p + " is not on PATH"
			}
		}
		return ""
	}
}

// readyWithin is how long a tunnel program may take until it does its work.
const readyWithin = 10 * time.Second

// program is a tunnel program that runs in a machine until the bench is taken
// down.
type program struct {
	name string
	log  string // file
}

// start runs a tunnel program in machine i. What it prints goes to a file in dir.
func (b *bench) start(ctx context.Context, i int, dir string, env []string, name string, args ...string) (*program, error) {
	cmd := b.hosts[i].Command(ctx, name, args...)
	cmd.Env = append(goEnv(), env...)
	cmd.WaitDelay = 5 * time.Second
	p := &program{name: name, log: filepath.Join(dir, name+".log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := b.startOn(i, cmd); err != nil {
		return nil, fmt.Errorf("starting %s in %s: %w", name, b.hosts[i].Name(), err)
	}
	b.others = append(b.others, func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
		return nil
	})
	return p, nil
}

// workspace makes a directory that goes with the bench.
func (b *bench) workspace(name string) (string, error) {
	dir, err := os.MkdirTemp("", name)
	if err != nil {
		return "", err
	}
	b.others = append(b.others, func() error { return os.RemoveAll(dir) })
	return dir, nil
}

// until waits for a tunnel program: it calls ready until that is true.
func (p *program) until(ctx context.Context, what string, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s: %s: %w; it said: %s", p.name, what, errors.Join(ctx.Err(), err), lastWords(said))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tell runs a command of a tunnel program in machine i, to its end.
func (b *bench) tell(ctx context.Context, i int, env []string, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	cmd := b.hosts[i].Command(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v in %s: %w: %s", name, args, b.hosts[i].Name(), err, lastWords(bytes.TrimSpace(out)))
	}
	return nil
}

// deviceUp gives a device its MTU and address and sets it up.
func (b *bench) deviceUp(i int, end tunnelEnd) error {
	node := b.hosts[i].Node
	return errors.Join(node.SetMTU(end.Device, end.MTU), node.AddAddr(end.Device, end.Address), node.SetUp(end.Device))
}
