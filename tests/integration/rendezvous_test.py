"""gradwire rendezvous: a meeting point that outlives jobs."""

import os
import re
import signal
import unittest

from harness import PROGRAM, ProcessTest, seconds


class RendezvousTest(ProcessTest):

    def serve(self, *arguments, env=None):
        server = self.start(PROGRAM, "rendezvous", "--port", 0, "--address", "127.0.0.1",
                            *arguments, env=env)
        address = server.wait_for(r"listening on (127\.0\.0\.1:\d+)$")[0].group(1)
        return server, address

    def end(self, server, number=signal.SIGTERM):
        os.kill(server.pid, number)
        result = server.finish(10)
        self.assertCode(result, 0)

    def test_ends_on_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server, _ = self.serve()
            self.end(server, number)

    def test_serves_one_job_after_another(self):
        server, address = self.serve()
        for _ in range(2):
            result = self.worker(3, "loop", "--seconds", 0.2,
                                 env={"GRADWIRE_RENDEZVOUS": address}).finish()
            self.assertCode(result, 0)
        self.end(server)

    def test_serves_two_jobs_at_once(self):
        server, address = self.serve()
        jobs = [self.worker(2, "loop", "--seconds", 2, "--job-id", name,
                            env={"GRADWIRE_RENDEZVOUS": address}) for name in ("one", "two")]
        for job in jobs:
            job.wait_for("looping", 2)
        for job in jobs:
            self.assertCode(job.finish(), 0)
        self.end(server)

    def test_wants_its_token(self):
        server, address = self.serve(env={"GRADWIRE_TOKEN": "right"})
        variables = {"GRADWIRE_RENDEZVOUS": address, "GRADWIRE_TOKEN": "right"}
        self.assertCode(self.worker(2, "loop", "--seconds", 0.2, env=variables).finish(), 0)
        variables["GRADWIRE_TOKEN"] = "wrong"
        result = self.worker(2, "loop", "--seconds", 0.2, env=variables).finish()
        self.assertNotEqual(result.code, 0, result)
        self.assertRegex(result.err, "(?i)token")
        self.end(server)

    def test_taken_port(self):
        server, address = self.serve()
        port = address.rpartition(":")[2]
        result = self.gradwire("rendezvous", "--port", port, "--address", "127.0.0.1", timeout=10)
        self.assertCode(result, 1)
        self.assertIn(port, result.err)
        self.end(server)

    def test_killed_rendezvous_ends_the_job(self):
        server, address = self.serve()
        job = self.worker(2, "loop", "--seconds", 40, "--count", 1000, flags=("--settle", "20s"),
                          env={"GRADWIRE_RENDEZVOUS": address})
        job.wait_for("looping", 2)
        os.kill(server.pid, signal.SIGKILL)
        result = job.finish(30)
        self.assertFailed(result)
        for rank in range(2):
            self.assertRegex(result.of_rank(rank), r"gradwire: rank %d: .*rendezvous" % rank)


if __name__ == "__main__":
    unittest.main()
