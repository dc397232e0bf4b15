#!/bin/bash
# Gradwire's all-reduce beside Open MPI's, MPICH's and Gloo's on this machine, interleaved: builds what
# is compared and hands over to `gradwire bench peers`, whose --help and docs/bench.md tell the rest.
#
#   bench/peers/run.sh [options] [options of gradwire bench peers]
#     --install    install the packages of the other libraries first (packages.txt)
#     --build DIR  build folder (default: build/release beside the sources)
#     --no-build   measure what is built already
set -u -o pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
top=$(dirname -- "$(dirname -- "$here")")

build=$top/build/release install=no make=yes arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --install) install=yes ;;
    --no-build) make=no ;;
    --build)
      [ $# -ge 2 ] || { echo "run.sh: --build lacks its folder (see --help)" >&2; exit 2; }
      build=$2
      shift ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

if [ $install = yes ]; then "$top/cmake/install-packages.sh" "$here/packages.txt" || exit 1; fi
if [ $make = yes ]; then
  cmake -S "$top" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null &&
    cmake --build "$build" --target bench_peers gradwire_cli || exit 1
fi
exec "$build/bin/gradwire" bench peers "${arguments[@]}"
