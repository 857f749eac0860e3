#!/bin/sh
# Runs one attempt of the local operator, in its folder, and leaves exit.json as the last thing it does.
#
#   wrapper.sh FOLDER CLAIM HEAD LIMIT OOM_FILE TIMEOUT SHA256 DATE DATE_FORMAT MV SHELL OPTIONS OUTPUT…
#
# FOLDER is absolute. CLAIM and HEAD are the beginnings of the JSON in `claim` and `exit.json`. LIMIT is in seconds or
# empty. OOM_FILE is where the kernel counts kills for memory, or empty. The tools are absolute paths, since the
# task's own PATH may be anything. SHELL runs command.sh. The digests of the OUTPUTs go to outputs.sha256.
#
# All of it is one function, so that the shell has read the file to its end before anything runs.

process_start() { # of this shell, in clock ticks after boot: field 22 of /proc/PID/stat
    started=
    { read -r stat </proc/$$/stat; } 2>/dev/null || return 0
    # shellcheck disable=SC2086 # the fields behind "(name) " are words
    field20 ${stat##*) }
}
field20() {
    shift 19
    started=$1
}

uptime_now() { # a clock that nobody sets, in seconds
    uptime=
    { read -r uptime _ </proc/uptime; } 2>/dev/null || uptime=
}

oom_kills() {
    kills=0
    [ -n "$1" ] || return 0
    while read -r key value; do
        [ "$key" = oom_kill ] && kills=$value
    done <"$1" 2>/dev/null
}

stragglers() { # pids of this session other than this shell
    pids=
    for file in /proc/[0-9]*/stat; do
        { read -r stat <"$file"; } 2>/dev/null || continue
        pid=${file#/proc/}
        pid=${pid%/stat}
        # shellcheck disable=SC2086
        in_session "$pid" ${stat##*) } && pids="$pids $pid"
    done
    [ -n "$pids" ]
}
in_session() { # PID STATE PPID PGRP SESSION …
    [ "$5" = "$$" ] && [ "$1" != "$$" ] && [ "$2" != Z ]
}

end_stragglers() { # TERM for all, KILL after 10 s
    stragglers || return 0
    # shellcheck disable=SC2086
    kill -TERM $pids 2>/dev/null
    tries=50
    while stragglers && [ $tries -gt 0 ]; do
        sleep 0.2
        tries=$((tries - 1))
    done
    # shellcheck disable=SC2086
    stragglers && kill -KILL $pids 2>/dev/null
}

main() {
    cd -- "$1" || exit 0
    claim=$2 head=$3 limit=$4 oom_file=$5 timeout=$6 sha256=$7 date=$8 date_format=$9
    shift 9
    mv=$1 shell=$2 options=$3
    shift 3

    # Claim first: whoever cannot create the file and write its line runs nothing and writes nothing.
    process_start
    set -C
    { printf '%s, "pid": %s, "start": "%s"}\n' "$claim" "$$" "$started" >claim; } 2>/dev/null || exit 0
    set +C
    exec >stdout.log 2>stderr.log </dev/null || exit 0

    # A trapped signal (unlike an ignored one) has its default effect in the command. The shell itself outlives TERM
    # so that it can write down how the command ended.
    trap : TERM INT HUP

    started_at=$("$date" -u "$date_format")
    uptime_now
    began=$uptime
    oom_kills "$oom_file"
    kills_before=$kills

    # shellcheck disable=SC2086 # options are words
    if [ -n "$limit" ]; then
        "$timeout" -k 10 "$limit" "$shell" $options command.sh
        code=$?
        case $code in 124 | 137) end_stragglers ;; esac
    else
        "$shell" $options command.sh
        code=$?
    fi

    ended_at=$("$date" -u "$date_format")
    uptime_now
    oom_kills "$oom_file"
    if [ $code -eq 0 ] && [ $# -gt 0 ] && [ -n "$sha256" ]; then
        "$sha256" -- "$@" >outputs.sha256 2>/dev/null
    fi
    printf '%s, "exit_code": %s, "started_at": "%s", "ended_at": "%s", "uptime": ["%s", "%s"], "oom_kills": %s}\n' \
        "$head" "$code" "$started_at" "$ended_at" "$began" "$uptime" "$((kills - kills_before))" >.exit.json &&
        "$mv" -f .exit.json exit.json
    exit 0
}

main "$@"
