"""The RDMA examples as users start them: over urxe, unless the kernel has a device."""

import os
import unittest

from harness import PROGRAM, ProcessTest, kernel_has_device, seconds

FOLDER = os.path.dirname(PROGRAM)
NAMES = ("bulk_rdma_vs_tcp", "connect_and_write", "device_query", "fetch_and_add", "write_vs_read",
         "write_with_imm")


class RdmaExamplesTest(ProcessTest):

    def path(self, name):
        return os.path.join(FOLDER, "example_rdma_" + name)

    def test_each_is_built_and_takes_no_argument(self):
        for name in NAMES:
            with self.subTest(name=name):
                result = self.run_to_end(self.path(name), "surplus")
                self.assertCode(result, 2)
                self.assertRegex(result.err, "^usage: .*example_rdma_" + name)

    def test_a_pair_alone_is_told_about_the_launcher(self):
        for name in NAMES:
            if name == "device_query":
                continue
            with self.subTest(name=name):
                result = self.run_to_end(self.path(name))
                self.assertCode(result, 2)
                self.assertIn("gradwire launch", result.err)

    def test_three_ranks_are_one_too_many(self):
        result = self.launch(3, self.path("write_with_imm")).finish()
        self.assertCode(result, 2)
        self.assertIn("two are needed", result.err)

    @unittest.skipIf(kernel_has_device(), "this host has an RDMA device")
    def test_without_a_device_the_remedy_is_told(self):
        # Not even urxe has one with a setting that it does not know.
        env = {"URXE_PATH": "pigeon"}
        result = self.run_to_end(self.path("device_query"), env=env)
        self.assertCode(result, 1)
        self.assertRegex(result.err, "URXE_PATH.*pigeon")
        self.assertRegex(result.err, "no RDMA device.*gradwire doctor")
        for name in NAMES:
            if name == "device_query":
                continue
            with self.subTest(name=name):
                result = self.launch(2, self.path(name), env=env).finish()
                self.assertCode(result, 1)
                self.assertRegex(result.err, "no RDMA device.*gradwire doctor")

    def test_device_query_names_limits(self):
        result = self.run_to_end(self.path("device_query"))
        self.assertCode(result, 0)
        self.assertRegex(result.out, r"Gradwire would use rdma on \w+")
        self.assertRegex(result.out, r"queue pairs +[1-9]")

    def test_each_prints_its_answer(self):
        self.answers({})

    def test_each_prints_its_answer_by_packets(self):
        self.answers({"GRADWIRE_DEVICE": "urxe", "URXE_PATH": "udp"})

    def answers(self, env):
        for name, answer in (("connect_and_write", "all 1048576 bytes are what rank 0 wrote"),
                             ("write_with_imm", "immediate 8 came with 0 bytes"),
                             ("fetch_and_add", "1000 counts by FETCH_AND_ADD, the counter says 1000"),
                             ("write_vs_read", "262144 +[0-9]"),
                             ("bulk_rdma_vs_tcp", "RDMA is [0-9.]+ times as fast as TCP")):
            with self.subTest(name=name):
                result = self.launch(2, self.path(name), env=env).finish(seconds(120))
                self.assertCode(result, 0)
                self.assertRegex(result.out, answer)


if __name__ == "__main__":
    unittest.main()
