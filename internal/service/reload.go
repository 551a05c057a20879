// SPDX-License-Identifier: Apache-2.0

package service

import (
	"log/slog"
	"slices"
	"strings"

	"kohaku/conf"
)

// Settings are the contents of a settings file; *conf.Host and *conf.Runner are.
type Settings interface{ Settings() []conf.Setting }

// Reloader applies a changed settings file to a daemon that runs.
type Reloader[T Settings] struct {
	Log *slog.Logger
	// Load reads the file. After an error everything stays as it was.
	Load func() (T, error)
	// Apply has, for each key that can be changed while the daemon runs, what does
	// that. Several keys may share one: it is called for each that has changed.
	Apply map[string]func(T)

	running map[string]string // values in force, by key
}

// Start notes the settings that the daemon runs with. It is to be called before
// Reload.
func (r *Reloader[T]) Start(s T) {
	r.running = make(map[string]string)
	for _, set := range s.Settings() {
		r.running[set.Key] = set.Value
	}
}

// Reload reads the file and applies what it can. One line of the log names what
// has changed and was applied, one what needs a restart.
func (r *Reloader[T]) Reload() {
	s, err := r.Load()
	if err != nil {
		r.Log.Error("the settings file cannot be used: all stays as it was", "error", err)
		return
	}
	var applied, left []string
	for _, set := range s.Settings() {
		if r.running[set.Key] == set.Value {
			continue
		}
		apply, ok := r.Apply[set.Key]
		if !ok {
			left = append(left, set.Key)
			continue
		}
		apply(s)
		r.running[set.Key] = set.Value
		applied = append(applied, set.Key+" = "+set.Value)
	}
	slices.Sort(left)
	switch {
	case len(applied)+len(left) == 0:
		r.Log.Info("settings read again: nothing has changed")
	case len(applied) > 0:
		r.Log.Info("settings read again and applied: " + strings.Join(applied, ", "))
	}
	if len(left) > 0 {
		r.Log.Warn(strings.Join(left, ", ") + " changed: needs a restart")
	}
}
