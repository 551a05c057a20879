// SPDX-License-Identifier: Apache-2.0

// Package api is the language that the Host and its Runners speak: JSON over
// HTTP, the types of every call, the checks each body must pass before anybody
// acts on it, and a client whose errors a person can act on.
//
// Bodies are read with a size limit and then validated as a whole. A field that
// this version does not know is passed over, so that a newer end can talk to an
// older one; a field that it does know must be right, or the call is refused with
// the field's name. Strings that end up in a terminal or a log never hold control
// characters.
package api
