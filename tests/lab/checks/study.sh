#!/bin/sh
# Purpose: where the time goes is told for the kernel's device too. A delay put in at rank 1, in the
# other VM with a clock of its own, is found in the recordings of both; then studies are run on the
# device of vm0, and their report is made there. LAB_STUDIES: which.
. /lab/functions.sh

[ "$LAB_VMS" = 2 ] || lab_fail 'this takes two VMs'
studies=${LAB_STUDIES:-signal_interval completion_mode chain_length}
[ -z "$LAB_QUICK" ] || studies=${LAB_STUDIES:-signal_interval}
delay=200000 # us; the collective itself takes some ten thousand here

# The recordings come together on vm0.
lab_ranks 2 gradwire bench allreduce --transport "$LAB_TRANSPORT" --sizes 64K -n 10 -w 2 -c 0 \
  --delay-us 1:$delay --telemetry /tmp/recorded >/tmp/bench 2>&1 || { cat /tmp/bench; lab_fail 'the recorded run failed'; }
if [ "$LAB_RANK" = 0 ]; then
  lab_read 1 recording 120 >/tmp/recorded/rank-1.gwr || exit 1
  gradwire analyze /tmp/recorded --out /out/analysis --json /out/analysis.json >/tmp/analysis 2>&1 ||
    { cat /tmp/analysis; lab_fail 'the recordings could not be analysed'; }
  cat /tmp/analysis
  tr -s '\n ' ' ' </tmp/analysis | grep -q 'wait for rank 1, which came late' || lab_fail 'rank 1 is not named as late'
  [ -s /out/analysis/report.html ] || lab_fail 'there is no report'
else
  mv /tmp/recorded/rank-1.gwr "/tmp/posted/${LAB_CHECK-}recording"
fi
lab_barrier analysed 120 || exit 1

code=0
if [ "$LAB_RANK" = 0 ]; then
  # shellcheck disable=SC2086  # several names
  gradwire study $studies --quick --device "$LAB_DEVICE" --out /out/study >/tmp/study 2>&1 || code=$?
  cat /tmp/study
  for study in $studies; do
    grep -q "$study" /out/study/report.html || lab_fail "study $study is not in its report"
  done
fi
code=$(lab_worst studied $code 900) || exit 1
exit "$code"
