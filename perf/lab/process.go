// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"kohaku/internal/lab"
)

// process is an agent as its parent sees it.
type process struct {
	name   string
	cmd    *lab.Cmd
	in     io.WriteCloser
	enc    *json.Encoder
	dec    *json.Decoder
	stderr bytes.Buffer // complete, and to be read, once wait returned
	once   sync.Once
	exit   error
}

// startAgent starts this program as an agent in machine i.
func (b *bench) startAgent(ctx context.Context, i int) (*process, error) {
	node := b.hosts[i].Node
	cmd := node.Command(ctx, b.program[0], b.program[1:]...)
	cmd.Env = goEnv()
	cmd.Args[0] = os.Args[0] // what a person sees in ps, whatever the path
	p := &process{name: node.Name(), cmd: cmd}
	cmd.Stderr = &p.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// Its input's end is the friendly way to end it; after that it is killed.
	cmd.Cancel = in.Close
	cmd.WaitDelay = 5 * time.Second
	if err := b.startOn(i, cmd); err != nil {
		return nil, fmt.Errorf("starting an agent in %s: %w", p.name, err)
	}
	p.in, p.enc, p.dec = in, json.NewEncoder(in), json.NewDecoder(out)
	return p, nil
}

// ask sends a request and waits for its answer.
func (p *process) ask(r request) (*answer, error) {
	var a answer
	if err := p.enc.Encode(&r); err != nil {
		return nil, p.died(err)
	}
	if err := p.dec.Decode(&a); err != nil {
		return nil, p.died(err)
	}
	if a.Error != "" {
		return nil, fmt.Errorf("%s: %s", p.name, a.Error)
	}
	return &a, nil
}

// wait ends the agent's input and waits for its end. It may be called again.
func (p *process) wait() error {
	p.once.Do(func() {
		p.in.Close()
		p.exit = p.cmd.Wait()
	})
	return p.exit
}

// died says what an agent said last.
func (p *process) died(err error) error {
	if exit := p.wait(); exit != nil {
		err = exit
	}
	last := strings.TrimSpace(p.stderr.String())
	if last == "" {
		return fmt.Errorf("the agent in %s ended: %w", p.name, err)
	}
	if len(last) > 2000 {
		last = last[len(last)-2000:]
	}
	return fmt.Errorf("the agent in %s ended: %w: %s", p.name, err, last)
}

// stop ends the agent. One that failed before has been reported then.
func (p *process) stop() error {
	if err := p.wait(); err != nil && !errors.Is(err, context.Canceled) {
		return p.died(err)
	}
	return nil
}
