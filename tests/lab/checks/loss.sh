#!/bin/sh
# Purpose: where one packet of a hundred is lost, on every VM's way out, results are right all the
# same: element by element in collectives, and bit by bit after training.
. /lab/functions.sh

lab_barrier begin 120 || exit 1
lab_impair loss 1%
lab_mark
code=0
lab_ranks "$LAB_VMS" gradwire bench allreduce --sizes 8,4K,256K,1M -n 3 -c 2 -d float \
  --transport "$LAB_TRANSPORT" || code=$?
if [ $code -eq 0 ] && [ -z "$LAB_QUICK" ]; then
  lab_ranks "$LAB_VMS" gradwire train --epochs 1 --seed 7 --check-checksums \
    --transport "$LAB_TRANSPORT" || code=$?
fi
dropped=$(tc -s qdisc show dev eth0 | sed -n 's/.*(dropped \([0-9]*\),.*/\1/p')
lab_repair
echo "packets lost on the way out: $dropped"
[ $code -eq 0 ] || lab_fail "a rank ended with code $code"
[ "$dropped" -gt 0 ] || lab_fail 'no packet was lost, so nothing was tried'
lab_check_path 200
