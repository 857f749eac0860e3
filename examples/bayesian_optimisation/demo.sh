#!/bin/sh
# The whole example, with the reactor in the background and the chemist played by a file: sh demo.sh [RUN ROOT]
set -e
here=$(cd "$(dirname "$0")" && pwd)
root=${1:-runs/bayesian-optimisation}
python "$here/instrument/reactor.py" "$root" &
reactor=$!
trap 'kill $reactor' EXIT
matterstack run "$here/campaign.yaml" --root "$root" > /dev/null || [ $? -eq 4 ] # 4: nothing left but people and labs
while ! [ -e "$root/results/search.png" ]; do
    for folder in "$root"/tasks/search/*/look/attempt-1; do
        if [ -d "$folder" ] && ! [ -e "$folder/response.json" ]; then
            cat "$folder/instructions.md" | sed -n '/next experiment/,/Go on/p'
            echo '{"status": "COMPLETED", "data": {"decision": "go on"}, "by": "chemist"}' > "$folder/.response.json"
            mv "$folder/.response.json" "$folder/response.json"
        fi
    done
    matterstack run "$root" -q > /dev/null 2>&1 || [ $? -eq 4 ]
    sleep 0.2
done
matterstack status "$root"
cat "$root/results/best.json"
