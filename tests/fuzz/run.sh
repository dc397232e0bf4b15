#!/usr/bin/env bash
# Fuzzes urxe's receive paths under ASan and UBSan: run.sh [--seconds N] [NAME...]
# Each fuzzer runs N seconds (default 60) from its committed corpus. Exit code: 0 when nothing was
# found, 1 when something was (the input is left in build/fuzz/found), 2 when it could not run.
set -euo pipefail

seconds=60
names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds)
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: --seconds takes a whole number" >&2; exit 2; }
      seconds=$2
      shift 2
      ;;
    -*)
      echo "run.sh: unknown option $1; usage: run.sh [--seconds N] [NAME...]" >&2
      exit 2
      ;;
    *)
      names+=("$1")
      shift
      ;;
  esac
done

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/build/fuzz
if [ ${#names[@]} -eq 0 ]; then
  for source in "$here"/*_fuzz.cc; do names+=("$(basename "$source" .cc)"); done
fi
for name in "${names[@]}"; do
  [ -f "$here/$name.cc" ] || { echo "run.sh: there is no fuzzer $name in $here" >&2; exit 2; }
done
for number in "" -19 -18 -17 -16 -15 -14; do
  if command -v "clang++$number" >/dev/null; then compiler=clang$number compilerxx=clang++$number; break; fi
done
[ -n "${compilerxx:-}" ] || { echo "run.sh: clang++ is missing; apt-get install clang" >&2; exit 2; }

{
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGRADWIRE_FUZZ=ON \
    -DCMAKE_C_COMPILER="$compiler" -DCMAKE_CXX_COMPILER="$compilerxx" \
    -DGRADWIRE_SANITIZE=fuzzer-no-link,address,undefined &&
    cmake --build "$build" --target "${names[@]}"
} >"$build.log" 2>&1 || { tail -n 20 "$build.log"; echo "run.sh: the build failed: $build.log" >&2; exit 2; }

mkdir -p "$build/found"
failed=0
for name in "${names[@]}"; do
  # What is learned goes to the build folder; the committed corpus is read only.
  mkdir -p "$build/learned/$name"
  echo "# $name: $seconds s"
  if ! timeout $((seconds + 120)) "$build/fuzz/$name" -max_total_time="$seconds" -timeout=20 \
      -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -artifact_prefix="$build/found/$name-" \
      "$build/learned/$name" "$here/corpus/$name" 2>"$build/$name.log"; then
    tail -n 40 "$build/$name.log"
    echo "# $name: FAILED"
    failed=1
  else
    grep -E 'number_of_executed_units|peak_rss_mb' "$build/$name.log"
  fi
done
exit $failed
