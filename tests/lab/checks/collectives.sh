#!/bin/sh
# Purpose: every collective, data type and operation is right to the element on every rank: with one
# rank per VM, and with several for odd numbers of ranks, where the transport's way is mixed with
# ranks of one host. LAB_WORLDS: the numbers of ranks; LAB_SWEEP: further flags of the sweep.
. /lab/functions.sh

for world in ${LAB_WORLDS:-$LAB_VMS 3 5}; do
  lab_mark
  flags=${LAB_SWEEP---brief}
  # shellcheck disable=SC2086  # split on purpose
  lab_ranks "$world" collective_worker sweep $flags --transport "$LAB_TRANSPORT" \
    >"/tmp/sweep.$world" 2>&1
  code=$?
  grep -v joined "/tmp/sweep.$world" | head -n 20
  [ $code -eq 0 ] || lab_fail "$world ranks: a rank ended with code $code"
  # A rank that passed says how many results it compared.
  here=$(((LAB_RANK + 1) * world / LAB_VMS - LAB_RANK * world / LAB_VMS))
  passed=$(grep -c '[1-9][0-9]* checks passed' "/tmp/sweep.$world")
  [ "$passed" -eq "$here" ] || lab_fail "$world ranks: $passed of $here report success"
  lab_check_path 1000
done
