#!/usr/bin/env python3
"""Boots the virtual machines of the lab, shows what they say, and ends them.

Called by run.sh. The VMs are joined by socket pairs that only their QEMU processes hold: no port to
choose, no root, nobody else on the wire, and a full queue makes the sender wait, so that a packet is
lost only when somebody asked for it.

Exit code: that of the first script that failed, else 0; 1 when a VM does not come up or ends by
itself, 124 when the time is over, 130 and 143 after SIGINT and SIGTERM.
"""

import argparse
import ctypes
import io
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

SETTLE = 60  # seconds that the other scripts have after the first that failed
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class LabError(Exception):
    """One line for the user; the second value is the exit code."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


def die_with_parent():
    # Also when we are killed by SIGKILL, no VM is left behind.
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """One VM: its process, its output and its result."""

    def __init__(self, rank, options, links):
        self.rank = rank
        self.name = "vm%d" % rank
        self.folder = options.folder
        self.kernel_log = os.path.join(options.folder, self.name + ".kernel.log")
        self.result_path = os.path.join(options.folder, self.name + ".result")
        self.shell_path = os.path.join(options.folder, self.name + ".shell")
        self.ready = False
        self.code = None
        self.out = None
        self.partial = b""
        self.process = subprocess.Popen(
            self.command(options, links), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, pass_fds=[link.fileno() for link in links],
            start_new_session=True, preexec_fn=die_with_parent)
        os.set_blocking(self.process.stdout.fileno(), False)

    def command(self, options, links):
        command = [
            "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
            "-name", "gradwire-lab-" + self.name, "-machine", "q35", "-accel", options.accel,
            "-cpu", "host" if options.accel == "kvm" else "max", "-smp", str(options.cpus),
            "-m", str(options.memory), "-kernel", options.kernel, "-initrd", options.initrd,
            "-append", "console=ttyS0 loglevel=5 panic=-1 mitigations=off lab_rank=%d" % self.rank,
            "-chardev", "file,id=kernel,path=" + self.kernel_log, "-serial", "chardev:kernel",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", "file,id=output,path=/dev/stdout",
            "-device", "virtserialport,chardev=output,name=lab.output",
            "-chardev", "file,id=result,path=" + self.result_path,
            "-device", "virtserialport,chardev=result,name=lab.result"]
        if options.keep:
            command += ["-chardev", "socket,id=shell,server=on,wait=off,path=" + self.shell_path,
                        "-device", "virtconsole,chardev=shell"]
        if links:
            # Two VMs: one wire. More: the first one's QEMU is also the hub that all wires lead to.
            wires = ["wire%d" % number for number in range(len(links))]
            for wire, link in zip(wires, links):
                command += ["-netdev", "socket,id=%s,fd=%d" % (wire, link.fileno())]
            wire = wires[0]
            if len(links) > 1:
                for name in wires:
                    command += ["-netdev", "hubport,id=hub-%s,hubid=0,netdev=%s" % (name, name)]
                command += ["-netdev", "hubport,id=hub,hubid=0"]
                wire = "hub"
        else:
            command += ["-netdev", "hubport,id=alone,hubid=0"]
            wire = "alone"
        command += ["-device", "virtio-net-pci,netdev=%s,mac=52:54:00:67:77:%02x,host_mtu=%d"
                    % (wire, self.rank, options.mtu)]
        return command

    def show(self):
        """Prints the whole lines that have come; False at the end of the output."""
        data = self.process.stdout.read()
        if data is None:
            return True
        *lines, self.partial = (self.partial + data).split(b"\n")
        if not data and self.partial:
            lines.append(self.partial)
            self.partial = b""
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            print("%s| %s" % (self.name, text), flush=True)
        return bool(data)

    def look(self):
        """Reads what the guest has reported: "ready", then "done CODE SIZE" and a tar of SIZE."""
        try:
            with open(self.result_path, "rb") as file:
                report = file.read()
        except FileNotFoundError:
            return
        self.ready = self.ready or report.startswith(b"ready\n")
        head, newline, rest = report[len(b"ready\n"):].partition(b"\n")
        words = head.split()
        if newline and self.code is None and len(words) == 3 and len(rest) >= int(words[2]):
            self.code = int(words[1])
            self.out = rest[:int(words[2])]

    def trouble(self):
        """The last line in which the guest's init says why it cannot go on."""
        try:
            with open(self.kernel_log, errors="replace") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return ""
        for line in reversed(lines):
            if line.startswith("lab: ") or "Kernel panic" in line:
                return line
        return ""

    def save(self, folder):
        """Unpacks what the script put into /out: ordinary files and folders only."""
        target = os.path.join(folder, self.name)
        os.makedirs(target, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(self.out)) as archive:
            for member in archive:
                path = os.path.normpath(os.path.join(target, member.name))
                if path != target and not path.startswith(target + os.sep):
                    raise LabError("%s has a file outside of /out: %s" % (self.name, member.name))
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                elif member.isfile():
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with open(path, "wb") as file:
                        shutil.copyfileobj(archive.extractfile(member), file)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()  # its memory is all there is: nothing to be saved
        self.process.wait()


