// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Results is the JSON that each end sends when the test is over. CPU figures
// are percent of one processor, of the process alone.
type Results struct {
	CPUTotal             Real           `json:"cpu_util_total"`
	CPUUser              Real           `json:"cpu_util_user"`
	CPUSystem            Real           `json:"cpu_util_system"`
	SenderHasRetransmits Number         `json:"sender_has_retransmits"` // -1: this end only receives
	CongestionUsed       string         `json:"congestion_used,omitempty"`
	Streams              []StreamResult `json:"streams"`

	// Kohaku is there when the other end is ours too.
	Kohaku *MachineResult `json:"kohaku,omitempty"`
}

// StreamResult is one stream as the sending end of the JSON saw it.
type StreamResult struct {
	ID             Number  `json:"id"`          // see StreamID
	Bytes          Number  `json:"bytes"`       // sent or received, without the omitted part
	Retransmits    Number  `json:"retransmits"` // -1: unknown
	Jitter         Real    `json:"jitter"`      // seconds
	Errors         Number  `json:"errors"`      // datagrams lost, omitted part included
	Packets        Number  `json:"packets"`     // the highest sequence number, omitted part included
	OmittedErrors  *Number `json:"omitted_errors,omitempty"`
	OmittedPackets *Number `json:"omitted_packets,omitempty"`
	StartTime      Real    `json:"start_time"` // seconds
	EndTime        Real    `json:"end_time"`   // seconds
	OutOfOrder     Number  `json:"out_of_order,omitempty"`
	Datagrams      Number  `json:"datagrams,omitempty"` // received, each one counted
}

// MachineResult is the use of the whole machine's processors during the test.
type MachineResult struct {
	Busy    Real   `json:"cpu_seconds"`     // over all processors
	Elapsed Real   `json:"elapsed_seconds"` // of the clock
	CPUs    Number `json:"cpus"`
}

// StreamID gives the identity of the i-th stream (from 0) of a test. iperf3
// counts 1, 3, 4, 5...: two was left out by an oversight that is now protocol.
func StreamID(i int) int {
	if i == 0 {
		return 1
	}
	return i + 2
}

// ReadResults reads and decodes the other end's results.
func ReadResults(r io.Reader) (*Results, error) {
	b, err := ReadFrame(r, MaxResults)
	if err != nil {
		return nil, err
	}
	return ParseResults(b)
}

// ParseResults decodes results and refuses impossible figures: negative counts,
// more streams than a test can have.
func ParseResults(b []byte) (*Results, error) {
	var r Results
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("the peer's results are not what iperf3 sends: %w", err)
	}
	if r.Streams == nil {
		return nil, errors.New("the peer's results name no streams")
	}
	if len(r.Streams) > 2*MaxStreams {
		return nil, fmt.Errorf("the peer's results name %d streams, a test has at most %d", len(r.Streams), 2*MaxStreams)
	}
	for _, s := range r.Streams {
		if s.Bytes < 0 || s.Errors < 0 || s.Packets < 0 || s.OutOfOrder < 0 || s.Datagrams < 0 ||
			s.Jitter < 0 || s.EndTime < s.StartTime || s.EndTime > 10*MaxDuration {
			return nil, fmt.Errorf("the peer's results for stream %d are impossible", s.ID)
		}
	}
	if k := r.Kohaku; k != nil && (k.Busy < 0 || k.Elapsed < 0 || k.CPUs < 0) {
		return nil, errors.New("the peer's processor times are impossible")
	}
	return &r, nil
}

// Stream finds a stream by its identity.
func (r *Results) Stream(id int) (StreamResult, bool) {
	for _, s := range r.Streams {
		if s.ID == Number(id) {
			return s, true
		}
	}
	return StreamResult{}, false
}
