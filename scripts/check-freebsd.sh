#!/bin/sh
# Checks the program for FreeBSD on a Debian amd64 machine. Everything is only compiled and linked,
# never run: that needs a FreeBSD.
#
#   check-freebsd.sh [all|both|tests|clippy|build]     all is the default
#
#   tests    links the program, all tests and all benchmarks, and inspects each
#   clippy   type-checks and lints all of them
#   build    links the release, as a port does, and inspects it (minutes)
#   all      tests for FREEBSD_TARGET, clippy for the other one of the two targets
#   both     tests for each of the two targets
#
# The compiler with the sources of its standard library is Debian's rustc-web (built for browsers,
# and therefore recent); the linker, with FreeBSD's headers and the names in its libraries, is zig,
# from PyPI. Nothing is installed: both are unpacked into a directory of their own, which takes a
# minute and 1 GB the first time, and is found again from then on.
#
#   FREEBSD_CACHE     that directory                    [~/.cache/freebsd-check]
#   FREEBSD_TARGET    or aarch64-unknown-freebsd        [x86_64-unknown-freebsd]
#   FREEBSD_VERSION   whose libc is linked against      [14.0]
#   CARGO_TARGET_DIR  what is built goes to its freebsd [target]
set -eu
cd "$(dirname "$0")/.."

cache=${FREEBSD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/freebsd-check}
first_target=${FREEBSD_TARGET:-x86_64-unknown-freebsd}
version=${FREEBSD_VERSION:-14.0}
zig_version=0.17.1
command=${1:-all}

say() {
	printf 'check-freebsd: %s\n' "$*" >&2
}

fail() {
	say "$*"
	exit 1
}

need() {
	command -v "$1" >/dev/null || fail "$1 is missing; on Debian: apt-get install $2"
}

case $command in
all | both | tests | clippy | build) ;;
*) fail "unknown command '$command': there are all, both, tests, clippy and build" ;;
esac
case $first_target in
x86_64-unknown-freebsd) other_target=aarch64-unknown-freebsd ;;
aarch64-unknown-freebsd) other_target=x86_64-unknown-freebsd ;;
*) fail "cannot check for $first_target" ;;
esac
[ "$(uname -sm)" = 'Linux x86_64' ] || fail 'this needs Linux on x86_64; FreeBSD itself has make test'
# Minimum version of the compiler.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

mkdir -p "$cache"
cache=$(cd "$cache" && pwd -P)
rust=$cache/rust/usr
libraries=$rust/lib/x86_64-linux-gnu
zig=$cache/zig-$zig_version/ziglang/zig

# apt with lists of its own: those of the machine may be old, or not there, and are left as they are.
# With no package counted as installed, it names all that a package needs.
own_apt() {
	tool=$1
	shift
	"$tool" -q -o Dir::State="$cache/apt" -o Dir::State::status="$cache/apt/status" \
		-o Dir::Cache="$cache/apt/cache" -o APT::Sandbox::User= "$@"
}

is_installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# The packages to unpack: the compiler's own, installed or not, and of what they need only what the
# machine has not. Never the C library and its kin.
packages() {
	own_apt apt-get -s install --no-install-recommends \
		rustc-web cargo-web rust-web-clippy rust-web-src libstd-rust-web-dev |
		sed -n 's/^Inst \([^ ]*\).*/\1/p' |
		while read -r package; do
			case $package in
			*rust*-web* | cargo-web | libllvm* | libgit2-* | libhttp-parser* | libmbed*)
				echo "$package"
				;;
			libc6* | libc-* | libgcc-s1 | libstdc* | gcc* | cpp* | binutils* | linux-libc-dev) ;;
			*) is_installed "$package" || echo "$package" ;;
			esac
		done
}

compiler_version() {
	LD_LIBRARY_PATH=$libraries "$rust/bin/rustc" -vV 2>/dev/null | sed -n 's/^release: //p'
}

is_new_enough() {
	[ -n "$1" ] && [ "$(printf '%s\n' "$wanted" "$1" | sort -V | head -n 1)" = "$wanted" ]
}

