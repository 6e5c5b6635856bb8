# Completion of sysadm-events(8) for fish.

# Ids of jobs, or names of queues, of the daemon of this host that the line is for. Another host is not
# asked: it may want a password.
function __sysadm_events_names
    set -l words (commandline -opc)
    set -l target
    for at in (seq (count $words))
        switch $words[$at]
            case -c --socket
                set target $words[$at] $words[(math $at + 1)]
            case -H --url --via
                return
        end
    end
    command sysadm-events jobs $argv $target </dev/null 2>/dev/null
end

complete -c sysadm-events -f

set -l none __fish_use_subcommand
complete -c sysadm-events -n $none -a serve -d 'the daemon, in the foreground'
complete -c sysadm-events -n $none -a bridge -d 'the relay for hosts behind address translation'
complete -c sysadm-events -n $none -a check -d 'report faults of the configuration, or the events of a log'
complete -c sysadm-events -n $none -a fingerprint -d "this host's certificate fingerprint, for remote clients"
complete -c sysadm-events -n $none -a watch -d 'follow events'
complete -c sysadm-events -n $none -a events -d 'list events of the last days'
complete -c sysadm-events -n $none -a run -d 'run a job, show its output, exit with its code'
complete -c sysadm-events -n $none -a attach -d "show a job's output so far, then live, exit with its code"
complete -c sysadm-events -n $none -a wait -d 'wait for the end of jobs'
complete -c sysadm-events -n $none -a restart -d 'run a finished job again'
complete -c sysadm-events -n $none -a jobs -d 'list jobs'
complete -c sysadm-events -n $none -a queues -d 'list queues of jobs'
complete -c sysadm-events -n $none -a pause -d 'start no more jobs of a queue'
complete -c sysadm-events -n $none -a resume -d 'start jobs of a paused queue again'
complete -c sysadm-events -n $none -a kill -d 'end jobs'
complete -c sysadm-events -n $none -a log -d "print a job's output"
complete -c sysadm-events -n $none -a status -d 'how the daemon is doing'
complete -c sysadm-events -n $none -a notify -d 'test notifications, and show what waits'
complete -c sysadm-events -n $none -a alerts -d 'list alerts'
complete -c sysadm-events -n $none -a ack -d 'acknowledge alerts'
complete -c sysadm-events -n $none -a unack -d 'withdraw acknowledgements'
complete -c sysadm-events -n $none -a emit -d 'report something from a script'
complete -c sysadm-events -n $none -a whoami -d 'show your identity and role at the daemon'
complete -c sysadm-events -n $none -a call -d 'send any request, print the reply'
complete -c sysadm-events -n $none -a key -d 'make keys, register them, list and revoke them'
complete -c sysadm-events -n $none -a import-legacy -d 'import settings and keys of the Qt sysadm'
complete -c sysadm-events -n $none -s V -l version -d 'the version'
complete -c sysadm-events -s h -l help -d 'what it does'

set -l any '__fish_seen_subcommand_from serve bridge check fingerprint watch events run attach wait restart jobs queues pause resume kill log status notify alerts ack unack emit whoami call key import-legacy'
complete -c sysadm-events -n $any -s c -r -F -d 'the configuration, or the daemon that it is for'

set -l target '__fish_seen_subcommand_from watch events run attach wait restart jobs queues pause resume kill log status notify alerts ack unack emit whoami call'
complete -c sysadm-events -n $target -s H -x -d 'the host of this name in hosts.toml'
complete -c sysadm-events -n $target -l socket -r -F -d 'the daemon behind this socket'
complete -c sysadm-events -n $target -l url -x -d 'the daemon of another host'
complete -c sysadm-events -n $target -l fingerprint -x -d 'SHA-256 of its certificate'
complete -c sysadm-events -n $target -l key -r -F -d 'your private key, registered there'
complete -c sysadm-events -n $target -l token-file -r -F -d 'a file with a token for it'
complete -c sysadm-events -n $target -l user -x -d 'a user of it, by password'
complete -c sysadm-events -n $target -l password-file -r -F -d 'a file with that password'
complete -c sysadm-events -n $target -l via -x -d 'a host behind the bridge at that URL'
complete -c sysadm-events -n $target -l bridge-fingerprint -x -d 'SHA-256 of the certificate of the bridge'

