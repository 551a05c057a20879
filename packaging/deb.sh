#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds dist/kohaku_VERSION_ARCH.deb, without network and as any user. The same
# source gives the same bytes: all times are SOURCE_DATE_EPOCH, by default the time
# of the last commit.
#
#   VERSION     as the program shows it; default: from git
#   BINARY      a program to pack instead of building one
#   DIST        where the package goes; default: dist
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
dist=${DIST:-dist}
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
for tool in dpkg-deb "$go"; do
	command -v "$tool" >/dev/null || { echo "deb: $tool is missing" >&2; exit 1; }
done

# A package's version begins with a digit, and a hyphen would set off a revision.
# What has no tag yet sorts before everything that has.
deb_version=${version#v}
deb_version=${deb_version//-/+}
case $deb_version in
[0-9]*.*) ;;
*) deb_version="0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$deb_version" ;;
esac

goarch=$("$go" env GOARCH)
case $goarch in
386) arch=i386 ;;
arm) arch=armhf ;;
ppc64le) arch=ppc64el ;;
*) arch=$goarch ;;
esac

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"
mkdir -p "$root/usr/bin"
put() { install -D -m "$1" "$2" "$root/$3"; }

if [ -n "${BINARY:-}" ]; then
	put 0755 "$BINARY" usr/bin/kohaku
else
	CGO_ENABLED=0 "$go" build -trimpath -buildvcs=false -ldflags "-s -w -X kohaku/cli.Version=$version" -o "$root/usr/bin/kohaku" ./cli/kohaku
fi
for unit in packaging/systemd/*.service; do
	put 0644 "$unit" "usr/lib/systemd/system/$(basename "$unit")"
done
# host.toml holds the defaults and does no harm on a Runner. A runner.toml would: it
# names a Host, and commands would ask that one. Joining writes it.
put 0644 packaging/host.toml etc/kohakuriver/host.toml
put 0644 packaging/runner.toml usr/share/doc/kohaku/examples/runner.toml
put 0644 README.md usr/share/doc/kohaku/README.md
mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
if [ "$goarch" = "$("$go" env GOHOSTARCH)" ]; then
	"$root/usr/bin/kohaku" completion bash >"$root/usr/share/bash-completion/completions/kohaku"
	"$root/usr/bin/kohaku" completion zsh >"$root/usr/share/zsh/vendor-completions/_kohaku"
	"$root/usr/bin/kohaku" completion fish >"$root/usr/share/fish/vendor_completions.d/kohaku.fish"
fi
cat >"$root/usr/share/doc/kohaku/copyright" <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: kohaku

Files: *
Copyright: the kohaku authors
License: Apache-2.0
 On Debian systems the full text of the Apache License, Version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
TEXT

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
	put 0755 "packaging/deb/$script" "DEBIAN/$script"
done
echo /etc/kohakuriver/host.toml >"$root/DEBIAN/conffiles"
size=$(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f 1)
cat >"$root/DEBIAN/control" <<TEXT
Package: kohaku
Version: $deb_version
Architecture: $arch
Maintainer: the kohaku authors <kohaku@localhost>
Installed-Size: $size
Depends: iptables, procps
Recommends: nftables, docker.io | docker-ce
Suggests: firewalld
Section: net
Priority: optional
Description: one network for the containers of several machines
 kohaku joins the containers of a handful to a few hundred Linux machines into
 one network, without Kubernetes: a Host routes between Runners, over VXLAN
 tunnels (RFC 7348) that a user-space engine makes.
 .
 Nothing is started by the installation: a machine is made a Host or a Runner
 by enabling kohakuriver-host.service or kohakuriver-runner.service.
TEXT
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)

find "$root" -type d -exec chmod 0755 {} +
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$dist"
out=$dist/kohaku_${deb_version}_$arch.deb
# gzip: one thread or many, its output is the same.
dpkg-deb --root-owner-group -Zgzip --build "$root" "$out" >/dev/null
echo "$out"