provide_rust() {
	if [ -e "$cache/rust/.done" ] && is_new_enough "$(compiler_version)"; then
		return
	fi
	need apt-get apt
	need dpkg-deb dpkg
	rm -rf "$cache/rust" "$cache/apt" "$cache/debs"
	mkdir -p "$cache/apt/lists/partial" "$cache/apt/cache/archives/partial" "$cache/debs" "$cache/rust"
	: >"$cache/apt/status"
	say 'fetching lists of packages'
	own_apt apt-get update >&2 || fail 'the lists of packages cannot be fetched'
	list=$(packages)
	[ -n "$list" ] || fail 'this Debian has no rustc-web'
	say "fetching $(echo "$list" | tr '\n' ' ')"
	# shellcheck disable=SC2086
	(cd "$cache/debs" && own_apt apt-get download $list >&2)
	for package in "$cache"/debs/*.deb; do
		case ${package##*/} in
		rust-web-src_*)
			# The library only, a tenth of all.
			dpkg-deb --fsys-tarfile "$package" | tar -x -C "$cache/rust" --wildcards \
				--no-wildcards-match-slash './usr/src/rustc-*/library'
			;;
		*) dpkg-deb -x "$package" "$cache/rust" ;;
		esac
	done
	for program in rustc cargo cargo-clippy clippy-driver; do
		lacks=$(LD_LIBRARY_PATH=$libraries ldd "$rust/bin/$program" | sed -n '/not found/p')
		[ -z "$lacks" ] || fail "the unpacked $program lacks libraries: $lacks"
	done
	release=$(compiler_version)
	is_new_enough "$release" || fail "rustc-web is $release here; $wanted or newer is needed"
	[ -f "$rust/src/rustc-$release/library/Cargo.lock" ] ||
		fail "the sources of the standard library are not those of rustc $release"
	mkdir -p "$rust/lib/rustlib/src"
	ln -sfn "../../../src/rustc-$release" "$rust/lib/rustlib/src/rust"
	rm -rf "$cache/debs" "$cache/apt" "$rust/share"
	: >"$cache/rust/.done"
}

provide_zig() {
	[ ! -e "$cache/zig-$zig_version/.done" ] || return 0
	need python3 python3
	python3 -m pip --version >/dev/null 2>&1 || fail 'pip is missing; on Debian: apt-get install python3-pip'
	rm -rf "$cache/zig-$zig_version"
	say "fetching zig $zig_version"
	python3 -m pip install -q --no-deps --no-compile --disable-pip-version-check \
		--root-user-action=ignore --target "$cache/zig-$zig_version" "ziglang==$zig_version" >&2
	"$zig" version >/dev/null || fail 'zig does not run'
	: >"$cache/zig-$zig_version/.done"
}

# A tool, written anew only where it changes: cargo would build all again.
write_tool() {
	cat >"$tools/$1.new"
	chmod +x "$tools/$1.new"
	if cmp -s "$tools/$1.new" "$tools/$1"; then
		rm "$tools/$1.new"
	else
		mv "$tools/$1.new" "$tools/$1"
	fi
}

# Sets what depends on the target, and writes the tools for it.
provide_tools() {
	target=$1
	arch=${target%%-*}
	case $arch in
	x86_64) machine=X86-64 ;;
	aarch64) machine=AArch64 ;;
	esac
	tools=$cache/bin/$arch-$version
	stubs=$cache/stubs/$arch-$version
	mkdir -p "$tools" "$stubs"
	# Targets are named in ways that zig does not take; and its traps for undefined behaviour are not
	# in what FreeBSD's own compiler makes.
	write_tool cc <<-END
		#!/bin/sh
		left=\$#
		while [ "\$left" -gt 0 ]; do
			case \$1 in
			--target=*) ;;
			*) set -- "\$@" "\$1" ;;
			esac
			shift
			left=\$((left - 1))
		done
		exec "$zig" cc -target $arch-freebsd.$version -fno-sanitize=all -L"$stubs" "\$@"
	END
	write_tool ar <<-END
		#!/bin/sh
		exec "$zig" ar "\$@"
	END
	# Of these libraries, which libc names, zig has nothing. No symbol of theirs is used, so that an
	# empty one does, and is not needed in the end.
	for library in kvm.7 memstat.3 procstat.1 devstat.7; do
		name=lib${library%.*}.so
		[ -e "$stubs/$name" ] || "$tools/cc" -w -shared -nostdlib -Wl,-soname,"$name.${library#*.}" \
			-o "$stubs/$name" -x c /dev/null
	done
}