complete -c sysadm-events -n '__fish_seen_subcommand_from serve' -l pid-file -r -F -d 'where its number is written'
complete -c sysadm-events -n '__fish_seen_subcommand_from check' -l try -r -F -d 'what the lines of this log give'
complete -c sysadm-events -n '__fish_seen_subcommand_from check' -l rule -x -a 'lpreserver pyznap sanoid syncoid zettarepl zfs-auto-snapshot zfsnap znapzend zrepl zxfer' -d 'by this rule set'
complete -c sysadm-events -n '__fish_seen_subcommand_from check' -l json -d 'one object a line'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch events jobs queues status notify alerts whoami' -l json -d 'as the daemon sends it'
complete -c sysadm-events -n '__fish_seen_subcommand_from status fingerprint' -l bridge -d 'the bridge of this host'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l verbose -d 'also jobs that ended meanwhile'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l job -x -a '(__sysadm_events_names --ids)' -d 'only this job'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l queue -x -a '(__sysadm_events_names --queues)' -d 'only jobs of this queue'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l priority -x -d 'only of this priority at least'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l no-output -d 'without output of jobs'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l since -x -d 'also the past, at most so old'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -s n -x -d 'also the last events, so many'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l text -d 'text into a pipe too'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -l wide -d 'lines are not cut'
complete -c sysadm-events -n '__fish_seen_subcommand_from watch' -a 'dispatcher life-preserver system-state alert notice'
complete -c sysadm-events -n '__fish_seen_subcommand_from events' -l since -x -d 'events of this time or later'
complete -c sysadm-events -n '__fish_seen_subcommand_from events' -l until -x -d 'events of this time or earlier'
complete -c sysadm-events -n '__fish_seen_subcommand_from events' -l priority -x -d 'events of this priority or a higher one'
complete -c sysadm-events -n '__fish_seen_subcommand_from events' -l kind -x -a 'dispatcher life-preserver system-state alert notice' -d 'events of this kind'
complete -c sysadm-events -n '__fish_seen_subcommand_from events' -s n -x -d 'only the last ones'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l sh -d 'each command is a script'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l queue -x -a '(__sysadm_events_names --queues)' -d 'wait for the jobs of this queue'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l id -x -d 'name the job'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l priority -x -d 'place in the queue, the highest first'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l after -x -a '(__sysadm_events_names --ids)' -d 'start when this job has finished'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l after-any -d 'however those jobs have ended'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l timeout -x -d 'end the job after so long'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l cwd -x -a '(__fish_complete_directories)' -d 'run it in this directory'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l env -x -d 'a variable, NAME=VALUE'
complete -c sysadm-events -n '__fish_seen_subcommand_from run' -l as -x -a '(__fish_complete_users)' -d 'run it as this user'
complete -c sysadm-events -n '__fish_seen_subcommand_from jobs' -l state -x -a 'running pending finished' -d 'only jobs in this state'
complete -c sysadm-events -n '__fish_seen_subcommand_from jobs' -l queue -x -a '(__sysadm_events_names --queues)' -d 'only jobs of this queue'
complete -c sysadm-events -n '__fish_seen_subcommand_from jobs' -l since -x -d 'active, or finished at most so long ago'
complete -c sysadm-events -n '__fish_seen_subcommand_from jobs' -l ids -d 'only their ids'
complete -c sysadm-events -n '__fish_seen_subcommand_from jobs' -l queues -d 'only the names of their queues'
complete -c sysadm-events -n '__fish_seen_subcommand_from attach wait restart jobs kill log' -a '(__sysadm_events_names --ids)'
complete -c sysadm-events -n '__fish_seen_subcommand_from notify' -l queue -d 'the targets, and the events that wait'
complete -c sysadm-events -n '__fish_seen_subcommand_from notify' -l test -x -d 'send a message to this target'
complete -c sysadm-events -n '__fish_seen_subcommand_from pause resume' -a '(__sysadm_events_names --queues)'
complete -c sysadm-events -n '__fish_seen_subcommand_from attach' -l no-hold -d 'do not hold the job back'
complete -c sysadm-events -n '__fish_seen_subcommand_from wait' -l any -d 'until one of them has ended'
complete -c sysadm-events -n '__fish_seen_subcommand_from log' -s f -l follow -d 'go on until the job ends'
complete -c sysadm-events -n '__fish_seen_subcommand_from run restart' -l detach -d "print the job's id and leave it to itself"
complete -c sysadm-events -n '__fish_seen_subcommand_from log' -l raw -d 'as it is on a terminal too'
complete -c sysadm-events -n '__fish_seen_subcommand_from key' -a 'generate add list revoke export'
complete -c sysadm-events -n '__fish_seen_subcommand_from key' -l rsa -d 'make an RSA key'
complete -c sysadm-events -n '__fish_seen_subcommand_from key' -l legacy -d 'of or for the original kind'
complete -c sysadm-events -n '__fish_seen_subcommand_from key' -l bridge -d 'keys of the relay'
complete -c sysadm-events -n '__fish_seen_subcommand_from key' -l sum -x -d 'the peer may only claim this checksum'
complete -c sysadm-events -n '__fish_seen_subcommand_from key' -l json -d 'all that is known of each key'
complete -c sysadm-events -n '__fish_seen_subcommand_from key' -l emit -d 'for emit alone'
complete -c sysadm-events -n '__fish_seen_subcommand_from status' -l check -d 'one line for monitoring systems'
complete -c sysadm-events -n '__fish_seen_subcommand_from alerts' -l all -d 'also those cleared in the last day'
complete -c sysadm-events -n '__fish_seen_subcommand_from ack' -l for -x -d 'end the acknowledgement after this time'
complete -c sysadm-events -n '__fish_seen_subcommand_from emit' -l ok -d 'all is well'
complete -c sysadm-events -n '__fish_seen_subcommand_from emit' -l priority -x -d '0 to 10'
complete -c sysadm-events -n '__fish_seen_subcommand_from emit' -l class -x -d 'class of a notice'
complete -c sysadm-events -n '__fish_seen_subcommand_from import-legacy' -F
complete -c sysadm-events -n '__fish_seen_subcommand_from import-legacy' -l bridge -d 'files of a bridge'
complete -c sysadm-events -n '__fish_seen_subcommand_from import-legacy' -l dry-run -d 'change nothing'
