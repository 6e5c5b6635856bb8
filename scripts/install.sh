#!/bin/sh
# The files of an installation, in one table: `install` copies them, `deinstall` removes them,
# `list` prints them, relative to PREFIX. Of the environment: PREFIX, DESTDIR (a packager's staging
# directory; empty for this very host), SYSTEM (`uname -s`), BINARY (the program that was built).
set -eu

# Where fish finds completions: on Linux its own prefix is /usr, and it does not look into another one.
fish() {
	case $SYSTEM:$PREFIX in
	Linux:/usr) echo share/fish/vendor_completions.d ;;
	Linux:*) echo /etc/fish/completions ;;
	*) echo share/fish/vendor_completions.d ;;
	esac
}

# Mode, source, place: under PREFIX, or from the root where it begins with a slash (on Linux PAM and
# fish read no other directories).
files() {
	cat <<-END
		0755 BINARY bin/sysadm-events
		0644 etc/sysadm-events.toml.sample etc/sysadm-events/sysadm-events.toml.sample
		0644 man/sysadm-events.toml.5 share/man/man5/sysadm-events.toml.5
		0644 man/sysadm-events-alerts.7 share/man/man7/sysadm-events-alerts.7
		0644 man/sysadm-events-protocol.7 share/man/man7/sysadm-events-protocol.7
		0644 man/sysadm-events.8 share/man/man8/sysadm-events.8
		0644 etc/completion/sysadm-events.bash share/bash-completion/completions/sysadm-events
		0644 etc/completion/_sysadm-events share/zsh/site-functions/_sysadm-events
		0644 etc/completion/sysadm-events.fish $(fish)/sysadm-events.fish
		0644 LICENSE share/doc/sysadm-events/LICENSE
		0644 README.md share/doc/sysadm-events/README.md
	END
	for rules in etc/rules/*.toml; do
		echo "0644 $rules share/examples/sysadm-events/rules/${rules##*/}"
	done
	for example in zrepl-hook-emit sanoid-post-snapshot-emit smartd-emit; do
		echo "0755 etc/examples/$example share/examples/sysadm-events/$example"
	done
	for example in crontab-emit devd-emit.conf; do
		echo "0644 etc/examples/$example share/examples/sysadm-events/$example"
	done
	case $SYSTEM in
	FreeBSD)
		cat <<-END
			0755 rc.d/sysadm_events etc/rc.d/sysadm_events
			0755 rc.d/sysadm_bridge etc/rc.d/sysadm_bridge
			0644 etc/newsyslog.conf.d/sysadm-events.conf etc/newsyslog.conf.d/sysadm-events.conf.sample
			0644 etc/syslog.d/sysadm-events.conf etc/syslog.d/sysadm-events.conf.sample
			0644 etc/pam.d/sysadm-events.freebsd etc/pam.d/sysadm-events.sample
			0644 etc/devd/sysadm-events.conf share/examples/sysadm-events/devd.conf
		END
		;;
	Linux)
		cat <<-END
			0644 etc/pam.d/sysadm-events.linux /etc/pam.d/sysadm-events.sample
			0644 etc/systemd/sysadm-events.service lib/systemd/system/sysadm-events.service
			0644 etc/systemd/sysadm-bridge.service lib/systemd/system/sysadm-bridge.service
			0644 etc/sysusers.d/sysadm-bridge.conf lib/sysusers.d/sysadm-bridge.conf
		END
		;;
	esac
}

# Directories of this program alone.
directories='etc/sysadm-events share/doc/sysadm-events share/examples/sysadm-events/rules share/examples/sysadm-events'

# The file that a sample is the beginning of, on this very host. A package manager does that itself
# when the package is installed, so that in a staging directory there are samples only.
live() {
	case $DESTDIR:$1 in
	:*.sample) echo "${1%.sample}" ;;
	esac
}

# The path of an entry of the table.
at() {
	case $1 in
	/*) echo "$DESTDIR$1" ;;
	*) echo "$root/$1" ;;
	esac
}

put() {
	mode=$1 source=$2 place=$(at "$3")
	install -d -m 0755 "${place%/*}"
	if [ "$source" = BINARY ]; then
		install -m "$mode" "$BINARY" "$place"
	else
		sed "s|%%PREFIX%%|$PREFIX|g" "$source" >"$work"
		install -m "$mode" "$work" "$place"
	fi
	alive=$(live "$place")
	if [ -n "$alive" ] && [ ! -e "$alive" ]; then
		install -m "$mode" "$place" "$alive"
	fi
}

# A changed file stays.
drop() {
	place=$(at "$1")
	alive=$(live "$place")
	if [ -n "$alive" ] && [ -e "$alive" ]; then
		if cmp -s "$place" "$alive"; then
			rm -f "$alive"
		else
			echo "left, since it is not as it was installed: $alive"
		fi
	fi
	rm -f "$place"
}

cd "$(dirname "$0")/.."
root=$DESTDIR$PREFIX
case $1 in
install)
	work=$(mktemp)
	trap 'rm -f "$work"' EXIT
	files | while read -r mode source place; do put "$mode" "$source" "$place"; done
	;;
deinstall)
	files | while read -r mode source place; do drop "$place"; done
	for directory in $directories; do
		rmdir "$root/$directory" 2>/dev/null || :
	done
	;;
list)
	files | while read -r mode source place; do echo "$place"; done
	;;
*)
	echo "install.sh install|deinstall|list" >&2
	exit 64
	;;
esac
