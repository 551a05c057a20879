// SPDX-License-Identifier: Apache-2.0

// Package firewalldtest runs the real firewalld for tests: in whatever network
// namespace its starter starts programs, on a system bus of its own, with the settings
// that distributions ship.
package firewalldtest

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Starter starts a program and returns what ends it. The program must see the
// environment variable DBUS_SYSTEM_BUS_ADDRESS with the given value.
type Starter func(bus string, args ...string) (kill func(), err error)

// Firewalld is one firewalld with its bus.
type Firewalld struct {
	dir       string
	start     Starter
	killBus   func()
	killItOff func()
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
<type>system</type>
<listen>unix:path=%s</listen>
<auth>EXTERNAL</auth>
<policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="false"/><allow receive_sender="*"/>
</policy>
</busconfig>
`

const settings = `DefaultZone=public
CleanupOnExit=yes
FirewallBackend=nftables
FlushAllOnReload=yes
`

// patience bounds the wait for the bus.
const patience = 20 * time.Second

// New starts the bus, with all files in dir; firewalld waits for Start. Close ends
// both.
func New(dir string, start Starter) (*Firewalld, error) {
	f := &Firewalld{dir: dir, start: start}
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, f.socket()), 0o644); err != nil {
		return nil, err
	}
	// The machine's own settings are root's to read, and would make tests differ.
	if err := os.MkdirAll(f.settings(), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(f.settings(), "firewalld.conf"), []byte(settings), 0o644); err != nil {
		return nil, err
	}
	var err error
	if f.killBus, err = start(f.Bus(), "dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile"); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err = os.Stat(f.socket()); err == nil {
			return f, nil
		}
		if time.Now().After(deadline) {
			f.killBus()
			return nil, fmt.Errorf("dbus-daemon does not listen: %w", err)
		}
	}
}

func (f *Firewalld) socket() string   { return filepath.Join(f.dir, "bus") }
func (f *Firewalld) settings() string { return filepath.Join(f.dir, "settings") }

// Bus is the value of DBUS_SYSTEM_BUS_ADDRESS for those who are to meet it.
func (f *Firewalld) Bus() string { return "unix:path=" + f.socket() }

// Start starts firewalld; `firewall-cmd --state` tells when it is ready.
func (f *Firewalld) Start() (err error) {
	f.killItOff, err = f.start(f.Bus(), "/usr/sbin/firewalld", "--nofork", "--nopid", "--system-config", f.settings(),
		"--log-target", "file", "--log-file", filepath.Join(f.dir, "log"))
	return err
}

// Kill ends firewalld, which has no time to clean up.
func (f *Firewalld) Kill() {
	if f.killItOff != nil {
		f.killItOff()
		f.killItOff = nil
	}
}

// Close ends firewalld and the bus.
func (f *Firewalld) Close() {
	f.Kill()
	f.killBus()
}
