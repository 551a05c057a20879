// SPDX-License-Identifier: Apache-2.0

package service

import (
	"io"
	"log/slog"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
)

// NewLog gives the daemon's logger: to the journal, with fields, when w is standard
// error and systemd has connected that to the journal (JOURNAL_STREAM in
// systemd.exec(5)); else lines of text to w. What level says counts at the time of
// each message. name is the daemon's, as in `journalctl -t name`.
func NewLog(w io.Writer, name string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if w == os.Stderr {
		// An error means a variable that systemd did not write.
		if yes, err := journal.StderrIsJournalStream(); yes && err == nil && journal.Enabled() {
			return slog.New(&journalHandler{
				name: name, level: level, send: journal.Send, fallback: slog.NewTextHandler(w, options),
			})
		}
	}
	return slog.New(slog.NewTextHandler(w, options))
}
