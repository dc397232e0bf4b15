# shellcheck shell=bash
# What the virtual machines boot: a stock kernel and an initramfs, made of distribution packages.
# Sourced by run.sh, which defines `say` and `skip`.
#
# An initramfs is a row of cpio archives that the kernel unpacks one over the other. We keep three:
# tools (changes with the installed packages), programs (changes with our builds) and the run's own
# (scripts and settings). The first two are kept under a name made of their content. None is
# compressed: an emulated CPU unpacks slower than the host copies.
image_folder=$(dirname "${BASH_SOURCE[0]}")

# Modules the guests load, in this order, each after what it depends on.
lab_modules=(virtio_pci virtio_console virtio_net virtio-rng rdma_rxe ib_uverbs rdma_ucm sch_netem)
# The ICRC of rxe; newer kernels have it built in under another name.
lab_modules_if_there=(crc32_generic)

# Programs of the distribution that go into the image, beside busybox.
lab_tools=(ip tc rdma ibv_devices ibv_devinfo ibv_rc_pingpong ibv_uc_pingpong ibv_ud_pingpong iperf3
  ib_write_bw ib_write_lat ib_read_bw ib_read_lat ib_send_bw ib_send_lat ib_atomic_bw ib_atomic_lat)

# into_tree TREE FILE DESTINATION: a copy that programs can be run from; debugging information, most
# of a large program, stays behind.
into_tree() {
  mkdir -p "$1/$(dirname "$3")"
  strip -o "$1/$3" "$2" 2>/dev/null || cp -L "$2" "$1/$3"
  chmod 755 "$1/$3"
}

# libraries FILE...: the shared libraries that the programs load, one path a line.
libraries() {
  local found
  found=$(ldd "$@" 2>/dev/null) || true
  if grep -q 'not found' <<<"$found"; then
    echo "tests/lab: libraries are missing: $(grep 'not found' <<<"$found" | sort -u | tr -s '\t\n' ' ')" >&2
    return 1
  fi
  sed -n -E 's/^.*=> (\/[^ ]+) .*$/\1/p; s/^[[:space:]]+(\/[^ ]+) \(0x.*$/\1/p' <<<"$found" | sort -u
}

# archive TREE FILE: TREE as a cpio archive, everything owned by root. FILE appears whole or not.
archive() {
  (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2.part" &&
    mv "$2.part" "$2"
}

# forget_others KEPT PATTERN...: removes what earlier runs kept under other names, unless it is so
# new that a run with another build may want it again.
forget_others() {
  local kept=$1 path
  shift
  for path in "$@"; do
    [ "$path" = "$kept" ] || [ ! -e "$path" ] || find "$path" -maxdepth 0 -mmin +10 -exec rm -rf {} +
  done
}

# kernel_packages: the packages with the kernel and the modules that this distribution would boot on
# a PC. The newest on Debian is what linux-image-amd64 depends on; Ubuntu keeps modules apart.
kernel_packages() {
  local image
  image=$(apt-cache depends linux-image-amd64 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  if [ -n "$image" ]; then
    echo "$image"
    return
  fi
  image=$(apt-cache depends linux-image-generic 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  [ -n "$image" ] || return 1
  echo "$image" "${image/linux-image-/linux-modules-}" "${image/linux-image-/linux-modules-extra-}"
}

# make_kernel CACHE: prints a folder with vmlinuz, the module files and modules.order, the list to
# insert. Fetched once; remove CACHE to get a newer kernel.
make_kernel() {
  local cache=$1 want key kernel packages temporary release module file
  want="${lab_modules_if_there[*]} ${lab_modules[*]}"
  key=$(sha256sum <<<"$want" | cut -c 1-12)
  kernel=$cache/kernel-$key
  if [ -f "$kernel/modules.order" ]; then
    echo "$kernel"
    return
  fi
  packages=$(kernel_packages) ||
    skip "no kernel package is known to apt; run 'apt-get update' as root"
  temporary=$(mktemp -d "$cache/kernel.XXXXXX")
  mkdir -p "$cache/packages" "$temporary/root" "$temporary/kernel"
  say "Fetching $packages"
  # shellcheck disable=SC2086  # the list is split on purpose
  if ! (cd "$cache/packages" && rm -f linux-*.deb && apt-get download -qq $packages) 2>"$temporary/log"; then
    sed 's/^/tests\/lab: /' "$temporary/log" >&2
    rm -rf "$temporary"
    skip "the kernel package cannot be fetched ($packages); run 'apt-get update' as root or look at the network"
  fi
  for file in "$cache"/packages/linux-*.deb; do
    dpkg -x "$file" "$temporary/root"
  done
  release=$(basename "$(echo "$temporary"/root/boot/vmlinuz-*)")
  release=${release#vmlinuz-}
  [ -d "$temporary/root/usr/lib/modules" ] && [ ! -e "$temporary/root/lib" ] &&
    ln -s usr/lib "$temporary/root/lib"
  cp "$temporary/root/boot/vmlinuz-$release" "$temporary/kernel/vmlinuz"
  echo "$release" >"$temporary/kernel/release"
  depmod -b "$temporary/root" "$release"
  for module in "${lab_modules_if_there[@]}" "${lab_modules[@]}"; do
    modprobe -d "$temporary/root" -S "$release" --show-depends "$module" 2>/dev/null ||
      echo "$module" >>"$temporary/missing"
  done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$temporary/paths"
  for module in "${lab_modules[@]}"; do
    ! grep -qsx "$module" "$temporary/missing" || skip "the kernel $release has no module $module"
  done
  while read -r file; do
    module=$(basename "$file")
    case $module in
      *.zst) zstd -q -d -o "$temporary/kernel/${module%.zst}" "$file" ;;
      *.xz) xz -d <"$file" >"$temporary/kernel/${module%.xz}" ;;
      *.gz) gzip -d <"$file" >"$temporary/kernel/${module%.gz}" ;;
      *) cp "$file" "$temporary/kernel/$module" ;;
    esac
    echo "${module%.ko*}.ko" >>"$temporary/kernel/modules.order"
  done <"$temporary/paths"
  rm -rf "$kernel"
  mv "$temporary/kernel" "$kernel"
  rm -rf "$temporary"
  forget_others "$kernel" "$cache"/kernel-*
  echo "$kernel"
}

