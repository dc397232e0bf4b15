#!/usr/bin/env bash
# Boots virtual machines that have a real RDMA device, the Linux kernel's Soft-RoCE, joins them by a
# network, and runs a script on each. Needs no RDMA hardware, no root and no virtualisation.
#
#   tests/lab/run.sh                            train across two VMs over RDMA
#   tests/lab/run.sh --script my.sh -- a b      my.sh with these arguments on each VM
#   tests/lab/run.sh --vms 3 --loss 1 --delay 2 --script my.sh
#
# Options:
#   --script FILE     what each VM runs, with busybox's sh   (default tests/lab/checks/training.sh)
#   --vms N           number of VMs, 1..8                                           (default 2)
#   --urxe RANKS      VMs with urxe in place of the kernel's rdma_rxe, as in 1 or 0,2  (default none)
#   --transport NAME  rdma or tcp: LAB_TRANSPORT in the scripts                     (default rdma)
#   --build DIR       build folder whose programs are taken along       (default build/release)
#   --program FILE    a further program, with the libraries it loads; may be repeated
#   --file FILE       a file for /lab of each VM; may be repeated
#   --env NAME=VALUE  a variable for the scripts; may be repeated
#   --out DIR         gets what a script puts into /out, in vm0, vm1, ...; and the kernels' logs
#   --delay MS        every packet is delayed by so many milliseconds when sent
#   --loss PERCENT    so many packets of a hundred are lost
#   --rate MBIT       megabits a second that a VM can send
#   --mtu BYTES       of the network; rxe takes 4096, 2048 or 1024 of it            (default 4200)
#   --cpus N, --memory MIB   of each VM                                    (default 1 and 1024)
#   --timeout S       seconds that the scripts may take                             (default 600)
#   --accel NAME      tcg (emulation), kvm, or auto: kvm if a VM really boots so    (default auto)
#   --keep            the VMs stay when the scripts are done, until Ctrl-C, and offer a shell each
#   --quick           LAB_QUICK=1 for the scripts: they do less
#   --no-install      installs no package
#
# The scripts' output is shown behind "vm0| ", "vm1| ". In a script, `. /lab/functions.sh` gives
# LAB_RANK, LAB_VMS, LAB_ADDRESS, LAB_PEERS and functions that start ranks, make VMs wait for each
# other and read RDMA counters; docs/lab.md explains them.
#
# Exit code: that of the first script that failed, else 0. 2: wrong usage. 77: this machine cannot
# have the lab, for the reason printed. 124: the time was over. 1: anything else.
set -euo pipefail
lab=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$lab/../.." && pwd)
# shellcheck source=tests/lab/image.sh
. "$lab/image.sh"

say() {
  echo "tests/lab: $*" >&2
}
misuse() {
  echo "tests/lab/run.sh: $1 (see tests/lab/run.sh --help)" >&2
  exit 2
}
# skip REASON: loud, and with a code that no failure has. From a subshell too, by `|| exit`.
skip() {
  echo "tests/lab: SKIPPED: $1" >&2
  exit 77
}
# number OPTION VALUE LOWEST HIGHEST: whole numbers; decimals for what netem takes.
number() {
  [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] ||
    misuse "$1 takes a whole number, $3..$4, not '$2'"
}
decimal() {
  [[ $2 =~ ^[0-9]+(\.[0-9]+)?$ ]] || misuse "$1 takes a number, not '$2'"
}

script=$lab/checks/training.sh
build='' out='' accel=auto transport=rdma netem='' quick='' install=1
vms=2 urxe='' cpus=1 memory=1024 mtu=4200 timeout=600
programs=() files=() variables=() arguments=() keep=()
while [ $# -gt 0 ]; do
  case $1 in
    --keep) keep=(--keep) ;;
    --quick) quick=1 ;;
    --no-install) install=0 ;;
    -h | --help)
      sed -n '/^# Boots/,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
      exit 0
      ;;
    --)
      shift
      arguments=("$@")
      break
      ;;
    --script | --vms | --urxe | --transport | --build | --program | --file | --env | --out | --delay | \
      --loss | --rate | --mtu | --cpus | --memory | --timeout | --accel)
      [ $# -gt 1 ] || misuse "$1 takes a value"
      case $1 in
        --script) script=$2 ;;
        --vms) vms=$2 ;;
        --urxe) urxe=$2 ;;
        --transport) transport=$2 ;;
        --build) build=$2 ;;
        --program) programs+=("$2") ;;
        --file) files+=("$2") ;;
        --env) variables+=("$2") ;;
        --out) out=$2 ;;
        --delay) decimal "$1" "$2" && netem+=" delay ${2}ms" ;;
        --loss) decimal "$1" "$2" && netem+=" loss ${2}%" ;;
        --rate) decimal "$1" "$2" && netem+=" rate ${2}mbit" ;;
        --mtu) mtu=$2 ;;
        --cpus) cpus=$2 ;;
        --memory) memory=$2 ;;
        --timeout) timeout=$2 ;;
        --accel) accel=$2 ;;
      esac
      shift
      ;;
    *) misuse "no such option: $1" ;;
  esac
  shift
done
number --vms "$vms" 1 8
[[ -z $urxe || $urxe =~ ^[0-7](,[0-7])*$ ]] || misuse "--urxe takes ranks of VMs, as in 0,2, not '$urxe'"
number --cpus "$cpus" 1 64
number --memory "$memory" 256 65536
number --mtu "$mtu" 576 9000
number --timeout "$timeout" 1 86400
case $accel in auto | tcg | kvm) ;; *) misuse "--accel takes auto, tcg or kvm, not '$accel'" ;; esac
case $transport in rdma | tcp) ;; *) misuse "--transport takes rdma or tcp, not '$transport'" ;; esac
for file in "$script" "${files[@]}" "${programs[@]}"; do
  [ -f "$file" ] && [ -r "$file" ] || misuse "no such file: $file"
