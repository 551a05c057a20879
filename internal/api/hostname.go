// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"strings"
)

const (
	// MaxHostname is the longest runner name in bytes. RFC 1123 section 2.1 asks
	// for 255, Linux stores 64 (HOST_NAME_MAX), and a name has to fit into the
	// alias of a device (255 bytes) beside everything else that stands there.
	MaxHostname = 64
	maxLabel    = 63 // RFC 1035 section 2.3.4
)

// CanonicalHostname checks s against RFC 1123 section 2.1 (labels of letters,
// digits and hyphens, joined by dots, no hyphen at a label's end) and gives it
// back in lower case, since hostnames do not differ by case. At most MaxHostname
// bytes.
func CanonicalHostname(s string) (string, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("hostname is empty")
	case len(s) > MaxHostname:
		return "", fmt.Errorf("hostname %.20q... has %d bytes, at most %d are allowed", s, len(s), MaxHostname)
	}
	for label := range strings.SplitSeq(s, ".") {
		switch {
		case label == "":
			return "", fmt.Errorf("hostname %q has an empty label (a dot at an end, or two in a row)", s)
		case len(label) > maxLabel:
			return "", fmt.Errorf("hostname %q has a label of %d bytes, at most %d are allowed", s, len(label), maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return "", fmt.Errorf("hostname %q has a label with a hyphen at its end", s)
		}
		for i := range len(label) {
			if !hostnameByte(label[i]) {
				return "", fmt.Errorf("hostname %q holds %q, allowed are letters, digits, '-' and '.'", s, label[i])
			}
		}
	}
	return strings.ToLower(s), nil
}

func hostnameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}

// CheckMachineID reports whether s is a machine id as package machine makes it:
// 32 lower-case hex digits, not all zero.
func CheckMachineID(s string) error {
	if len(s) != 32 {
		return fmt.Errorf("machine id has %d characters, 32 hex digits are expected", len(s))
	}
	for i := range len(s) {
		if c := s[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return fmt.Errorf("machine id holds %q, 32 lower-case hex digits are expected", c)
		}
	}
	if strings.Count(s, "0") == len(s) {
		return fmt.Errorf("machine id is all zeros, which no machine has")
	}
	return nil
}
