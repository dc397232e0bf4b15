"""gradwire ps swarm and gradwire bench ps: many workers at one server, and what a step costs."""

import json
import os
import signal
import unittest

from harness import PROGRAM, ProcessTest, alive, eventually

# RDMA wherever there is no kernel device: urxe, by its packets or between processes of one host.
TRANSPORTS = (("tcp", {}), ("rdma", {"URXE_PATH": "local"}), ("rdma", {"URXE_PATH": "udp"}))


class PsSwarmTest(ProcessTest):

    def swarm(self, *arguments, **more):
        file = os.path.join(self.folder(), "swarm.json")
        result = self.gradwire("ps", "swarm", "--json", file, *arguments, **more)
        with open(file) as report:
            return result, json.load(report)["results"]

    def assertAllAnswered(self, result, row, workers, steps):
        self.assertCode(result, 0)
        self.assertEqual(result.err, "", result)
        self.assertEqual(row["connected"], workers)
        self.assertEqual(row["steps_done"], workers * steps)
        self.assertEqual(row["success"], 1)
        self.assertEqual(row["connect_s"]["count"], workers)
        self.assertEqual(row["push_pull_s"]["count"], workers * steps)
        self.assertGreater(row["connections_per_second"], 0)
        self.assertGreater(row["updates_per_second"], 0)
        for times in (row["connect_s"], row["push_pull_s"]):
            self.assertGreater(times["p50"], 0)
            self.assertLessEqual(times["p50"], times["p95"])
            self.assertLessEqual(times["p95"], times["p99"])
            self.assertLessEqual(times["p99"], times["max"])

    def check_fifty(self, transport, env):
        result, rows = self.swarm("--workers", 50, "--steps", 20, "--transport", transport, env=env)
        self.assertEqual(len(rows), 1)
        self.assertAllAnswered(result, rows[0], 50, 20)
        self.assertIn(transport, result.out.splitlines()[0])

    def test_fifty_over_tcp(self):
        self.check_fifty(*TRANSPORTS[0])

    def test_fifty_queue_pairs_between_processes(self):
        self.check_fifty(*TRANSPORTS[1])

    def test_fifty_queue_pairs_over_packets(self):
        self.check_fifty(*TRANSPORTS[2])

    def test_several_sizes_in_a_table(self):
        result, rows = self.swarm("--workers", "2,5,9", "--steps", 5, "--interval", "10ms",
                                  "--bytes", "100K", "--transport", "tcp")
        self.assertEqual([row["workers"] for row in rows], [2, 5, 9])
        for row in rows:
            self.assertAllAnswered(result, row, row["workers"], 5)
            self.assertGreater(row["run_s"], 0.03)  # four intervals of the first worker
            self.assertEqual(row["tensor_bytes"], 2 * 100 * 1024)
        lines = result.out.splitlines()
        self.assertEqual(sum(not line.startswith("#") for line in lines), 3, result)
        widths = {len(line) for line in lines[-5:]}
        self.assertEqual(len(widths), 1, result)
        for line in lines:
            self.assertLessEqual(len(line), 80, line)

    def test_no_server_stays_behind(self):
        result, _ = self.swarm("--workers", 3, "--steps", 5, "--transport", "tcp")
        self.assertCode(result, 0)
        running = self.start(PROGRAM, "ps", "swarm", "--workers", 3, "--steps", 1000000,
                             "--interval", "10ms", "--transport", "tcp")
        children = "/proc/%d/task/%d/children" % (running.pid, running.pid)

        def child():
            with open(children) as file:
                return file.read().split()
        self.assertTrue(eventually(child, 20))
        server = int(child()[0])
        running.process.kill()
        self.assertTrue(eventually(lambda: not alive(server)))

    def serve(self, *arguments):
        server = self.start(PROGRAM, "ps", "serve", "--port", 0, "--address", "127.0.0.1",
                            *arguments)
        pattern = r"^gradwire ps: server \d+ of \d+ at (127\.0\.0\.1:\d+), "
        return server, server.wait_for(pattern)[0].group(1)

    def check_killed_server(self, transport):
        server, address = self.serve("--consistency", "asp", "--transport", transport)
        swarm = self.start(PROGRAM, "ps", "swarm", "--servers", address, "--workers", 20,
                           "--steps", 1000000, "--interval", "10ms", "--transport", transport)

        def updates():
            status = self.gradwire("ps", "status", address, "--json", "-")
            shards = json.loads(status.out)["servers"][0]["shards"]
            return sum(shard["updates"] for shard in shards)
        self.assertTrue(eventually(lambda: updates() > 100, 30))
        os.kill(server.pid, signal.SIGKILL)
        result = swarm.finish(30)
        self.assertCode(result, 1)
        self.assertIn(address, result.err)
        self.assertRegex(result.err, "^gradwire: 20 workers: ")

    def test_a_killed_server_is_named_over_tcp(self):
        self.check_killed_server("tcp")

    def test_a_killed_server_is_named_over_rdma(self):
        self.check_killed_server("rdma")

    def test_a_swarm_at_two_standing_servers(self):
        addresses = [self.serve("--index", index, "--of", 2, "--consistency", "asp",
                                "--transport", "tcp")[1] for index in range(2)]
        result, rows = self.swarm("--servers", ",".join(addresses), "--workers", 10, "--steps", 10,
                                  "--bytes", "256K", "--transport", "tcp")
        self.assertAllAnswered(result, rows[0], 10, 10)
        self.assertIsNone(rows[0]["server_bytes_per_worker"])

    def test_wrong_usage_of_a_swarm(self):
        for arguments, named in ((("--workers", "0"), "--workers 0"),
                                 (("--bytes", "3"), "--bytes 3"),
                                 (("--steps", "0"), "--steps 0"),
                                 (("--interval", "fast"), "--interval"),
                                 (("--window", "1"), "--window"),
                                 (("--servers", "a:1", "--window", "4"), "--window")):
            with self.subTest(named):
                self.assertOneLine(self.gradwire("ps", "swarm", *arguments), named)