environment() {
	lower=$(echo "$target" | tr - _)
	upper=$(echo "$lower" | tr '[:lower:]' '[:upper:]')
	export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
	export PATH="$rust/bin:$PATH"
	export RUSTC="$rust/bin/rustc" RUSTDOC="$rust/bin/rustdoc"
	unset RUSTUP_TOOLCHAIN RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER CARGO
	# So that the standard library can be built by a compiler that is no nightly one.
	export RUSTC_BOOTSTRAP=1
	export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/freebsd"
	export ZIG_GLOBAL_CACHE_DIR="$cache/zig-cache" ZIG_LOCAL_CACHE_DIR="$cache/zig-cache"
	export "CC_$lower=$tools/cc" "AR_$lower=$tools/ar" "CARGO_TARGET_${upper}_LINKER=$tools/cc"
}

# Unoptimised and without debug information: what is never run has to be compiled soon, not well.
cargo() {
	subcommand=$1
	shift
	CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 "$rust/bin/cargo" "$subcommand" --locked \
		--target "$target" --config 'profile.dev.package."*".opt-level=0' \
		-Z build-std=std,panic_abort,proc_macro,test "$@"
}

# Tests too, built to abort at a panic as the rest is: another kind would want another library.
clippy() {
	cargo clippy -Z panic-abort-tests --all-targets -- -D warnings
	say "$arch: clippy finds nothing in the program, its tests and benchmarks"
}

# Requirements of FreeBSD's kernel and loader; only libraries of its base system.
look_at() {
	readelf -hW "$1" | grep -q "Machine:.*$machine" || fail "$1 is not for $arch"
	readelf -lW "$1" | grep -q 'interpreter: /libexec/ld-elf.so.1]' || fail "$1 has no loader of FreeBSD"
	readelf -nW "$1" | grep -q '^ *FreeBSD .*NT_VERSION' || fail "$1 has no note that it is for FreeBSD"
	needs=$(readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
	for library in $needs; do
		case $library in
		libc.so.7 | libthr.so.3 | libm.so.5 | libgcc_s.so.1) ;;
		*) fail "$1 needs $library, which is not in every FreeBSD" ;;
		esac
	done
	echo "$arch: ${1##*/}: $(wc -c <"$1") bytes, FreeBSD $version, needs $(echo "$needs" | tr '\n' ' ')"
}

# The linked debug build shows what a linked release would: each symbol is found, in libraries that
# every FreeBSD has. The release has less in it, for it is built from the same sources and stripped.
tests() {
	need readelf binutils
	mkdir -p "$CARGO_TARGET_DIR"
	messages=$CARGO_TARGET_DIR/linked-$arch.json
	cargo test -Z panic-abort-tests --all-targets --no-run \
		--message-format=json-render-diagnostics >"$messages"
	executables=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages" | sort -u)
	for name in sysadm_events sysadm-events behaviour figures; do
		case $executables in
		*"/$name"*) ;;
		*) fail "$name was not linked for $arch" ;;
		esac
	done
	for executable in $executables; do
		look_at "$executable"
	done
}

build() {
	need readelf binutils
	cargo build --release
	look_at "$CARGO_TARGET_DIR/$target/release/sysadm-events"
}

# Runs a command for a target; what it exports is of that one alone.
check() (
	provide_tools "$2"
	environment
	"$1"
)

need cc gcc
provide_rust
provide_zig
case $command in
all)
	check tests "$first_target"
	check clippy "$other_target"
	;;
both)
	check tests "$first_target"
	check tests "$other_target"
	;;
*) check "$command" "$first_target" ;;
esac
