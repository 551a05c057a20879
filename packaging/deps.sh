#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs what building, testing and the demo need, on Debian and Ubuntu, and
# only what is missing. kohaku itself needs iptables at run time, and nft to
# name what stands in its way; the others are for the tests: firewalld and a bus
# for it, started by the tests in namespaces of their own; tshark reads what we
# send, iperf3 is the other end of kohaku perf, debootstrap makes the system
# that the package is tested in, iproute2 is how a person looks at the result.
# Docker Engine and a static busybox are for the integration tests, which run
# engines of their own; a service that the package starts is not needed and may
# be stopped.
set -eu

missing=""
need() { # command, package
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH="$PATH:/usr/sbin:/sbin"
need ip iproute2
need iptables iptables
need nft nftables
need firewalld firewalld
need firewall-cmd firewalld
need dbus-daemon dbus-daemon
need tshark tshark
need iperf3 iperf3
need debootstrap debootstrap
need dockerd docker.io
need docker docker-cli # part of docker.io before Debian 13
# The package busybox has one, too, that needs libraries: no use in an image
# that has nothing else.
if ! command -v busybox >/dev/null 2>&1 || ldd "$(command -v busybox)" >/dev/null 2>&1; then
	missing="$missing busybox-static"
fi

if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "deps: missing:$missing; install these packages' equivalents, this script only knows apt-get" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "deps: missing:$missing; run this as root: sudo make deps" >&2
		exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	apt-cache show docker-cli >/dev/null 2>&1 || missing=$(echo "$missing" | sed 's/ docker-cli//')
	# shellcheck disable=SC2086 # a list of words
	apt-get install -y -q --no-install-recommends $missing
fi

if ! command -v go >/dev/null 2>&1; then
	echo "deps: Go is missing; go.mod says which version is needed at least, see go.dev/doc/install" >&2
	exit 1
fi

# udev gives /dev/net/tun mode 0666 on an ordinary machine: opening it gives no
# right over anything, that takes CAP_NET_ADMIN. Where no udev runs, an
# ordinary user could not run the demo.
if [ -c /dev/net/tun ] && [ "$(id -u)" = 0 ]; then
	chmod 0666 /dev/net/tun
fi
echo "deps: all there"
