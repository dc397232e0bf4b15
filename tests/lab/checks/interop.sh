#!/bin/sh
# Purpose: urxe speaks RoCE v2 as the kernel does. One VM has urxe, the other the kernel's rdma_rxe
# (run.sh --urxe 1): libibverbs' pingpongs with contents compared, perftest's writes, reads, sends and
# atomics, each with either end as the server; packets lost on purpose on either side; the example and
# the collectives over writes with immediate; a training that ends with the parameters that TCP gives.
# urxe's own packets are put into /out/*.pcap for the host to look at.
. /lab/functions.sh

[ "$LAB_VMS" = 2 ] && [ -n "$LAB_URXE" ] || lab_fail 'this takes two VMs, one of them with --urxe'
[ "$LAB_TRANSPORT" = rdma ] || lab_fail 'this is about RDMA'
turn=0 faults='' gid_flag=''
mkdir -p /tmp/counters

# counted NAME: the sum over all programs of this VM that have ended; urxe's counters, by name.
counted() {
  cat /tmp/counters/* /dev/null | awk -v name="$1" '$1 == name { sum += $2 } END { printf "%d\n", sum }'
}

# verbs PROGRAM...: on this VM's device, its packets captured when it is urxe's and $capture is set.
verbs() {
  URXE_FAULTS="$faults" URXE_COUNTERS=/tmp/counters/%p URXE_PCAP="${capture:+/out/$capture.%p.pcap}" \
    lab_verbs timeout 120 "$@"
}

# both SERVER PROGRAM FLAG...: PROGRAM on both VMs, with the VM of rank SERVER as its server. Once more
# when its packets went unanswered: the pingpongs wait for half a second in all, and the processor of
# an emulated VM may be taken from it for longer.
both() {
  attempt "$@"
  case $? in
    0) ;;
    12) attempt "$@" || lab_fail "failed twice: $*" ;;
    *) lab_fail "failed: $* (server first; vm$LAB_URXE has urxe)" ;;
  esac
}
# 12, as IBV_WC_RETRY_EXC_ERR, when the retries of either VM were used up.
attempt() {
  server=$1
  shift
  turn=$((turn + 1))
  port=$((18600 + turn))
  if [ "$LAB_RANK" = "$server" ]; then
    (lab_until 60 sh -c "netstat -ltn | grep -q ':$port '" && lab_post "listens.$turn" 1) &
    verbs "$@" -d "$LAB_DEVICE" "$gid_flag" "$LAB_GID_INDEX" -p "$port" >/tmp/program 2>&1
  else
    lab_read "$server" "listens.$turn" 90 >/dev/null &&
      verbs "$@" -d "$LAB_DEVICE" "$gid_flag" "$LAB_GID_INDEX" -p "$port" "$(lab_address "$server")" >/tmp/program 2>&1
  fi
  code=$?
  [ $code -eq 0 ] || { cat /tmp/program; echo "FAILED on $LAB_DEVICE, code $code: $*, server vm$server"; }
  code=$(lab_worst "done.$turn" "$code" 150) || lab_fail "the other VM is gone: $*"
  if [ "$code" -eq 0 ]; then
    echo "ok: $*, server vm$server"
    return 0
  fi
  unanswered=$(grep -c 'transport retry counter exceeded\|Failed status 12' /tmp/program)
  unanswered=$(lab_worst "unanswered.$turn" "$unanswered" 60) || lab_fail "the other VM is gone: $*"
  [ "$unanswered" -eq 0 ] || code=12
  return "$code"
}
pingpong() {
  gid_flag=-g both "$@"
}
# A second until a packet is missed: see above.
perftest() {
  gid_flag=-x both "$@" -F -u 18
}

for server in 0 1; do
  capture=pingpong.$server
  pingpong $server ibv_rc_pingpong -c -n 200
  pingpong $server ibv_rc_pingpong -c -n 100 -e
  pingpong $server ibv_rc_pingpong -c -n 20 -s 100001 -m 4096
  pingpong $server ibv_rc_pingpong -c -n 20 -s 20001 -m 256
  pingpong $server ibv_uc_pingpong -c -n 100
  pingpong $server ibv_ud_pingpong -n 100 -s 1000
  capture=perftest.$server
  for verb in write read send; do
    perftest $server ib_${verb}_bw -s 65536 -n 40
    perftest $server ib_${verb}_lat -s 8 -n 100
    [ -n "$LAB_QUICK" ] || {
      capture='' # 170 MB of the same packets
      perftest $server ib_${verb}_bw -a -n 10
      capture=perftest.$server
      perftest $server ib_${verb}_bw -s 65536 -n 40 -b
      perftest $server ib_${verb}_bw -s 4096 -n 100 -q 8
      perftest $server ib_${verb}_bw -s 4096 -n 128 -l 8
      [ $verb = write ] || perftest $server ib_${verb}_bw -s 4096 -n 100 -e # nobody waits for a write
    }
  done
  perftest $server ib_write_lat -s 64 -n 100 -I 64
  perftest $server ib_send_bw -s 4096 -n 100 --use-srq
  perftest $server ib_atomic_bw -n 100
  perftest $server ib_atomic_lat -n 100 -A CMP_AND_SWAP
done
capture=''

# --- Loss: first on urxe's way out, then on the kernel's ---

for server in 0 1; do
  faults='drop=0.01,reorder=0.005,corrupt=0.005,seed=2'
  pingpong $server ibv_rc_pingpong -c -n 100 -s 30000 -m 1024
  perftest $server ib_write_bw -s 65536 -n 40 -m 1024
  perftest $server ib_read_bw -s 65536 -n 40 -m 1024
  perftest $server ib_atomic_bw -n 200
done
faults=''
if [ "$LAB_DEVICE" = urxe0 ]; then
  lost=$(counted faults_dropped)
  echo "packets lost on urxe's way out: $lost; sent again: $(counted retransmits)"
  [ "$lost" -gt 0 ] || lab_fail 'urxe lost no packet, so nothing was tried'
else
  lab_impair loss 1%
fi
for server in 0 1; do
  pingpong $server ibv_rc_pingpong -c -n 100 -s 30000 -m 1024
  perftest $server ib_write_bw -s 65536 -n 40 -m 1024
  perftest $server ib_read_bw -s 65536 -n 40 -m 1024
  perftest $server ib_atomic_bw -n 200
done
if [ "$LAB_DEVICE" = rxe0 ]; then
  lost=$(tc -s qdisc show dev eth0 | sed -n 's/.*(dropped \([0-9]*\),.*/\1/p')
  lab_repair
  echo "packets lost on rxe's way out: $lost"
  [ "$lost" -gt 0 ] || lab_fail 'no packet of rxe was lost, so nothing was tried'
fi

# --- Ours: a rank on each; auto takes rxe0 here and urxe0 there ---

export URXE_COUNTERS=/tmp/counters/%p
lab_ranks 2 example_rdma_write_with_imm || lab_fail 'example_rdma_write_with_imm failed'
lab_ranks 2 example_rdma_fetch_and_add || lab_fail 'example_rdma_fetch_and_add failed'
lab_ranks 2 collective_worker sweep --brief --transport rdma >/tmp/sweep 2>&1
code=$?
grep -v joined /tmp/sweep | head -n 20
[ $code -eq 0 ] || lab_fail "collectives: a rank ended with code $code"
[ "$LAB_DEVICE" = rxe0 ] || [ "$(counted packets_received)" -gt 1000 ] || lab_fail 'urxe counted no packets'
for transport in auto tcp; do
  lab_ranks 2 gradwire train --epochs 2 --seed 7 --check-checksums --transport $transport \
    --summary /out/interop.$transport.json >/tmp/train 2>&1 || { cat /tmp/train; lab_fail "training over $transport failed"; }
  grep -m 1 -E 'rdma on|tcp ' /tmp/train
done
lab_barrier trained 300 || exit 1
[ "$LAB_DEVICE" = rxe0 ] || [ "$(counted malformed)" -eq 0 ] || lab_fail 'rxe sent what urxe calls malformed'
[ "$LAB_RANK" = 0 ] || exit 0
checksum() {
  sed -n 's/.*"parameters_checksum": *"\([0-9a-f]\{64\}\)".*/\1/p' "/out/interop.$1.json"
}
grep -q '"transport": *"rdma"' /out/interop.auto.json || lab_fail 'auto did not take RDMA'
echo "parameters: rdma $(checksum auto)"
echo "parameters: tcp  $(checksum tcp)"
[ -n "$(checksum tcp)" ] && [ "$(checksum auto)" = "$(checksum tcp)" ] || lab_fail 'RDMA and TCP gave other parameters'
