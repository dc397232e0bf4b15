"""Processes of the parameter server's fault tests: servers with workers, and whole training jobs."""

import os
import re
import signal
import subprocess
import threading
import time

import harness

PS_WORKER = os.environ.get("GWTEST_PS_WORKER", "")
ELEMENTS = 100_000


class Process:
    """A program whose output is read as it comes."""

    def __init__(self, command, env):
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      env=harness.environment(env), text=True)
        self.lines = []
        self.errors = []
        self.changed = threading.Condition()
        self.readers = [threading.Thread(target=self._read, args=pair, daemon=True)
                        for pair in ((self.child.stdout, self.lines), (self.child.stderr, self.errors))]
        for reader in self.readers:
            reader.start()

    def _read(self, stream, into):
        for line in stream:
            with self.changed:
                into.append(line.rstrip("\n"))
                self.changed.notify_all()

    def wait_for(self, pattern, limit):
        """The first match in stdout; None when it does not come."""
        end = time.monotonic() + limit
        with self.changed:
            while True:
                for line in self.lines:
                    match = re.search(pattern, line)
                    if match:
                        return match
                if time.monotonic() > end or self.child.poll() is not None:
                    return None
                self.changed.wait(0.1)

    def acked(self):
        with self.changed:
            return sum(line.startswith("acked ") for line in self.lines)

    def kill(self, how=signal.SIGKILL):
        if self.child.poll() is None:
            self.child.send_signal(how)

    def end(self, limit):
        """The exit code; None for a process that had to be killed for not ending."""
        try:
            code = self.child.wait(max(0.1, limit))
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            code = None
        for reader, stream in zip(self.readers, (self.child.stdout, self.child.stderr)):
            reader.join(5)
            if not reader.is_alive():
                stream.close()
        return code

    def text(self):
        return "\n".join(self.lines[-5:] + self.errors[-8:])


class Job:
    """Servers and workers of one run."""

    def __init__(self, rng, transport, servers, consistency, replica, workers=3, on_loss="fail"):
        self.rng = rng
        self.env = {
            "GRADWIRE_TRANSPORT": transport,
            "GRADWIRE_HEARTBEAT_TIMEOUT": "3s",
            "GRADWIRE_HEARTBEAT_INTERVAL": "200ms",
            "GRADWIRE_OP_TIMEOUT": "30s",
            "GRADWIRE_SOCKET_INTERFACE": "lo",
        }
        self.ports = harness.free_ports(servers)
        self.addresses = ",".join("127.0.0.1:%d" % port for port in self.ports)
        self.servers = []
        for index, port in enumerate(self.ports):
            command = [harness.PROGRAM, "ps", "serve", "--address", "127.0.0.1",
                       "--port", str(port), "--index", str(index), "--of", str(servers),
                       "--consistency", consistency, "--optimizer", "sgd", "--lr", "1",
                       "--slice-bytes", "16K"]
            if consistency == "bsp":
                command += ["--workers", str(workers), "--on-loss", on_loss]
            if consistency == "ssp":
                command += ["--staleness", "2"]
            if replica:
                command += ["--replica", "--peers", self.addresses]
            self.servers.append(Process(command, self.env))
        self.workers = []

    def add_worker(self, number, steps, op, pause_us):
        worker = Process([PS_WORKER, self.addresses, str(number), str(steps), str(ELEMENTS), op,
                          str(pause_us)], self.env)
        self.workers.append(worker)
        return worker

    def close(self):
        for process in self.servers + self.workers:
            process.kill(signal.SIGCONT)
            process.kill()
            process.end(5)

    def everything(self):
        return "\n".join("--- %s %d\n%s" % (kind, i, p.text())
                         for kind, group in (("server", self.servers), ("worker", self.workers))
                         for i, p in enumerate(group))


class Training:
    """A job `gradwire train --strategy ps`, its ranks started one by one."""

    def __init__(self, transport, world, *arguments, rendezvous="", heartbeat_timeout="1s"):
        self.world = world
        self.arguments = [str(argument) for argument in arguments]
        self.env = {
            "GRADWIRE_TRANSPORT": transport,
            "GRADWIRE_HEARTBEAT_TIMEOUT": heartbeat_timeout,
            "GRADWIRE_HEARTBEAT_INTERVAL": "200ms",
            "GRADWIRE_JOIN_TIMEOUT": "6s",
            "GRADWIRE_OP_TIMEOUT": "30s",
            "GRADWIRE_SOCKET_INTERFACE": "lo",
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(harness.free_port()),
        }
        if rendezvous:
            self.env["GRADWIRE_RENDEZVOUS"] = rendezvous
        self.ranks = []

    def start(self, ranks):
        for _ in range(ranks):
            rank = str(len(self.ranks))
            self.ranks.append(Process(
                [harness.PROGRAM, "train", "--strategy", "ps", *self.arguments],
                {**self.env, "RANK": rank, "LOCAL_RANK": rank}))

    def close(self):
        for process in self.ranks:
            process.kill(signal.SIGCONT)
            process.kill()
            process.end(5)

    def everything(self):
        return "\n".join("--- rank %d\n%s" % (i, p.text()) for i, p in enumerate(self.ranks))
