#!/usr/bin/env bash
# Runs rdma-core's own Python tests over urxe and compares with pyverbs_skipped.txt: a test that
# fails, or skips without being listed there, is a failure, and so is one that is listed but passes.
#   tests/conformance/pyverbs.sh [--build DIR] [TEST...]
# --build is where lib/liburxe.so is (default build/release). TEST as unittest names them, such as
# tests.test_mr; all by default, once over the same-host path and once over UDP. Needs the packages
# rdma-core (its documentation holds the tests) and python3-pyverbs. Exit code: 0 as listed, 1 not, 2
# wrong usage, 77 when it cannot be run here; the last line says why.
set -uo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
build=$here/../../build/release
source=/usr/share/doc/rdma-core/tests
deadline=300 # seconds, of one run of all tests

tests=()
while [ $# -gt 0 ]; do
  case $1 in
    --build)
      [ $# -gt 1 ] || { echo "$0: --build takes a folder" >&2; exit 2; }
      build=$2
      shift
      ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "$0: no such option: $1 (see $0 --help)" >&2; exit 2 ;;
    *) tests+=("$1") ;;
  esac
  shift
done
library=$build/lib/liburxe.so
[ -f "$library" ] || { echo "$0: no $library; build it first, or say --build DIR" >&2; exit 2; }
library=$(realpath "$library")
# Slim images leave documentation out of packages.
if [ ! -f $source/run_tests.py ]; then
  echo "SKIPPED: no $source; install rdma-core with its documentation"
  exit 77
fi
if ! /usr/bin/python3 -c 'import pyverbs.device' 2>/dev/null; then
  echo 'SKIPPED: no module pyverbs for /usr/bin/python3; install python3-pyverbs'
  exit 77
fi

folder=$(mktemp -d /tmp/urxe-pyverbs.XXXXXX)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/tests"
for file in "$source"/*.py "$source"/*.py.gz; do
  case $file in
    *.gz) gzip -dc "$file" >"$folder/tests/$(basename "$file" .gz)" ;;
    *) cp "$file" "$folder/tests/" ;;
  esac
done

failed=0
for path in auto udp; do
  echo "== URXE_PATH=$path"
  (
    cd "$folder" &&
      URXE_PATH=$path LD_PRELOAD=$library PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$folder \
        timeout -k 5 $deadline /usr/bin/python3 "$here/pyverbs_run.py" "$here/pyverbs_skipped.txt" \
        "${tests[@]}"
  )
  code=$?
  [ $code -ne 124 ] || echo "FAILED: not done within $deadline s"
  [ $code -eq 0 ] || failed=1
done
exit $failed
