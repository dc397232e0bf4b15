#!/usr/bin/env bash
# Measures urxe on this machine, in rounds that each take every method once, since a machine's speed
# drifts by more than the differences of interest: perftest by LD_PRELOAD over packets and over the
# same-host path, beside iperf3's TCP, and what many queue pairs cost. Prints medians and the spread
# between rounds; docs/bench.md says how to read it.
#
#   bench/urxe/run.sh [--build DIR] [--rounds N] [--seconds S] [--interface NAME] [--only LIST]
#                     [--json FILE] [--install]
#
#   --build DIR    build folder with lib/liburxe.so (default: build/release beside the sources)
#   --rounds N     default 5
#   --seconds S    of each bandwidth (default 2)
#   --interface    of urxe's device (default: lo, which iperf3 runs over, and whose MTU gives 4096)
#   --only LIST    methods by name, as a comma list (default: all)
#   --json FILE    every sample and the medians
#   --install      install perftest and iperf3 first
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
top=$(dirname -- "$(dirname -- "$here")")

build=$top/build/release arguments=()
misuse() {
  echo "bench/urxe/run.sh: $1 (see --help)" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    --install)
      "$top/cmake/install-packages.sh" "$here/packages.txt"
      ;;
    --build | --rounds | --seconds | --interface | --only | --json)
      [ $# -gt 1 ] || misuse "$1 takes a value"
      if [ "$1" = --build ]; then build=$2; else arguments+=("$1" "$2"); fi
      shift
      ;;
    *) misuse "no such option: $1" ;;
  esac
  shift
done
for file in lib/liburxe.so bench/urxe/many_queue_pairs; do
  [ -f "$build/$file" ] || misuse "no $file in $build; build it first, or say --build DIR"
done
for program in ib_write_bw ib_write_lat iperf3 python3; do
  command -v $program >/dev/null || misuse "no $program here; say --install"
done
exec python3 "$here/measure.py" --build "$build" "${arguments[@]}"
