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
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import harness
from ps_processes import Job, Process, Training

RUNS = int(os.environ.get("GWTEST_PS_FAULTS", "6"))
LIMIT = 60  # seconds for a run: nothing may hang


class Rendezvous:
    """`gradwire rendezvous`, a meeting point of its own."""

    def __init__(self, test):
        self.process = Process([harness.PROGRAM, "rendezvous", "--port", "0", "--address",
                                "127.0.0.1"], {})
        found = self.process.wait_for(r"listening on (127\.0\.0\.1:\d+)$", 20)
        test.assertTrue(found, self.process.text())
        self.address = found.group(1)

    def close(self):
        self.process.kill(signal.SIGCONT)
        self.process.kill()
        self.process.end(5)


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


def rendezvous_waits(test, rng, transport, how):
    """What holds the rendezvous dies or freezes while ranks wait for the last: they name it."""
    hosted = rng.random() < 0.5
    rendezvous = None if hosted else Rendezvous(test)
    job = Training(transport, 4, rendezvous=rendezvous.address if rendezvous else "")
    try:
        job.start(3)
        time.sleep(0.5 + rng.random())
        victim = job.ranks[0] if hosted else rendezvous.process
        victim.kill(how)
        end = time.monotonic() + LIMIT
        # Who waits to join has no name for it but its address.
        name = job.env["MASTER_PORT"] if hosted else rendezvous.address
        for rank in job.ranks:
            if rank is victim:
                continue
            test.assertEqual(rank.end(end - time.monotonic()), 1, job.everything())
            test.assertRegex(rank.text(), "gradwire: .*rendezvous .*%s" % name)
    finally:
        job.close()
        if rendezvous:
            rendezvous.close()


def rendezvous_starts(test, rng, transport, how):
    """The rendezvous dies or freezes at any moment from joining to the first steps: every rank ends,
    well or with a line that names somebody."""
    rendezvous = Rendezvous(test)
    job = Training(transport, 3, "--epochs", 20, rendezvous=rendezvous.address)
    try:
        job.start(3)
        time.sleep(rng.random() * 0.7)
        rendezvous.process.kill(how)
        end = time.monotonic() + LIMIT
        for number, rank in enumerate(job.ranks):
            code = rank.end(end - time.monotonic())
            test.assertIn(code, (0, 1), "rank %d\n%s" % (number, job.everything()))
            if code == 1:
                test.assertRegex(rank.text(), r"gradwire: .*(rendezvous |server \d|worker \d)",
                                 job.everything())
    finally:
        job.close()
        rendezvous.close()


def rendezvous_is_behind(test, rng, transport, how):
    """The rendezvous dies or freezes when training has begun: nobody notices."""
    rendezvous = Rendezvous(test)
    consistency = rng.choice(["bsp", "ssp", "asp"])
    job = Training(transport, 4, "--servers", 2, "--consistency", consistency, "--epochs", 1_000_000,
                   rendezvous=rendezvous.address)
    try:
        job.start(4)
        begun = job.ranks[0].wait_for(r"epoch +%d/" % rng.randrange(1, 20), 30)
        test.assertTrue(begun, job.everything())
        rendezvous.process.kill(how)
        time.sleep(2.5)  # more than the heartbeat timeout twice
        lines = len(job.ranks[0].lines)
        time.sleep(0.5)
        for rank in job.ranks:
            test.assertIsNone(rank.child.poll(), job.everything())
            test.assertEqual(rank.errors, [], job.everything())
        test.assertGreater(len(job.ranks[0].lines), lines, job.everything())
    finally:
        job.close()
        rendezvous.close()


def host_is_behind(test, rng, transport, how):
    """Rank 0, which hosted the rendezvous, dies or freezes in mid-run: it counts as any worker."""
    consistency = rng.choice(["bsp", "ssp", "asp"])
    job = Training(transport, 4, "--consistency", consistency, "--epochs", 300)
    try:
        job.start(4)
        begun = job.ranks[0].wait_for(r"epoch +%d/" % rng.randrange(1, 20), 30)
        test.assertTrue(begun, job.everything())
        job.ranks[0].kill(how)
        end = time.monotonic() + LIMIT
        for rank in job.ranks[1:]:
            code = rank.end(end - time.monotonic())
            test.assertEqual(code, 1 if consistency == "bsp" else 0, job.everything())
            if code == 1:
                test.assertRegex(rank.text(), r"gradwire: rank \d: .*worker 0\b.* lost")
    finally:
        job.close()


def complete(folder):
    """The steps of the complete checkpoints in `folder`."""
    try:
        return sorted(int(name[5:]) for name in os.listdir(folder)
                      if os.path.exists(os.path.join(folder, name, "checkpoint.json")))
    except FileNotFoundError:
        return []


def limit_files(processes, limit):
    for process in processes:
        try:
            resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE,
                             (limit, resource.RLIM_INFINITY))
        except ProcessLookupError:
            pass  # it has ended