class Lab:

    def __init__(self, options):
        self.options = options
        self.machines = []
        self.selector = selectors.DefaultSelector()

    def start(self):
        pairs = [socket.socketpair() for _ in range(self.options.vms - 1)]
        try:
            for rank in range(self.options.vms):
                links = [pair[0] for pair in pairs] if rank == 0 else [pairs[rank - 1][1]]
                machine = Machine(rank, self.options, links)
                self.machines.append(machine)
                self.selector.register(machine.process.stdout, selectors.EVENT_READ, machine)
        finally:
            for end in (end for pair in pairs for end in pair):
                end.close()

    def step(self):
        """Passes on output for a moment and looks after every VM."""
        for key, _ in self.selector.select(timeout=0.1):
            if not key.data.show():
                self.selector.unregister(key.fileobj)
        for machine in self.machines:
            machine.look()
            if machine.code is not None:
                continue
            trouble = machine.trouble()
            if trouble:
                raise LabError("%s: %s" % (machine.name, trouble))
            if machine.process.poll() is not None:
                machine.show()
                raise LabError("%s: qemu ended with code %d before the script did"
                               % (machine.name, machine.process.returncode))

    def wait(self, done, seconds, what, code=1):
        """Steps until every VM is `done`; LabError when some are not within `seconds`."""
        end = time.monotonic() + seconds
        while not all(done(machine) for machine in self.machines):
            if time.monotonic() > end:
                late = [machine.name for machine in self.machines if not done(machine)]
                raise LabError("%s: not %s within %d s" % (", ".join(late), what, seconds), code)
            self.step()
            yield

    def run(self):
        options = self.options
        begin = time.monotonic()
        self.start()
        for _ in self.wait(lambda machine: machine.ready, options.boot_timeout, "ready"):
            pass
        print("tests/lab: %d VMs ready after %.0f s (%s)"
              % (options.vms, time.monotonic() - begin, options.accel), file=sys.stderr, flush=True)
        failed = None
        for _ in self.wait(lambda machine: machine.code is not None, options.timeout, "done", 124):
            if failed is None:
                failed = next((machine for machine in self.machines if machine.code), None)
                failed_at = time.monotonic()
            elif time.monotonic() > failed_at + SETTLE:
                break
        while any(key.data.show() for key, _ in self.selector.select(timeout=0)):
            pass
        failed = failed or next((machine for machine in self.machines if machine.code), None)
        for machine in self.machines:
            if machine.out is not None and options.out:
                machine.save(options.out)
        if options.keep:
            self.keep()
        if failed:
            raise LabError("the script on %s ended with code %d" % (failed.name, failed.code),
                           failed.code)

    def keep(self):
        print("tests/lab: the VMs stay until Ctrl-C; a shell on each:", file=sys.stderr)
        for machine in self.machines:
            print("  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:%s" % machine.shell_path,
                  file=sys.stderr, flush=True)
        while True:
            self.step()

    def end(self):
        for machine in self.machines:
            machine.end()


def boots(options):
    """Whether a VM with these options comes as far as its init within the boot timeout."""
    machine = Machine(0, options, [])
    end = time.monotonic() + options.boot_timeout
    try:
        while time.monotonic() < end and machine.process.poll() is None:
            machine.look()
            if machine.ready:
                return True
            machine.process.stdout.read()
            time.sleep(0.1)
        return False
    finally:
        machine.end()


def main():
    parser = argparse.ArgumentParser()
    for name in ("kernel", "initrd", "folder"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--out", default="")
    parser.add_argument("--accel", default="tcg", choices=["tcg", "kvm"])
    for name, default in (("vms", 2), ("cpus", 1), ("memory", 1024), ("mtu", 4200)):
        parser.add_argument("--" + name, type=int, default=default)
    for name, default in (("timeout", 600), ("boot-timeout", 120)):
        parser.add_argument("--" + name, type=float, default=default)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--test-boot", action="store_true")
    options = parser.parse_args()

    def stop(number, _):
        for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(again, signal.SIG_IGN)
        raise LabError("ended by signal %d" % number, 128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    if options.test_boot:
        return 0 if boots(options) else 1
    lab = Lab(options)
    try:
        lab.run()
    except LabError as error:
        print("tests/lab: %s" % error, file=sys.stderr)
        for machine in lab.machines:
            if machine.code is None and os.path.exists(machine.kernel_log) and error.code == 1:
                print("tests/lab: the end of %s's kernel log:" % machine.name, file=sys.stderr)
                with open(machine.kernel_log, errors="replace") as file:
                    sys.stderr.write("".join("  " + line for line in file.readlines()[-8:]))
        return error.code
    finally:
        lab.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
