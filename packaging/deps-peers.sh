#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs, on Debian and Ubuntu, the tunnel programs of others that kohaku perf lab
# measures beside ours when it finds them. Nothing needs them. Debian starts an
# Open vSwitch service with its package; the lab runs switches of its own and does
# not need that, so it may be stopped.
set -eu

PATH="$PATH:/usr/sbin:/sbin"
missing=""
need() { # command, package
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need nebula-cert nebula
need wireguard-go wireguard-go
need ovs-vswitchd openvswitch-switch

if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
		echo "deps-peers: missing:$missing; as root, where there is apt-get: sudo make deps-peers" >&2
		exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	# shellcheck disable=SC2086 # a list of words
	apt-get install -y -q --no-install-recommends $missing
fi
echo "deps-peers: all there"
