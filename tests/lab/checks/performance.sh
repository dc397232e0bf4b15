#!/bin/sh
# Purpose: what the link gives, measured by programs that are not ours and by our own, in turns
# within one boot, since only ratios of such figures mean anything on an emulated CPU. Prints
# medians, and the CPU time that both VMs together spent for a gigabyte on the link, with kernel and
# start-up of the programs. LAB_ROUNDS: turns; LAB_BYTES: size of a message and of a tensor. All samples are put into
# /out/performance.csv.
. /lab/functions.sh

[ "$LAB_VMS" = 2 ] || lab_fail 'this takes two VMs'
rounds=${LAB_ROUNDS:-5}
bytes=${LAB_BYTES:-1048576}
[ -z "$LAB_QUICK" ] || rounds=${LAB_ROUNDS:-2}
writes=32 # of `bytes` in a sample
samples=/out/performance.csv
echo 'method,round,gigabytes_per_second,cpu_seconds_per_gigabyte' >$samples

# busy: this VM's CPU time so far, in hundredths of a second; interrupts are where rxe works.
busy() {
  awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat
}

# sent: bytes that this VM has put on the link, headers included.
sent() {
  cat /sys/class/net/eth0/statistics/tx_bytes
}

# ACK timeout, 4.096 us * 2^18: the emulated processor may be taken away for longer than the usual 67
# ms, and what a retransmission costs is not the question here.
timeout=18

# A method prints GB/s of one direction on the last line of vm0's output.
perftest() { # FLAG...
  if [ "$LAB_RANK" = 0 ]; then
    lab_read 1 "$turn.listens" 60 >/dev/null || return 1
    timeout 120 ib_write_bw -d rxe0 -x "$LAB_GID_INDEX" -u $timeout -F -s "$bytes" -n "$writes" "$@" "$(lab_address 1)" >/tmp/perftest 2>&1 ||
      { cat /tmp/perftest; return 1; }
    # MiB/s, of both directions together when there are two.
    awk -v size="$bytes" -v ways="$ways" '$1 == size { print $4 * 1048576 / 1e9 / ways }' /tmp/perftest
  else
    rm -f /tmp/serving
    (lab_until 60 sh -c "netstat -ltn | grep -q ':18515 '" && lab_post "$turn.listens" 1) &
    timeout 120 ib_write_bw -d rxe0 -x "$LAB_GID_INDEX" -u $timeout -F -s "$bytes" -n "$writes" "$@" >/tmp/perftest 2>&1 ||
      { cat /tmp/perftest; return 1; }
  fi
}
iperf() {
  if [ "$LAB_RANK" = 0 ]; then
    lab_read 1 "$turn.listens" 60 >/dev/null || return 1
    timeout 120 iperf3 -c "$(lab_address 1)" -n $((bytes * writes)) -f m >/tmp/iperf 2>&1 || { cat /tmp/iperf; return 1; }
    awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i == "Mbits/sec") print $(i - 1) / 8000 }' /tmp/iperf
  else
    (lab_until 60 sh -c "netstat -ltn | grep -q ':5201 '" && lab_post "$turn.listens" 1) &
    timeout 120 iperf3 -s -1 >/tmp/iperf 2>&1 || { cat /tmp/iperf; return 1; }
  fi
}
write_bw() { # TRANSPORT FLAG...
  transport=$1
  shift
  rm -f /tmp/write.json  # one that exists is kept
  lab_ranks 2 gradwire bench write_bw --transport "$transport" --ib-timeout $timeout --sizes "$bytes" -n "$writes" -w 1 -N 1 \
    --json /tmp/write.json "$@" >/tmp/write 2>&1 || { cat /tmp/write; return 1; }
  [ "$LAB_RANK" != 0 ] ||
    sed -n 's/.*"bandwidth_gbps": *\([0-9.e-]*\).*/\1/p' /tmp/write.json
}
all_reduce() { # TRANSPORT
  lab_ranks 2 gradwire bench allreduce --transport "$1" --ib-timeout $timeout --sizes "$bytes" -n "$((writes / 2))" -c 0 -a 3 \
    >/tmp/reduce 2>&1 || { cat /tmp/reduce; return 1; }
  # In place; with two ranks the tensor's size crosses the link each way. Behind "[0]": size, count,
  # type, redop, root, four columns out of place, then the microseconds.
  [ "$LAB_RANK" != 0 ] || awk -v size="$bytes" '$2 == size { print size / $11 / 1000 }' /tmp/reduce
}

# sample METHOD DIRECTIONS COMMAND...
sample() {
  method=$1 ways=$2
  shift 2
  turn=$method.$round
  lab_barrier "$turn.begin" 120 || exit 1
  busy_before=$(busy) sent_before=$(sent)
  "$@" >/tmp/sample || { cat /tmp/sample; lab_fail "$method failed"; }
  mine="$(($(busy) - busy_before)) $(($(sent) - sent_before))"
  lab_post "$turn.cost" "$mine"
  theirs=$(lab_read $((1 - LAB_RANK)) "$turn.cost" 120) || exit 1
  [ "$LAB_RANK" = 0 ] || return 0
  speed=$(tail -n 1 /tmp/sample)
  case $speed in [0-9]*) ;; *) cat /tmp/sample; lab_fail "$method gave no figure" ;; esac
  echo "$mine $theirs" | awk -v m="$method" -v r="$round" -v s="$speed" \
    '{ printf "%s,%d,%.5f,%.1f\n", m, r, s, ($1 + $3) / 100 / (($2 + $4) / 1e9) }' | tee -a $samples
}

for round in $(seq "$rounds"); do
  sample ib_write_bw 1 perftest
  sample write_bw_rdma 1 write_bw rdma
  sample write_bw_tcp 1 write_bw tcp
  sample iperf3 1 iperf
  sample ib_write_bw_both 2 perftest -b
  sample write_bw_rdma_both 2 write_bw rdma --bidirectional
  sample allreduce_rdma 2 all_reduce rdma
  sample allreduce_tcp 2 all_reduce tcp
done
[ "$LAB_RANK" = 0 ] || exit 0

# median METHOD COLUMN
median() {
  grep "^$1," $samples | cut -d , -f "$2" | sort -n |
    awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2 }'
}
echo
echo "medians of $rounds turns, $bytes bytes a message; GB/s of one direction"
printf '%-20s %10s %18s\n' method GB/s 'CPU s per GB sent'
cut -d , -f 1 $samples | tail -n +2 | awk '!seen[$0]++' | while read -r method; do
  printf '%-20s %10.5f %18.1f\n' "$method" "$(median "$method" 3)" "$(median "$method" 4)"
done
# ratio OURS THEIRS
ratio() {
  awk -v a="$(median "$1" 3)" -v b="$(median "$2" 3)" -v n="$1 / $2" 'BEGIN { printf "%-38s %.2f\n", n, a / b }'
}
echo
ratio write_bw_rdma ib_write_bw
ratio write_bw_rdma_both ib_write_bw_both
ratio allreduce_rdma ib_write_bw_both
ratio write_bw_tcp iperf3
ratio allreduce_rdma allreduce_tcp
