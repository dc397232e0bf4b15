#!/bin/sh
# Runs checks one after another in one boot: suite.sh NAME:TRANSPORT:SECONDS...
# The VMs go from check to check together. vm0 prints a line per check, for check.sh:
#   CHECK NAME TRANSPORT ok|FAILED SECONDS
. /lab/functions.sh

number=0 worst=0
for item in "$@"; do
  name=${item%%:*} rest=${item#*:}
  transport=${rest%%:*} limit=${rest#*:}
  number=$((number + 1))
  begin=$(cut -d . -f 1 /proc/uptime)
  echo "=== $name $transport"
  rm -f /tmp/code.* /tmp/pid.*
  # Names and ports of its own for each check: a late rank of one must not meet the next.
  {
    LAB_CHECK=$number. LAB_JOB=$((number * 40)) LAB_TRANSPORT=$transport \
      timeout -s KILL "$limit" sh "/lab/checks/$name.sh"
    echo $? >/tmp/verdict
  } 2>&1 | tee "/out/$name.$transport.log"
  code=$(cat /tmp/verdict)
  [ "$code" -lt 128 ] || echo "=== $name $transport: ended by a signal (137: not done within $limit s)"
  lab_stop_ranks
  tc qdisc show dev eth0 | grep -q netem && [ -z "$LAB_NETEM" ] && lab_repair
  code=$(lab_worst "verdict.$number" "$code" "$limit") || code=1
  verdict=ok
  [ "$code" -eq 0 ] || { verdict=FAILED; worst=1; }
  [ "$LAB_RANK" != 0 ] ||
    echo "CHECK $name $transport $verdict $(($(cut -d . -f 1 /proc/uptime) - begin))"
done
exit $worst
