#!/bin/sh
# From a fresh checkout to a trained model: installs what is missing, builds, and trains a digit
# classifier on four local ranks. Asks nothing. Arguments go to `gradwire demo`.
set -eu

usage() {
  cat <<'HELP'
usage: examples/demo.sh [FLAG of gradwire demo]...
From a fresh checkout to a trained model: installs the packages that are missing
(with sudo when not root), builds, and trains a digit classifier on local ranks.
Flags go to `gradwire demo`, among them:
  --ranks N          local ranks, 1..64 [4]
  --model mlp|cnn    [mlp]
  --epochs N         passes over the training set [30]
  --data digits|DIR  built-in digits, or a folder with MNIST [digits]
  --transport NAME   auto|rdma|tcp, and all other settings
`gradwire demo --help`, once it is built, lists all; it refuses others with exit
code 2.
HELP
}
for argument; do
  case $argument in
    -h | --help) usage; exit 0 ;;
  esac
done
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
