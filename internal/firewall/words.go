// SPDX-License-Identifier: Apache-2.0

package firewall

import "strings"

// split takes a line of `iptables -S` apart. Quotes hold a word with spaces
// together; a backslash keeps the next character as it is
// (xtables_save_string in iptables' libxtables/xtables.c).
func split(line string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}
