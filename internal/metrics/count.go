// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http"
	"strconv"
	"time"
)

// Actions are the things that a reconciler changes, the values of the label action.
var Actions = []string{"address", "alias", "bridge", "bridge_port", "device_delete", "mtu", "queueing", "route", "sysctl", "up"}

// Changed takes the outcome of an action, whether it changed something, counts it if
// so, and gives it back. action is one of Actions.
func (s *Set) Changed(action string) func(changed bool, err error) (bool, error) {
	return func(changed bool, err error) (bool, error) {
		if s != nil && changed && err == nil {
			s.actions.WithLabelValues(action).Inc()
		}
		return changed, err
	}
}

// HostCall notes a call of a Runner to the Host's API. code is the answer's HTTP
// status, 0 when none came.
func (s *Set) HostCall(call string, code int, took time.Duration) {
	if s == nil {
		return
	}
	label := "none"
	if code != 0 {
		label = codeLabel(code)
	}
	s.made.WithLabelValues(call, label).Observe(took.Seconds())
}

// API times the calls that h answers, which stands before mux, by the pattern of the
// call, of which there are as many as the program has: what a caller writes does not
// become a label.
func (s *Set) API(mux *http.ServeMux, h http.Handler) http.Handler {
	if s == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		code := &codeWriter{ResponseWriter: w}
		defer func() { // also when the handler panics, which ends the connection
			_, call := mux.Handler(r)
			if call == "" || call == "/" {
				call = "other"
			}
			s.served.WithLabelValues(call, codeLabel(code.status())).Observe(time.Since(start).Seconds())
		}()
		h.ServeHTTP(code, r)
	})
}

// codeLabel bounds the values of a label that another machine may have chosen.
func codeLabel(code int) string {
	if http.StatusText(code) == "" {
		return "other"
	}
	return strconv.Itoa(code)
}

// codeWriter remembers the status of an answer.
type codeWriter struct {
	http.ResponseWriter
	code int
}

func (w *codeWriter) WriteHeader(code int) {
	if w.code == 0 && code >= 200 { // those before are not the answer
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController through.
func (w *codeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *codeWriter) status() int {
	if w.code == 0 {
		return http.StatusOK
	}
	return w.code
}
