#!/usr/bin/env bash
# Opens reports in Chromium and looks at them: run.sh REPORT_PAGES FOLDER
# Pages, npm's packages and screenshots go to FOLDER, nothing to the source tree. Exit code 77, with
# the reason: this machine has no node, npm or chromium.
set -euo pipefail
pages=$1 work=$2
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
NODE_PATH=$work/node_modules GWTEST_CHROMIUM=$chromium GWTEST_FOLDER=$work \
  exec timeout 500 node --test "$here/report_test.js"
