"""gradwire bench beyond collectives: links, gradients of a model, two configurations, other libraries."""

import json
import os
import unittest

from harness import ProcessTest


class BenchTest(ProcessTest):

    def bench(self, *arguments, code=0, **more):
        """Runs it with a report; returns the rows of the table and the report."""
        file = os.path.join(self.folder(), "report.json")
        result = self.gradwire("bench", *arguments, "-J", file, **more)
        self.assertCode(result, code)
        with open(file) as stored:
            report = json.load(stored)
        for key in ("start_time", "args"):
            self.assertTrue(report[key])
        for key in ("cpu_model", "cores", "kernel"):
            self.assertTrue(report["machine"][key])
        lines = result.out.splitlines()
        self.assertIn("Out of bounds values : 0 OK", result.out)
        # The device says what it is in as many words as that takes.
        for line in lines:
            if not line.startswith(("# gradwire: ", "#    ", "# Wrote")):
                self.assertLessEqual(len(line), 80, line)
        return [line.split() for line in lines if not line.startswith("#")], report

    def assertOfTwoRanks(self, report):
        self.assertEqual([device["rank"] for device in report["devices"]], [0, 1])
        self.assertTrue(report["devices"][0]["device_info"])
        self.assertIn("slice-bytes", report["settings"])

    def assertCosts(self, row):
        self.assertAlmostEqual(row["cpu_s_per_gb"], row["user_s_per_gb"] + row["system_s_per_gb"])
        for key in ("voluntary_switches_per_call", "involuntary_switches_per_call",
                    "syscalls_per_call", "blocks_per_call", "copies_per_byte"):
            self.assertGreaterEqual(row[key], 0)

    def check_latency(self, transport):
        rows, report = self.bench("write_lat", "--sizes", "8,4K,600K", "-n", 20, "-w", 2,
                                  "--transport", transport)
        self.assertOfTwoRanks(report)
        self.assertEqual(report["transport"], transport)
        self.assertEqual([row["size"] for row in report["results"]], [8, 4096, 600 << 10])
        self.assertEqual(len(rows), 3)
        for shown, row in zip(rows, report["results"]):
            self.assertEqual(int(shown[0]), row["size"])
            self.assertGreater(row["min_us"], 0)
            self.assertLessEqual(row["min_us"], row["p50_us"])
            self.assertLessEqual(row["p50_us"], row["p95_us"])
            self.assertLessEqual(row["p95_us"], row["p99_us"])
            self.assertLessEqual(row["p99_us"], row["max_us"])
            self.assertEqual(row["wrong"], 0)
            self.assertCosts(row)

    def test_latency_over_tcp(self):
        self.check_latency("tcp")

    def test_latency_over_rdma(self):
        self.check_latency("rdma")

    def check_rate(self, transport):
        rows, report = self.bench("msg_rate", "--sizes", "1,512", "-n", 500, "-w", 10, "-N", 3,
                                  "--transport", transport)
        self.assertOfTwoRanks(report)
        self.assertEqual(len(rows), 2)
        for row in report["results"]:
            self.assertGreater(row["messages_per_second"], 0)
            self.assertLessEqual(row["messages_min_per_second"], row["messages_per_second"])
            self.assertLessEqual(row["messages_per_second"], row["messages_max_per_second"])
            self.assertEqual(row["wrong"], 0)
            self.assertEqual(row["doorbells_per_call"] > 0, transport == "rdma")
            self.assertCosts(row)
        self.assertGreaterEqual(report["counters"]["writes"], 2 * (3 * 500 + 10))

    def test_message_rate_over_tcp(self):
        self.check_rate("tcp")

    def test_message_rate_over_rdma(self):
        self.check_rate("rdma")

    def test_bandwidth_keeps_its_keys(self):
        _, report = self.bench("write_bw", "--sizes", "64K", "-n", 20, "-N", 2, "--bidirectional")
        self.assertOfTwoRanks(report)
        self.assertTrue(report["bidirectional"])
        self.assertGreater(report["results"][0]["bandwidth_gbps"], 0)
        self.assertCosts(report["results"][0])

    def test_collectives_tell_their_costs(self):
        file = os.path.join(self.folder(), "report.json")
        result = self.gradwire("bench", "all_gather", "--ranks", 2, "--sizes", "64K", "-n", 5,
                               "--transport", "tcp", "-J", file)
        self.assertCode(result, 0)
        with open(file) as stored:
            row = json.load(stored)["results"][0]
        for half in ("out_of_place", "in_place"):
            self.assertCosts(row[half])
            self.assertGreater(row[half]["syscalls_per_call"], 0)
        shown = [line.split() for line in result.out.splitlines() if not line.startswith("#")][0]
        self.assertEqual(len(shown), 13 + 11)
        self.assertEqual(shown[0], "65536")
        self.assertEqual(shown[12], "0")

    def check_model(self, transport, ranks):
        rows, report = self.bench("allreduce", "--model", "resnet50", "--ranks", ranks, "-n", 2,
                                  "--transport", transport, "--bucket-bytes", "25M", timeout=110)
        self.assertEqual(len(report["devices"]), ranks)
        each, buckets = report["results"]
        self.assertEqual([row[0] for row in rows], ["none", str(25 << 20)])
        self.assertEqual((each["operations"], each["bucket_bytes"]), (161, None))
        self.assertLess(buckets["operations"], 10)
        for row in (each, buckets):
            self.assertEqual(row["tensors"], 161)
            self.assertEqual(row["size"], 4 * 25557032)
            self.assertEqual(row["nwrong"], 0)
            self.assertEqual(len(row["times_us"]), 2)
            self.assertAlmostEqual(row["bus_bw"], row["alg_bw"] * 2 * (ranks - 1) / ranks)
            self.assertCosts(row)

    def test_gradients_of_a_model_over_tcp(self):
        self.check_model("tcp", 2)

    def test_gradients_of_a_model_over_rdma(self):
        self.check_model("rdma", 3)

    def test_compares_transports(self):
        for collective in ("allreduce", "reduce_scatter"):
            rows, report = self.bench("compare", collective, "--ranks", 2, "--sizes", "64,64K",
                                      "--rounds", 3, "--budget", "0.005")
            self.assertOfTwoRanks(report)
            self.assertEqual([side["transport"] for side in report["sides"]], ["rdma", "tcp"])
            self.assertEqual([row[2] for row in rows], ["a", "b", "a", "b"])
            self.assertEqual(len(report["samples"]), 2 * 2 * 3)
            for row in report["results"]:
                self.assertEqual(row["rounds"], 3)
                self.assertGreaterEqual(row["spread"], 1)
                self.assertLessEqual(row["ratio_min"], row["ratio"])
                self.assertLessEqual(row["ratio"], row["ratio_max"])
                if row["peer"] == "a":
                    self.assertEqual((row["ratio_min"], row["ratio_max"]), (1, 1))

    def test_compares_settings_of_one_transport(self):
        _, report = self.bench("compare", "broadcast", "--sizes", "1M", "--rounds", 1, "--budget",
                               "0.005", "--transport", "tcp", "--a", "--slots 4", "--b",
                               "--slots 32 -R 1")
        self.assertEqual([side["settings"]["slots"] for side in report["sides"]], ["4", "32"])
        self.assertEqual([side["local_register"] for side in report["sides"]], [0, 1])
        self.assertEqual({side["transport"] for side in report["sides"]}, {"tcp"})

    def test_peers_that_are_not_here_are_named(self):
        rows, report = self.bench("peers", "--peers", "gradwire,gradwire_udp,gloo", "--programs",
                                  self.folder(), "--ranks", "2,3", "--sizes", "8,64K", "--rounds",
                                  2, "--budget", "0.005")
        self.assertIn("libgloo-dev", report["left_out"]["gloo"])
        self.assertEqual(set(report["left_out"]), {"gloo"})
        self.assertEqual([row[:3] for row in rows],
                         [[size, ranks, peer] for ranks in ("2", "3") for size in ("8", "65536")
                          for peer in ("gradwire", "gradwire_udp")])
        self.assertEqual(len(report["launches"]), 2 * 2 * 2)
        for row in report["results"]:
            self.assertEqual(row["rounds"], 2)
            self.assertEqual(row["transport"], "rdma" if row["peer"].endswith("udp") else "tcp")
            self.assertGreater(row["ratio"], 0)

    def test_a_peer_that_fails_is_told(self):
        folder = self.folder()
        path = os.path.join(folder, "allreduce_gloo")
        with open(path, "w") as file:
            file.write("#!/bin/sh\necho gloo fell over >&2\nexit 3\n")
        os.chmod(path, 0o755)
        result = self.gradwire("bench", "peers", "--peers", "gradwire,gloo", "--programs", folder,
                               "--ranks", 2, "--sizes", "8", "--rounds", 1, "--budget", "0.005")
        self.assertCode(result, 1)
        self.assertRegex(result.err, r"gloo with 2 ranks is incomplete \(exit code 3\): gloo fell")
        self.assertRegex(result.out, r"(?m)^ +8 +2  gradwire ")

    def test_wrong_usage(self):
        for arguments, named in (
                ((), "write_lat"),
                (("write_lat", "--ranks", 3), "between two ranks"),
                (("msg_rate", "-N", 0), "--runs"),
                (("allreduce", "--model", "vgg16"), "--model.*vgg16"),
                (("allreduce", "--model", "gpt2", "--csv"), "--csv"),
                (("allreduce", "--model", "gpt2", "-d", "half"), "sums of float"),
                (("allreduce", "--bucket-bytes", "1"), "--bucket-bytes"),
                (("compare",), "collective"),
                (("compare", "gather"), "gather"),
                (("compare", "allreduce", "--a", "--slots 999"), "--a .*--slots.*999"),
                (("compare", "allreduce", "--b", "--frobnicate"), "--b .*--frobnicate"),
                (("compare", "allreduce", "--a", "--job-id other"), "--job-id is the whole job's"),
                (("peers", "--peers", "gradwire,horovod"), "horovod"),
                (("peers", "--ranks", "0"), "--ranks"),
                (("peers", "--budget", "0"), "--budget")):
            with self.subTest(arguments=arguments):
                result = self.gradwire("bench", *arguments)
                self.assertCode(result, 2)
                self.assertRegex(result.err, named)

    def test_help_teaches(self):
        for command in ("allreduce", "write_bw", "write_lat", "msg_rate", "compare", "peers", "ps"):
            with self.subTest(command=command):
                result = self.gradwire("bench", command, "--help", env={"GRADWIRE_SLOTS": "x"})
                self.assertCode(result, 0)
                self.assertRegex(result.out, "Examples?:\n  gradwire (bench|launch)")


if __name__ == "__main__":
    unittest.main()
