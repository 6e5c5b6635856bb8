# Completion of sysadm-events(8) for bash.

# Ids of jobs, or names of queues, of the daemon of this host that the line is for. Another host is not
# asked: it may want a password.
_sysadm_events_names() {
	local at name daemon=()
	for ((at = 2; at < COMP_CWORD; at++)); do
		case ${COMP_WORDS[at]} in
		-c | --socket) daemon=("${COMP_WORDS[at]}" "${COMP_WORDS[at + 1]}") ;;
		-H | --url | --via) return ;;
		esac
	done
	"${COMP_WORDS[0]}" jobs "$1" ${daemon[@]+"${daemon[@]}"} </dev/null 2>/dev/null |
		while IFS= read -r name; do
			if [[ $name == "$2"* ]]; then
				printf '%q\n' "$name"
			fi
		done
}

_sysadm_events() {
	local word=${COMP_WORDS[COMP_CWORD]} before='' command=''
	local target="-c -H --socket --url --fingerprint --key --token-file --user --password-file --via --bridge-fingerprint"
	local options='' values=''
	COMPREPLY=()
	if [ "$COMP_CWORD" -gt 0 ]; then
		before=${COMP_WORDS[COMP_CWORD - 1]}
	fi
	if [ "$COMP_CWORD" -gt 1 ]; then
		command=${COMP_WORDS[1]}
	fi
	case $command in
	'')
		options="-h --help -V --version"
		values="serve bridge check fingerprint watch events run attach wait restart jobs queues pause resume kill log status notify alerts ack unack emit whoami call key import-legacy help"
		;;
	serve) options="-c --pid-file -h --help" ;;
	import-legacy) options="-c --bridge --dry-run -h --help" ;;
	bridge) options="-c -h --help" ;;
	check) options="-c --try --rule --json -h --help" ;;
	fingerprint) options="--bridge -c -h --help" ;;
	watch)
		options="--job --queue --priority --no-output --since -n --text --wide --json --verbose -h --help $target"
		values="dispatcher life-preserver system-state alert notice"
		;;
	run) options="--sh --queue --id --priority --after --after-any --timeout --cwd --env --as --detach -h --help $target" ;;
	jobs) options="--state --queue --since --ids --queues --json -h --help $target" ;;
	notify) options="--queue --test --json -h --help $target" ;;
	whoami) options="--json -h --help $target" ;;
	status) options="--json --check --bridge -h --help $target" ;;
	alerts) options="--all --json -h --help $target" ;;
	ack) options="--for -h --help $target" ;;
	emit) options="--key --ok --priority --class -h --help $target" ;;
	events) options="--since --until --priority --kind -n --json -h --help $target" ;;
	restart) options="--detach -h --help $target" ;;
	queues) options="--json -h --help $target" ;;
	kill | call | pause | resume | unack) options="-h --help $target" ;;
	attach) options="--no-hold -h --help $target" ;;
	wait) options="--any -h --help $target" ;;
	log) options="-f --follow --raw -h --help $target" ;;
	key)
		options="--rsa --legacy --emit --bridge --sum --json -c -h --help"
		[ "$COMP_CWORD" -gt 2 ] || values="generate add list revoke export"
		if [ "$COMP_CWORD" -gt 2 ] && [[ $word != -* ]]; then
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$word")
			return
		fi
		;;
	help) values="serve bridge check fingerprint watch events run attach wait restart jobs queues pause resume kill log status notify alerts ack unack emit whoami call key import-legacy" ;;
	esac
	case $command:$before in
	emit:--key | emit:--class | emit:--priority | ack:--for)
		return
		;;
	?*:-c | ?*:--socket | ?*:--key | ?*:--token-file | ?*:--password-file | serve:--pid-file)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	events:--kind)
		mapfile -t COMPREPLY < <(compgen -W "dispatcher life-preserver system-state alert notice" -- "$word")
		return
		;;
	events:--since | events:--until | events:--priority | events:-n)
		return
		;;
	run:--after)
		mapfile -t COMPREPLY < <(_sysadm_events_names --ids "$word")
		return
		;;
	watch:--job)
		mapfile -t COMPREPLY < <(_sysadm_events_names --ids "$word")
		return
		;;
	run:--queue | jobs:--queue | watch:--queue)
		mapfile -t COMPREPLY < <(_sysadm_events_names --queues "$word")
		return
		;;
	jobs:--state)
		mapfile -t COMPREPLY < <(compgen -W "running pending finished" -- "$word")
		return
		;;
	?*:-H | ?*:--url | ?*:--fingerprint | ?*:--user | key:--sum | watch:--since | watch:-n | watch:--priority | jobs:--since | run:--id | run:--timeout | run:--priority)
		return
		;;
	esac
	if [ "$command" = import-legacy ] && [[ $word != -* ]]; then
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
	fi
	case $command:$word in
	*:-*) ;;
	pause:* | resume:*)
		mapfile -t COMPREPLY < <(_sysadm_events_names --queues "$word")
		return
		;;
	attach:* | wait:* | restart:* | jobs:* | kill:* | log:*)
		mapfile -t COMPREPLY < <(_sysadm_events_names --ids "$word")
		return
		;;
	esac
	case $word in
	-*) values='' ;;
	*) options='' ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$options $values" -- "$word")
}

complete -F _sysadm_events sysadm-events
