// SPDX-License-Identifier: Apache-2.0

package iperf

import "strconv"

// State is the one-byte message of the control connection. The two negative
// values end a session before it began.
type State int8

// The states, with the numbers iperf3 gives them (src/iperf_api.h).
const (
	TestStart       State = 1
	TestRunning     State = 2
	TestEnd         State = 4
	ParamExchange   State = 9
	CreateStreams   State = 10
	ServerTerminate State = 11 // the server was interrupted
	ClientTerminate State = 12 // the client was interrupted
	ExchangeResults State = 13
	DisplayResults  State = 14
	Start           State = 15
	Done            State = 16
	AccessDenied    State = -1 // the server is busy with another test, or does not serve this peer
	ServerError     State = -2 // followed by two 4-byte numbers: an error of iperf3's list and an errno

	// CreateExtended stands where CreateStreams stands when the parameters ask
	// for one of our own modes (see Extension) and the server knows it. A stock
	// server answers CreateStreams, which tells our client that it does not.
	CreateExtended State = 75
)

var stateNames = map[State]string{
	TestStart:       "TEST_START",
	TestRunning:     "TEST_RUNNING",
	TestEnd:         "TEST_END",
	ParamExchange:   "PARAM_EXCHANGE",
	CreateStreams:   "CREATE_STREAMS",
	ServerTerminate: "SERVER_TERMINATE",
	ClientTerminate: "CLIENT_TERMINATE",
	ExchangeResults: "EXCHANGE_RESULTS",
	DisplayResults:  "DISPLAY_RESULTS",
	Start:           "IPERF_START",
	Done:            "IPERF_DONE",
	AccessDenied:    "ACCESS_DENIED",
	ServerError:     "SERVER_ERROR",
	CreateExtended:  "CREATE_EXTENDED",
}

// String gives the name that iperf3's sources use.
func (s State) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return "state " + strconv.Itoa(int(s))
}
