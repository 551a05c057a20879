// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrOutside is returned when namespaces are asked for outside a lab, where
// they could be left behind.
var ErrOutside = errors.New("lab: not inside a lab; call lab.Enter first")

// Net is a set of nodes that go together. Close ends them all.
type Net struct {
	mu     sync.Mutex
	nodes  []*Node
	closed bool
}

// NewNet returns an empty network. It needs [Enter] to have been called.
func NewNet() (*Net, error) {
	if !Inside() {
		return nil, ErrOutside
	}
	return &Net{}, nil
}

// Close ends all nodes: their names go at once, their devices when the last
// process or socket in them has ended.
func (n *Net) Close() error {
	n.mu.Lock()
	nodes := n.nodes
	n.nodes, n.closed = nil, true
	n.mu.Unlock()
	var errs []error
	for i := len(nodes) - 1; i >= 0; i-- {
		errs = append(errs, nodes[i].close())
	}
	return errors.Join(errs...)
}

// Nodes returns the nodes in the order in which they were made.
func (n *Net) Nodes() []*Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Node(nil), n.nodes...)
}

// Node is one machine of the lab: a network namespace under /run/netns with a
// host name of its own. Its methods may be called from any goroutine.
type Node struct {
	net    *Net
	name   string
	refs   []nsRef // network, then UTS; held until Close
	handle *netlink.Handle
}

// Node makes a machine with the given name, loopback up. The name is the host
// name of what runs in it, and must be unique in the lab.
func (n *Net) Node(name string) (*Node, error) {
	if name == "" || name != filepath.Base(name) {
		return nil, fmt.Errorf("lab: node name %q: must be a plain file name", name)
	}
	path := filepath.Join(netnsDir, name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("lab: node %s: the network is closed", name)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("lab: node %s: %w", name, err)
	}
	f.Close()
	refs, err := makeNamespaces([]nsRef{
		{kind: unix.CLONE_NEWNET, file: "net"},
		{kind: unix.CLONE_NEWUTS, file: "uts"},
	}, func() error {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("name the namespace: %w", err)
		}
		return nil
	})
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("lab: node %s: %w", name, err)
	}
	node := &Node{net: n, name: name, refs: refs}
	node.handle, err = netlink.NewHandleAt(netns.NsHandle(refs[0].fd), unix.NETLINK_ROUTE)
	if err == nil {
		err = node.setUp("lo")
	}
	if err != nil {
		node.close()
		return nil, fmt.Errorf("lab: node %s: %w", name, err)
	}
	n.nodes = append(n.nodes, node)
	return node, nil
}

// Name returns the node's name, which is its host name too.
func (n *Node) Name() string { return n.name }

// Path returns the file that names the network namespace, for nsenter --net.
func (n *Node) Path() string { return filepath.Join(netnsDir, n.name) }

// Handle returns a netlink handle (NETLINK_ROUTE) in the node. The node owns it.
func (n *Node) Handle() *netlink.Handle { return n.handle }

// NetNS returns a descriptor of the node's network namespace. The node owns it.
func (n *Node) NetNS() netns.NsHandle { return netns.NsHandle(n.refs[0].fd) }

// Do runs fn in the node, on a thread of its own, and returns its error.
// Sockets and devices that fn opens stay in the node; goroutines that fn starts
// do not, they run outside. t.Fatal in fn ends the calling test as usual.
func (n *Node) Do(fn func() error) error { return within(n.refs, fn) }

// Sysctl sets a kernel parameter of the node's network, as
// "net.ipv4.ip_forward". Where a part of the name contains a dot, separate the
// parts with slashes.
func (n *Node) Sysctl(key, value string) error {
	path := sysctlPath(key)
	err := n.Do(func() error { return os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("lab: node %s: set %s to %s: %w", n.name, key, value, err)
	}
	return nil
}

// ReadSysctl returns a kernel parameter of the node's network.
func (n *Node) ReadSysctl(key string) (string, error) {
	var b []byte
	err := n.Do(func() (err error) { b, err = os.ReadFile(sysctlPath(key)); return err })
	if err != nil {
		return "", fmt.Errorf("lab: node %s: read %s: %w", n.name, key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return "/proc/sys/" + key
}

// EnterCommand returns the command with which a person gets a shell in the node
// from outside the lab, as the user who started it.
func (n *Node) EnterCommand(shell ...string) []string {
	outerPID, user := outer()
	pid := strconv.Itoa(outerPID)
	cmd := []string{"nsenter", "-t", pid}
	if user {
		cmd = append(cmd, "-U", "--preserve-credentials")
	}
	cmd = append(cmd, "-m", "-p", "--net=/proc/"+pid+"/root"+n.Path())
	if len(shell) == 0 {
		shell = []string{"sh"}
	}
	return append(cmd, shell...)
}

func (n *Node) close() error {
	if n.handle != nil {
		n.handle.Close()
	}
	errs := []error{closeRefs(n.refs)}
	if err := unix.Unmount(n.Path(), unix.MNT_DETACH); err != nil {
		errs = append(errs, fmt.Errorf("lab: node %s: unmount %s: %w", n.name, n.Path(), err))
	}
	errs = append(errs, os.Remove(n.Path()))
	return errors.Join(errs...)
}
