#!/usr/bin/env bash
# Runs Gradwire's checks between virtual machines with Soft-RoCE, and with urxe on one side: one line
# per check, at the end "N passed, N failed". A script of tests/lab/checks says what it is for.
#   tests/lab/check.sh [--quick] [--build DIR] [--only NAME] [--no-install] [--verbose]
# --quick leaves out what takes longest: three VMs, TCP, larger worlds. --only runs the checks of that
# name alone. --verbose shows all output, which is otherwise kept in build/lab/logs.
# Exit code: 0 when all passed, 1 when not, 2 wrong usage, 77 when this machine cannot have the lab.
set -uo pipefail
lab=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
logs=$lab/../../build/lab/logs
misuse() {
  echo "tests/lab/check.sh: $1 (see tests/lab/check.sh --help)" >&2
  exit 2
}

quick='' verbose='' only='' options=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --verbose) verbose=1 ;;
    --no-install) options+=(--no-install) ;;
    --build | --only)
      [ $# -gt 1 ] || misuse "$1 takes a value"
      if [ "$1" = --only ]; then only=$2; else options+=(--build "$2"); fi
      shift
      ;;
    -h | --help)
      sed -n '2,7s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) misuse "no such option: $1" ;;
  esac
  shift
done
[ -z "$only" ] || [ "$only" = lab ] || [ -f "$lab/checks/$only.sh" ] ||
  misuse "no check is called $only; there are: lab $(cd "$lab/checks" && echo ./*.sh | sed 's/\.\///g; s/\.sh//g')"
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)

