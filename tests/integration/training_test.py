"""Training as a user runs it: ranks as processes, files as others read them."""

import hashlib
import json
import os
import re
import signal
import struct
import unittest

from harness import PROGRAM, ProcessTest, seconds


def read_safetensors(path):
    """The format from its description alone: metadata, and {name: (shape, values)}, in file order."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end:
            raise AssertionError("a gap or an overlap before " + name)
        if entry["dtype"] != "F32":
            raise AssertionError("%s is %s" % (name, entry["dtype"]))
        count = 1
        for side in entry["shape"]:
            count *= side
        if last - first != 4 * count:
            raise AssertionError("%s has %d bytes" % (name, last - first))
        tensors[name] = (entry["shape"], struct.unpack("<%df" % count, data[first:last]))
        end = last
    if end != len(data):
        raise AssertionError("%d bytes behind the tensors" % (len(data) - end))
    return metadata, tensors


class TrainingTest(ProcessTest):

    def train(self, ranks, *arguments, timeout=90, env=None):
        """Trains; returns the summary and the loss of each step."""
        folder = self.folder()
        summary = os.path.join(folder, "summary.json")
        metrics = os.path.join(folder, "metrics.jsonl")
        result = self.launch(ranks, PROGRAM, "train", "--summary", summary, "--metrics", metrics,
                             *arguments, env=env).finish(timeout)
        self.assertCode(result, 0)
        with open(summary) as file:
            summary = json.load(file)
        with open(metrics) as file:
            lines = [json.loads(line) for line in file]
        self.assertEqual(summary["world_size"], ranks)
        return summary, [line["loss"] for line in lines if line["event"] == "step"]

    def test_same_curve_at_any_number_of_ranks(self):
        # 50 divides neither by 3 or 4 nor the 1,438 samples.
        arguments = ("--epochs", 3, "--batch", 50, "--seed", 5, "--check-checksums")
        one, expected = self.train(1, *arguments)
        self.assertEqual(len(expected), 3 * 29)
        self.assertLess(expected[-1], expected[0] / 4)
        for ranks in (2, 3, 4):
            summary, losses = self.train(ranks, *arguments)
            self.assertEqual(len(losses), len(expected))
            for step, (a, b) in enumerate(zip(losses, expected)):
                self.assertAlmostEqual(a, b, delta=2e-4, msg="step %d, %d ranks" % (step, ranks))
            self.assertTrue(summary["checksums_checked"])
            self.assertGreater(summary["comm_seconds"], 0)
            self.assertGreater(summary["bytes_sent"], 0)

    def test_every_transport_gives_the_same_bits(self):
        arguments = ("--epochs", 2, "--seed", 7, "--check-checksums")
        tcp, _ = self.train(3, *arguments, "--transport", "tcp")
        self.assertEqual(tcp["transport"], "tcp")
        for settings in ({}, {"path": "udp"},
                         {"path": "udp", "faults": "drop=0.01,reorder=0.01,seed=4"}):
            with self.subTest(settings=settings):
                urxe = self.urxe(**settings)
                rdma, _ = self.train(3, *arguments, "--device", "urxe", env=urxe.env)
                self.assertEqual(rdma["transport"], "rdma")
                self.assertRegex(rdma["device"], r"^rdma on urxe0 \(.*user-space RoCE v2")
                self.assertEqual(rdma["parameters_checksum"], tcp["parameters_checksum"])
                if settings:
                    self.assertGreater(urxe.counted("packets_received"), 100)
                    self.assertEqual(urxe.counted("local_operations"), 0)
                if "faults" in settings:
                    self.assertGreater(urxe.counted("faults_dropped"), 0)

    def test_digits_reach_their_accuracy(self):
        summary, _ = self.train(4, "--check-checksums")
        self.assertGreaterEqual(summary["test_accuracy"], 0.97)
        self.assertLess(summary["seconds"], seconds(60))

    def test_resumed_run_is_bit_equal(self):
        folder = self.folder()
        arguments = ("--model", "cnn", "--optimizer", "adam")
        whole, _ = self.train(2, *arguments, "--epochs", 4)
        self.train(2, *arguments, "--epochs", 2, "--checkpoint", folder)
        resumed, _ = self.train(2, *arguments, "--epochs", 4, "--checkpoint", folder, "--resume")
        self.assertEqual(resumed["parameters_checksum"], whole["parameters_checksum"])
        self.assertEqual(resumed["steps"], whole["steps"])
        self.assertEqual(sorted(os.listdir(folder)),
                         ["step-46.safetensors", "step-69.safetensors", "step-92.safetensors"])

    def test_checkpoint_is_readable_by_others(self):
        folder = self.folder()
        summary, _ = self.train(2, "--epochs", 1, "--checkpoint", folder, "--seed", 9)
        metadata, tensors = read_safetensors(os.path.join(folder, "step-23.safetensors"))
        self.assertEqual(metadata["step"], "23")
        self.assertEqual(metadata["seed"], "9")
        self.assertEqual(metadata["model"], "mlp 64-128-10")
        shapes = {name: shape for name, (shape, _) in tensors.items()}
        self.assertEqual(shapes["dense1.weight"], [128, 64])
        self.assertEqual(shapes["dense2.bias"], [10])
        self.assertEqual(shapes["optimizer.velocity.dense1.weight"], [128, 64])
        parameters = b"".join(struct.pack("<%df" % len(values), *values)
                              for name, (_, values) in tensors.items()
                              if not name.startswith("optimizer."))
        self.assertEqual(hashlib.sha256(parameters).hexdigest(), summary["parameters_checksum"])

    def test_killed_rank_is_named(self):
        job = self.launch(3, PROGRAM, "train", "--epochs", 1_000_000, flags=("--settle", "30s"))
        job.wait_for(r"epoch +5/")
        children = "/proc/%d/task/%d/children" % (job.pid, job.pid)
        with open(children) as file:
            pids = [int(word) for word in file.read().split()]
        of_rank = {}
        for pid in pids:
            with open("/proc/%d/environ" % pid) as file:
                of_rank[int(re.search(r"\0RANK=(\d+)", "\0" + file.read()).group(1))] = pid
        os.kill(of_rank[1], signal.SIGKILL)
        result = job.finish(20)
        self.assertFailed(result)
        for rank in (0, 2):
            self.assertRegex(result.of_rank(rank), r"gradwire: rank %d: .*rank 1\b" % rank, result)

    def test_divergence_names_step_and_epoch(self):
        result = self.launch(2, PROGRAM, "train", "--lr", "1e30").finish()
        self.assertCode(result, 1)
        for rank in (0, 1):
            self.assertRegex(result.of_rank(rank), r"step \d+ \(epoch 1\): the loss is", result)

    def test_bad_input_is_one_line(self):
        folder = self.folder()
        for pattern, arguments, code in (
                (r"--data /no/such: no such folder", ("--data", "/no/such"), 2),
                (r"no file train-images-idx3-ubyte", ("--data", folder), 2),
                (r"--batch 0: must be positive", ("--batch", 0), 2),
                (r"--batch 1439: is outside 1\.\.1438", ("--batch", 1439), 2),
                (r"--model rnn", ("--model", "rnn"), 2),
                (r"--hidden is for --model mlp", ("--model", "cnn", "--hidden", 3), 2),
                (r"--lr 0: must be positive", ("--lr", 0), 2),
                (r"--epochs", ("--epochs", "many"), 2),
                (r"--resume needs", ("--resume",), 2),
                (r"no step-N\.safetensors to resume from", ("--resume", folder), 2),
                (r"/no/such/s: cannot write here", ("--summary", "/no/such/s"), 2),
                (r"--metrics /no/such/m: cannot write", ("--metrics", "/no/such/m"), 2),
                (r"--checkpoint /proc/x: cannot make the folder", ("--checkpoint", "/proc/x"), 2),
                (r"--checkpoint /proc/step: cannot write", ("--checkpoint", "/proc"), 2),
                (r"--seed: -1 is outside 0\.\.", ("--seed", -1), 2),
                (r"--device 'mlx5_0'", ("--device", "mlx5_0"), 2)):
            self.assertOneLine(self.gradwire("train", *arguments), pattern, code)
        path = os.path.join(folder, "train-images-idx3-ubyte")
        with open(path, "wb") as file:
            file.write(struct.pack(">IIII", 0x803, 2, 28, 28) + b"short")
        with open(os.path.join(folder, "train-labels-idx1-ubyte"), "wb") as file:
            file.write(struct.pack(">II", 0x801, 2) + b"\1\2")
        self.assertOneLine(self.gradwire("train", "--data", folder),
                           re.escape(path) + r": ends early at offset 21", 1)

    def test_alone_nothing_is_hidden_as_nothing_is_sent(self):
        path = os.path.join(self.folder(), "summary.json")
        result = self.gradwire("train", "--epochs", 1, "--summary", path)
        self.assertCode(result, 0)
        self.assertIn("0.00 s comm (0% hidden)", result.out)
        with open(path) as file:
            self.assertEqual(json.load(file)["overlap_ratio"], 0)

    def test_demo_of_one(self):
        result = self.gradwire("demo", "--ranks", 1, "--epochs", 1)
        self.assertCode(result, 0)
        self.assertIn("with 1 local rank\n", result.out)
        self.assertNotIn("Training loss", result.out)  # one point is no curve
        for arguments, pattern in ((("--data", "/no/such"), "--data /no/such: no such folder"),
                                   (("--device", "mlx5_0"), "--device 'mlx5_0'"),
                                   (("--epochs", "x"), "--epochs: 'x' is not a whole number")):
            self.assertOneLine(self.gradwire("demo", *arguments), pattern)

    def test_demo_tells_what_it_cost(self):
        result = self.gradwire("demo", "--ranks", 2, "--epochs", 3, timeout=60)
        self.assertCode(result, 0)
        for pattern in (r"Training loss over 3 epochs", r"Test accuracy +0\.9", r"samples/s on 2 ranks",
                        r"MB sent by rank 0", r"equal on all ranks after every step"):
            self.assertRegex(result.out, pattern)
        for line in result.out.splitlines():
            self.assertLessEqual(len(line), 80, line)


if __name__ == "__main__":
    unittest.main()
