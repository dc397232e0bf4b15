#!/bin/bash
# Gradwire's all-reduce beside Open MPI's, MPICH's and Gloo's on this machine, interleaved: each
# round starts every library once. Over TCP on the loopback device, and those whose names say so
# over shared memory or over urxe. Gradwire's tensors lie where those of a training do, in memory from
# its allocator; the others bring their own. Prints a table; docs/bench.md says how to read it.
#
#   bench/peers/run.sh [options]
#     --install         install the packages of the other libraries first (packages.txt)
#     --build DIR       build folder (default: build/release beside the sources)
#     --out DIR         results (default: DIR of --build/bench/peers/results)
#     --peers LIST      of: gradwire openmpi mpich gloo gloo_bcube (TCP; default: all but the last),
#                       openmpi_shm mpich_shm (shared memory), gradwire_local gradwire_udp (urxe's
#                       same-host path, urxe's packets)
#     --ranks LIST      numbers of ranks (default: "2 4")
#     --sizes LIST      bytes, as a comma list (default: 8 B to 256 MiB)
#     --rounds N        default 3
#     --budget S        timed seconds per launch and size (default 0.3)
#     --time-limit S    of one launch (default 120)
#     --flags TEXT      further flags for gradwire bench allreduce, such as "-R 0": ordinary memory
#     --no-build        measure what is built already
set -u -o pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
top=$(dirname -- "$(dirname -- "$here")")

build=$top/build/release out='' peers='gradwire openmpi mpich gloo' rank_counts='2 4'
sizes=8,1024,8192,65536,1048576,16777216,67108864,268435456
rounds=3 budget=0.3 time_limit=120 flags='' install=no make=yes

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
misuse() { echo "run.sh: $1 (see --help)" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --install) install=yes; shift; continue ;;
    --no-build) make=no; shift; continue ;;
  esac
  [ $# -ge 2 ] || misuse "$1 is unknown or lacks its value"
  case $1 in
    --build) build=$2 ;;
    --out) out=$2 ;;
    --peers) peers=$2 ;;
    --ranks) rank_counts=$2 ;;
    --sizes) sizes=$2 ;;
    --rounds) rounds=$2 ;;
    --budget) budget=$2 ;;
    --time-limit) time_limit=$2 ;;
    --flags) flags=$2 ;;
    *) misuse "there is no option $1" ;;
  esac
  shift 2
done
for number in $rounds $time_limit $rank_counts; do
  case $number in '' | *[!0-9]* | 0) misuse "'$number' is not a number above 0" ;; esac
done
out=${out:-$build/bench/peers/results}

if [ $install = yes ]; then "$top/cmake/install-packages.sh" "$here/packages.txt" || exit 1; fi
if [ $make = yes ]; then
  cmake -S "$top" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null &&
    cmake --build "$build" --target bench_peers || exit 1
  # Ours last: the other libraries can be measured without it.
  cmake --build "$build" --target gradwire_cli ||
    echo "run.sh: gradwire does not build here; measuring the others" >&2
fi

