"""Parameter servers under faults at random points: kills, freezes, several at once.

Every push of a worker adds 1 to every parameter, so what the servers hold tells how often each push
was counted. Run with a number of seeds:

  tests/integration/ps_faults_test.py --runs 50 [--seed 1] [--transport tcp|rdma]

Under ctest a few seeds run; GWTEST_PS_FAULTS sets how many.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import unittest

import harness

PS_WORKER = os.environ.get("GWTEST_PS_WORKER", "")
RUNS = int(os.environ.get("GWTEST_PS_FAULTS", "6"))
ELEMENTS = 100_000
LIMIT = 60  # seconds for a run: nothing may hang


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
        for reader in self.readers:
            reader.join(5)
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


def values(worker):
    match = worker.wait_for(r"^min (-?\d+) max (-?\d+) failovers (\d+) staleness (-?\d+)", 0)
    return [int(part) for part in match.groups()] if match else None


def server_dies(test, rng, transport, how):
    """One of three servers with replicas dies or freezes: nobody fails, every push counts once."""
    consistency = rng.choice(["bsp", "ssp", "asp"])
    op = rng.choice(["push", "push_pull", "tensors"])
    job = Job(rng, transport, 3, consistency, replica=True)
    try:
        steps = 60
        for number in range(3):
            job.add_worker(number, steps, op, rng.choice([0, 2000, 10000]))
        first = job.workers[0]
        test.assertTrue(first.wait_for("^joined", 30), job.everything())
        at = rng.randrange(0, steps - 5)
        while first.acked() < at and first.child.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        victim = rng.randrange(3)
        job.servers[victim].kill(how)
        end = time.monotonic() + LIMIT
        codes = [worker.end(end - time.monotonic()) for worker in job.workers]
        what = "%s %s %s server %d at %d" % (consistency, op, how.name, victim, at)
        test.assertEqual(codes, [0, 0, 0], what + "\n" + job.everything())
        results = [values(worker) for worker in job.workers]
        if consistency == "bsp":
            for least, most, _, _ in results:
                test.assertEqual((least, most), (3 * steps, 3 * steps), what)
        # Under ssp and asp who ends last has seen everybody's pushes.
        test.assertEqual(max(r[1] for r in results), 3 * steps, what + str(results))
        test.assertEqual(max(r[0] for r in results), 3 * steps, what + str(results))
        if consistency == "ssp":
            test.assertLessEqual(max(r[3] for r in results), 2, what)
    finally:
        job.close()


def worker_dies(test, rng, transport, how):
    """A worker dies or freezes under ssp or asp: the others go on, and it may come again."""
    consistency = rng.choice(["ssp", "asp"])
    job = Job(rng, transport, 2, consistency, replica=rng.random() < 0.5)
    try:
        steps = 60
        for number in range(3):
            job.add_worker(number, steps, "push_pull", rng.choice([0, 1000, 5000]))
        victim = job.workers[rng.randrange(3)]
        test.assertTrue(victim.wait_for("^joined", 30), job.everything())
        at = rng.randrange(0, steps - 5)
        while victim.acked() < at and victim.child.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.01)
        victim.kill(how)
        others = [worker for worker in job.workers if worker is not victim]
        end = time.monotonic() + LIMIT
        what = "%s %s worker at %d" % (consistency, how.name, at)
        for worker in others:
            test.assertEqual(worker.end(end - time.monotonic()), 0, what + "\n" + job.everything())
        acked = victim.acked()
        number = job.workers.index(victim) if rng.random() < 0.5 else -1
        if how == signal.SIGSTOP and number >= 0:
            # Its number is taken until the servers have given it up.
            time.sleep(4)
        again = job.add_worker(number, 5, "push_pull", 0)
        test.assertEqual(again.end(end - time.monotonic()), 0, what + "\n" + job.everything())
        least, most, _, _ = values(again)
        done = sum(worker.acked() for worker in others) + 5
        # What was acknowledged counts once; the victim's last push may have counted in part.
        test.assertGreaterEqual(least, done + acked, what)
        test.assertLessEqual(most, done + acked + 1, what)
    finally:
        job.close()


def bsp_loses_a_worker(test, rng, transport):
    """Under bsp the job fails and names who was lost, or shrinks and goes on."""
    shrink = rng.random() < 0.5
    job = Job(rng, transport, 2, "bsp", replica=False, on_loss="shrink" if shrink else "fail")
    try:
        steps = 60
        for number in range(3):
            job.add_worker(number, steps, "push_pull", 1000)
        victim = rng.randrange(3)
        test.assertTrue(job.workers[victim].wait_for("^joined", 30), job.everything())
        at = rng.randrange(1, steps - 10)
        while job.workers[victim].acked() < at and job.workers[victim].child.poll() is None:
            time.sleep(0.002)
        job.workers[victim].kill()
        end = time.monotonic() + LIMIT
        for number, worker in enumerate(job.workers):
            if number == victim:
                continue
            code = worker.end(end - time.monotonic())
            if shrink:
                test.assertEqual(code, 0, job.everything())
            else:
                test.assertEqual(code, 1, job.everything())
                test.assertIn("worker %d" % victim, worker.text())
    finally:
        job.close()


def server_dies_alone(test, rng, transport):
    """Without replicas a dead server ends the workers, with its address and a remedy."""
    job = Job(rng, transport, 2, "asp", replica=False)
    try:
        for number in range(2):
            job.add_worker(number, 10_000, "push_pull", 1000)
        test.assertTrue(job.workers[0].wait_for("^acked %d$" % rng.randrange(1, 40), 30),
                        job.everything())
        victim = rng.randrange(2)
        job.servers[victim].kill()
        end = time.monotonic() + LIMIT
        for worker in job.workers:
            test.assertEqual(worker.end(end - time.monotonic()), 1, job.everything())
            test.assertIn("server %d at 127.0.0.1:%d" % (victim, job.ports[victim]), worker.text())
            test.assertIn("--restore", worker.text())
    finally:
        job.close()


SCENARIOS = [
    ("server killed", lambda t, r, x: server_dies(t, r, x, signal.SIGKILL), 4),
    ("server frozen", lambda t, r, x: server_dies(t, r, x, signal.SIGSTOP), 1),
    ("worker killed", lambda t, r, x: worker_dies(t, r, x, signal.SIGKILL), 2),
    ("worker frozen", lambda t, r, x: worker_dies(t, r, x, signal.SIGSTOP), 1),
    ("worker killed, bsp", bsp_loses_a_worker, 1),
    ("server killed, no replica", server_dies_alone, 1),
]


def one(test, seed, transport):
    rng = random.Random(seed)
    deck = [scenario for scenario in SCENARIOS for _ in range(scenario[2])]
    name, run, _ = deck[seed % len(deck)] if seed < len(deck) else rng.choice(deck)
    started = time.monotonic()
    run(test, rng, transport)
    return name, time.monotonic() - started


class PsFaultsTest(unittest.TestCase):
    def test_random_faults_tcp(self):
        for seed in range(RUNS):
            with self.subTest(seed=seed):
                one(self, seed, "tcp")

    def test_random_faults_urxe(self):
        for seed in range(RUNS):
            with self.subTest(seed=seed):
                one(self, 100 + seed, "rdma")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transport", choices=["tcp", "rdma"], action="append")
    options = parser.parse_args()
    test = unittest.TestCase()
    failed = 0
    for i in range(options.runs):
        transports = options.transport or ["tcp", "rdma"]
        transport = transports[i % len(transports)]
        seed = options.seed + i
        try:
            name, seconds = one(test, seed, transport)
            print("seed %d %s %s: ok (%.1f s)" % (seed, transport, name, seconds), flush=True)
        except AssertionError as error:
            failed += 1
            print("seed %d %s: FAILED\n%s" % (seed, transport, error), flush=True)
    print("%d runs, %d failed" % (options.runs, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("--"):
        sys.exit(main())
    unittest.main()
