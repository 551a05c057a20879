// SPDX-License-Identifier: Apache-2.0

package lab

import "fmt"

const (
	// nearLimit is how near to plain veth's figure another path's may come before
	// it says more about the generators, or the machine, than about the path.
	nearLimit = 0.9
	// generatorBusy and engineIdle, in percent of a processor, tell when a
	// generator holds up an engine.
	generatorBusy = 95
	engineIdle    = 70
)

// judgeGenerators marks what a load generator, not the data path, may have
// limited, so that it is never taken for the path's figure.
func (r *Report) judgeGenerators() {
	for _, m := range r.Measurements {
		m.Limited = ""
		w, ok := workload(m.Workload)
		if !ok || w.Lower || m.Rounds == 0 || m.DataPath == Veth {
			continue // a round trip waits, it does not work
		}
		limit := r.find(key{Veth, m.Topology, m.Profile, m.Workload})
		if limit != nil && limit.Rounds > 0 && m.Value >= nearLimit*limit.Value {
			m.Limited = fmt.Sprintf("%.0f %% of plain veth: maybe the generator's limit", 100*m.Value/limit.Value)
			continue
		}
		// Where the kernel carries, the generator's own calls do the path's work,
		// and a busy generator means nothing. Our engines work by themselves.
		engines, ours := m.Detail["engine_cpu_percent"]
		if busy := max(m.Detail["sender_cpu_percent"], m.Detail["receiver_cpu_percent"]); ours && busy >= generatorBusy && engines < engineIdle {
			m.Limited = fmt.Sprintf("a generator is busy %.0f %%, the busiest engine %.0f %%", busy, engines)
		}
	}
}
