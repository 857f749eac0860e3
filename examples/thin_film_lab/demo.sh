#!/bin/sh
# The whole example, with the instrument in the background and the scientist played by a line: sh demo.sh [RUN ROOT]
set -e
here=$(cd "$(dirname "$0")" && pwd)
root=${1:-runs/thin-film-lab}
matterstack run "$here/campaign.yaml" --root "$root" || [ $? -eq 4 ] # 4: nothing left but people and labs
matterstack inbox "$root"
python "$here/instrument/reflectometer.py" "$root" &
instrument=$!
trap 'kill $instrument' EXIT
while [ ! -e "$root/tasks/measure/attempt-1/experiment_result.json" ]; do sleep 0.2; done
matterstack run "$root" || [ $? -eq 4 ]
matterstack respond "$root" accept --data decision=accept --comment 'an example'
matterstack run "$root"
cat "$root/results/report.md"
