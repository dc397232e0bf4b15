"""What happens when ranks die, freeze, differ or do not come, and when strangers call.

The promise everywhere: an error on every rank that names who and what, never a hang, and no harm to
a job that is not at fault.
"""

import json
import os
import random
import re
import signal
import socket
import struct
import sys
import time
import unittest

from harness import WORKER, ProcessTest, free_port, listeners, seconds


class FaultsTest(ProcessTest):

    def loop(self, ranks, *arguments, flags=(), env=None, time_s=40):
        """A running job that all-reduces; returns it and the pids of its ranks."""
        job = self.worker(ranks, "loop", "--seconds", time_s, *arguments, flags=flags, env=env)
        found = job.wait_for(r"joined (\d+) of \d+, pid (\d+)", ranks)
        job.wait_for("looping", ranks)
        return job, {int(match.group(1)): int(match.group(2)) for match in found}

    def assertSurvives(self, job):
        """The loop of a protected job still runs, goes on, and ends well when asked to."""
        time.sleep(0.3)
        self.assertIsNone(job.process.poll(), job.output("err"))
        os.unlink(self.running)
        self.assertCode(job.finish(20), 0)

    # --- Death ---

    def kill_one(self, ranks, victim, *arguments, number=signal.SIGKILL, count=4_000_000, env=None):
        job, pids = self.loop(ranks, "--count", count, *arguments, flags=("--settle", "30s"),
                              env=env)
        time.sleep(0.3)
        start = time.monotonic()
        os.kill(pids[victim], number)
        result = job.finish(40)
        elapsed = time.monotonic() - start
        self.assertCode(result, 128 + number)
        self.assertLess(elapsed, seconds(5), result)
        self.assertIn("rank %d (pid %d) was killed" % (victim, pids[victim]), result.err)
        for rank in set(range(ranks)) - {victim}:
            # By itself, before the launcher would have sent a signal: it names the dead rank and
            # what it was doing.
            text = result.of_rank(rank)
            self.assertRegex(text, r"gradwire: rank %d: .*rank %d\b" % (rank, victim), result)
            self.assertRegex(text, "all_reduce of %d float" % count, result)
        self.assertNotIn("SIGTERM", result.err)

    def test_killed_rank_ends_the_others(self):
        self.kill_one(4, 2)

    def test_killed_first_rank_ends_the_others(self):
        # Rank 0 hosts the rendezvous, so nobody is left to tell the others.
        self.kill_one(3, 0)

    def test_killed_neighbour_of_two(self):
        self.kill_one(2, 1)

    def test_killed_rank_in_small_collectives(self):
        self.kill_one(4, 3, count=10)

    def test_killed_over_tcp(self):
        self.kill_one(4, 2, "--transport", "tcp")
        self.kill_one(3, 0, "--transport", "tcp")

    def test_killed_over_urxe_by_packets(self):
        self.kill_one(3, 1, "--device", "urxe", env={"URXE_PATH": "udp"})
        self.kill_one(3, 0, "--device", "urxe", count=10, env={"URXE_PATH": "udp"})

    def test_killed_during_join(self):
        port = free_port()
        command = "[ $RANK = 1 ] && kill -KILL $$; exec %s loop --join-timeout 3s" % WORKER
        result = self.launch(3, "sh", "-c", command,
                             flags=("--port", port, "--settle", "20s")).finish(40)
        self.assertCode(result, 128 + signal.SIGKILL)
        for rank in (0, 2):
            self.assertRegex(result.of_rank(rank), r"gradwire: .*\b1\b", result)
        self.assertLess(result.elapsed, seconds(8), result)

    # --- Absence ---

    def test_rank_that_never_joins_is_named(self):
        command = "[ $RANK = 1 ] && exec sleep 30; exec %s loop --join-timeout 2s" % WORKER
        result = self.launch(3, "sh", "-c", command, flags=("--settle", "1s")).finish(40)
        self.assertFailed(result)
        for rank in (0, 2):
            text = result.of_rank(rank)
            self.assertRegex(text, r"(?i)(missing|absent|not joined|wait).*\b1\b", result)
            self.assertRegex(text, r"(?i)(present|joined|here|there)", result)
        self.assertLess(result.elapsed, seconds(12))

    def test_first_rank_that_never_joins_is_named(self):
        command = "[ $RANK = 0 ] && exec sleep 30; exec %s loop --join-timeout 2s" % WORKER
        result = self.launch(2, "sh", "-c", command, flags=("--settle", "1s")).finish(40)
        self.assertFailed(result)
        self.assertRegex(result.of_rank(1), r"gradwire: .*(rank 0|127\.0\.0\.1:\d+)", result)

    def test_late_ranks_are_waited_for(self):
        command = "[ $RANK = 0 ] && sleep 1.5; exec %s loop --seconds 0.1" % WORKER
        self.assertCode(self.launch(3, "sh", "-c", command).finish(), 0)

    def freeze_one(self, victim, *arguments, env=None):
        job, pids = self.loop(3, "--count", 100_000, "--op-timeout", "2s", *arguments,
                              flags=("--settle", "8s", "--grace", "1s"), env=env)
        os.kill(pids[victim], signal.SIGSTOP)
        start = time.monotonic()
        result = job.finish(60)
        self.assertFailed(result)
        for rank in set(range(3)) - {victim}:
            text = result.of_rank(rank)
            self.assertRegex(text, r"gradwire: rank %d: .*rank %d\b" % (rank, victim), result)
            self.assertRegex(text, r"all_reduce of 100000 float", result)
        self.assertLess(time.monotonic() - start, seconds(25), result)

    def test_frozen_rank_is_named(self):
        self.freeze_one(1)

    def test_frozen_first_rank_is_named(self):
        # It hosts the rendezvous: nobody gathers what the others are doing.
        self.freeze_one(0)

    def test_frozen_over_tcp(self):
        self.freeze_one(1, "--transport", "tcp")

    def test_frozen_over_urxe_by_packets(self):
        self.freeze_one(1, "--device", "urxe", env={"URXE_PATH": "udp"})

    # --- Difference ---

    def test_different_counts_over_tcp(self):
        self.differ(["--count", 1000, "--odd-count", 1001, "--transport", "tcp"], 1000, 1001)

    def differ(self, arguments, *values, op_timeout="20s"):
        """Rank 1 of 3 differs; every rank must say who and both values."""
        result = self.worker(3, "differ", "--odd-rank", 1, "--op-timeout", op_timeout, *arguments,
                             flags=("--settle", "15s")).finish(60)
        self.assertFailed(result)
        self.assertNotIn("SIGTERM", result.err, result)
        for rank in range(3):
            text = result.of_rank(rank)
            self.assertRegex(text, r"gradwire: rank %d: " % rank, result)
            self.assertRegex(text, r"rank 1\b", result)
            for value in values:
                self.assertIn(str(value), text, result)
        self.assertLess(result.elapsed, seconds(15), result)

    def test_different_counts(self):
        self.differ(["--count", 1000, "--odd-count", 1001], 1000, 1001)

    def test_different_counts_of_large_tensors(self):
        self.differ(["--count", 3_000_000, "--odd-count", 2_000_000], 3_000_000, 2_000_000)

    def test_small_against_large(self):
        # Over RDMA, ranks that want other links than their peers wait for them until the deadline.
        self.differ(["--count", 10, "--odd-count", 2_000_000], 10, 2_000_000, op_timeout="4s")
        self.differ(["--count", 10, "--odd-count", 2_000_000, "--transport", "tcp"], 10, 2_000_000)

    def test_nothing_against_something(self):
        self.differ(["--count", 1000, "--odd-count", 0], 1000)

    def test_different_types(self):
        self.differ(["--type", "float", "--odd-type", "int32"], "float", "int32")

    def test_different_types_of_equal_bytes(self):
        self.differ(["--count", 1000, "--type", "float",
                     "--odd-count", 500, "--odd-type", "double"], "float", "double")

    def test_different_operations(self):
        self.differ(["--op", "sum", "--odd-op", "max"], "sum", "max")

    def test_different_collectives(self):
        calls = ["--call", "all_reduce", "--odd-call", "all_gather"]
        self.differ(calls, "all_reduce", "all_gather", op_timeout="4s")  # as above
        self.differ([*calls, "--transport", "tcp"], "all_reduce", "all_gather")

    def test_collective_against_barrier(self):
        self.differ(["--call", "all_reduce", "--odd-call", "barrier"], "all_reduce", "barrier")

    def test_different_roots(self):
        # A root is done as soon as it has sent, so only ranks that receive can know.
        result = self.worker(3, "differ", "--odd-rank", 1, "--call", "broadcast", "--odd-call",
                             "broadcast", "--odd-root", 2, "--op-timeout", "5s",
                             flags=("--settle", "15s")).finish(60)
        self.assertFailed(result)
        self.assertRegex(result.err, r"gradwire: rank \d: broadcast of 1000 float from rank")
        self.assertLess(result.elapsed, seconds(12), result)

    # --- Strangers ---

    def stranger(self, port, **variables):
        """A process that wants to join the job at `port`."""
        env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env.update(variables)
        return self.run_to_end(WORKER, "loop", "--seconds", 1, "--join-timeout", "5s", env=env,
                               timeout=30)

    def protected_job(self, *arguments):
        port = free_port()
        self.running = os.path.join(self.folder(), "running")
        open(self.running, "w").close()
        job, pids = self.loop(2, "--count", 1000, "--while-exists", self.running, *arguments,
                              flags=("--port", port), env={"GRADWIRE_TOKEN": "right"})
        return job, pids, port

    def test_wrong_token(self):
        job, _, port = self.protected_job()
        for token in ({"GRADWIRE_TOKEN": "wrong"}, {}):
            result = self.stranger(port, **token)
            self.assertFailed(result)
            self.assertRegex(result.err, "(?i)token")
            self.assertNotIn("right", result.err)
        self.assertSurvives(job)

    def test_wrong_token_while_the_job_forms(self):
        port = free_port()
        command = ("[ $RANK = 1 ] && sleep 3; exec %s loop --seconds 0.5" % WORKER)
        job = self.launch(2, "sh", "-c", command, flags=("--port", port),
                          env={"GRADWIRE_TOKEN": "right"})
        time.sleep(seconds(0.7))
        result = self.stranger(port, GRADWIRE_TOKEN="wrong")
        self.assertFailed(result)
        self.assertRegex(result.err, "(?i)token")
        self.assertCode(job.finish(), 0)

    def test_wrong_world_size(self):
        job, _, port = self.protected_job()
        result = self.stranger(port, GRADWIRE_TOKEN="right", RANK="2", WORLD_SIZE="3")
        self.assertFailed(result)
        self.assertRegex(result.err, r"of a world of 3, .* complete with its 2 ranks")
        self.assertSurvives(job)

    def test_rank_twice(self):
        job, _, port = self.protected_job()
        result = self.stranger(port, GRADWIRE_TOKEN="right")
        self.assertFailed(result)
        self.assertRegex(result.err, r"rank 1\b")
        self.assertSurvives(job)

    def test_other_job_id(self):
        job, _, port = self.protected_job()
        result = self.stranger(port, GRADWIRE_TOKEN="right", GRADWIRE_JOB_ID="other")
        self.assertFailed(result)
        self.assertIn("other", result.err)
        self.assertSurvives(job)

    def test_second_job_on_the_port(self):
        job, _, port = self.protected_job()
        second = self.worker(2, "loop", "--seconds", 1, "--join-timeout", "5s",
                             flags=("--port", port, "--settle", "6s"),
                             env={"GRADWIRE_TOKEN": "second"}).finish(40)
        self.assertFailed(second)
        self.assertRegex(second.of_rank(0), r"%d" % port, second)
        self.assertSurvives(job)

    def addresses_of(self, pids):
        """Where the ranks listen: each for data, rank 0 for the control plane too."""
        addresses = set()
        for pid in pids.values():
            own = listeners(pid)
            self.assertGreaterEqual(len(own), 1)
            addresses |= own
        self.assertGreater(len(addresses), len(pids))
        return addresses

    def test_port_scan(self):
        job, pids, _ = self.protected_job("--transport", "tcp")
        for address in self.addresses_of(pids):
            for linger in (True, False):
                for _ in range(20):
                    with socket.create_connection(address, 5) as caller:
                        if linger:  # a reset instead of an orderly end
                            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                              struct.pack("ii", 1, 0))
        self.assertSurvives(job)

    def test_garbage(self):
        job, pids, _ = self.protected_job("--transport", "tcp")
        source = random.Random(7)
        pieces = [b"\0", b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000,
                  b"\xff" * 100_000, struct.pack(">QQQ", 2**64 - 1, 2**63, 2**32)]
        pieces += [source.randbytes(source.randrange(1, 5000)) for _ in range(30)]
        for address in self.addresses_of(pids):
            for piece in pieces:
                with socket.create_connection(address, 5) as caller:
                    try:
                        caller.sendall(piece)
                    except ConnectionError:
                        pass  # turned away while we wrote
        self.assertSurvives(job)

    def test_connections_that_say_nothing(self):
        job, pids, _ = self.protected_job("--transport", "tcp")
        callers = []
        for address in self.addresses_of(pids):
            for _ in range(30):
                callers.append(socket.create_connection(address, 5))
                self.addCleanup(callers[-1].close)
        self.assertSurvives(job)

    def test_strangers_at_the_data_ports_while_links_form(self):
        # The data ports open between joining and the first collective; call them all the time.
        job = self.worker(4, "loop", "--seconds", 3, "--count", 1000, "--transport", "tcp")
        found = job.wait_for(r"joined (\d+) of \d+, pid (\d+)", 1)
        end = time.monotonic() + 2
        while time.monotonic() < end and job.process.poll() is None:
            for match in found:
                try:
                    addresses = listeners(int(match.group(2)))
                except FileNotFoundError:
                    continue
                for address in addresses:
                    try:
                        with socket.create_connection(address, 1) as caller:
                            caller.sendall(b"\xff" * 512)
                    except OSError:
                        pass
        self.assertCode(job.finish(), 0)

    def test_strangers_at_the_roce_port(self):
        """Whatever comes to UDP port 4791 changes counters, not results."""
        urxe = self.urxe(path="udp")
        listed = self.gradwire("devices", "--json", "-")
        device = next(entry for entry in json.loads(listed.out)["devices"]
                      if entry["kind"] == "user")
        address = device["gids"][0]["address"]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.running = os.path.join(self.folder(), "running")
        open(self.running, "w").close()
        job, _ = self.loop(2, "--count", 100_000, "--while-exists", self.running, "--device",
                           "urxe", env=urxe.env)
        source = random.Random(7)
        end = time.monotonic() + 2
        with socket.socket(family, socket.SOCK_DGRAM) as stranger:
            while time.monotonic() < end and job.process.poll() is None:
                head = struct.pack(">BBHII", source.randrange(256), source.randrange(256), 0xffff,
                                   source.randrange(1, 4) << 16 | source.randrange(8),
                                   source.randrange(1 << 32))
                for data in (source.randbytes(source.randrange(64)),
                             head + source.randbytes(source.randrange(1100))):
                    stranger.sendto(data, (address, 4791))
        self.assertSurvives(job)
        self.assertGreater(urxe.counted("malformed") + urxe.counted("icrc_errors"), 0)


if __name__ == "__main__":
    unittest.main()
