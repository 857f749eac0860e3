# Read by the bash of a task before command.sh (BASH_ENV): says where it ended because of -e or pipefail, in stderr.log.
if [[ ${BASH_ENV-} == "${BASH_SOURCE[0]}" ]]; then # else `sh`, which is bash, has read it
    unset BASH_ENV
    if [[ ${MATTERSTACK_BASH_ENV+given} ]]; then
        export BASH_ENV=$MATTERSTACK_BASH_ENV
        unset MATTERSTACK_BASH_ENV
        eval "__matterstack_log=\"${BASH_ENV//\"/\\\"}\"" # expanded, as bash itself does
        [[ ! -r $__matterstack_log ]] || . "$__matterstack_log"
    fi
fi
__matterstack_log=$MATTERSTACK_RUN/tasks/$MATTERSTACK_TASK/attempt-$MATTERSTACK_ATTEMPT/stderr.log
# All on one line, or LINENO would be that of the trap. `case` keeps $? and PIPESTATUS. Without -e, as in a command
# substitution, the shell goes on: nothing to say.
trap 'case $-$?/${#PIPESTATUS[@]} in *e*/1) printf "matterstack: %s: line %s: %s: exit code %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "${BASH_COMMAND%%$'"'\\n'"'*}" "$?" ;; *e*) printf "matterstack: %s: line %s: … | %s: exit code %s (parts of the pipe: %s)\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "${BASH_COMMAND%%$'"'\\n'"'*}" "$?" "${PIPESTATUS[*]}" ;; esac 2> /dev/null >> "${__matterstack_log-/dev/null}"' ERR
# In functions as well; but a trap of the task's own must be what it is without ours, which is not inherited then.
IFS= read -rd '' __matterstack_text < "$0" || :
[[ $__matterstack_text == *trap* ]] || set -E
unset __matterstack_text
