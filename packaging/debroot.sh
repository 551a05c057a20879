#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the Debian 12 system that the package is tested in: a tar file, made once by
# debootstrap from the mirror that apt uses here, and kept. Prints its path.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

dir=${KOHAKU_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kohaku}
# Another number where something about the contents changes.
tar=$dir/debian-12-root-2-$(dpkg --print-architecture).tar
if [ -s "$tar" ]; then
	echo "$tar"
	exit
fi
[ "$(id -u)" = 0 ] || { echo "debroot: run this as root, once" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "debroot: debootstrap is missing; make deps installs it" >&2; exit 1; }

# The first Debian archive in apt's own list, whatever its form.
# shellcheck disable=SC2016 # apt-get's own variables
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(CREATED_BY)' 2>/dev/null |
	awk '$3 == "Packages" && $1 !~ /security/ && $2 ~ /^bookworm/ { print $1; exit }')
mirror=${mirror:-http://deb.debian.org/debian}

mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work" "$tar.new"' EXIT
if ! debootstrap --variant=minbase --include=systemd,procps,iptables,nftables,iproute2 bookworm "$work/root" "$mirror" >"$work/log" 2>&1; then
	tail -n 20 "$work/log" >&2
	echo "debroot: debootstrap from $mirror failed; see above" >&2
	exit 1
fi
# What no test looks at.
tar -C "$work/root" --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/man/*' \
	--exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./dev/*' -cf "$tar.new" .
mv "$tar.new" "$tar"
echo "$tar"