def spoil(rng, folder, writers):
    """From now on `writers` cannot write checkpoints into `folder`; returns how to undo it, and
    what they must say."""
    if rng.random() < 0.5:
        limit_files(writers, 1000)
        return lambda: limit_files(writers, resource.RLIM_INFINITY), "cannot write: File too large"
    away = folder + ".away"
    os.rename(folder, away)
    with open(folder, "w"):
        pass  # a file where the folder was

    def undo():
        os.remove(folder)
        os.rename(away, folder)
    return undo, "Not a directory|No such file"


def checkpoints_fail(test, rng, transport):
    """Servers cannot write checkpoints any more: training goes on, the last one stays whole."""
    with tempfile.TemporaryDirectory() as parent:
        folder = os.path.join(parent, "checkpoints")
        job = Training(transport, 4, "--servers", 2, "--epochs", 1_000_000, "--checkpoint", folder,
                       "--checkpoint-every", rng.choice([20, 100]), "--consistency",
                       rng.choice(["bsp", "ssp"]))
        again = None
        try:
            job.start(4)
            servers = job.ranks[2:]
            test.assertTrue(harness.eventually(lambda: complete(folder), 30), job.everything())
            undo, why = spoil(rng, folder, servers)
            warned = harness.eventually(
                lambda: any(re.search(why, line) for s in servers for line in s.errors), 30)
            test.assertTrue(warned, job.everything())
            lines = len(job.ranks[0].lines)
            test.assertTrue(harness.eventually(lambda: len(job.ranks[0].lines) > lines, 10))
            text = "\n".join(servers[0].errors + servers[1].errors)
            test.assertRegex(text, r"checkpoint: %s.*(%s)" % (re.escape(folder), why))
            kept = complete(folder if os.path.isdir(folder) else folder + ".away")
            test.assertTrue(kept, job.everything())
            undo()
            # With room again, so are checkpoints.
            test.assertTrue(harness.eventually(lambda: (complete(folder) or [0])[-1] > kept[-1], 30),
                            "none after step %d\n%s" % (kept[-1], job.everything()))
            undo, why = spoil(rng, folder, servers)
            time.sleep(0.5)
            for rank in job.ranks:
                test.assertIsNone(rank.child.poll(), job.everything())
            job.close()
            undo()
            kept = complete(folder)
            test.assertTrue(kept)
            # The newest of them is whole: read into one file, and trained on.
            newest = os.path.join(folder, "step-%06d" % kept[-1])
            export = subprocess.run([harness.PROGRAM, "ps", "export", newest,
                                     os.path.join(parent, "model.safetensors")],
                                    env=harness.environment(), capture_output=True, timeout=30)
            test.assertEqual(export.returncode, 0, export.stderr)
            epochs = kept[-1] // 23 + 2
            again = Training(transport, 3, "--epochs", epochs, "--restore", folder)
            again.start(3)
            end = time.monotonic() + LIMIT
            for rank in again.ranks:
                test.assertEqual(rank.end(end - time.monotonic()), 0, again.everything())
            test.assertIn("from step %d" % kept[-1], "\n".join(again.ranks[0].lines))
        finally:
            job.close()
            if again:
                again.close()


def no_folder(test, rng, transport):
    """A folder that cannot be written ends a job before its first step; the line names it."""
    with tempfile.TemporaryDirectory() as parent:
        blocked = os.path.join(parent, "file")
        with open(blocked, "w"):
            pass
        folder = os.path.join(blocked, "checkpoints")
        job = Training(transport, 4, "--servers", rng.choice([1, 2]), "--checkpoint", folder)
        try:
            job.start(4)
            end = time.monotonic() + LIMIT
            for rank in job.ranks:
                test.assertEqual(rank.end(end - time.monotonic()), 1, job.everything())
            test.assertRegex(job.everything(), r"gradwire: rank \d: .*" + re.escape(folder))
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
    ("rendezvous killed", lambda t, r, x: rendezvous_waits(t, r, x, signal.SIGKILL), 1),
    ("rendezvous frozen", lambda t, r, x: rendezvous_waits(t, r, x, signal.SIGSTOP), 1),
    ("rendezvous killed, start", lambda t, r, x: rendezvous_starts(t, r, x, signal.SIGKILL), 1),
    ("rendezvous frozen, start", lambda t, r, x: rendezvous_starts(t, r, x, signal.SIGSTOP), 1),
    ("rendezvous killed, run", lambda t, r, x: rendezvous_is_behind(t, r, x, signal.SIGKILL), 1),
    ("rendezvous frozen, run", lambda t, r, x: rendezvous_is_behind(t, r, x, signal.SIGSTOP), 1),
    ("host killed, run", lambda t, r, x: host_is_behind(t, r, x, signal.SIGKILL), 1),
    ("host frozen, run", lambda t, r, x: host_is_behind(t, r, x, signal.SIGSTOP), 1),
    ("checkpoints fail", checkpoints_fail, 2),
    ("no folder", no_folder, 1),
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

    def each(self, *names):
        """Every scenario whose name begins with one of `names`."""
        for name, run, _ in SCENARIOS:
            if name.startswith(names):
                with self.subTest(name):
                    run(self, random.Random(name), "tcp")

    def test_rendezvous_is_lost(self):
        self.each("rendezvous ")

    def test_host_of_the_rendezvous_is_lost(self):
        self.each("host ")

    def test_checkpoints_cannot_be_written(self):
        self.each("checkpoints fail", "no folder")


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
