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

digests() { # of all files below the current folder but those that say how it went
    for file in "${1:-}"* "${1:-}".[!.]*; do
        case $file in claim | status.json | .status.json | outputs.sha256 | .outputs.sha256) continue ;; esac
        if [ -d "$file" ]; then
            digests "$file/"
        elif [ -f "$file" ]; then
            sha256sum -- "$file"
        fi
    done
}

run_one() (
    folder=$1
    cd "$here/$folder" || exit 1
    if [ -e status.json ]; then
        echo "$folder: done before"
        exit 0
    fi
    shell=; task=; attempt=; limit=; cpus=1
    . ./parcel-task.sh
    for name in $from_env; do
        if eval "[ -z \"\${$name+set}\" ]"; then
            echo "$folder: set the variable $name first" >&2
            exit 1
        fi
    done
    program=${shell%% *}
    if ! command -v "$program" > /dev/null 2>&1; then
        echo "$folder: needs $program, which is not here" >&2
        exit 1
    fi
    if ! (set -C; echo "{\"by\": \"parcel\", \"host\": \"$(uname -n)\", \"pid\": $$}" > claim) 2> /dev/null; then
        echo "$folder: was started before and has not ended; if nothing runs there, rm $folder/claim" >&2
        exit 1
    fi
    MATTERSTACK_RUN=$here; MATTERSTACK_SOURCE=$here/source; MATTERSTACK_TASK=$task; MATTERSTACK_ATTEMPT=$attempt
    export MATTERSTACK_RUN MATTERSTACK_SOURCE MATTERSTACK_TASK MATTERSTACK_ATTEMPT
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
    export OMP_NUM_THREADS
    echo "$folder: starts"
    started=$(now)
    if [ -n "$limit" ]; then
        timeout -k 10 "$limit" $shell command.sh > stdout.log 2> stderr.log < /dev/null
    else
        $shell command.sh > stdout.log 2> stderr.log < /dev/null
    fi
    code=$?
    ended=$(now)
    status=COMPLETED; more=
    if [ "$code" -ne 0 ]; then
        status=FAILED
        if [ -n "$limit" ] && [ "$code" -eq 124 ]; then
            more=", \"failure\": \"timeout\", \"error\": \"stopped at its time limit of $limit s\""
        fi
    fi
    digests > .outputs.sha256 && mv .outputs.sha256 outputs.sha256 || exit 1
    who=$(id -un 2> /dev/null | tr -cd '[:alnum:]._-')
    printf '{"status": "%s", "exit_code": %s, "task": "%s", "attempt": %s, "started_at": "%s", "ended_at": "%s", "by": "%s", "host": "%s"%s}\n' \
        "$status" "$code" "$task" "$attempt" "$started" "$ended" "${who:-unknown}" "$(uname -n)" "$more" > .status.json || exit 1
    mv .status.json status.json || exit 1
    echo "$folder: $status (exit code $code)"
    [ "$code" -eq 0 ]
)

pack() {
    file=${1:-$(basename "$here")-return.tar}
    case $file in /*) ;; *) file=$here/$file ;; esac
    set --
    missing=0
    while read -r folder; do
        if [ -e "$folder/status.json" ]; then
            set -- "$@" "$folder"
        else
            missing=$((missing + 1))
            echo "$folder: not done, not packed"
        fi
    done < tasks.txt
    if [ $# -eq 0 ]; then
        echo "nothing is done yet" >&2
        exit 1
    fi
    tar -chf "$file" parcel.json "$@" || exit 1
    echo "$file: $# tasks packed, $missing not done; carry it back and type: matterstack parcel import RUN FILE"
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
sha256sum -c --quiet SHA256SUMS || { echo "the parcel is damaged; fetch it again" >&2; exit 1; }
failed=0
while read -r folder; do
    run_one "$folder" < /dev/null || failed=$((failed + 1))
done < tasks.txt
echo "done, $failed of $(wc -l < tasks.txt) not well; \`sh run.sh --pack\` packs what is done"
[ "$failed" -eq 0 ]