# Sets `command` to what measures peer $1 with $2 ranks; false, with the reason in `why`, when it
# cannot. Ranks are bound to cores when each has one, except Gloo's, whose ranks have two threads.
command_for() {
  local programs=$build/bench/peers bind=core
  [ "$2" -le "$(nproc)" ] || bind=none
  case $1 in
    gradwire | gradwire_local | gradwire_udp)
      why="no program $build/bin/gradwire"
      local transport=(--transport rdma --device urxe) path=${1#gradwire_}
      [ "$1" != gradwire ] || transport=(--transport tcp) path=auto
      # The interface that TCP uses: packets of 4096 bytes rather than Ethernet's 1024.
      command=(env "URXE_PATH=$path" URXE_INTERFACES=lo "$build/bin/gradwire" launch -n "$2" --bind "$bind" --
        "$build/bin/gradwire" bench allreduce "${transport[@]}" --csv --peer "$1" --rep "$round")
      [[ " $flags" == *' -R '* ]] || command+=(-R 1)
      # shellcheck disable=SC2206  # flags are split on purpose
      command+=($flags)
      [ -x "$build/bin/gradwire" ] ;;
    openmpi)
      # Open MPI leaves the loopback device out unless it is named.
      why='Open MPI is not installed'
      command=(mpirun.openmpi --allow-run-as-root --oversubscribe -np "$2" --bind-to "$bind"
        --mca pml ob1 --mca btl "tcp,self" --mca btl_tcp_if_include lo
        "$programs/allreduce_openmpi" --label openmpi --round "$round")
      command -v mpirun.openmpi >/dev/null && [ -x "$programs/allreduce_openmpi" ] ;;
    openmpi_shm)
      why='Open MPI is not installed'
      command=(mpirun.openmpi --allow-run-as-root --oversubscribe -np "$2" --bind-to "$bind"
        --mca pml ob1 --mca btl "vader,self" "$programs/allreduce_openmpi" --label "$1"
        --round "$round")
      command -v mpirun.openmpi >/dev/null && [ -x "$programs/allreduce_openmpi" ] ;;
    mpich_shm)
      why='MPICH is not installed'
      command=(mpiexec.mpich -n "$2" -bind-to "$bind" "$programs/allreduce_mpich" --label "$1"
        --round "$round")
      command -v mpiexec.mpich >/dev/null && [ -x "$programs/allreduce_mpich" ] ;;
    mpich)
      why='MPICH is not installed'
      command=(mpiexec.mpich -n "$2" -bind-to "$bind" -genv MPIR_CVAR_NOLOCAL 1
        -genv UCX_TLS "tcp,self" -genv UCX_NET_DEVICES lo
        "$programs/allreduce_mpich" --label mpich --round "$round")
      command -v mpiexec.mpich >/dev/null && [ -x "$programs/allreduce_mpich" ] ;;
    gloo | gloo_bcube)
      why='Gloo is not installed'
      command=("$programs/allreduce_gloo" --ranks "$2" --label "$1" --round "$round")
      [ "$1" = gloo ] || command+=(--algorithm bcube)
      [ -x "$programs/allreduce_gloo" ] ;;
    *) misuse "there is no peer $1" ;;
  esac
}

lo_bytes() { cat /sys/class/net/lo/statistics/tx_bytes; }

# Measures peer $1 with $2 ranks once; appends to samples.csv and launches.log.
measure() {
  local before started=$SECONDS rows=$out/rows
  before=$(lo_bytes)
  timeout -k 5 "$time_limit" "${command[@]}" --budget "$budget" --sizes "$sizes" \
    2>>"$out/stderr.log" </dev/null | sed -u 's/^\[0\] //' | grep -E "^$1,[a-z_]+,[0-9]" >"$rows"
  local code=${PIPESTATUS[0]} wanted
  cat "$rows" >>"$out/samples.csv"
  # The bytes that crossed the loopback device tell TCP and packets from shared memory.
  echo "round $round $1 ranks $2: exit $code, $((SECONDS - started)) s," \
    "$((($(lo_bytes) - before) >> 20)) MiB over lo, $(wc -l <"$rows") rows" |
    tee -a "$out/launches.log" >&2
  wanted=$(($(tr -cd , <<<"$sizes" | wc -c) + 1))
  # MPICH over TCP often prints everything and then does not exit: that alone spoils nothing.
  if [ "$(wc -l <"$rows")" -lt "$wanted" ]; then
    echo "run.sh: $1 with $2 ranks is incomplete; see $out/stderr.log" >&2
  fi
}

mkdir -p "$out" || exit 1
: >"$out/launches.log"
: >"$out/stderr.log"
echo "peer,transport,ranks,bytes,median_us,min_us,p99_us,algbw_GBs,busbw_GBs,mode,iters,bad,rep,median_last_us" \
  >"$out/samples.csv"
{
  echo "$(date -u '+%Y-%m-%d %H:%M UTC'), $(nproc) cores, $(uname -sr)," \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
  echo "commit $(git -C "$top" describe --always --dirty 2>/dev/null || echo unknown)," \
    "TCP congestion control $(cat /proc/sys/net/ipv4/tcp_congestion_control)"
  dpkg-query -W -f '${Package} ${Version}\n' openmpi-bin mpich libgloo-dev 2>/dev/null
  echo "rounds $rounds, budget $budget s, flags '$flags'"
} >"$out/about.txt"

for round in $(seq "$rounds"); do
  for ranks in $rank_counts; do
    for peer in $peers; do
      if command_for "$peer" "$ranks"; then
        measure "$peer" "$ranks"
      elif [ "$round $ranks" = "1 ${rank_counts%% *}" ]; then
        echo "run.sh: $peer is left out: $why" | tee -a "$out/launches.log" >&2
      fi
    done
  done
done
rm -f "$out/rows"
ours=$(tr ' ' '\n' <<<"$peers" | grep -m 1 '^gradwire')
python3 "$here/summarize.py" "$out" "${ours:-gradwire}" | tee "$out/tables.md"
