#!/bin/sh
# Provides the named commands. Root on Debian: installs their packages. Otherwise, and on FreeBSD:
# names what is missing and how to get it, and goes on; the step that needs it fails by itself.
set -eu

system=$(uname -s)

# The package of a command on FreeBSD; nothing where it has no use there or is of the base system.
pkg_of() {
	case $1 in
	cargo) echo rust ;;
	pip) echo py311-pip ;;
	shellcheck) echo hs-ShellCheck ;;
	cc | bmake | ip | mandoc | openssl | readelf | useradd | zfs-fuse) ;;
	*) echo "$1" ;;
	esac
}

package_of() {
	case $1 in
	cc) echo gcc libc6-dev ;;
	ip) echo iproute2 ;;
	pip) echo python3-pip ;;
	readelf) echo binutils ;;
	useradd) echo passwd libpam0g libpam-modules ;;
	*) echo "$1" ;;
	esac
}

advice_on() {
	case $1 in
	cargo) echo "Rust 1.91 or newer: https://rustup.rs" ;;
	cc) echo "a C compiler (a library has C in it): apt-get install gcc libc6-dev" ;;
	useradd) echo "Tests of real passwords are skipped without it; on Debian: apt-get install passwd libpam-modules" ;;
	zfs-fuse) echo "Tests on real pools are skipped without it; on Debian: apt-get install zfs-fuse, as root" ;;
	ip) echo "Tests of a bridge between two networks are skipped without it; on Debian: apt-get install iproute2" ;;
	haproxy) echo "A test of haproxy before the daemon is skipped without it: apt-get install haproxy" ;;
	msmtp) echo "A test of mail through a real transfer agent is skipped without it: apt-get install msmtp" ;;
	pip) echo "apt-get install python3-pip" ;;
	readelf) echo "apt-get install binutils" ;;
	bmake) echo "BSD make: apt-get install bmake" ;;
	*) echo "apt-get install $1" ;;
	esac
}

# zfs-fuse is not installed on a host with ZFS.
is_there() {
	command -v "$1" >/dev/null || { [ "$1" = zfs-fuse ] && command -v zpool >/dev/null; }
}

packages=
for command in "$@"; do
	if is_there "$command"; then
		continue
	fi
	if [ "$system" = FreeBSD ]; then
		packages="$packages${packages:+ }$(pkg_of "$command")"
		continue
	fi
	# Debian's own cargo is too old, so that one is never installed from there.
	if [ "$command" != cargo ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		packages="$packages $(package_of "$command")"
	else
		echo "missing: $command. $(advice_on "$command")" >&2
	fi
done

if [ "$system" = FreeBSD ]; then
	# Words: one that has no package there is an empty one.
	# shellcheck disable=SC2086
	set -- $packages
	[ $# = 0 ] || echo "missing; as root: pkg install $*" >&2
	exit 0
fi

if [ -n "$packages" ]; then
	echo "installing:$packages" >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >/dev/null </dev/null || echo "could not update the list of packages" >&2
	# One by one: not every Debian has all of them.
	for package in $packages; do
		apt-get install -y -qq --no-install-recommends --no-remove "$package" \
			>/dev/null </dev/null || echo "could not install: $package" >&2
	done
fi
