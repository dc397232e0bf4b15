#!/bin/sh
# From a fresh checkout to a trained model: installs what is missing, builds, and trains a digit
# classifier on four local ranks. Asks nothing. Arguments go to `gradwire demo` (see its --help).
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
log=$top/build/demo-build.log

# Runs a step with its output in the log; shows the end of it when the step fails.
step() {
  echo "== $1"
  shift
  if ! (cd "$top" && "$@") >>"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "demo: failed: $*; the whole output is in $log" >&2
    exit 1
  fi
}

mkdir -p "$top/build"
: >"$log"
echo "== Packages that are missing (cmake/packages.txt)"
"$top/cmake/install-packages.sh"
step "Configuring (log: $log)" cmake --preset release
step "Building; the first time takes some minutes" cmake --build --preset release --target gradwire_cli
echo "== Training"
exec "$top/build/release/bin/gradwire" demo "$@"
