// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// lockSeconds is how long a program waits for the xtables lock, which only the
	// legacy variant has.
	lockSeconds = 5
	// programTimeout bounds one call of a program, the lock included.
	programTimeout = 15 * time.Second
)

// program is one of the iptables programs. The same command name can stand for
// either variant, so the variant is asked for.
type program struct {
	path   string
	v6     bool
	legacy bool
}

// String names the variant, as the usual commands are called.
func (p program) String() string {
	name := "iptables"
	if p.v6 {
		name = "ip6tables"
	}
	if p.legacy {
		return name + "-legacy"
	}
	return name + "-nft"
}

// finder looks for programs; tests replace it.
type finder func(name string) (path string, err error)

// find looks in PATH and in the directories where the programs are at home, which
// the PATH of a service may lack.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// discover finds the programs of one IP version: first the machine's own choice,
// which is what the command iptables is, then the other variant, if it is installed.
func discover(ctx context.Context, look finder, v6 bool) []program {
	base := "iptables"
	if v6 {
		base = "ip6tables"
	}
	var found []program
	for _, name := range []string{base, base + "-nft", base + "-legacy"} {
		path, err := look(name)
		if err != nil {
			continue
		}
		version, err := execute(ctx, path, nil, "--version")
		if err != nil {
			continue
		}
		p := program{path: path, v6: v6, legacy: !strings.Contains(version, "(nf_tables)")}
		if !slices.ContainsFunc(found, func(f program) bool { return f.legacy == p.legacy }) {
			found = append(found, p)
		}
	}
	return found
}

// touched reports whether the kernel has that table for this namespace. Listing a
// legacy table makes it, hooks and all, so that is only done where it is there.
func (p program) touched(table string) bool {
	if !p.legacy {
		return true
	}
	file := "/proc/thread-self/net/ip_tables_names"
	if p.v6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	data, err := os.ReadFile(file)
	if err != nil { // missing without the module; otherwise it does not tell
		return !errors.Is(err, fs.ErrNotExist)
	}
	return slices.Contains(strings.Fields(string(data)), table)
}

// list reads a table.
func (p program) list(ctx context.Context, table string) (chains, error) {
	out, err := execute(ctx, p.path, nil, "-w", itoa(lockSeconds), "-t", table, "-S")
	if err != nil {
		return chains{}, fmt.Errorf("list the %s table of %s: %w%s", table, p, err, hint(err))
	}
	return parseChains(out), nil
}

// apply changes one table in one step: all of the script or nothing of it.
func (p program) apply(ctx context.Context, table, script string) error {
	input := "*" + table + "\n" + script + "COMMIT\n"
	_, err := execute(ctx, p.path+"-restore", []byte(input), "-w", itoa(lockSeconds), "--noflush")
	if err != nil {
		lines := strings.ReplaceAll(strings.TrimSpace(script), "\n", ", ")
		return fmt.Errorf("change the %s table of %s (%s): %w%s", table, p, lines, err, hint(err))
	}
	return nil
}

// ownProgram reports whether that can be the kernel's name for a program that apply
// runs: iptables-restore or iptables-nft-restore, cut to 15 characters.
func ownProgram(by string) bool {
	return strings.Contains(by, "tables-re") || strings.Contains(by, "tables-nft-re")
}

// programError is a program's failure, in its own words.
type programError struct {
	name   string
	stderr string
	err    error
}

func (e *programError) Error() string {
	if e.stderr == "" {
		return e.name + ": " + e.err.Error()
	}
	return e.name + ": " + e.stderr
}

func (e *programError) Unwrap() error { return e.err }

// raced reports whether the program refused because what it was to change was no
// longer as it had been listed.
func raced(err error) bool {
	e, ok := errors.AsType[*programError](err)
	return ok && (strings.Contains(e.stderr, "Bad rule") || strings.Contains(e.stderr, "does a matching rule exist") ||
		strings.Contains(e.stderr, "RULE_DELETE failed") || strings.Contains(e.stderr, "RULE_INSERT failed") ||
		strings.Contains(e.stderr, "RULE_APPEND failed") || strings.Contains(e.stderr, "Index of insertion too big"))
}

// execute runs a program in the namespace of the calling thread.
func execute(ctx context.Context, path string, stdin []byte, args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", &programError{filepath.Base(path), oneLine(errOut.String()), err}
	}
	return out.String(), nil
}

// oneLine is what a program said, short enough for a status.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// unsupported reports whether a program says that its kernel lacks what it needs.
func unsupported(text string) bool {
	return slices.ContainsFunc([]string{"Failed to initialize nft", "Protocol not supported", "Table does not exist", "do you need to insmod"},
		func(s string) bool { return strings.Contains(text, s) })
}

// hint names the remedy of the usual failures.
func hint(err error) string {
	text := err.Error()
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, p) })
	}
	switch {
	case has("xtables lock"):
		return " (another program holds the lock /run/xtables.lock: `fuser -v /run/xtables.lock` shows which; it is tried again)"
	case has("is incompatible, use 'nft' tool"):
		return " (somebody made a table of that name with nft; rename it, or write the overlay's rules into it)"
	case has("ermission denied", "peration not permitted"):
		return " (run as root, or with CAP_NET_ADMIN)"
	case unsupported(text):
		return " (this kernel lacks the support: load the modules nf_tables and nft_compat, or ip_tables and iptable_nat)"
	}
	return ""
}
