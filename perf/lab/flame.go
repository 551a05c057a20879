// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kohaku/perf/flame"
)

// recording is how long a flame graph looks at least: with its rate, some
// hundred samples of each processor.
const recording = time.Second

// perfRate is in samples a second; an odd number does not fall into step with
// what the kernel does every millisecond.
const perfRate = "499"

// flames draws a flame graph of each data path under each workload, after
// everything was measured, so that recording disturbs no figure. Where perf
// cannot be used the report says so.
func (r *runner) flames(ctx context.Context, s *stand) error {
	if r.o.ProfileDir == "" || r.noFlames {
		return nil
	}
	for _, name := range s.names {
		for _, w := range r.o.Workloads {
			r.progress(fmt.Sprintf("%v: flame graph of %s over %s", s, w, name))
			base := filepath.Join(r.o.ProfileDir, strings.Join([]string{s.profile, s.topology, w, name}, "-"))
			title := fmt.Sprintf("%s over %s, %s, profile %s", w, name, topologyTitle(s.topology), s.profile)
			err := s.flame(ctx, s.paths[name], w, max(r.o.Time, recording), base, title)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				r.noFlames = true
				r.report.missing("flame graphs", err.Error())
				return nil
			}
		}
	}
	return nil
}

// flame writes base.svg and base.folded. On a busy machine perf may begin only
// when a measurement is over; the next is longer.
func (b *bench) flame(ctx context.Context, p path, w string, d time.Duration, base, title string) error {
	if _, err := exec.LookPath("perf"); err != nil {
		return errors.New("perf is not on PATH")
	}
	g := new(flame.Graph)
	for n := 0; n < attempts && g.Samples() == 0; n++ {
		var err error
		if g, err = b.record(ctx, p, w, d<<n); err != nil {
			return err
		}
	}
	return errors.Join(
		writeFile(base+".folded", g.WriteFolded),
		writeFile(base+".svg", func(w io.Writer) error { return g.WriteSVG(w, title) }))
}

// record records one measurement with perf(1): all processors, with call stacks,
// by a timer, as virtual machines often have no hardware counters.
func (b *bench) record(ctx context.Context, p path, w string, d time.Duration) (*flame.Graph, error) {
	data, err := os.CreateTemp("", "kohaku-perf-*.data")
	if err != nil {
		return nil, err
	}
	defer os.Remove(data.Name())
	data.Close()
	record := exec.CommandContext(ctx, "perf", "record", "-q", "-a", "-g", "-F", perfRate, "-e", "cpu-clock", "-o", data.Name())
	var said bytes.Buffer
	record.Stdout, record.Stderr = &said, &said
	record.Cancel = func() error { return record.Process.Signal(syscall.SIGINT) }
	record.WaitDelay = 10 * time.Second
	if err := record.Start(); err != nil {
		return nil, err
	}
	_, measured := b.first().ask(request{Measure: &measureRequest{Workload: w, From: p.from, To: p.to, Time: d}})
	_ = record.Process.Signal(syscall.SIGINT) // it may have ended, which Wait tells
	// perf ends with the signal's status after a good recording.
	if err := record.Wait(); err != nil && (record.ProcessState == nil || record.ProcessState.ExitCode() > 0) {
		return nil, fmt.Errorf("perf record: %w: %s", err, lastWords(said.Bytes()))
	}
	if measured != nil {
		return nil, fmt.Errorf("measuring for a flame graph: %w", measured)
	}
	return foldRecording(ctx, data.Name())
}

// foldRecording lets perf resolve the addresses of a recording.
func foldRecording(ctx context.Context, file string) (*flame.Graph, error) {
	script := exec.CommandContext(ctx, "perf", "script", "-i", file, "-F", "comm,ip,sym")
	var said bytes.Buffer
	script.Stderr = &said
	out, err := script.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := script.Start(); err != nil {
		return nil, err
	}
	g, err := flame.Fold(out)
	if err != nil {
		_ = script.Process.Kill() // nobody reads the rest
	}
	if e := script.Wait(); e != nil && err == nil {
		err = fmt.Errorf("perf script: %w: %s", e, lastWords(said.Bytes()))
	}
	return g, err
}

// lastWords is the end of what a program said, short enough for a message.
func lastWords(b []byte) string {
	s := strings.TrimSpace(string(b))
	if len(s) > 500 {
		s = "..." + s[len(s)-500:]
	}
	return strings.ToValidUTF8(s, "?")
}

// writeFile writes a file whole or removes it.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		os.Remove(name)
		return err
	}
	return nil
}
