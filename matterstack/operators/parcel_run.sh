#!/bin/sh
@SBATCH@# Runs the tasks of this parcel, one after the other: `sh run.sh`, or as a Slurm array: `sbatch run.sh`.
# `sh run.sh --pack [FILE]` packs what is done, to be carried back. Needs sh, tar and the coreutils.
set -u
if [ -n "${SLURM_JOB_ID:-}" ] && [ -f "${SLURM_SUBMIT_DIR:-}/parcel.json" ]; then
    cd "$SLURM_SUBMIT_DIR" || exit 1
else
    cd "$(dirname "$0")" || exit 1
fi
here=$(pwd)

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

digests() { # of all files below the current folder but those that say how it went; links to folders are left out
    for file in "${1:-}"* "${1:-}".[!.]*; do
        case $file in claim | status.json | .status.json | .warned | outputs.sha256 | .outputs.sha256) continue ;; esac
        if [ -d "$file" ]; then
            [ -L "$file" ] || digests "$file/"
        elif [ -f "$file" ]; then
            sha256sum -- "$file"
        fi
    done
}

dead_ends() { # links to folders and to nowhere, which tar would follow for ever or stumble over
    for file in "$1"/* "$1"/.[!.]*; do
        if [ -L "$file" ]; then
            { [ -e "$file" ] && [ ! -d "$file" ]; } || echo "$file"
        elif [ -d "$file" ]; then
            dead_ends "$file"
        fi
    done
}

copy() { # an input under another name, with the right to write to it
    [ -e "$2" ] && return 0
    rm -rf "$2.part" # of one that was killed
    mkdir -p "$(dirname "$2")" && cp -R "$1" "$2.part" && chmod -R u+w "$2.part" && mv "$2.part" "$2"
}

alive() { # whether a process is left in the group of a command, which timeout leads; one that nobody has reaped is not
    kill -s 0 -- "-$1" 2> /dev/null || return 1
    [ -r /proc/self/stat ] || return 0
    for file in /proc/[0-9]*/stat; do
        { read -r line < "$file"; } 2> /dev/null || continue
        set -- "$1" ${line##*) } # state, parent, group
        [ "$4" != "$1" ] || [ "$2" = Z ] || return 0
    done
    return 1
}

end_rest() { # give what is left 10 s, then end it; say yes if that was necessary
    tries=0
    while alive "$1" && [ "$tries" -lt 10 ]; do sleep 1; tries=$((tries + 1)); done
    alive "$1" || return 0
    echo yes
    kill -s TERM -- "-$1"
    tries=0
    while alive "$1" && [ "$tries" -lt 10 ]; do sleep 1; tries=$((tries + 1)); done
    kill -s KILL -- "-$1" 2> /dev/null
    return 0
}

warn() { # tell the processes of a command that its time limit is near, but shells that wait for a child, and timeout
    parents=" "
    for file in /proc/[0-9]*/stat; do
        { read -r line < "$file"; } 2> /dev/null || continue
        set -- "$1" ${line##*) } # state, parent, group
        parents="$parents$3 "
    done
    for file in /proc/[0-9]*/stat; do
        { read -r line < "$file"; } 2> /dev/null || continue
        pid=${line%% *}
        set -- "$1" ${line##*) }
        [ "$4" = "$1" ] && [ "$pid" != "$1" ] || continue
        case $line in
            *" (bash) "* | *" (sh) "* | *" (dash) "* | *" (zsh) "* | *" (ksh) "* | *" (fish) "*)
                case $parents in *" $pid "*) continue ;; esac
                ;;
        esac
        kill -s TERM "$pid" 2> /dev/null
    done
}

run_one() (
    folder=$1
    cd "$here/$folder" || exit 1
    if [ -e status.json ]; then
        echo "$folder: done before"
        case $(cat status.json) in *'"status": "COMPLETED"'*) exit 0 ;; *) exit 1 ;; esac
    fi
    . ./parcel-task.sh
    for name in $ms_from_env; do
        if eval "[ -z \"\${$name+set}\" ]"; then
            echo "$folder: set the variable $name first" >&2
            exit 1
        fi
    done
    program=${ms_shell%% *}
    if ! command -v "$program" > /dev/null 2>&1; then
        echo "$folder: needs $program, which is not here" >&2
        exit 1
    fi
    if ! (set -C; echo "{\"by\": \"parcel\", \"host\": \"$(uname -n)\", \"pid\": $$}" > claim) 2> /dev/null; then
        echo "$folder: was started before and has not ended; if nothing runs there, rm $folder/claim" >&2
        exit 1
    fi
    if ! ms_copies; then
        echo "$folder: an input could not be copied into it" >&2
        rm -f claim
        exit 1
    fi
    echo "$folder: starts"
    started=$(now)
    began=$(date +%s)
    : > stderr.log
    # In the background, so that Ctrl-C reaches this shell at once; timeout passes TERM on to all that the command started.
    # The task's variables are set there alone: they may have any name.
    (
        for name in @THREADS@; do eval "$name=\$ms_cpus; export $name"; done
        PYTHONUNBUFFERED=${PYTHONUNBUFFERED:-1}
        [ -z "${BASH_ENV+set}" ] || { MATTERSTACK_BASH_ENV=$BASH_ENV; export MATTERSTACK_BASH_ENV; }
        BASH_ENV=$here/strict.bash
        MATTERSTACK_RUN=$here; MATTERSTACK_SOURCE=$here/$ms_source; MATTERSTACK_TASK=$ms_task; MATTERSTACK_ATTEMPT=$ms_attempt
        export PYTHONUNBUFFERED BASH_ENV MATTERSTACK_RUN MATTERSTACK_SOURCE MATTERSTACK_TASK MATTERSTACK_ATTEMPT
        set -- timeout -k 10 "${ms_limit:-0}" $ms_shell command.sh
        . ./parcel-env.sh
        exec "$@"
    ) > stdout.log 2>> stderr.log < /dev/null &
    child=$!
    rm -f .warned
    [ -z "$ms_warn_s" ] || (
        trap - INT TERM HUP
        while [ $(($(date +%s) - began)) -lt "$ms_warn_s" ]; do kill -s 0 "$child" 2> /dev/null && sleep 1 || exit 0; done
        : > .warned
        warn "$child"
    ) & watch=$!
    trap 'kill -TERM "$child" 2> /dev/null; kill -s TERM -- "-$child" 2> /dev/null; wait "$child"; rm -f claim; echo "$folder: stopped; it begins anew next time" >&2; exit 130' INT TERM HUP
    wait "$child"
    code=$?
    left=
    if [ "$ms_background" = wait ]; then
        while alive "$child"; do
            sleep 1
            if [ -n "$ms_limit" ] && [ $(($(date +%s) - began)) -ge "$ms_limit_s" ]; then
                kill -s TERM -- "-$child" 2> /dev/null
                sleep 1
                end_rest "$child" > /dev/null
                code=124
                break
            fi
        done
    elif [ "$ms_background" != leave ] && alive "$child"; then
        left=$(end_rest "$child")
    fi
    trap '' INT TERM HUP
    ended=$(now)
    [ -z "$ms_warn_s" ] || kill "$watch" 2> /dev/null
    took=$(($(date +%s) - began))
    status=COMPLETED; more=
    if [ "$code" -eq 0 ] && [ -n "$left" ]; then
        status=FAILED
        more=", \"failure\": \"left_running\", \"error\": \"left processes running when it ended; they were stopped\""
    elif [ "$code" -ne 0 ]; then
        status=FAILED
        if [ -n "$ms_limit" ] && [ "$took" -ge "$ms_limit_s" ] && { [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; }; then
            more=", \"failure\": \"timeout\", \"error\": \"stopped at its time limit of $ms_limit s\""
        elif [ -e .warned ]; then
            more=", \"warned\": true, \"error\": \"ended when it was warned of its time limit of $ms_limit s\""
        fi
    fi
    rm -f .warned
    digests > .outputs.sha256 && mv .outputs.sha256 outputs.sha256 || exit 1
    who=$(id -un 2> /dev/null | tr -cd '[:alnum:]._-')
    printf '{"status": "%s", "exit_code": %s, "task": "%s", "attempt": %s, "started_at": "%s", "ended_at": "%s", "by": "%s", "host": "%s"%s}\n' \
        "$status" "$code" "$ms_task" "$ms_attempt" "$started" "$ended" "${who:-unknown}" "$(uname -n)" "$more" > .status.json || exit 1
    mv .status.json status.json || exit 1
    if [ "$status" = COMPLETED ]; then
        echo "$folder: COMPLETED"
        exit 0
    fi
    echo "$folder: FAILED (exit code $code), see $folder/stderr.log; that is a result as well, and is packed" >&2
    exit 1
)

