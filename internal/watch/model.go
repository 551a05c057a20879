// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"

	"kohaku/internal/api"
)

// Terminal shows the status on a terminal until a person presses q or Ctrl-C, or
// ctx ends; then the terminal is as it was.
func Terminal(ctx context.Context, in io.Reader, out io.Writer, fetch Fetch, interval time.Duration) error {
	_, err := tea.NewProgram(newModel(ctx, fetch, interval), tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out)).Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// model is what is on the screen.
type model struct {
	// Constant.
	ctx      context.Context
	fetch    Fetch
	interval time.Duration

	width, height int

	series series
	status api.Status
	lines  []line
	at     time.Time // of status; zero: none came yet
	err    error     // of the last try
	now    time.Time // of the last try

	order  order
	offset int // lines above the first one that shows
}

func newModel(ctx context.Context, fetch Fetch, interval time.Duration) model {
	return model{ctx: ctx, fetch: fetch, interval: interval, width: 80, height: 24, order: order{key: 'i'}}
}

// answer is what a try brought, tick the time for the next one.
type (
	answer struct {
		status api.Status
		err    error
		at     time.Time
	}
	tick struct{}
)

func (m model) ask() tea.Msg {
	s, err := m.fetch(m.ctx)
	return answer{s, err, time.Now()}
}

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return m.ask }

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		return m, m.ask
	case answer:
		m.take(msg)
		return m, tea.Tick(m.interval, func(time.Time) tea.Msg { return tick{} })
	case tea.KeyPressMsg:
		if quit := m.press(msg.String()); quit {
			return m, tea.Quit
		}
	}
	m.offset = min(max(m.offset, 0), max(len(m.lines)-m.room(), 0))
	return m, nil
}

func (m *model) take(a answer) {
	m.err, m.now = a.err, a.at
	if a.err != nil {
		return
	}
	m.status, m.at = a.status, a.at
	m.lines = m.series.add(a.status, a.at)
	m.order.sort(m.lines)
	m.offset = min(max(m.offset, 0), max(len(m.lines)-m.room(), 0))
}

// press does what a key is for, and reports whether that is the end.
func (m *model) press(key string) (quit bool) {
	switch key {
	case "q", "esc", "ctrl+c":
		return true
	case "up", "k":
		m.offset--
	case "down", "j":
		m.offset++
	case "pgup", "b":
		m.offset -= m.room()
	case "pgdown", "space", "f":
		m.offset += m.room()
	case "home", "g":
		m.offset = 0
	case "end", "G":
		m.offset = len(m.lines)
	}
	for _, o := range orders {
		if key != string(o.key) {
			continue
		}
		m.order = order{key: o.key, back: m.order.key == o.key && !m.order.back}
		m.order.sort(m.lines)
		m.offset = 0
	}
	return false
}
