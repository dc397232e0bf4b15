#!/usr/bin/env bash
# Runs programs that know nothing of urxe, as the distribution packs them, over it by LD_PRELOAD:
# perftest, libibverbs' pingpongs, ibv_devinfo and rdma-core's Python tests; as root and as another
# user; several at once, some of them killed, with strangers' packets at the port.
#   tests/conformance/run.sh [--build DIR] [--only GROUP] [--quick] [--verbose] [--no-install]
# Groups: devinfo pingpong perftest pcap user crowd killed garbage pyverbs. --quick leaves the longest
# combinations out. --build is where lib/liburxe.so is (default build/release). Each check has a
# deadline; the output of those that fail is shown, all of it with --verbose. The last line is
# "N passed, N failed"; exit code: 0 when all passed, 1 when not, 2 wrong usage, 77 when nothing could
# be run.
set -uo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=tests/conformance/functions.sh
. "$here/functions.sh"

misuse() {
  echo "tests/conformance/run.sh: $1 (see tests/conformance/run.sh --help)" >&2
  exit 2
}
groups='devinfo pingpong perftest pcap user crowd killed garbage pyverbs'
build=$root/build/release only='' quick='' install=1
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --verbose) verbose=1 ;;
    --no-install) install=0 ;;
    --build | --only)
      [ $# -gt 1 ] || misuse "$1 takes a value"
      if [ "$1" = --only ]; then only=$2; else build=$2; fi
      shift
      ;;
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) misuse "no such option: $1" ;;
  esac
  shift
done
[[ -z $only || " $groups " == *" $only "* ]] || misuse "no group is called $only; there are: $groups"
if [ $install -eq 1 ]; then
  "$root/cmake/install-packages.sh" "$root/tests/packages.txt" >&2 || exit 1
fi
build=$(CDPATH='' cd -- "$build" 2>/dev/null && pwd) && [ -f "$build/lib/liburxe.so" ] ||
  misuse "no lib/liburxe.so there; build it first, or say --build DIR"
conformance_begin "$build/lib/liburxe.so"

# In one group, which the shell reads whole: this file may change while the checks run.
{

group() {
  [ -z "$only" ] || [ "$only" = "$1" ]
}

# --- What there is ---

check_devinfo() {
  "${alone[@]}" ibv_devinfo -v -d urxe0 >"$folder/devinfo" 2>&1 || return 1
  grep -q 'state:.*PORT_ACTIVE' "$folder/devinfo" && grep -q 'GID\[  0\]:.*RoCE v2' "$folder/devinfo" &&
    grep -q 'link_layer:.*Ethernet' "$folder/devinfo"
}
check_devices() {
  "${alone[@]}" ibv_devices >"$folder/devices" 2>&1 && grep -q '^ *urxe0' "$folder/devices"
}
# A wrong setting must not turn into another configuration: no device, and one line that names it.
check_malformed() {
  URXE_PATH=pigeon "${alone[@]}" ibv_devices >"$folder/malformed" 2>&1
  ! grep -q urxe0 "$folder/malformed" && [ "$(grep -c 'urxe: .*URXE_PATH.*pigeon' "$folder/malformed")" = 1 ]
}
if group devinfo; then
  check 'ibv_devices lists urxe0' check_devices "$folder/devices"
  check 'ibv_devinfo -v' check_devinfo "$folder/devinfo"
  check 'a malformed setting lists no device' check_malformed "$folder/malformed"
fi

# --- libibverbs' examples ---

pingpongs() {
  local kind path
  for path in $paths; do
    for kind in rc srq uc ud; do
      local flags=(-d urxe0 -g 0 -n 2000)
      case $kind in
        uc | ud) [ "$path" = udp ] || continue ;; # the same-host path is for reliable connections
      esac
      case $kind in
        rc | uc) flags+=(-c) ;; # compares the contents
        ud) flags+=(-c -s 1000) ;; # of one packet
      esac
      # A pingpong ends with the first message that is lost, which nobody sends again here; that
      # happens while other processes at the port come and go.
      case $kind in uc | ud) tries=4 ;; esac
      pair "ibv_${kind}_pingpong" "$path" 12 "ibv_${kind}_pingpong" "${flags[@]}"
      pair "ibv_${kind}_pingpong -e" "$path" 12 "ibv_${kind}_pingpong" "${flags[@]}" -e
      tries=1
    done
    pair 'ibv_rc_pingpong 1 MiB' "$path" 30 ibv_rc_pingpong -d urxe0 -g 0 -n 200 -s 1048576 -c
    pair 'ibv_rc_pingpong MTU 256' "$path" 30 ibv_rc_pingpong -d urxe0 -g 0 -n 200 -s 65537 -m 256 -c
    [ "$(gids)" -lt 2 ] ||
      pair 'ibv_rc_pingpong IPv6' "$path" 30 ibv_rc_pingpong -d urxe0 -g 1 -n 500 -c
  done
  # The one that ends first is gone with its queue pair: when the acknowledgement of the other's last
  # message is what was lost, that one gets no answer any more, as with any device.
  faults='drop=0.01,duplicate=0.01,reorder=0.01,corrupt=0.005,seed=3' tries=4
  pair 'ibv_rc_pingpong' udp 60 ibv_rc_pingpong -d urxe0 -g 0 -n 1000 -s 20000 -c
  faults='' tries=1
}
! group pingpong || pingpongs

# --- perftest ---

