// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// nsRef is a namespace to be in: its kind (CLONE_NEWNET, ...) and a descriptor.
type nsRef struct {
	kind int
	file string // name under /proc/thread-self/ns
	fd   int
}

// within runs fn on a thread of its own in the given namespaces. The thread
// goes back to the scheduler only once all of its namespaces are restored;
// otherwise it dies with the goroutine. (Go parks its main thread instead of
// ending it, which is why threads are restored and not simply left to die:
// /proc/self speaks of the main thread.)
//
// runtime.Goexit in fn (t.FailNow) carries over to the caller.
func within(refs []nsRef, fn func() error) error {
	var err error
	finished := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		restore := make([]nsRef, 0, len(refs))
		defer func() {
			clean := true
			for _, r := range restore {
				if unix.Setns(r.fd, r.kind) != nil {
					clean = false
				}
				unix.Close(r.fd)
			}
			if clean {
				runtime.UnlockOSThread()
			}
		}()
		for _, r := range refs {
			old, e := unix.Open("/proc/thread-self/ns/"+r.file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if e != nil {
				err, finished = fmt.Errorf("lab: open own %s namespace: %w", r.file, e), true
				return
			}
			restore = append(restore, nsRef{r.kind, r.file, old})
			if e := unix.Setns(r.fd, r.kind); e != nil {
				err, finished = fmt.Errorf("lab: enter %s namespace: %w", r.file, e), true
				return
			}
		}
		err = fn()
		finished = true
	}()
	<-done
	if !finished {
		runtime.Goexit()
	}
	return err
}

// makeNamespaces makes fresh namespaces of the given kinds, runs init in them on
// a thread that is restored or dies as in within, and returns descriptors that
// hold them, in the order of kinds.
func makeNamespaces(kinds []nsRef, init func() error) ([]nsRef, error) {
	type result struct {
		refs []nsRef
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		var r result
		var old []nsRef
		defer func() {
			clean := len(old) == len(kinds)
			for _, o := range old {
				if unix.Setns(o.fd, o.kind) != nil {
					clean = false
				}
				unix.Close(o.fd)
			}
			if clean {
				runtime.UnlockOSThread()
			}
			if r.err != nil {
				closeRefs(r.refs)
				r.refs = nil
			}
			ch <- r
		}()
		flags := 0
		for _, k := range kinds {
			fd, err := unix.Open("/proc/thread-self/ns/"+k.file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				r.err = fmt.Errorf("open own %s namespace: %w", k.file, err)
				return
			}
			old = append(old, nsRef{k.kind, k.file, fd})
			flags |= k.kind
		}
		if err := unix.Unshare(flags); err != nil {
			r.err = fmt.Errorf("make namespaces: %w", err)
			return
		}
		for _, k := range kinds {
			fd, err := unix.Open("/proc/thread-self/ns/"+k.file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				r.err = fmt.Errorf("open new %s namespace: %w", k.file, err)
				return
			}
			r.refs = append(r.refs, nsRef{k.kind, k.file, fd})
		}
		r.err = init()
	}()
	r := <-ch
	return r.refs, r.err
}

func closeRefs(refs []nsRef) error {
	var errs []error
	for _, r := range refs {
		errs = append(errs, unix.Close(r.fd))
	}
	return errors.Join(errs...)
}
