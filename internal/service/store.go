// SPDX-License-Identifier: Apache-2.0

package service

import (
	"os"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// store is this process's side of systemd's descriptor store (FileDescriptorStoreMax=
// in systemd.service(5)). systemd has copies of the descriptors of every tunnel
// device, and passes them to the next process. A device whose descriptors somebody
// has keeps its carrier, and in its queues what arrives meanwhile.
//
// The same copies are kept here: who closes a device and opens it again, in the
// same process, needs them, as the kernel counts systemd's among the device's users.
type store struct {
	mu   sync.Mutex
	fds  map[string][]int // by name in the store
	mine map[string]bool  // those that this process put there
}

// storeName is a device's name in the store. Neither the kernel nor the store has
// names with a colon.
func storeName(device string) string { return storePrefix + device }

const storePrefix = "tap-"

// take gets the descriptors that systemd passed.
func (t *store) take() {
	t.fds, t.mine = make(map[string][]int), make(map[string]bool)
	for _, f := range activation.Files(true) {
		// Not as files: Go's poller would be woken for every frame.
		if fd, err := duplicate(int(f.Fd())); err == nil {
			t.fds[f.Name()] = append(t.fds[f.Name()], fd)
		}
		_ = f.Close() // the copy lives
	}
}

func duplicate(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }

// put replaces what is kept under a name, and forgets devices that were deleted.
func (t *store) put(name string, fds []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(name)
	if len(fds) > 0 {
		t.fds[name], t.mine[name] = fds, true
	}
	for other, fds := range t.fds {
		if gone(fds[0]) {
			t.drop(other)
		}
	}
}

// drop closes what is kept under a name. Guarded by mu.
func (t *store) drop(name string) {
	for _, fd := range t.fds[name] {
		unix.Close(fd)
	}
	delete(t.fds, name)
	delete(t.mine, name)
}

// gone reports whether a descriptor's device was deleted (tun_chr_poll in
// drivers/net/tun.c). systemd looks for the same.
func gone(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// Held gives the descriptors of a device that are kept, in no order, once:
// they are the caller's then. It gives none when there are none, or s is nil.
func (s *Supervisor) Held(device string) []*os.File {
	if s == nil {
		return nil
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	var files []*os.File
	for _, fd := range s.store.fds[storeName(device)] {
		files = append(files, os.NewFile(uintptr(fd), device))
	}
	delete(s.store.fds, storeName(device))
	return files
}

// Hold has systemd keep copies of a device's descriptors, in place of those that it
// has. That it cannot is logged, and costs no more than the carrier while the daemon
// is started anew.
func (s *Supervisor) Hold(device string, fds []int) {
	if s == nil || s.socket == "" || s.isDeaf() {
		return
	}
	name := storeName(device)
	var copies []int
	for _, fd := range fds {
		if c, err := duplicate(fd); err == nil {
			copies = append(copies, c)
		}
	}
	s.store.put(name, copies)
	if !s.said(s.send("FDSTOREREMOVE=1\nFDNAME=" + name)) {
		return
	}
	// One message each, as a message takes no more than 253 (SCM_MAX_FD).
	for _, fd := range copies {
		if !s.said(s.send("FDSTORE=1\nFDNAME="+name, fd)) {
			return
		}
	}
}

// Release gives up what was kept and nobody took: descriptors of devices that are
// not ours any more. Call it when the daemon has taken over what it wants.
func (s *Supervisor) Release() {
	if s == nil {
		return
	}
	s.store.mu.Lock()
	var names []string
	for name := range s.store.fds {
		if !s.store.mine[name] {
			s.store.drop(name)
			names = append(names, name)
		}
	}
	s.store.mu.Unlock()
	for _, name := range names {
		s.tell("FDSTOREREMOVE=1\nFDNAME=" + name)
	}
}

func (s *Supervisor) isDeaf() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deaf
}
