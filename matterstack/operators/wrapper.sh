#!/bin/sh
# Runs one attempt of the local operator, in its folder, and leaves exit.json as the last thing it does.
#
#   wrapper.sh FOLDER CLAIM HEAD LIMIT OOM_FILE TIMEOUT SHA256 DATE DATE_FORMAT MV PATH SHELL OPTIONS OUTPUT…
#
# FOLDER is absolute. CLAIM and HEAD are the beginnings of the JSON in `claim` and `exit.json`. LIMIT is in seconds or
# empty. OOM_FILE is where the kernel counts kills for memory, or empty. The tools are absolute paths, and PATH is the
# step's, since the task's own may be anything. SHELL runs command.sh. The digests of the OUTPUTs go to outputs.sha256.
#
# All of it is one function, so that the shell has read the file to its end before anything runs. Variables begin with
# mstk_: a shell passes an imported variable that it assigns on to the command, so plain names would change the task's
# environment.

process_start() { # of this shell, in clock ticks after boot: field 22 of /proc/PID/stat
    mstk_started=
    { read -r mstk_stat </proc/$$/stat; } 2>/dev/null || return 0
    # shellcheck disable=SC2086 # the fields behind "(name) " are words
    field20 ${mstk_stat##*) }
}
field20() {
    shift 19
    mstk_started=$1
}

uptime_now() { # a clock that nobody sets, in seconds
    mstk_uptime=
    { read -r mstk_uptime mstk_rest </proc/uptime; } 2>/dev/null || mstk_uptime=
}

oom_kills() {
    mstk_kills=0
    [ -n "$1" ] || return 0
    while read -r mstk_key mstk_value; do
        [ "$mstk_key" = oom_kill ] && mstk_kills=$mstk_value
    done <"$1" 2>/dev/null
}

stragglers() { # pids of this session other than this shell
    mstk_pids=
    for mstk_file in /proc/[0-9]*/stat; do
        { read -r mstk_stat <"$mstk_file"; } 2>/dev/null || continue
        mstk_pid=${mstk_file#/proc/}
        mstk_pid=${mstk_pid%/stat}
        # shellcheck disable=SC2086
        in_session "$mstk_pid" ${mstk_stat##*) } && mstk_pids="$mstk_pids $mstk_pid"
    done
    [ -n "$mstk_pids" ]
}
in_session() { # PID STATE PPID PGRP SESSION …
    [ "$5" = "$$" ] && [ "$1" != "$$" ] && [ "$2" != Z ]
}

end_stragglers() { # SECONDS: TERM for all, KILL so many seconds later
    stragglers || return 0
    # shellcheck disable=SC2086
    kill -TERM $mstk_pids 2>/dev/null
    mstk_tries=$(($1 * 5))
    while stragglers && [ $mstk_tries -gt 0 ]; do
        PATH=$mstk_path sleep 0.2
        mstk_tries=$((mstk_tries - 1))
    done
    # shellcheck disable=SC2086
    stragglers && kill -KILL $mstk_pids 2>/dev/null
}

digests() { # OUTPUT…: of regular files alone, a named pipe would never end; of folders, of all files in them
    for mstk_file in "$@"; do
        shift
        if [ -d "$mstk_file" ]; then
            PATH=$mstk_path find "$mstk_file" -type f -exec "$mstk_sha256" -- {} +
        elif [ -f "$mstk_file" ]; then
            set -- "$@" "$mstk_file"
        fi
    done
    [ $# -eq 0 ] || "$mstk_sha256" -- "$@"
}

record_end() { # exit.json; also without a process to be had, on a disk that is full, in a folder that is read-only
    mstk_locked=
    [ -w . ] || { PATH=$mstk_path chmod u+w . && mstk_locked=1; }
    [ -f .exit.json ] && [ ! -L .exit.json ] || PATH=$mstk_path rm -rf .exit.json
    [ -w .exit.json ] || [ ! -e .exit.json ] || PATH=$mstk_path chmod u+w .exit.json
    mstk_tries=17280 # a day
    until { printf '%s, "exit_code": %s, "started_at": "%s", "ended_at": "%s", "uptime": ["%s", "%s"], "oom_kills": %s}\n' \
        "$mstk_head" "$mstk_code" "$mstk_started_at" "$mstk_ended_at" "$mstk_began" "$mstk_uptime" \
        "$((mstk_kills - mstk_kills_before))" >.exit.json; } 2>/dev/null; do
        mstk_tries=$((mstk_tries - 1))
        [ -e claim ] && [ $mstk_tries -gt 0 ] || return 0 # its folder is gone
        PATH=$mstk_path sleep 5
    done
    mstk_at=recorded
    [ -d exit.json ] || "$mstk_mv" -f .exit.json exit.json # a step reads .exit.json if that fails
    [ -z "$mstk_locked" ] || PATH=$mstk_path chmod u-w .
}

at_exit() { # also where the shell gives up by itself, because it was refused a process
    case $mstk_at in
        claimed) give_up "its wrapper could not open its files" ;;
        starting)
            # Started or not? A shell may run this for a signal as well, so only the child's own mark can tell.
            mstk_mark=
            { read -r mstk_mark <.exit.json; } 2>/dev/null
            [ ! -f .exit.json ] || [ "$mstk_mark" = started ] || give_up "its wrapper was refused a process"
            ;;
        ended) record_end ;;
    esac
}

give_up() { # WHY: nothing was started, and the claim says so; in place, since there may be no room for another block
    printf '%-1023s\n' "{\"by\": \"nobody\", \"why\": \"$1\"}" 1<>claim
}

run() { # COMMAND…: as `"$@"`, with a mark that it was started
    (
        printf started 1<>.exit.json
        exec "$@"
    )
}

main() {
    # A trapped signal (unlike an ignored one) has its default effect in the command. The shell itself outlives what a
    # task sends to its own group, so that it can write down how the command ended.
    trap : HUP INT QUIT ILL TRAP ABRT BUS FPE SEGV SYS PIPE ALRM TERM USR1 USR2 VTALRM PROF XCPU XFSZ
    cd -- "$1" || exit 0
    mstk_claim=$2 mstk_head=$3 mstk_limit=$4 mstk_oom_file=$5 mstk_timeout=$6 mstk_sha256=$7 mstk_date=$8 mstk_date_format=$9
    shift 9
    mstk_mv=$1 mstk_path=$2 mstk_shell=$3 mstk_options=$4
    shift 4

    # Claim first: whoever cannot create the file and write its line runs nothing and writes nothing.
    process_start
    set -C
    { printf '%s, "pid": %s, "start": "%s"}\n' "$mstk_claim" "$$" "$mstk_started" >claim; } 2>/dev/null || exit 0
    set +C
    mstk_at=claimed
    trap at_exit EXIT
    command exec >stdout.log 2>stderr.log </dev/null || exit 0
    printf '%1024s' '' >.exit.json || exit 0 # room for its end, should the disk be full by then
    mstk_at=starting

    mstk_started_at=$("$mstk_date" -u "$mstk_date_format")
    uptime_now
    mstk_began=$mstk_uptime mstk_ended_at=
    oom_kills "$mstk_oom_file"
    mstk_kills_before=$mstk_kills

    # shellcheck disable=SC2086 # options are words
    if [ -n "$mstk_limit" ]; then
        run "$mstk_timeout" -k 10 "$mstk_limit" "$mstk_shell" $mstk_options command.sh
        mstk_code=$? mstk_at=ended
        uptime_now
        case $mstk_code in
            124) end_stragglers 10 ;;
            137) end_stragglers 0 ;; # the 10 s are over
        esac
    else
        run "$mstk_shell" $mstk_options command.sh
        mstk_code=$? mstk_at=ended
    fi

    uptime_now
    oom_kills "$mstk_oom_file"
    mstk_ended_at=$("$mstk_date" -u "$mstk_date_format")
    if [ $mstk_code -eq 0 ] && [ $# -gt 0 ] && [ -n "$mstk_sha256" ] && [ ! -e outputs.sha256 ]; then
        { digests "$@" >outputs.sha256; } 2>/dev/null
    fi
    record_end
    exit 0
}

main "$@"
