#!/bin/sh
# Runs the daemon that was just built, as the current user: on loopback, with a private directory
# for its state, certificate and socket. Arguments: the directory of the build, HOST:PORT.
set -eu

build=$1
listen=$2
program=$build/debug/sysadm-events

umask 077
mkdir -p "$build/run"
chmod 0700 "$build/run"
# The configuration takes absolute paths only, but the argument may be relative.
directory=$(cd "$build/run" && pwd -P)
socket=$directory/socket

# The kernel takes at most 103 bytes (FreeBSD) or 107 (Linux) as the path of a socket.
if [ "$(printf %s "$socket" | wc -c)" -gt 100 ]; then
	socket=$(mktemp -d "${TMPDIR:-/tmp}/sysadm-events.XXXXXX")/socket
fi

# A path as TOML writes a string.
toml() {
	printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"
}

# A path as it is typed in a shell: quoted only where it has to be.
typed() {
	case $1 in
	*[!A-Za-z0-9_./:-]*) printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
	*) printf %s "$1" ;;
	esac
}

cat >"$directory/sysadm-events.toml" <<EOF
# Written by \`make run\`, anew each time.
[server]
listen = [$(toml "$listen")]
socket = $(toml "$socket")
certificate = $(toml "$directory/cert.pem")
private_key = $(toml "$directory/key.pem")
[paths]
state = $(toml "$directory/state")
[log]
target = "stderr"
EOF

cat <<EOF

The daemon runs here until Ctrl-C. Type in another terminal, in this directory:

  $(typed "$program") watch --socket $(typed "$socket")

and in a third one:

  $(typed "$program") run --socket $(typed "$socket") 'echo hello'

EOF
exec "$program" serve -c "$directory/sysadm-events.toml"