check() { # all that was packed but the folders of tasks that have begun, which may change what is theirs
    while read -r sum name; do
        case $name in
            tasks/*/attempt-*)
                rest=${name#*/attempt-}
                [ -e "${name%%/attempt-*}/attempt-${rest%%/*}/claim" ] && continue
                ;;
        esac
        printf '%s  %s\n' "$sum" "$name"
    done < SHA256SUMS | sha256sum -c --quiet -
}

pack() {
    target=${1:-$(basename "$here")-return.tar}
    case $target in /*) ;; *) target=$here/$target ;; esac
    missing=0
    : > packed.txt
    : > .left-out
    while read -r folder; do
        if [ -e "$folder/status.json" ]; then
            echo "$folder" >> packed.txt
            dead_ends "$folder" >> .left-out
        else
            missing=$((missing + 1))
            echo "$folder: not done, not packed"
        fi
    done < tasks.txt
    if [ ! -s packed.txt ]; then
        echo "nothing is done yet" >&2
        exit 1
    fi
    { echo parcel.json; echo packed.txt; cat packed.txt; } > .to-pack
    tar -chf "$target" -X .left-out -T .to-pack || exit 1
    echo "$target: $(wc -l < packed.txt) packed, $missing not done; carry it back and type there: matterstack parcel import RUN FILE"
}

case ${1:-} in
    "") ;;
    --pack)
        pack "${2:-}"
        exit 0
        ;;
    *)
        echo "usage: sh run.sh [--pack [FILE]]" >&2
        exit 2
        ;;
esac
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    run_one "$(head -n "$SLURM_ARRAY_TASK_ID" tasks.txt | tail -n 1)"
    exit $?
fi
check || { echo "the parcel is damaged; fetch it again" >&2; exit 1; }
failed=0
stopped=
trap 'stopped=1' INT TERM HUP
while [ -z "$stopped" ] && read -r folder; do
    run_one "$folder" < /dev/null || failed=$((failed + 1))
done < tasks.txt
if [ -n "$stopped" ]; then
    echo "stopped; \`sh run.sh\` goes on, \`sh run.sh --pack\` packs what is done" >&2
    exit 130
fi
echo "done, $failed of $(wc -l < tasks.txt) failed or could not start; \`sh run.sh --pack\` packs what is done"
[ "$failed" -eq 0 ]
