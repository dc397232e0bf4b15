#!/bin/sh
# Installs the packages named in the given lists (default: packages.txt beside this script) that
# are missing, with sudo when not root. Asks nothing; does nothing when all are there. A name with a
# question mark behind it is not needed everywhere: where it cannot be had, that is said, and all
# goes on.
#   cmake/install-packages.sh [LIST...]
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -gt 0 ] || set -- "$here/packages.txt"

# What is installed, and what that provides: a Node.js of another origin brings npm along, say, and
# excludes the package of that name.
present=$(dpkg-query -W -f '${db:Status-Status} ${Package},${Provides}\n' 2>/dev/null |
  sed -n 's/^installed //p' | tr ',' '\n' | sed 's/(.*//; s/ //g' || true)
missing='' wanted=''
for package in $(sed -e 's/#.*//' "$@"); do
  name=${package%\?}
  if printf '%s\n' "$present" | grep -qxF -- "$name"; then continue; fi
  case $package in
    *\?) wanted="$wanted $name" ;;
    *) missing="$missing $name" ;;
  esac
done
[ -n "$missing$wanted" ] || exit 0

# Ends: with failure when something needed is missing.
give_up() {
  echo "install-packages: $1:$missing$wanted" >&2
  [ -z "$missing" ] || exit 1
  exit 0
}
command -v apt-get >/dev/null 2>&1 ||
  give_up 'this system has no apt-get; install the equivalents of'
as_root=''
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 ||
    give_up 'not root and no sudo; as root, run: apt-get install'
  as_root=sudo
fi
install() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

echo "Installing:$missing$wanted"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || [ -z "$missing" ]
# shellcheck disable=SC2086  # the list is split on purpose
[ -z "$missing" ] || install $missing
for package in $wanted; do
  install "$package" || echo "install-packages: $package cannot be installed here" >&2
done
