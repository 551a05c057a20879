# SPDX-License-Identifier: Apache-2.0
#
#   make demo    see it work on this machine alone
#   make test    every test, integration included
#   make deb     dist/kohaku_VERSION_ARCH.deb
#   make deps    install what is missing (Debian, Ubuntu)

GO      ?= go
BIN     := bin/kohaku
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X kohaku/cli.Version=$(VERSION)
FUZZTIME ?= 5s

# One way to compile for the program, its tests, the linters and the package, so that
# nothing is compiled twice; and a program that runs on any machine of its kind. The
# race detector takes CGO_ENABLED=1.
export CGO_ENABLED ?= 0
export GOFLAGS += -trimpath

.PHONY: all build tun-elsewhere deb debroot demo test lint fuzz bench deps deps-peers install clean ci

all: build

build:
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN) ./cli/kohaku

demo: build
	$(BIN) demo

# The devices that other systems have, too.
tun-elsewhere:
	for os in darwin windows; do GOOS=$$os $(GO) build ./tun/... || exit 1; done

# A Debian package, made without network.
deb:
	GO=$(GO) VERSION=$(VERSION) packaging/deb.sh

# The Debian system that the package is tested in. Made once, as root, and kept.
debroot:
	@packaging/debroot.sh

# One package after the other: the integration tests measure what a machine
# with nothing else to do would see.
test: debroot
	$(GO) test $(TESTFLAGS) -count=1 -p 1 -timeout 20m ./...

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt -w these files:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff

# Every fuzz target of every package, each for FUZZTIME.
fuzz:
	.ci/fuzz $(FUZZTIME)

# Every benchmark once, so that none rots. Figures need more: -benchtime, -count.
bench:
	$(GO) test -run '^$$' -bench . -benchtime 1x -p 1 ./...

deps:
	packaging/deps.sh

# Tunnel programs of others, for kohaku perf lab to compare with. Optional.
deps-peers:
	packaging/deps-peers.sh

install: build
	install -D -m 0755 $(BIN) $(DESTDIR)/usr/bin/kohaku

clean:
	rm -rf bin dist
