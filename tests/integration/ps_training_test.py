"""Training by a parameter server as a user runs it, beside all-reduce, and what it survives."""

import json
import os
import re
import resource
import signal
import unittest

from harness import PROGRAM, ProcessTest, eventually, free_port
from training_test import read_safetensors

TCP = ("--transport", "tcp")


def pids_by_rank(launcher):
    with open("/proc/%d/task/%d/children" % (launcher, launcher)) as file:
        pids = [int(word) for word in file.read().split()]
    ranks = {}
    for pid in pids:
        with open("/proc/%d/environ" % pid) as file:
            ranks[int(re.search(r"\0RANK=(\d+)", "\0" + file.read()).group(1))] = pid
    return ranks


def relative_difference(a, b):
    """Of two lists of numbers: |a - b| / |b|, L2."""
    difference = sum((x - y) ** 2 for x, y in zip(a, b))
    return (difference / sum(y * y for y in b)) ** 0.5


class PsTrainingTest(ProcessTest):

    def begin(self, ranks, *arguments, flags=(), env=None):
        """Starts a job; returns it and the file that its summary will be in."""
        summary = os.path.join(self.folder(), "summary.json")
        job = self.launch(ranks, PROGRAM, "train", "--summary", summary, *arguments, flags=flags,
                          env=env)
        return job, summary

    def train(self, ranks, *arguments, timeout=90, env=None):
        """Trains to the end; returns the summary."""
        job, path = self.begin(ranks, *arguments, env=env)
        self.assertCode(job.finish(timeout), 0)
        return self.read(path)

    def read(self, path):
        with open(path) as file:
            return json.load(file)

    def ps(self, workers, servers, *arguments, **more):
        return self.train(workers + servers, "--strategy", "ps", "--servers", servers, *arguments,
                          **more)

    def whole_checkpoint(self, folder, step):
        """All tensors of a sharded checkpoint, by name."""
        file = os.path.join(self.folder(), "whole.safetensors")
        self.assertCode(self.gradwire("ps", "export", os.path.join(folder, "step-%06d" % step),
                                      file), 0)
        return read_safetensors(file)[1]

    # --- Against all-reduce ---

    def compare_with_all_reduce(self, workers, servers, *arguments, ps=(), env=None):
        options = ("--epochs", 3, "--batch", 50, "--seed", 5) + arguments
        steps = 3 * 29
        mine, theirs = self.folder(), self.folder()
        expected = self.train(workers, *options, "--checkpoint", theirs, env=env)
        actual = self.ps(workers, servers, *options, "--checkpoint", mine, "--checkpoint-every",
                         steps, *ps, env=env)
        self.assertEqual(actual["steps"], steps)
        self.assertEqual((actual["workers"], actual["servers"]), (workers, servers))
        self.assertEqual(actual["max_staleness"], 0)
        self.assertLessEqual(abs(actual["test_accuracy"] - expected["test_accuracy"]), 0.002)
        _, reference = read_safetensors(os.path.join(theirs, "step-%d.safetensors" % steps))
        tensors = self.whole_checkpoint(mine, steps)
        self.assertEqual(set(tensors), set(reference))
        for name, (shape, values) in reference.items():
            self.assertEqual(tensors[name][0], shape, name)
            self.assertLess(relative_difference(tensors[name][1], values), 1e-4, name)
        if workers == 2:  # a + b is b + a
            self.assertEqual(actual["parameters_checksum"], expected["parameters_checksum"])
        return actual

    def test_bsp_is_all_reduce_over_tcp(self):
        summary = self.compare_with_all_reduce(3, 2, *TCP, "--optimizer", "adam", "--lr-schedule",
                                               "cosine:80:0.1,warmup:5", "--clip-value", 0.05)
        self.assertEqual(summary["transport"], "tcp")
        # Each step moves the model's 9,610 numbers once in each direction, and the first values.
        self.assertEqual(summary["bytes_pulled"], (87 + 1) * 9610 * 4)
        self.assertEqual(summary["bytes_pushed"], (87 + 1) * 9610 * 4)

    def test_bsp_is_all_reduce_with_a_tensor_larger_than_a_bucket(self):
        # Gradients then begin elsewhere in memory, which must not change a bit.
        self.compare_with_all_reduce(2, 2, *TCP, "--hidden", 512)

    def test_bsp_is_all_reduce_over_urxe(self):
        summary = self.compare_with_all_reduce(2, 1, "--device", "urxe", "--model", "cnn",
                                               ps=("--bucket-bytes", 1024))
        self.assertEqual(summary["transport"], "rdma")

    def test_bsp_is_all_reduce_over_packets(self):
        urxe = self.urxe(path="udp", faults="drop=0.01,reorder=0.01,seed=4")
        self.compare_with_all_reduce(2, 2, "--device", "urxe", env=urxe.env,
                                     ps=("--ps-threads", 2, "--ps-slice-bytes", "4K"))
        self.assertGreater(urxe.counted("packets_received"), 100)
        self.assertGreater(urxe.counted("faults_dropped"), 0)

    def test_clipped_by_norm_as_all_reduce(self):
        self.compare_with_all_reduce(2, 2, *TCP, "--clip-norm", 0.5)

    def test_digits_reach_their_accuracy(self):
        expected = self.train(2, *TCP)["test_accuracy"]
        self.assertGreaterEqual(expected, 0.97)
        for arguments in (("--consistency", "ssp", "--staleness", 3),
                          ("--consistency", "asp"),
                          ("--wire", "float16"),
                          ("--wire", "bfloat16")):
            with self.subTest(arguments=arguments):
                summary = self.ps(2, 1, *TCP, *arguments)
                self.assertGreaterEqual(summary["test_accuracy"], expected - 0.01)
                if "ssp" in arguments:
                    self.assertLessEqual(summary["max_staleness"], 3)
                if "--wire" in arguments:
                    self.assertEqual(summary["bytes_pushed"], (summary["steps"] + 1) * 9610 * 2)

    # --- What lasts ---

    def test_restored_into_another_number_of_servers(self):
        folder = self.folder()
        options = (*TCP, "--epochs", 6, "--optimizer", "adamw")
        whole = self.ps(2, 1, *options, "--checkpoint", folder, "--checkpoint-every", 50)
        self.assertEqual(sorted(os.listdir(folder)), ["step-000050", "step-000100"])
        # Sums are in the order of the workers wherever a shard lies: the same bits.
        for servers in (3, 1):
            resumed = self.ps(2, servers, *options, "--restore", os.path.join(folder, "step-000050"))
            self.assertEqual(resumed["steps"], whole["steps"])
            self.assertEqual(resumed["history"][0]["epoch"], 3)
            self.assertEqual(resumed["parameters_checksum"], whole["parameters_checksum"])

    def test_a_last_checkpoint_that_cannot_be_written_fails_the_server(self):
        folder = self.folder()
        job, _ = self.begin(3, "--strategy", "ps", "--epochs", 40, "--checkpoint", folder,
                            "--checkpoint-every", 20, *TCP)
        job.wait_for("epoch +1/40", 1)
        resource.prlimit(pids_by_rank(job.process.pid)[2], resource.RLIMIT_FSIZE, (1000, 1000))
        result = job.finish(60)
        self.assertCode(result, 1)
        self.assertRegex(result.of_rank(2), "the last checkpoint is not on disk: .*File too large")
        self.assertIn("done:", result.of_rank(0))  # training itself went on to its end

    def test_replica_takes_over(self):
        for consistency in ("bsp", "ssp"):
            with self.subTest(consistency=consistency):
                job, path = self.begin(4, "--strategy", "ps", "--servers", 2, "--replica",
                                       "--consistency", consistency, *TCP,
                                       flags=("--keep-going",))
                job.wait_for(r"epoch +4/")
                os.kill(pids_by_rank(job.pid)[3], signal.SIGKILL)
                self.assertCode(job.finish(90), 0)
                summary = self.read(path)
                self.assertGreaterEqual(summary["failovers"], 1)
                self.assertEqual(summary["steps"], 30 * 23)
                self.assertGreaterEqual(summary["test_accuracy"], 0.965)

    def test_server_lost_without_a_replica_is_named(self):
        job, _ = self.begin(3, "--strategy", "ps", "--epochs", 1_000_000, *TCP,
                            flags=("--settle", "30s"))
        job.wait_for(r"epoch +2/")
        os.kill(pids_by_rank(job.pid)[2], signal.SIGKILL)
        result = job.finish(40)
        self.assertFailed(result)
        for rank in (0, 1):
            self.assertRegex(result.of_rank(rank), r"gradwire: rank %d: .*server 0 at" % rank)

    def test_ssp_goes_on_without_a_killed_worker(self):
        job, path = self.begin(4, "--strategy", "ps", "--consistency", "ssp", "--staleness", 2,
                               *TCP, flags=("--keep-going",))
        job.wait_for(r"epoch +4/")
        os.kill(pids_by_rank(job.pid)[1], signal.SIGKILL)
        self.assertCode(job.finish(90), 0)
        summary = self.read(path)
        self.assertEqual(summary["workers"], 3)
        self.assertLessEqual(summary["members"], 2)
        self.assertLessEqual(summary["max_staleness"], 2)
        self.assertGreaterEqual(summary["test_accuracy"], 0.96)

    def test_bsp_fails_with_a_killed_worker(self):
        job, _ = self.begin(4, "--strategy", "ps", "--epochs", 1_000_000, *TCP,
                            flags=("--settle", "30s"))
        job.wait_for(r"epoch +2/")
        os.kill(pids_by_rank(job.pid)[1], signal.SIGKILL)
        result = job.finish(40)
        self.assertFailed(result)
        self.assertNotIn("SIGTERM", result.err)  # all ended by themselves
        for rank in (0, 2, 3):
            self.assertRegex(result.of_rank(rank), r"gradwire: rank %d: .*worker 1\b.* lost" % rank,
                             result)

    def test_bsp_shrinks_to_the_others(self):
        job, path = self.begin(4, "--strategy", "ps", "--on-loss", "shrink", *TCP,
                               flags=("--keep-going",))
        job.wait_for(r"epoch +4/")
        os.kill(pids_by_rank(job.pid)[1], signal.SIGKILL)
        self.assertCode(job.finish(90), 0)
        summary = self.read(path)
        self.assertEqual((summary["workers"], summary["steps"]), (3, 30 * 23))
        self.assertLessEqual(summary["members"], 2)
        self.assertGreaterEqual(summary["test_accuracy"], 0.96)

    # --- Standing servers ---

    def test_worker_comes_back_to_a_standing_server(self):
        port = free_port()
        server = self.start(PROGRAM, "ps", "serve", "--port", port, "--address", "127.0.0.1",
                            "--consistency", "asp", *TCP)
        server.wait_for(r"server 0 of 1 at 127\.0\.0\.1:%d" % port)
        train = (PROGRAM, "train", "--strategy", "ps", "--ps-servers", "127.0.0.1:%d" % port, *TCP)
        summary = os.path.join(self.folder(), "summary.json")
        stays = self.start(*train, "--epochs", 60, "--summary", summary)
        stays.wait_for(r"epoch +1/")
        dies = self.start(*train, "--epochs", 1_000_000)
        dies.wait_for(r"epoch +\d+/")
        os.kill(dies.pid, signal.SIGKILL)
        again = self.start(*train, "--epochs", 60)
        found = again.wait_for(r"from step (\d+)")
        self.assertGreater(int(found[0].group(1)), 0)
        self.assertCode(stays.finish(60), 0)
        self.assertCode(again.finish(60), 0)
        self.assertGreaterEqual(self.read(summary)["test_accuracy"], 0.96)
        self.assertTrue(eventually(lambda: server.process.poll() is None))
        os.kill(server.pid, signal.SIGTERM)
        self.assertCode(server.finish(20), 0)

    # --- Ends ---

    def test_target_ends_all(self):
        for consistency in ("bsp", "asp"):
            summary = self.ps(2, 1, "--consistency", consistency, "--target-accuracy", 0.9, *TCP)
            self.assertLess(summary["epochs"], 30)
            self.assertGreaterEqual(summary["test_accuracy"], 0.9)

    def test_divergence_names_step_and_epoch(self):
        result = self.launch(3, PROGRAM, "train", "--strategy", "ps", "--lr", "1e30", *TCP).finish()
        self.assertCode(result, 1)
        self.assertRegex(result.err, r"gradwire: rank \d: step \d+ \(epoch 1\): the loss is")

    def test_lines_fit_a_terminal(self):
        result = self.launch(3, PROGRAM, "train", "--strategy", "ps", "--epochs", 2).finish()
        self.assertCode(result, 0)
        for pattern in (r"2 workers, 1 server: bsp", r"shard 0: 38440 bytes", r"done: test 0\.\d+"):
            self.assertRegex(result.of_rank(0), pattern)
        lines = result.of_rank(0).splitlines()
        for line in lines[1:]:  # the first tells of the device, at any length
            self.assertLessEqual(len(line), 80, line)

    def test_bad_input_is_one_line(self):
        ps = ("--strategy", "ps")
        standing = ps + ("--ps-servers", "127.0.0.1:1")
        for pattern, arguments in (
                (r"--strategy", ("--strategy", "gossip")),
                (r"--servers is for --strategy ps", ("--servers", 2)),
                (r"--wire is for --strategy ps", ("--wire", "float16")),
                (r"--consistency is for --strategy ps", ("--consistency", "asp")),
                (r"--servers 1: the job has 1 rank", ps),
                (r"--servers 0: must be positive", ps + ("--servers", 0)),
                (r"consistency", ps + ("--consistency", "eventual")),
                (r"--staleness is for --consistency ssp", ps + ("--staleness", 2)),
                (r"--wire int32: is none of", ps + ("--wire", "int32")),
                (r"--ps-window 1\b|--window 1\b", ps + ("--ps-window", 1)),
                (r"--replica needs another server", ps + ("--replica",)),
                (r"--check-checksums is for --strategy allreduce", ps + ("--check-checksums",)),
                (r"--checkpoint-every needs --checkpoint", ps + ("--checkpoint-every", 5)),
                (r"lamb.*needs --consistency bsp", ps + ("--optimizer", "lamb", "--consistency",
                                                         "asp")),
                (r"--lr is the servers'", standing + ("--lr", 0.1)),
                (r"--servers is the servers'", standing + ("--servers", 1))):
            self.assertOneLine(self.gradwire("train", *arguments), pattern, 2)
        result = self.launch(2, PROGRAM, "train", *ps, "--servers", 2).finish()
        self.assertCode(result, 2)
        self.assertRegex(result.err, r"--servers 2: the job has 2 ranks")


if __name__ == "__main__":
    unittest.main()
