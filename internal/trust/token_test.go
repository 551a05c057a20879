// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTokenText(t *testing.T) {
	token := newToken(Fingerprint{1, 2, 3})
	text := token.Reveal()
	if len(text) != 77 || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz1234567-") != "" {
		t.Errorf("the token %q has %d characters", text, len(text))
	}
	for _, s := range []string{text, "  " + text + "\n", strings.ToUpper(text)} {
		if got, err := ParseToken(s); err != nil || got != token {
			t.Errorf("ParseToken(%q) = %#v, %v", s, got, err)
		}
	}
	for _, s := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v", token, token, token), fmt.Sprint(&token)} {
		if strings.Contains(s, text[20:40]) {
			t.Errorf("printing shows the secret: %s", s)
		}
	}
	if newToken(token.CA) == token {
		t.Error("two tokens are alike")
	}
}

// Every single wrong character is found, and every piece of a token is none.
func TestTokenDamaged(t *testing.T) {
	text := newToken(Fingerprint{9}).Reveal()
	for i := range text {
		for _, c := range []byte("ab7-0!\n") {
			if text[i] == c {
				continue
			}
			damaged := text[:i] + string(c) + text[i+1:]
			if _, err := ParseToken(damaged); !errors.Is(err, ErrToken) {
				t.Fatalf("ParseToken(%q): %v", damaged, err)
			}
		}
		if _, err := ParseToken(text[:i]); !errors.Is(err, ErrToken) {
			t.Errorf("a piece of %d characters: %v", i, err)
		}
	}
	for _, s := range []string{"", "kj1", "kj1--", text + "a", text + " " + text, text[:30] + "\n" + text[30:], "kj2" + text[3:]} {
		if _, err := ParseToken(s); !errors.Is(err, ErrToken) {
			t.Errorf("ParseToken(%q): %v", s, err)
		}
	}
}

// The verifier depends on all parts of a token.
func TestVerifier(t *testing.T) {
	token := newToken(Fingerprint{1})
	again, err := ParseToken(token.Reveal())
	if err != nil || !bytes.Equal(again.verifier(), token.verifier()) {
		t.Errorf("the verifier changes in print, %v", err)
	}
	for name, change := range map[string]func(*Token){
		"secret": func(t *Token) { t.secret[0]++ }, "id": func(t *Token) { t.ID = "aaaaaaaa" }, "CA": func(t *Token) { t.CA[0]++ },
	} {
		other := token
		change(&other)
		if bytes.Equal(other.verifier(), token.verifier()) {
			t.Errorf("another %s has the same verifier", name)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	token := newToken(Fingerprint{1, 2, 3})
	for _, s := range []string{token.Reveal(), strings.ToUpper(token.Reveal()), token.String(), "", "kj1-", "kj1-aaaaaaaa-", " kj1-\x00-\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrToken) || token != (Token{}) {
				t.Errorf("ParseToken(%q) = %v, %v", s, token, err)
			}
			return
		}
		// There is one text for one token.
		if got := token.Reveal(); got != strings.ToLower(strings.TrimSpace(s)) {
			t.Errorf("ParseToken(%q) reveals %q", s, got)
		}
	})
}
