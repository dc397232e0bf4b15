"""What the process-level tests share: starting programs under a deadline and looking at them.

Every test runs real processes. Times are stretched by GWTEST_SLOWNESS (sanitizer builds are
slower); deadlines that are part of a promise are stretched by it too.
"""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

PROGRAM = os.environ.get("GWTEST_PROGRAM", "")  # ctest sets these
WORKER = os.environ.get("GWTEST_WORKER", "")
SLOWNESS = float(os.environ.get("GWTEST_SLOWNESS", "1"))

# Another launcher's variables must not decide who we are.
_FOREIGN = re.compile(
    r"^(GRADWIRE_|GWTEST_|URXE_|OMPI_|PMI|SLURM_|RANK$|WORLD_SIZE$|LOCAL_|GROUP_|MASTER_|JOB_COMPLETION)"
)

_SANITIZER = re.compile(r"(Address|Leak|Thread|UndefinedBehavior)Sanitizer|: runtime error: ")


def environment(extra=None):
    clean = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    clean.update(extra or {})
    return clean


class Urxe:
    """Settings of urxe for ranks to come, and what it counted in those that have ended."""

    def __init__(self, folder, **settings):
        self._folder = folder
        self.env = {"URXE_" + name.upper(): value for name, value in settings.items()}
        self.env["URXE_COUNTERS"] = os.path.join(folder, "%p.counters")

    def counted(self, name):
        total = 0
        for file in os.listdir(self._folder):
            with open(os.path.join(self._folder, file)) as lines:
                for line in lines:
                    words = line.split()
                    if words[:1] == [name]:
                        total += int(words[1])
        return total


def kernel_has_device():
    try:
        return bool(os.listdir("/sys/class/infiniband"))
    except FileNotFoundError:
        return False


def seconds(promised):
    return promised * SLOWNESS


class Result:
    def __init__(self, command, code, out, err, elapsed):
        self.command = command
        self.code = code
        self.out = out
        self.err = err
        self.elapsed = elapsed

    def __str__(self):
        return "%s\nexit code %s after %.1f s\n--- stdout\n%s\n--- stderr\n%s" % (
            " ".join(self.command), self.code, self.elapsed, self.out[-4000:], self.err[-8000:])

    def of_rank(self, rank):
        """Everything that `rank` wrote, stdout then stderr, without its prefix."""
        prefix = "[%d] " % rank
        lines = self.out.splitlines() + self.err.splitlines()
        return "\n".join(line[len(prefix):] for line in lines if line.startswith(prefix))


class Running:
    """A started process whose output is gathered while it runs."""

    def __init__(self, command, env=None, cwd=None):
        self.command = [str(word) for word in command]
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            self.command, env=environment(env), cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True)
        self._chunks = {"out": [], "err": []}
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._gather, args=(self.process.stdout, "out"), daemon=True),
            threading.Thread(target=self._gather, args=(self.process.stderr, "err"), daemon=True)]
        for thread in self._threads:
            thread.start()

    def _gather(self, stream, name):
        for line in stream:
            with self._news:
                self._chunks[name].append(line)
                self._news.notify_all()

    @property
    def pid(self):
        return self.process.pid

    def output(self, name="out"):
        with self._news:
            return "".join(self._chunks[name])

    def wait_for(self, pattern, count=1, timeout=30, name="out"):
        """Waits until `pattern` has matched `count` times; returns the matches."""
        deadline = time.monotonic() + seconds(timeout)
        with self._news:
            while True:
                found = list(re.finditer(pattern, "".join(self._chunks[name]), re.MULTILINE))
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and
                                 not any(t.is_alive() for t in self._threads)):
                    raise AssertionError("%r seen %d of %d times in\n%s\n%s" % (
                        pattern, len(found), count, "".join(self._chunks["out"]),
                        "".join(self._chunks["err"])))
                self._news.wait(min(left, 0.1))

    def kill(self):
        """Ends the process and, through it, its ranks."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def finish(self, timeout=60):
        try:
            code = self.process.wait(seconds(timeout))
        except subprocess.TimeoutExpired:
            self.kill()
            code = "none: still running at the deadline"
        elapsed = time.monotonic() - self.start
        for thread in self._threads:
            thread.join(5)
        if _SANITIZER.search(self.output("err")):
            raise AssertionError("a sanitizer reports:\n" + self.output("err")[-8000:])
        return Result(self.command, code, self.output("out"), self.output("err"), elapsed)


class ProcessTest(unittest.TestCase):
    """Starts processes and leaves none behind."""

    def start(self, *command, env=None, cwd=None):
        running = Running(command, env, cwd)

        def clean():
            running.kill()
            for stream in (running.process.stdout, running.process.stderr):
                stream.close()
        self.addCleanup(clean)
        return running

    def run_to_end(self, *command, env=None, cwd=None, timeout=60):
        return self.start(*command, env=env, cwd=cwd).finish(timeout)

    def gradwire(self, *arguments, **more):
        return self.run_to_end(PROGRAM, *arguments, **more)

    def launch(self, ranks, *command, flags=(), **more):
        return self.start(PROGRAM, "launch", "-n", ranks, *flags, "--", *command, **more)

    def worker(self, ranks, *arguments, flags=(), **more):
        return self.launch(ranks, WORKER, *arguments, flags=flags, **more)

    def urxe(self, **settings):
        return Urxe(self.folder(), **settings)

    def folder(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return folder.name

    def assertCode(self, result, code):
        self.assertEqual(result.code, code, result)

    def assertFailed(self, result):
        self.assertIsInstance(result.code, int, result)
        self.assertNotEqual(result.code, 0, result)

    def assertOneLine(self, result, pattern, code=2):
        """The promise for misuse: this code, one line on stderr, nothing on stdout."""
        self.assertCode(result, code)
        self.assertEqual(result.out, "", result)
        self.assertEqual(len(result.err.splitlines()), 1, result)
        self.assertRegex(result.err, pattern)


def python(code):
    """A command that runs `code` in this interpreter."""
    return [sys.executable, "-c", code]


def alive(pid):
    """True unless `pid` is gone or a zombie."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition, timeout=5):
    deadline = time.monotonic() + seconds(timeout)
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def listeners(pid):
    """Addresses (host, port) at which `pid` listens for TCP."""
    inodes = set()
    for entry in os.listdir("/proc/%d/fd" % pid):
        try:
            target = os.readlink("/proc/%d/fd/%s" % (pid, entry))
        except FileNotFoundError:
            continue
        found = re.match(r"socket:\[(\d+)\]", target)
        if found:
            inodes.add(found.group(1))
    addresses = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            with open("/proc/%d/net/%s" % (pid, table)) as file:
                rows = file.read().splitlines()[1:]
        except FileNotFoundError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] != "0A" or fields[9] not in inodes:  # 0A: LISTEN
                continue
            digits, _, port = fields[1].partition(":")
            words = [int(digits[i:i + 8], 16) for i in range(0, len(digits), 8)]
            packed = struct.pack("=%dI" % len(words), *words)
            host = socket.inet_ntop(family, packed)
            addresses.add(({"::": "::1", "0.0.0.0": "127.0.0.1"}.get(host, host), int(port, 16)))
    return addresses


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_ports(count):
    """Ports that are free and all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