passed=0 failed=0 started=$SECONDS
# verdict NAME ok|FAILED DETAIL
verdict() {
  if [ "$2" = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf '%-6s %-28s %s\n' "$2" "$1" "${3-}"
}

# A supervisor that is killed, or a terminal that closes, must not leave a VM.
child=''
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; exit 143' TERM HUP
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; exit 130' INT
# run_lab LOG ARGUMENT...: run.sh, its output to LOG and shown when --verbose. Sets lab_code.
run_lab() {
  local log=$1
  shift
  if [ -n "$verbose" ]; then
    "$lab/run.sh" "${options[@]}" "$@" > >(tee "$log") 2>&1 &
  else
    "$lab/run.sh" "${options[@]}" "$@" >"$log" 2>&1 &
  fi
  child=$!
  wait $child
  lab_code=$?
  child=''
  if [ $lab_code -eq 77 ]; then
    grep -h 'SKIPPED' "$log" >&2 || tail -n 3 "$log" >&2
    exit 77
  fi
}

# checks NAME VMS OPTIONS... -- NAME:TRANSPORT:SECONDS...: one boot for all of these; the first name is
# that of its log and folder.
checks() {
  local boot=$1 vms=$2 given=() items=() item name log total=60 line
  shift 2
  while [ "$1" != -- ]; do
    given+=("$1")
    shift
  done
  shift
  for item in "$@"; do
    [ -z "$only" ] || [ "${item%%:*}" = "$only" ] || continue
    items+=("$item")
    total=$((total + ${item##*:}))
  done
  [ ${#items[@]} -gt 0 ] || return 0
  log=$logs/$boot.log
  rm -rf "${logs:?}/$boot"
  run_lab "$log" --vms "$vms" "${given[@]}" ${quick:+--quick} --timeout $total \
    --out "$logs/$boot" --script "$lab/suite.sh" -- "${items[@]}"
  for item in "${items[@]}"; do
    name=${item%:*}
    line=$(sed -n -E "s/^vm0\| CHECK ${name%:*} ${name#*:} (ok|FAILED) ([0-9]+)\$/\1 \2/p" "$log" | tail -n 1)
    if [ -n "$line" ]; then
      verdict "${name/:/, } ($vms VMs)" "${line% *}" "${line#* } s"
    else
      verdict "${name/:/, } ($vms VMs)" FAILED 'was not run to its end'
    fi
    # The last words of a check that failed, without the noise of those that did not.
    [ "${line% *}" = ok ] || awk -v head="=== ${name/:/ }" '
      { text = $0; sub(/^vm[0-9]+\| /, "", text) }
      text ~ /^=== / { vm = $1; on[vm] = (text == head) }
      on[$1] && text !~ /^CHECK / { last[++n] = $0 }
      END { for (i = n > 25 ? n - 24 : 1; i <= n; i++) print "       " last[i] }' "$log"
  done
  if [ $lab_code -ne 0 ]; then
    grep '^tests/lab: ' "$log" | tail -n 3
    echo "       all output: $log"
  fi
}

# Whether what urxe sent and received in its VM is RoCE v2 to others, too.
check_captures() {
  [ -d "$logs/interop" ] || return 0
  if ! command -v tshark >/dev/null; then
    echo "skip   interop, packets             no tshark here; install the packages of tests/packages.txt"
    return 0
  fi
  if "$lab/../conformance/pcap.py" "$logs"/interop/vm1/*.pcap >"$logs/captures.log" 2>&1; then
    verdict 'interop, packets' ok "$(awk '{ sum += $2 } END { print sum }' "$logs/captures.log") by tshark and ICRC"
  else
    verdict 'interop, packets' FAILED "see $logs/captures.log"
    tail -n 10 "$logs/captures.log" | sed 's/^/       /'
  fi
}

# The lab's own promises: exit codes, collected files, an end to scripts that take too long.
check_lab() {
  local script=$logs/promise.sh out=$logs/promise
  [ -z "$only" ] || [ "$only" = lab ] || return 0
  rm -rf "$out"
  # shellcheck disable=SC2016  # for the VMs' shell
  printf '%s\n' '. /lab/functions.sh' 'echo "$1 on $LAB_RANK" >/out/said' 'lab_barrier met 60' \
    'tc qdisc show dev eth0' '[ $LAB_RANK = 0 ] || exit 3' >"$script"
  run_lab "$logs/promise.log" --script "$script" --out "$out" --delay 2 --loss 0.5 --rate 100 -- "it's me"
  if [ $lab_code -eq 3 ] && [ "$(cat "$out"/vm?/said)" = "$(printf "it's me on %d\n" 0 1)" ] &&
    [ "$(grep -c 'netem.*delay 2ms loss 0.5% rate 100Mbit' "$logs/promise.log")" -eq 2 ]; then
    verdict 'lab, a script fails' ok
  else
    verdict 'lab, a script fails' FAILED "code $lab_code, not 3; see $logs/promise.log"
  fi
  [ -z "$quick" ] || return 0
  printf '%s\n' 'sleep 1000' >"$script"
  run_lab "$logs/late.log" --script "$script" --vms 1 --timeout 3
  if [ $lab_code -eq 124 ] && grep -q 'vm0: not done within 3 s' "$logs/late.log"; then
    verdict 'lab, a script hangs' ok
  else
    verdict 'lab, a script hangs' FAILED "code $lab_code, not 124; see $logs/late.log"
  fi
}

# In one group, which the shell reads whole: this file may change while the checks run.
{
  check_lab
  if [ -n "$quick" ]; then
    checks 2vms 2 --env LAB_WORLDS='2 3' --env LAB_ROUNDS=1 -- devices:rdma:60 collectives:rdma:180 \
      training:rdma:90 parameter_server:rdma:300 rnr:rdma:120 examples:rdma:180 faults:rdma:180 \
      loss:rdma:120 study:rdma:300 performance:rdma:180
    checks interop 2 --urxe 1 -- interop:rdma:1200
  else
    checks 2vms 2 --env LAB_ROUNDS=3 -- devices:rdma:60 collectives:rdma:300 collectives:tcp:200 training:rdma:120 \
      parameter_server:rdma:300 parameter_server:tcp:300 rnr:rdma:120 examples:rdma:240 \
      faults:rdma:300 faults:tcp:300 loss:rdma:180 loss:tcp:180 study:rdma:900 \
      performance:rdma:180
    checks interop 2 --urxe 1 -- interop:rdma:1800
    checks 3vms 3 --env LAB_WORLDS='3 4' -- devices:rdma:90 collectives:rdma:300 training:rdma:180 \
      faults:rdma:300
  fi
  [ -n "$only" ] && [ "$only" != interop ] || check_captures
  # What the speed was is worth seeing when all is well, too.
  [ ! -f "$logs/2vms.log" ] || sed -n '/^vm0| medians of/,/^vm0| CHECK/{/CHECK/d;s/^vm0| */    /p}' "$logs/2vms.log"
  echo "after $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s; output in build/lab/logs"
  echo "$passed passed, $failed failed"
  [ $failed -eq 0 ] && [ $passed -gt 0 ]
  exit
}
