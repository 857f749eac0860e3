# Read by the bash of a task before command.sh (BASH_ENV): says where it ended because of -e or pipefail, in stderr.log.
if [[ ${MATTERSTACK_BASH_ENV+given} ]]; then
    BASH_ENV=$MATTERSTACK_BASH_ENV
    unset MATTERSTACK_BASH_ENV
    [[ ! -r $BASH_ENV ]] || . "$BASH_ENV"
else
    unset BASH_ENV
fi
# All on one line, or LINENO would be that of the trap. `case` keeps $? and PIPESTATUS. Without -e, as in a command
# substitution, the shell goes on: nothing to say.
trap 'case $-$?/${#PIPESTATUS[@]} in *e*/1) printf "matterstack: %s: line %s: %s: exit code %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "${BASH_COMMAND%%$'"'\\n'"'*}" "$?" ;; *e*) printf "matterstack: %s: line %s: … | %s: exit code %s (parts of the pipe: %s)\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "${BASH_COMMAND%%$'"'\\n'"'*}" "$?" "${PIPESTATUS[*]}" ;; esac 2> /dev/null >> "$MATTERSTACK_RUN/tasks/$MATTERSTACK_TASK/attempt-$MATTERSTACK_ATTEMPT/stderr.log"' ERR
set -E
