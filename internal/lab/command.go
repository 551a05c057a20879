// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"os/exec"
)

// Cmd is an exec.Cmd whose process starts in a node. Only Start and the methods
// that start differ; everything else is exec.Cmd's.
//
// SysProcAttr.Pdeathsig must stay unset: it fires when the thread that started
// the process ends, which is soon. The lab's end kills the process anyway.
type Cmd struct {
	*exec.Cmd
	node *Node
}

// Command prepares a process in the node: in its network namespace and with its
// host name; mounts and process ids are the lab's. The context kills it, as with
// exec.CommandContext.
func (n *Node) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Cmd: exec.CommandContext(ctx, name, args...), node: n}
}

// Start starts the process in its node.
func (c *Cmd) Start() error { return c.node.Do(c.Cmd.Start) }

// Run starts the process in its node and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process in its node and returns what it printed.
func (c *Cmd) Output() (out []byte, err error) {
	err = c.node.Do(func() (err error) { out, err = c.Cmd.Output(); return err })
	return out, err
}

// CombinedOutput runs the process in its node and returns what it printed, with
// its error output.
func (c *Cmd) CombinedOutput() (out []byte, err error) {
	err = c.node.Do(func() (err error) { out, err = c.Cmd.CombinedOutput(); return err })
	return out, err
}
