// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/internal/lab"
)

// dockerd is a Docker Engine of its own on one machine of the lab: in the
// machine's network namespace, with all its files in a directory of the test.
type dockerd struct {
	t      *testing.T
	node   *lab.Node
	dir    string
	parent string // cgroup of its containers
	cmd    *lab.Cmd
	out    *lockedBuffer
	done   chan struct{}
}

// newDockerd prepares an engine. What it leaves behind at its end is removed with
// the test: containers' cgroups, shims, mounts.
func newDockerd(t *testing.T, n *lab.Node) *dockerd {
	t.Helper()
	hideDockerSettings(t)
	d := &dockerd{t: t, node: n, dir: must(os.MkdirTemp("", "docker-"))(t), out: &lockedBuffer{}}
	d.parent = "kohaku-lab-" + strconv.Itoa(lab.OuterPID()) + "-" + n.Name()
	check(t, os.WriteFile(d.path("daemon.json"), []byte("{}"), 0o600))
	t.Cleanup(d.clean)
	return d
}

// hideDockerSettings keeps dockerd from writing its key into the machine's
// /etc/docker, once per lab, whose mounts are its own.
func hideDockerSettings(t *testing.T) {
	t.Helper()
	hideOnce.Do(func() {
		const dir = "/etc/docker"
		if _, err := os.Stat(dir); err == nil {
			hideErr = unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755")
		}
	})
	check(t, hideErr)
}

var (
	hideOnce sync.Once
	hideErr  error
)

func (d *dockerd) path(name string) string { return filepath.Join(d.dir, name) }
func (d *dockerd) socket() string          { return "unix://" + d.path("docker.sock") }

// start starts dockerd and waits until it answers.
func (d *dockerd) start() {
	d.t.Helper()
	d.launch()
	eventually(d.t, 60*time.Second, "dockerd on "+d.node.Name(), func() error {
		select {
		case <-d.done:
			d.t.Fatalf("dockerd on %s ended:\n%s", d.node.Name(), d.out)
		default:
		}
		_, err := d.try("version", "--format", "{{.Server.Version}}")
		return err
	})
}

func (d *dockerd) launch() {
	d.t.Helper()
	name := "lab-" + d.node.Name()
	d.cmd = d.node.Command(context.Background(), "dockerd", "--config-file", d.path("daemon.json"),
		"-H", d.socket(), "--data-root", d.path("data"), "--exec-root", d.path("exec"), "--pidfile", d.path("pid"),
		"-l", "warn", "--bridge=none", "--storage-driver=vfs", "--live-restore", "--cgroup-parent", d.parent,
		"--containerd-namespace", name, "--containerd-plugins-namespace", name+"-plugins")
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	// A group of its own: its containerd is in it.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(d.t, d.cmd.Start())
	cmd, done := d.cmd, make(chan struct{})
	d.done = done
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
}

// stop ends dockerd in order. Containers stay.
func (d *dockerd) stop() {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // may have ended
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		_ = d.cmd.Process.Kill()
		d.t.Errorf("dockerd on %s still runs after 30 s:\n%s", d.node.Name(), d.out)
		<-d.done
	}
}

// clean ends everything that the engine has started and takes back what it has
// left in the kernel.
func (d *dockerd) clean() {
	if d.t.Failed() {
		d.t.Logf("dockerd on %s said:\n%s", d.node.Name(), tail(d.out.String(), 60))
	}
	if d.cmd != nil {
		select {
		case <-d.done: // then nobody can remove the containers but we
		default:
			if ids, err := d.try("ps", "-aq"); err == nil && ids != "" {
				if out, err := d.try(append([]string{"rm", "-f"}, strings.Fields(ids)...)...); err != nil {
					d.t.Errorf("remove the containers on %s: %v: %s", d.node.Name(), err, out)
				}
			}
			d.stop()
		}
	}
	// Shims, and in their absence what they have started, outlive dockerd.
	eventually(d.t, 20*time.Second, "end what dockerd has started", func() error {
		left := processesOf(d.dir)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // may have ended
		}
		if len(left) > 0 {
			return fmt.Errorf("processes %v are left", left)
		}
		return nil
	})
	for _, m := range slices.Backward(mountsBelow(d.t, d.dir)) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			d.t.Errorf("unmount %s: %v", m, err)
		}
	}
	removeCgroups(d.t, d.parent)
}

