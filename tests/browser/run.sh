#!/usr/bin/env bash
# Opens reports in Chromium and looks at them: run.sh REPORT_PAGES GRADWIRE FOLDER
# Pages, npm's packages and screenshots go to FOLDER, nothing to the source tree. Exit code 77, with
# the reason: this machine has no node, npm or chromium.
set -euo pipefail
pages=$1 gradwire=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)

skip() {
  echo "tests/browser: SKIPPED: $1; install the packages of tests/packages.txt" >&2
  exit 77
}
for program in node npm; do
  command -v $program >/dev/null 2>&1 || skip "$program is not here"
done
oldest=18
major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge $oldest ] || skip "node $major is older than $oldest"
chromium=${GWTEST_CHROMIUM:-/usr/bin/chromium}
[ -x "$chromium" ] || skip "$chromium is not here"

mkdir -p "$work"
cmp -s "$here/package.json" "$work/installed.json" || {
  cp "$here/package.json" "$work/package.json"
  (cd "$work" && timeout 120 npm install --no-audit --no-fund --loglevel=error) ||
    skip 'npm cannot install playwright-core (is its registry reachable?)'
  cp "$here/package.json" "$work/installed.json"
}
"$pages" "$work"
# Beside pages of made-up numbers two that were measured here.
for transport in rdma tcp; do
  timeout 60 "$gradwire" bench allreduce --ranks 2 --sizes 64K -n 6 -c 0 --transport $transport \
    --telemetry "$work/rec-$transport" >"$work/bench.log" 2>&1 || { cat "$work/bench.log"; exit 1; }
done
timeout 60 "$gradwire" analyze "$work/rec-rdma" "$work/rec-tcp" --out "$work/measured" >/dev/null
timeout 200 "$gradwire" study inline_size --quick --out "$work/studied" >/dev/null 2>"$work/study.log" ||
  { cat "$work/study.log"; exit 1; }
NODE_PATH=$work/node_modules GWTEST_CHROMIUM=$chromium GWTEST_FOLDER=$work \
  exec timeout 500 node --test "$here/report_test.js"