# make_tools CACHE KERNEL: prints the archive with busybox, modules and the distribution's programs.
make_tools() {
  local cache=$1 kernel=$2 key tools tree path file
  key=$({
    sed 's/#.*//' "$image_folder/packages.txt" | xargs dpkg-query -W libc6
    cat "$kernel/modules.order" "$image_folder/image.sh"
  } | sha256sum | cut -c 1-12)
  tools=$cache/tools-$key.cpio
  if [ ! -f "$tools" ]; then
    say 'Making the image of tools'
    tree=$(mktemp -d "$cache/tree.XXXXXX")
    mkdir -p "$tree"/{bin,dev,etc,proc,sys,tmp,root,out,lab,lib/modules}
    cp -L "$(command -v busybox)" "$tree/bin/busybox"
    cp "$kernel"/*.ko "$kernel/modules.order" "$kernel/release" "$tree/lib/modules/"
    local paths=()
    for file in "${lab_tools[@]}"; do
      path=$(PATH=$PATH:/usr/sbin:/sbin command -v "$file") || skip "the program $file is not here"
      paths+=("$path")
      into_tree "$tree" "$path" "usr/bin/$file"
    done
    # libibverbs loads a provider by the name in its .driver file; others than rxe's it would only
    # complain about.
    mkdir -p "$tree/etc/libibverbs.d"
    cp /etc/libibverbs.d/rxe.driver "$tree/etc/libibverbs.d/"
    for path in /usr/lib/*/libibverbs/librxe-rdmav*.so; do
      paths+=("$path")
      into_tree "$tree" "$path" "$path"
    done
    for path in $(libraries "${paths[@]}"); do
      into_tree "$tree" "$path" "$path"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
    echo 'root:x:0:' >"$tree/etc/group"
    echo 'hosts: files' >"$tree/etc/nsswitch.conf"
    archive "$tree" "$tools"
    rm -rf "$tree"
    forget_others "$tools" "$cache"/tools-*.cpio
  fi
  echo "$tools"
}

# make_programs CACHE FILE...: prints the archive with these programs in /usr/bin, libraries among them
# in /usr/lib, and what they load.
make_programs() {
  local cache=$1 key programs tree path all
  shift
  all=$(libraries "$@") || return 1
  # shellcheck disable=SC2086  # the list is split on purpose
  key=$({ printf '%s\n' "$@"; cat "$image_folder/image.sh" "$@" $all; } | sha256sum | cut -c 1-12)
  programs=$cache/programs-$key.cpio
  if [ ! -f "$programs" ]; then
    say 'Making the image of programs'
    tree=$(mktemp -d "$cache/tree.XXXXXX")
    for path in "$@"; do
      case $path in
        *.so) into_tree "$tree" "$path" "usr/lib/$(basename "$path")" ;;
        *) into_tree "$tree" "$path" "usr/bin/$(basename "$path")" ;;
      esac
    done
    for path in $all; do
      into_tree "$tree" "$path" "$path"
    done
    archive "$tree" "$programs"
    rm -rf "$tree"
    forget_others "$programs" "$cache"/programs-*.cpio
  fi
  echo "$programs"
}