// processesOf finds what has the directory on its command line: dockerd's
// containerd, shims, runc.
func processesOf(dir string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		line, err := os.ReadFile(f)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && pid != os.Getpid() && bytes.Contains(line, []byte(dir)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func mountsBelow(t *testing.T, dir string) (points []string) {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile("/proc/self/mountinfo"))(t))) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	return points
}

// removeCgroups removes the groups of the engine's containers, in every hierarchy:
// /sys is the machine's, not the lab's.
func removeCgroups(t *testing.T, parent string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/" + parent, "/sys/fs/cgroup/*/" + parent} {
		roots, _ := filepath.Glob(pattern)
		for _, root := range roots {
			eventually(t, 20*time.Second, "remove "+root, func() error {
				var dirs []string
				_ = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
					if err == nil && e.IsDir() {
						dirs = append(dirs, path)
					}
					return nil
				})
				for _, dir := range slices.Backward(dirs) {
					if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
						return fmt.Errorf("%s: %w", dir, err)
					}
				}
				return nil
			})
		}
	}
}

// try runs the docker command against the engine and returns what it printed.
func (d *dockerd) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.socket(), "DOCKER_CONFIG="+d.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String()), err
}

// docker is try for what must succeed.
func (d *dockerd) docker(args ...string) string {
	d.t.Helper()
	return must(d.try(args...))(d.t)
}

// run runs a container on the overlay to its end and returns what it printed.
func (d *dockerd) run(args ...string) string {
	d.t.Helper()
	return d.docker(append([]string{"run", "--rm", "--network", overlayNetwork}, args...)...)
}

const (
	overlayNetwork = "kohakuriver-overlay"
	boxImage       = "box:1"
)

// loadImage puts an image with busybox and box into the engine.
func (d *dockerd) loadImage() {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), "docker", "import", "-", boxImage)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.socket(), "DOCKER_CONFIG="+d.dir)
	cmd.Stdin = bytes.NewReader(must(imageContent())(d.t))
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("docker import: %v: %s", err, out)
	}
}

// imageContent is a root directory, as a tar archive: a static busybox under the
// names that tests use, and box.
var imageContent = sync.OnceValues(func() ([]byte, error) {
	box, err := buildBox()
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("a static busybox is needed (packaging/deps.sh installs it): %w", err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, content []byte) {
		h.Mode, h.Size = 0o755, int64(len(content))
		if err == nil {
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	for _, dir := range []string{"bin/", "tmp/", "etc/", "proc/", "sys/", "dev/"} {
		put(tar.Header{Name: dir, Typeflag: tar.TypeDir}, nil)
	}
	put(tar.Header{Name: "bin/busybox"}, busybox)
	put(tar.Header{Name: "bin/box"}, box)
	for _, name := range []string{"sh", "ping", "wget", "nc", "ip", "sha256sum", "dd", "sleep", "env"} {
		put(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	return b.Bytes(), errors.Join(err, w.Close())
})

func buildBox() ([]byte, error) {
	dir, err := os.MkdirTemp("", "box-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", dir+"/box", "kohaku/integration/box")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return os.ReadFile(dir + "/box")
}

// boxResult is what box prints.
type boxResult struct {
	Bytes int64   `json:"bytes"`
	Gbits float64 `json:"gbits"`
	Sent  int     `json:"sent"`
	Lost  int     `json:"lost"`
	GapMS int64   `json:"gap_ms"`
	Error string  `json:"error"`
}

func parseBox(t *testing.T, out string) (r boxResult) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	if err := d.Decode(&r); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("box printed %q: %v", out, err)
	}
	if r.Error != "" {
		t.Fatalf("box: %s", r.Error)
	}
	return r
}

// tail is a text's last lines.
func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
