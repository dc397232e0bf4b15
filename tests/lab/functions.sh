# shellcheck shell=sh
# For scripts that run in the VMs of the lab: . /lab/functions.sh
#
# Variables: LAB_RANK (this VM, from 0), LAB_VMS, LAB_ADDRESS (of this VM), LAB_PEERS (of the other
# VMs), LAB_DEVICE (rxe0; urxe0 with --urxe), LAB_TRANSPORT (rdma or tcp), LAB_QUICK (1: a short run is
# wanted, else empty).
# Every VM runs the same script at the same time; what is put into /out reaches the host.
. /lab/settings

# busybox's shell would take its own, lesser programs of these names before those in PATH.
ip() { /usr/bin/ip "$@"; }
tc() { /usr/bin/tc "$@"; }

# lab_address VM: its IPv4 address.
lab_address() {
  echo "10.77.0.$(($1 + 1))"
}
LAB_ADDRESS=$(lab_address "$LAB_RANK")
LAB_PEERS=''
for lab_vm in $(seq 0 $((LAB_VMS - 1))); do
  [ "$lab_vm" = "$LAB_RANK" ] || LAB_PEERS="$LAB_PEERS $(lab_address "$lab_vm")"
done
LAB_PEERS=${LAB_PEERS# }
export LAB_ADDRESS LAB_PEERS

case ,${LAB_URXE-}, in
  *,"$LAB_RANK",*) LAB_DEVICE=urxe0 ;;
  *) LAB_DEVICE=rxe0 ;;
esac
export LAB_DEVICE

# lab_verbs PROGRAM...: a program that is not ours, on this VM's device.
lab_verbs() {
  if [ "$LAB_DEVICE" = urxe0 ]; then
    LD_PRELOAD=/usr/lib/liburxe.so "$@"
  else
    "$@"
  fi
}

# lab_gid: this VM's RoCE v2 GID, as sysfs writes it: the IPv4 address mapped into IPv6.
lab_gid() {
  printf '0000:0000:0000:0000:0000:ffff:0a4d:00%02x\n' $((LAB_RANK + 1))
}

