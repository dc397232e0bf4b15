#!/bin/sh
# Purpose: every RDMA example does its work between two VMs, none left out.
. /lab/functions.sh

[ "$LAB_TRANSPORT" = rdma ] || { echo 'the examples are about RDMA'; exit 0; }
found=0 failed=''
for program in /usr/bin/example_rdma_*; do
  [ -x "$program" ] || lab_fail 'the build has no program example_rdma_*'
  name=$(basename "$program")
  found=$((found + 1))
  echo "--- $name"
  before=$(lab_counter sent_pkts)
  case $name in
    *_device_query) "$program" || failed="$failed $name" ;;
    *)
      lab_ranks 2 "$program" || failed="$failed $name"
      [ "$(lab_counter sent_pkts)" -gt "$before" ] || failed="$failed $name(not-over-rxe0)"
      ;;
  esac
done
echo "$found examples"
[ -z "$failed" ] || lab_fail "failed:$failed"
