// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAdvice(t *testing.T) {
	const create = "create namespaces"
	for name, c := range map[string]struct {
		step    string
		err     error
		root    bool
		sysctls map[string]string
		want    string
	}{
		"Debian's switch":     {create, unix.EPERM, false, map[string]string{"kernel.unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone=1"},
		"Ubuntu's AppArmor":   {"make mounts private", unix.EACCES, false, map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "1"}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		"limit":               {create, unix.ENOSPC, false, map[string]string{"user.max_user_namespaces": "0"}, "user.max_user_namespaces is 0"},
		"seccomp":             {create, unix.EPERM, false, map[string]string{"kernel.unprivileged_userns_clone": "1"}, "seccomp"},
		"root in a container": {create, unix.EPERM, true, nil, "CAP_SYS_ADMIN"},
		"hidden proc":         {"mount /proc", unix.EPERM, true, nil, "parts of /proc are hidden"},
		"kernel without":      {create, unix.EINVAL, false, nil, "CONFIG_USER_NS"},
		"unrelated":           {create, unix.ENOMEM, false, nil, ""},
	} {
		got := advice(c.step, c.err, c.root, func(key string) string { return c.sysctls[key] })
		if !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: advice is %q, want it to name %q", name, got, c.want)
		}
	}
}
