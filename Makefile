# GNU make and BSD make read this file alike: it uses only what both understand.
#
#   make            build the release           make run      build and run it here, as you
#   make test       run the tests               make bench    measure it (minutes)
#   make install    as root, with PREFIX and DESTDIR; make deinstall undoes it
#   make lint       formatting, clippy, scripts, manual pages, language, this file in BSD make
#   make check-freebsd   on Debian: everything linked for FreeBSD on amd64, clippy for aarch64
#   make clean      remove what was built

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
CARGO_TARGET_DIR ?= target
# FreeBSD or Linux: whose files are installed.
SYSTEM != uname -s
# Where `make run` listens.
LISTEN ?= 127.0.0.1:12150

NAME = sysadm-events
BINARY = $(CARGO_TARGET_DIR)/release/$(NAME)
INSTALLATION = PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" SYSTEM="$(SYSTEM)" BINARY="$(BINARY)"
TARGETS = all run test bench install deinstall lint check-freebsd clean

all:
	sh scripts/provide.sh cargo cc
	$(CARGO) build --release --locked

run:
	@sh scripts/provide.sh cargo cc
	$(CARGO) build --locked
	@exec sh scripts/run.sh "$(CARGO_TARGET_DIR)" "$(LISTEN)"

# Most tests wait for something most of the time: two for each processor.
test:
	sh scripts/provide.sh cargo cc zfs-fuse bash python3 useradd ip openssl haproxy msmtp
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(getconf _NPROCESSORS_ONLN)))} $(CARGO) test --locked

bench:
	sh scripts/provide.sh cargo cc
	$(CARGO) bench --locked --bench figures

# Builds only where there is no build yet: root need not have cargo.
install:
	test -x "$(BINARY)" || $(MAKE) all
	$(INSTALLATION) sh scripts/install.sh install

deinstall:
	@$(INSTALLATION) sh scripts/install.sh deinstall

lint:
	sh scripts/provide.sh cargo cc shellcheck bmake mandoc bash zsh fish
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	shellcheck .ci/run scripts/*.sh rc.d/* tests/rc/*
	shellcheck -s bash etc/completion/*.bash
	zsh -n etc/completion/_sysadm-events
	fish --no-execute etc/completion/*.fish
	make=$$(command -v bmake || command -v make) && "$$make" -n $(TARGETS) >/dev/null
	mandoc -T lint -W warning man/*.[1-9]
	sh scripts/lint-words.sh

check-freebsd:
	sh scripts/provide.sh cc python3 pip readelf
	sh scripts/check-freebsd.sh

clean:
	$(CARGO) clean

.PHONY: all run test bench install deinstall lint check-freebsd clean