# lab_gid_index: where the device has it; nothing when it does not.
lab_gid_index() {
  lab_gid_file=$(grep -il "$(lab_gid)" /sys/class/infiniband/rxe0/ports/1/gids/* 2>/dev/null | head -n 1)
  [ -n "$lab_gid_file" ] && basename "$lab_gid_file"
}

# lab_until SECONDS COMMAND...: repeats COMMAND until it succeeds; 1 when it never did.
lab_until() {
  lab_end=$(($(cut -d . -f 1 /proc/uptime) + $1))
  shift
  until "$@"; do
    [ "$(cut -d . -f 1 /proc/uptime)" -lt "$lab_end" ] || return 1
    sleep 0.2
  done
}

lab_fail() {
  echo "$0: $*" >&2
  exit 1
}

# --- Between the VMs ---

# lab_post NAME TEXT: leaves TEXT for the other VMs; a NAME is used once in a check.
lab_post() {
  printf '%s\n' "$2" >"/tmp/posted/.new.$$" && mv "/tmp/posted/.new.$$" "/tmp/posted/${LAB_CHECK-}$1"
}

# lab_read VM NAME SECONDS: prints what VM posted, waiting for it.
lab_read() {
  lab_until "$3" timeout 5 wget -q -O "/tmp/read.$$" \
    "http://$(lab_address "$1")/${LAB_CHECK-}$2" 2>/dev/null ||
    { echo "lab: vm$1 has not posted '$2' within $3 s" >&2; return 1; }
  cat "/tmp/read.$$"
}

# lab_barrier NAME SECONDS: waits until all VMs are here.
lab_barrier() {
  lab_worst "$1" 0 "$2" >/dev/null
}

# lab_worst NAME CODE SECONDS: a barrier that prints the largest CODE of all VMs.
lab_worst() {
  lab_post "$1" "$2"
  lab_most=$2
  for lab_vm in $(seq 0 $((LAB_VMS - 1))); do
    lab_code=$(lab_read "$lab_vm" "$1" "$3") || return 1
    [ "$lab_code" -le "$lab_most" ] || lab_most=$lab_code
  done
  echo "$lab_most"
}

# lab_impair NETEM...: impairs what this VM sends, as tc-netem(8) says it: loss 1% delay 5ms.
# lab_repair: no more of that. Counted by `tc -s qdisc show dev eth0`.
lab_impair() {
  # shellcheck disable=SC2048,SC2086  # split on purpose
  tc qdisc replace dev eth0 root netem limit 20000 $*
}
lab_repair() {
  tc qdisc delete dev eth0 root
}

# --- Ranks ---

# lab_ranks WORLD COMMAND...: runs this VM's share of WORLD ranks, blocks of neighbours, each behind
# "[rank] ". 0 when all of them ended with 0, else the code of one that did not. Each job has a port
# of its own, so that none meets the last one's leftovers. The pid of a rank is in /tmp/pid.RANK.
LAB_JOB=${LAB_JOB:-0}
lab_ranks() {
  lab_world=$1
  shift
  LAB_JOB=$((LAB_JOB + 1))
  lab_first=$((LAB_RANK * lab_world / LAB_VMS))
  lab_after=$(((LAB_RANK + 1) * lab_world / LAB_VMS))
  rm -f /tmp/code.* /tmp/pid.*
  for lab_rank in $(seq "$lab_first" $((lab_after - 1))); do
    (
      export RANK="$lab_rank" WORLD_SIZE="$lab_world" LOCAL_RANK=$((lab_rank - lab_first))
      export LOCAL_WORLD_SIZE=$((lab_after - lab_first)) GROUP_RANK="$LAB_RANK"
      MASTER_ADDR=$(lab_address 0) MASTER_PORT=$((29500 + LAB_JOB))
      export MASTER_ADDR MASTER_PORT
      {
        sh -c 'echo $$ >"/tmp/pid.$RANK"; exec "$@"' sh "$@" 2>&1
        echo $? >"/tmp/code.$lab_rank"
      } | while IFS= read -r lab_line; do printf '[%s] %s\n' "$lab_rank" "$lab_line"; done
    ) &
  done
  wait
  lab_result=0
  for lab_rank in $(seq "$lab_first" $((lab_after - 1))); do
    lab_code=$(cat "/tmp/code.$lab_rank")
    [ "$lab_code" = 0 ] || lab_result=$lab_code
  done
  return "$lab_result"
}

# lab_stop_ranks: kills what is left of the ranks on this VM.
lab_stop_ranks() {
  for lab_file in /tmp/pid.*; do
    [ ! -f "$lab_file" ] || kill -KILL "$(cat "$lab_file")" 2>/dev/null
  done
  return 0
}

# --- The RDMA device's counters ---

# lab_counter NAME: of rxe0. sent_pkts and rcvd_pkts are packets, requests and answers alike;
# send_rnr_err are receiver-not-ready NAKs sent, rcvd_rnr_err those received.
lab_counter() {
  cat "/sys/class/infiniband/rxe0/ports/1/hw_counters/$1"
}

# lab_mark: remembers the counters for what follows.
lab_mark() {
  lab_sent_before=$(lab_counter sent_pkts)
  lab_rnr_before=$(($(lab_counter send_rnr_err) + $(lab_counter rcvd_rnr_err)))
}
# lab_rnr_naks: receiver-not-ready NAKs sent and received since lab_mark.
lab_rnr_naks() {
  echo $(($(lab_counter send_rnr_err) + $(lab_counter rcvd_rnr_err) - lab_rnr_before))
}
# lab_packets: packets sent over rxe0 since lab_mark.
lab_packets() {
  echo $(($(lab_counter sent_pkts) - lab_sent_before))
}
# lab_check_path PACKETS: what was done since lab_mark went the way it was to go: at least PACKETS
# over rxe0 and no receiver-not-ready NAK with rdma, none over rxe0 with tcp.
lab_check_path() {
  lab_sent=$(lab_packets)
  case $LAB_TRANSPORT in
    rdma)
      [ "$lab_sent" -ge "$1" ] || lab_fail "only $lab_sent packets went over rxe0, not $1 or more"
      [ "$(lab_rnr_naks)" -eq 0 ] || lab_fail "$(lab_rnr_naks) receiver-not-ready NAKs"
      ;;
    *) [ "$lab_sent" -eq 0 ] || lab_fail "$lab_sent packets went over rxe0, though it was to be tcp" ;;
  esac
}
