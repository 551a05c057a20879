// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"kohaku/internal/metrics"
	"kohaku/internal/service"
)

// daemonSpec is what runDaemon needs to know of a daemon.
type daemonSpec[T service.Settings] struct {
	name     string // "host" or "runner", also the section with log_level
	settings T
	load     func() (T, error)  // reads the settings again
	level    func(T) slog.Level // of the log
	apply    map[string]func(T) // settings that can change while it runs, but for log_level
	run      func(context.Context, supervised) error
}

// supervised is what runDaemon gives to a daemon.
type supervised struct {
	log        *slog.Logger
	ready      func() // to be called once it serves
	supervisor *service.Supervisor
	live       *service.Live
	metrics    *metrics.Set
}

// runDaemon runs one of the daemons in the foreground until the context ends,
// which SIGTERM and SIGINT do. Its supervisor, if it has one, learns how it is;
// SIGHUP reads the settings again.
func runDaemon[T service.Settings](ctx context.Context, a *app, d daemonSpec[T]) error {
	level := new(slog.LevelVar)
	level.Set(d.level(d.settings))
	log := service.NewLog(a.errOut.w, "kohaku-"+d.name, level)
	supervisor := service.Supervised(log)
	stop := context.AfterFunc(ctx, supervisor.Stopping)
	defer stop()
	v := currentVersion()
	log.Info("kohaku "+d.name+" starts", "version", v.Version, "go", v.Go, "kernel", v.Kernel)

	reloader := &service.Reloader[T]{Log: log, Load: d.load, Apply: map[string]func(T){
		d.name + ".log_level": func(s T) { level.Set(d.level(s)) },
	}}
	for key, apply := range d.apply {
		reloader.Apply[key] = apply
	}
	reloader.Start(d.settings)
	var isReady atomic.Bool
	reloading, end := context.WithCancel(ctx)
	defer end()
	go onHangup(reloading, func() {
		// READY ends a reload; before the daemon is ready it would mean that.
		if isReady.Load() {
			supervisor.Reloading()
			defer supervisor.Ready()
		}
		reloader.Reload()
	})

	err := d.run(ctx, supervised{
		log: log, supervisor: supervisor, live: new(service.Live),
		metrics: metrics.New(d.name, metrics.Version{Version: v.Version, Go: v.Go}),
		ready: func() {
			supervisor.Release()
			isReady.Store(true)
			supervisor.Ready()
		},
	})
	if err != nil && !isCancel(ctx, err) {
		return &failure{tried: "run kohaku " + d.name, cause: err}
	}
	return nil
}

// onHangup calls f on each SIGHUP until ctx ends.
func onHangup(ctx context.Context, f func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			f()
		}
	}
}

// latest passes values on to who may take his time: he gets the last one.
func latest[T any]() (chan T, func(T)) {
	ch := make(chan T, 1)
	return ch, func(v T) {
		select {
		case <-ch:
		default:
		}
		ch <- v
	}
}
