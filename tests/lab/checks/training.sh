#!/bin/sh
# Purpose: a digit classifier trained across the VMs ends with the same parameters, bit by bit,
# whether gradients went over RDMA or over TCP. LAB_EPOCHS: passes over the data; LAB_WORLD: ranks.
. /lab/functions.sh

epochs=${LAB_EPOCHS:-3}
world=${LAB_WORLD:-$LAB_VMS}
for LAB_TRANSPORT in rdma tcp; do
  lab_mark
  lab_ranks "$world" gradwire train --epochs "$epochs" --seed 7 --check-checksums \
    --transport $LAB_TRANSPORT --summary "/out/training.$LAB_TRANSPORT.json" ||
    lab_fail "training over $LAB_TRANSPORT failed"
  lab_check_path 100
done
lab_barrier trained 300 || exit 1
[ "$LAB_RANK" = 0 ] || exit 0

# Rank 0 wrote the summaries; that the others agree with it was checked after every step.
checksum() {
  sed -n 's/.*"parameters_checksum": *"\([0-9a-f]\{64\}\)".*/\1/p' "/out/training.$1.json"
}
rdma=$(checksum rdma) tcp=$(checksum tcp)
[ -n "$rdma" ] && [ -n "$tcp" ] || lab_fail 'a summary has no checksum'
echo "parameters after $epochs epochs on $world ranks: rdma $rdma"
echo "parameters after $epochs epochs on $world ranks: tcp  $tcp"
[ "$rdma" = "$tcp" ] || lab_fail 'RDMA and TCP gave other parameters'