done
for variable in "${variables[@]}"; do
  [[ $variable =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || misuse "--env takes NAME=VALUE, not '$variable'"
done
[ "$(uname -m)" = x86_64 ] || skip "the lab emulates a PC's CPU and takes programs of this machine, a $(uname -m)"

if [ $install -eq 1 ]; then
  "$root/cmake/install-packages.sh" "$lab/packages.txt" >&2 ||
    skip 'packages cannot be installed, see above; the list is tests/lab/packages.txt'
fi
for program in qemu-system-x86_64 busybox cpio modprobe python3; do
  PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null ||
    skip "$program is missing; install the packages of tests/lab/packages.txt"
done
PATH=$PATH:/usr/sbin:/sbin

if [ -z "$build" ]; then
  build=$root/build/release
  if [ ! -x "$build/bin/gradwire" ]; then
    say "Building Gradwire (log in build/lab/build.log)"
    mkdir -p "$root/build/lab"
    if ! { { [ $install -eq 0 ] || "$root/cmake/install-packages.sh"; } && cd "$root" &&
      cmake --preset release && cmake --build --preset release; } >"$root/build/lab/build.log" 2>&1; then
      tail -n 20 "$root/build/lab/build.log" >&2
      say 'the build failed; the whole log is build/lab/build.log'
      exit 1
    fi
  fi
fi
[ -x "$build/bin/gradwire" ] ||
  misuse "no programs in $build/bin; build first: cmake --preset release && cmake --build --preset release"
[ -z "$urxe" ] || [ -f "$build/lib/liburxe.so" ] || misuse "--urxe: there is no lib/liburxe.so in $build"
for file in "$build"/bin/* "$build/tests/collective_worker" "$build/lib/liburxe.so"; do
  [ ! -f "$file" ] || [ ! -x "$file" ] || programs+=("$file")
done

cache=$root/build/lab
mkdir -p "$cache"
folder=$(mktemp -d "$cache/run.XXXXXX")
supervisor=''
finish() {
  [ -z "$supervisor" ] || kill "$supervisor" 2>/dev/null || true
  [ -z "$supervisor" ] || wait "$supervisor" 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# One at a time makes images; others then find them made.
exec 9>"$cache/lock"
flock -w 600 9 || { say 'another run has been making images for 10 minutes; see build/lab/lock'; exit 1; }
kernel=$(make_kernel "$cache") || exit
tools=$(make_tools "$cache" "$kernel") || exit
carried=$(make_programs "$cache" "${programs[@]}") || exit

# make_initrd FILE VMS: tools, programs and what is this run's own.
make_initrd() {
  local tree=$folder/tree
  rm -rf "$tree"
  mkdir -p "$tree/lab"
  cp "$lab/init" "$tree/init"
  chmod 755 "$tree/init"
  cp -r "$lab/functions.sh" "$lab/checks" "$tree/lab/"
  cp "$script" "$tree/lab/script"
  [ ${#files[@]} -eq 0 ] || cp "${files[@]}" "$tree/lab/"
  {
    printf 'export LAB_VMS=%s LAB_URXE=%s LAB_MTU=%s LAB_TRANSPORT=%s LAB_QUICK=%s LAB_NETEM=%q\n' \
      "$2" "$urxe" "$mtu" "$transport" "$quick" "$netem"
    for variable in "${variables[@]}"; do
      printf "export %s='%s'\n" "${variable%%=*}" "$(sed "s/'/'\\\\''/g" <<<"${variable#*=}")"
    done
  } >"$tree/lab/settings"
  for argument in "${arguments[@]}"; do
    printf "'%s' " "$(sed "s/'/'\\\\''/g" <<<"$argument")"
  done >"$tree/lab/arguments"
  archive "$tree" "$folder/own.cpio"
  cat "$tools" "$carried" "$folder/own.cpio" >"$1"
}

# Hardware virtualisation can be offered and yet not work: a VM must have come up with it. The answer
# holds until this machine is started again.
if [ $accel = auto ]; then
  accel=tcg
  if [ -w /dev/kvm ]; then
    verdict=$cache/kvm-$(basename "$kernel")-$(cut -c 1-8 /proc/sys/kernel/random/boot_id)
    if [ ! -f "$verdict" ]; then
      rm -f "$cache"/kvm-*
      make_initrd "$folder/test-initrd" 1
      if python3 "$lab/vms.py" --test-boot --accel kvm --vms 1 --boot-timeout 12 --folder "$folder" \
        --kernel "$kernel/vmlinuz" --initrd "$folder/test-initrd"; then
        echo kvm >"$verdict"
      else
        say 'KVM is offered here, but a VM does not come up with it; emulating instead'
        echo tcg >"$verdict"
      fi
    fi
    accel=$(cat "$verdict")
  fi
fi
make_initrd "$folder/initrd" "$vms"
exec 9>&-

[ -z "$out" ] || mkdir -p "$out"
python3 "$lab/vms.py" --kernel "$kernel/vmlinuz" --initrd "$folder/initrd" --folder "$folder" \
  --accel "$accel" --vms "$vms" --cpus "$cpus" --memory "$memory" --mtu "$mtu" \
  --timeout "$timeout" --out "$out" "${keep[@]}" &
supervisor=$!
code=0
wait $supervisor || code=$?
supervisor=''
[ -z "$out" ] || cp "$folder"/*.kernel.log "$out/" 2>/dev/null || true
exit $code
