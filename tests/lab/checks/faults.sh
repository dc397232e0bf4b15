#!/bin/sh
# Purpose: a rank that is killed or frozen on one VM ends the others, on its VM and elsewhere, each
# with an error that names it, and in time.
. /lab/functions.sh

world=$((LAB_VMS + 1)) # the last VM has two ranks
last=$((world - 1))

# vm_of RANK: by lab_ranks' blocks.
vm_of() {
  for vm in $(seq 0 $((LAB_VMS - 1))); do
    [ "$1" -ge $(((vm + 1) * world / LAB_VMS)) ] || { echo "$vm"; return; }
  done
}

# survivors VICTIM: the ranks of this VM without it.
survivors() {
  for rank in $(seq $((LAB_RANK * world / LAB_VMS)) $(((LAB_RANK + 1) * world / LAB_VMS - 1))); do
    [ "$rank" = "$1" ] || echo "$rank"
  done
}

# all_looping VICTIM: this VM's ranks are in their collectives.
all_looping() {
  [ "$(grep -c '\] looping' /tmp/loop)" -eq $(((LAB_RANK + 1) * world / LAB_VMS - LAB_RANK * world / LAB_VMS)) ]
}
all_ended() {
  for rank in $(survivors "$1"); do
    [ -s "/tmp/code.$rank" ] || return 1
  done
}

# fault NAME SIGNAL VICTIM FLAG...: sends SIGNAL to rank VICTIM once all ranks are at work.
fault() {
  name=$1 number=$2 victim=$3
  shift 3
  : >/tmp/loop
  lab_ranks "$world" collective_worker loop --seconds 300 --count 20000 \
    --transport "$LAB_TRANSPORT" "$@" >/tmp/loop 2>&1 &
  job=$!
  LAB_JOB=$((LAB_JOB + 1)) # lab_ranks counted in a shell of its own
  lab_until 90 all_looping || { cat /tmp/loop; lab_fail "$name: the ranks do not get to work"; }
  lab_barrier "$name.looping" 120 || exit 1
  if [ "$LAB_RANK" = "$(vm_of "$victim")" ]; then
    kill "-$number" "$(cat "/tmp/pid.$victim")" || lab_fail "$name: no rank $victim to signal"
  fi
  begin=$(cut -d . -f 1 /proc/uptime)
  lab_until 60 all_ended "$victim" || {
    cat /tmp/loop
    lab_stop_ranks
    lab_fail "$name: rank(s) $(survivors "$victim" | tr '\n' ' ')still run 60 s later"
  }
  took=$(($(cut -d . -f 1 /proc/uptime) - begin))
  lab_barrier "$name.ended" 120 || exit 1
  lab_stop_ranks # the frozen one
  wait $job
  for rank in $(survivors "$victim"); do
    [ "$(cat "/tmp/code.$rank")" = 1 ] || lab_fail "$name: rank $rank ended with $(cat "/tmp/code.$rank"), not 1"
    grep -E "^\[$rank\] gradwire: rank $rank: .*rank $victim\b" /tmp/loop || {
      cat /tmp/loop
      lab_fail "$name: rank $rank does not name rank $victim"
    }
    echo "$name: rank $rank ended within $took s"
  done
  lab_barrier "$name.checked" 40 || exit 1
}

fault killed KILL $last
fault frozen STOP $last --op-timeout 6s
[ -n "$LAB_QUICK" ] || {
  fault killed-first KILL 0 # it hosts the rendezvous
  # Nobody else gathers who is late.
  fault frozen-first STOP 0 --op-timeout 6s
}
