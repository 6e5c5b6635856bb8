# GNU make and BSD make read this file alike: it uses only what both understand.
#
#   make            build the release           make run      build and run it here, as you
#   make test       run the tests               make bench    measure it (minutes)
#   make install    as root, with PREFIX and DESTDIR; make deinstall undoes it
#   make lint       formatting, clippy, shellcheck, this file in BSD make
#   make clean      remove what was built

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
CARGO_TARGET_DIR ?= target
# Where `make run` listens.
LISTEN ?= 127.0.0.1:12150

NAME = sysadm-events
BINARY = $(CARGO_TARGET_DIR)/release/$(NAME)
BINDIR = $(DESTDIR)$(PREFIX)/bin
ETCDIR = $(DESTDIR)$(PREFIX)/etc/$(NAME)
DOCDIR = $(DESTDIR)$(PREFIX)/share/doc/$(NAME)
# Where PAM looks for services, and which of our two files it wants: said by the system's name.
PAM = case $$(uname -s) in FreeBSD) pam="$(DESTDIR)$(PREFIX)/etc/pam.d"; of=freebsd ;; \
	*) pam="$(DESTDIR)/etc/pam.d"; of=linux ;; esac
TARGETS = all run test bench install deinstall clean lint

all:
	sh scripts/provide.sh cargo cc
	$(CARGO) build --release --locked

run:
	@sh scripts/provide.sh cargo cc
	$(CARGO) build --locked
	@exec sh scripts/run.sh "$(CARGO_TARGET_DIR)" "$(LISTEN)"

test:
	sh scripts/provide.sh cargo cc zfs-fuse useradd
	$(CARGO) test --locked

bench:
	sh scripts/provide.sh cargo cc
	$(CARGO) bench --locked --bench figures

# Builds only where there is no build yet: root need not have cargo.
install:
	test -x "$(BINARY)" || $(MAKE) all
	install -d -m 0755 "$(BINDIR)" "$(ETCDIR)" "$(DOCDIR)"
	install -m 0755 "$(BINARY)" "$(BINDIR)/$(NAME)"
	install -m 0644 etc/$(NAME).toml.sample "$(ETCDIR)/$(NAME).toml.sample"
	install -m 0644 LICENSE README.md "$(DOCDIR)"
	$(PAM); install -d -m 0755 "$$pam"; test -e "$$pam/$(NAME)" || \
		install -m 0644 "etc/pam.d/$(NAME).$$of" "$$pam/$(NAME)"

# What install put there (a PAM service that somebody changed stays), and then its directories where nothing else is left in them.
deinstall:
	rm -f "$(BINDIR)/$(NAME)"
	rm -f "$(ETCDIR)/$(NAME).toml.sample"
	rm -f "$(DOCDIR)/LICENSE" "$(DOCDIR)/README.md"
	$(PAM); if cmp -s "etc/pam.d/$(NAME).$$of" "$$pam/$(NAME)"; then rm -f "$$pam/$(NAME)"; fi
	for directory in "$(ETCDIR)" "$(DOCDIR)"; do rmdir "$$directory" 2>/dev/null || :; done

lint:
	sh scripts/provide.sh cargo cc shellcheck bmake mandoc
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	shellcheck .ci/run scripts/*.sh
	make=$$(command -v bmake || command -v make) && "$$make" -n $(TARGETS) >/dev/null
	for page in man/*.[1-9]; do \
		if test -e "$$page"; then mandoc -T lint -W warning "$$page" || exit 1; fi; \
	done

clean:
	$(CARGO) clean

.PHONY: all run test bench install deinstall lint clean
