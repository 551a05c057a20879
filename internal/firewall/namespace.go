// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespaceFile is the calling thread's network namespace. (/proc/self speaks of the
// main thread.)
const namespaceFile = "/proc/thread-self/ns/net"

// namespace is the network namespace whose rules are kept. Programs inherit the
// namespace of the thread that starts them, and goroutines move between threads.
type namespace struct {
	file *os.File // nil: /proc did not tell; every thread is taken to be in it
}

func currentNamespace() *namespace {
	file, err := os.Open(namespaceFile)
	if err != nil {
		return &namespace{}
	}
	return &namespace{file}
}

// do runs fn on a thread in the namespace. A thread that had to be moved and cannot
// be moved back dies with its goroutine.
func (n *namespace) do(fn func()) error {
	if n.file == nil {
		fn()
		return nil
	}
	runtime.LockOSThread()
	here, err := os.Open(namespaceFile)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer here.Close()
	if sameFile(here, n.file) {
		defer runtime.UnlockOSThread()
		fn()
		return nil
	}
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the daemon's network namespace: %w", err)
	}
	defer func() {
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	fn()
	return nil
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}