class PsBenchTest(ProcessTest):

    def check(self, *arguments, servers=1):
        file = os.path.join(self.folder(), "ps.json")
        result = self.launch(2 + servers, PROGRAM, "bench", "ps", "--servers", servers, "-b", "4K",
                             "-e", "64K", "-f", 4, "-n", 5, "-c", 1, "-J", file,
                             *arguments).finish(60)
        self.assertCode(result, 0)
        with open(file) as stored:
            report = json.load(stored)
        self.assertEqual(report["workers"], 2)
        self.assertEqual(report["servers"], servers)
        self.assertEqual([row["size"] for row in report["results"]], [4096, 16384, 65536])
        for row in report["results"]:
            self.assertEqual(row["nwrong"], 0)
            for side in ("push_pull", "all_reduce"):
                self.assertGreater(row[side]["alg_bw"], 0)
            self.assertGreater(row["copy_bw"], 0)
        table = result.of_rank(0)
        self.assertIn("Out of bounds values : 0 OK", table)
        self.assertIn("W/S B = %.3g B" % (2 / servers), table)
        self.assertEqual(sum(not line.startswith("#") for line in table.splitlines()), 3, table)
        return result

    def test_bench_bsp_over_tcp(self):
        self.check("--transport", "tcp")

    def test_bench_bsp_over_rdma(self):
        self.check("--transport", "rdma")

    def test_bench_asp_on_two_servers(self):
        self.check("--transport", "tcp", "--consistency", "asp", servers=2)

    def test_bench_starts_its_own_ranks(self):
        result = self.gradwire("bench", "ps", "-b", "4K", "-e", "4K", "-n", 2, "--transport", "tcp")
        self.assertCode(result, 0)
        self.assertIn("Out of bounds values : 0 OK", result.out)

    def test_bench_wrong_usage_of_the_benchmark(self):
        for arguments, named in ((("--servers", 3, "--ranks", 3), "--servers 3 of 3 ranks"),
                                 (("--consistency", "ssp"), "--consistency ssp"),
                                 (("-n", 1000000), "-n")):
            with self.subTest(named):
                self.assertOneLine(self.gradwire("bench", "ps", *arguments), named)


if __name__ == "__main__":
    unittest.main()
