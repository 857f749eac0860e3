#!/bin/sh
# The whole example, the expert played by a line of this script: sh demo.sh [RUN ROOT]
set -e
here=$(cd "$(dirname "$0")" && pwd)
root=${1:-runs/catalyst-gate}
matterstack run "$here/campaign.yaml" --root "$root" || [ $? -eq 4 ] # 4: nothing left but people
matterstack inbox "$root"
matterstack respond "$root" approve --data pairs=Cu-Au,Ni-Au,Pt-Ni --data reason='gold at the surface, and nickel below platinum' \
    --comment 'an example'
matterstack run "$root"
cat "$root/results/report.md"
