#!/bin/sh
# Sees to it that the named commands are there. Root on Debian: installs their packages. Anybody
# else: is told what is missing and how to get it, and goes on; the step that needs it will say so.
set -eu

package_of() {
	case $1 in
	cc) echo gcc libc6-dev ;;
	*) echo "$1" ;;
	esac
}

advice_on() {
	case $1 in
	cargo) echo "Rust 1.89 or newer: https://rustup.rs, or on FreeBSD: pkg install rust" ;;
	cc) echo "a C compiler (a library has C in it): apt-get install gcc libc6-dev" ;;
	bmake) echo "BSD make: apt-get install bmake (FreeBSD's make is one)" ;;
	*) echo "apt-get install $1, or on FreeBSD: pkg install $1" ;;
	esac
}

packages=
for command in "$@"; do
	if command -v "$command" >/dev/null; then
		continue
	fi
	# Debian's own cargo is too old, so that one is never installed from there.
	if [ "$command" != cargo ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		packages="$packages $(package_of "$command")"
	else
		echo "missing: $command. $(advice_on "$command")" >&2
	fi
done

if [ -n "$packages" ]; then
	echo "installing:$packages" >&2
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086 # a list of package names, none with a space in it
	if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } \
		>/dev/null </dev/null; then
		echo "could not install:$packages" >&2
	fi
fi