# perftest VERB KIND PATH FLAG...
perftest() {
  local verb=$1 kind=$2 path=$3
  shift 3
  pair "ib_${verb}_$kind $*" "$path" $((tries > 1 ? 20 : 120)) "ib_${verb}_$kind" -d urxe0 -x 0 -F "$@"
}
perftests() {
  local verb path kind
  local all_sizes=100
  [ -z "$quick" ] || all_sizes=20
  for path in $paths; do
    for verb in write read send atomic; do
      local size=(-s 65536)
      [ $verb != atomic ] || size=()
      for kind in bw lat; do
        perftest $verb $kind "$path" "${size[@]}" -n 1000
        # perftest has no events for writes.
        [ $verb = write ] || perftest $verb $kind "$path" "${size[@]}" -n 1000 -e
        [ $verb = atomic ] || perftest $verb $kind "$path" -a -n $all_sizes
        case $verb in
          write | send) perftest $verb $kind "$path" -s 64 -n 1000 --inline_size=64 ;;
        esac
      done
      perftest $verb bw "$path" "${size[@]}" -n 1000 -b
      perftest $verb bw "$path" "${size[@]}" -n 1000 -q 8
      perftest $verb bw "$path" "${size[@]}" -n 1024 -l 16
    done
    perftest atomic bw "$path" -n 1000 -A CMP_AND_SWAP
    perftest send bw "$path" -s 4096 -n 1000 --use-srq
    perftest send bw "$path" -s 4096 -n 1000 --use-srq -q 4
    perftest send lat "$path" -s 4096 -n 1000 --use-srq
    [ -z "$quick" ] || continue
    for kind in write read send; do
      perftest $kind bw "$path" -a -n 50 -b
      perftest $kind bw "$path" -s 100000 -n 500 -m 256
      perftest $kind bw "$path" -s 4096 -n 2000 -q 8 -l 8 -b
      perftest $kind bw "$path" -s 1048576 -D 2
      [ $kind = write ] || perftest $kind bw "$path" -s 2 -n 5000 -b -e
    done
    perftest write bw "$path" -s 64 -n 19200 -t 256 -l 64 --inline_size=0
    perftest read bw "$path" -s 4096 -n 2000 -o 1
  done
  # The same-host path is for reliable connections. A lost message is not sent again in these.
  tries=4
  perftest send lat udp -s 512 -n 1000 -c UD
  perftest send lat udp -s 4096 -n 1000 -c UC
  perftest write bw udp -s 65536 -n 1000 -c UC
  tries=1
  for verb in write read send atomic; do
    faults='drop=0.005,seed=5'
    perftest $verb bw udp -n 500
  done
  faults=''
}
! group perftest || perftests

# --- What is on the wire, as others decode it ---

captures() {
  if ! command -v tshark >/dev/null; then
    skip 'packets by tshark' 'no tshark here; install the packages of tests/packages.txt'
    return
  fi
  mkdir "$folder/pcap"
  capture=$folder/pcap/%p.pcap
  local verb
  for verb in write read send atomic; do
    perftest $verb bw udp -n 50
  done
  tries=4
  perftest send lat udp -s 512 -n 50 -c UD
  perftest write bw udp -s 5000 -n 50 -c UC
  tries=1
  perftest read bw udp -s 100000 -n 20 -m 256
  [ "$(gids)" -lt 2 ] || pair 'ibv_rc_pingpong IPv6' udp 30 ibv_rc_pingpong -d urxe0 -g 1 -n 50 -c
  faults='drop=0.02,seed=4' tries=4  # as above
  pair 'ibv_rc_pingpong' udp 30 ibv_rc_pingpong -d urxe0 -g 0 -n 100 -s 20000 -c
  faults='' capture='' tries=1
  check 'packets of all that by tshark, and their ICRC' judge_captures "$folder/captures"
}
judge_captures() {
  "$here/pcap.py" "$folder"/pcap/*.pcap >"$folder/captures" 2>&1
}
! group pcap || captures

# --- Another user ---

as_user() {
  user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  if [ "$(id -u)" != 0 ]; then
    skip 'as another user' 'only root can become one; everything else here ran without root'
    return
  fi
  chmod 777 "$folder"
  chown 65534 "$folder"/counters
  local path
  for path in $paths; do
    pair 'as nobody: ibv_rc_pingpong -e' "$path" 30 ibv_rc_pingpong -d urxe0 -g 0 -c -e
    perftest write bw "$path" -s 1048576 -n 500
    perftest write lat "$path" -s 8 -n 1000
  done
  user=()
  chown 0 "$folder"/counters
}
! group user || as_user

# --- Several at once ---

! group crowd || for path in $paths; do
  check "4 pairs at once, $path" 'crowd 4 3 none' "$folder/crowd"
done
! group killed || for path in $paths; do
  check "4 pairs at once, one server killed, $path" 'crowd 4 4 server' "$folder/crowd"
  check "4 pairs at once, one client killed, $path" 'crowd 4 4 client' "$folder/crowd"
done
! group garbage || check 'random packets at port 4791 change nothing but counters' garbage "$folder/garbage"

# --- rdma-core's own tests ---

if group pyverbs && [ -x "$here/pyverbs.sh" ]; then
  "$here/pyverbs.sh" --build "$build" >"$folder/pyverbs" 2>&1
  code=$?
  if [ $code -eq 77 ]; then
    skip pyverbs "$(tail -n 1 "$folder/pyverbs")"
  else
    verdict "rdma-core's Python tests" $code "$folder/pyverbs"
  fi
fi

conformance_end
}
