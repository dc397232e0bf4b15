#!/bin/sh
# Purpose: the lab itself. Every VM has an rxe device that is active with an MTU of 4096, and
# perftest, which is not ours, writes from each VM to the first one over it.
. /lab/functions.sh

rdma link show rxe0/1 | tee /tmp/link
grep -q 'state ACTIVE physical_state LINK_UP' /tmp/link || lab_fail 'rxe0 is not active'
ibv_devinfo -d rxe0 >/tmp/devinfo || lab_fail 'ibv_devinfo does not find rxe0'
grep 'active_mtu' /tmp/devinfo
grep -q 'active_mtu:[[:space:]]*4096' /tmp/devinfo || lab_fail 'the active MTU is not 4096'

# One VM at a time writes to vm0.
for writer in $(seq 1 $((LAB_VMS - 1))); do
  port=$((18500 + writer))
  if [ "$LAB_RANK" = 0 ]; then
    lab_mark
    (lab_until 30 sh -c "netstat -ltn | grep -q ':$port '" && lab_post "listens.$writer" 1) &
    timeout 60 ib_write_bw -d rxe0 -x "$LAB_GID_INDEX" -F -p "$port" -s 65536 -n 50 >/tmp/perftest 2>&1 ||
      lab_fail "ib_write_bw as the server: $(cat /tmp/perftest)"
    [ "$(($(lab_counter rcvd_pkts)))" -ge 800 ] || lab_fail 'the writes did not come over rxe0'
  elif [ "$LAB_RANK" = "$writer" ]; then
    lab_read 0 "listens.$writer" 60 >/dev/null || exit 1
    timeout 60 ib_write_bw -d rxe0 -x "$LAB_GID_INDEX" -F -p "$port" -s 65536 -n 50 "$(lab_address 0)" >/tmp/perftest 2>&1 ||
      lab_fail "ib_write_bw as the client: $(cat /tmp/perftest)"
    grep '^ 65536' /tmp/perftest
  fi
done
lab_barrier written 120
