#!/bin/sh
# Purpose: in normal running no receiver is ever not ready, since credits come from it: rxe counts no
# RNR NAK while collectives press hard, with few slots, small slices and many tensors under way. That
# the counters do count is shown by a program that writes before a receive is posted.
. /lab/functions.sh

[ "$LAB_TRANSPORT" = rdma ] || { echo 'nothing to be counted over TCP'; exit 0; }
lab_mark
lab_ranks "$LAB_VMS" gradwire bench allreduce --sizes 64K,256K -n 3 -c 1 --slots 2 --slice-bytes 4K \
  --transport rdma || lab_fail 'few slots: a rank failed'
lab_ranks "$LAB_VMS" gradwire bench all_gather --sizes 8,1K,256K -n 20 -c 1 --transport rdma ||
  lab_fail 'all_gather: a rank failed'
naks=$(lab_rnr_naks)
echo "RNR NAKs sent or received, and packets: $naks, $(lab_packets)"
lab_check_path 1000
[ "$LAB_VMS" = 2 ] || exit 0
lab_barrier counted 120 || exit 1
command -v example_rdma_write_with_imm >/dev/null || lab_fail 'example_rdma_write_with_imm is not there'
lab_mark
lab_ranks 2 example_rdma_write_with_imm >/tmp/example 2>&1 || { cat /tmp/example; lab_fail 'the example failed'; }
echo "RNR NAKs with a write before its receive: $(lab_rnr_naks)"
[ "$(lab_rnr_naks)" -gt 0 ] || lab_fail 'the counters do not count'
