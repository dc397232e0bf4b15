"""gradwire ps: servers that stand by themselves, and what people ask of them."""

import json
import os
import re
import signal
import unittest

from harness import PROGRAM, ProcessTest, free_port


class PsTest(ProcessTest):

    def serve(self, *arguments, env=None):
        server = self.start(PROGRAM, "ps", "serve", "--port", 0, "--address", "127.0.0.1",
                            "--transport", "tcp", *arguments, env=env)
        address = server.wait_for(r"^gradwire ps: server \d+ of \d+ at (127\.0\.0\.1:\d+), ")[0]
        return server, address.group(1)

    def end(self, server, number=signal.SIGTERM):
        os.kill(server.pid, number)
        result = server.finish(15)
        self.assertCode(result, 0)
        return result

    def test_tells_where_and_on_what_and_ends_on_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server, address = self.serve("--consistency", "ssp", "--staleness", 3)
            lines = server.output().splitlines()
            self.assertEqual(len(lines), 1, lines)
            self.assertIn(address, lines[0])
            self.assertIn("ssp, 3 steps", lines[0])
            self.assertRegex(lines[0], r"(?i)tcp")
            result = self.end(server, number)
            self.assertIn("got signal %d" % number, result.out)
            self.assertEqual(result.err, "", result)

    def test_status_as_a_table(self):
        server, address = self.serve("--optimizer", "adam")
        result = self.gradwire("ps", "status", address)
        self.assertCode(result, 0)
        self.assertIn("server 0 of 1 at " + address, result.out)
        self.assertIn("adam", result.out)
        self.assertIn("nobody has joined yet", result.out)
        for line in result.out.splitlines():
            self.assertLessEqual(len(line), 80, line)
        self.end(server)

    def test_status_of_several_as_json(self):
        addresses = []
        for index in range(2):
            _, address = self.serve("--index", index, "--of", 2)
            addresses.append(address)
        result = self.gradwire("ps", "status", ",".join(addresses), "--json", "-")
        self.assertCode(result, 0)
        servers = json.loads(result.out)["servers"]
        self.assertEqual([one["server"] for one in servers], [0, 1])
        self.assertEqual([one["address"] for one in servers], addresses)
        self.assertEqual(servers[0]["consistency"], "bsp")
        self.assertEqual(servers[0]["workers"], [])

    def test_status_again_and_again(self):
        _, address = self.serve()
        watch = self.start(PROGRAM, "ps", "status", address, "--watch", "200ms")
        watch.wait_for("server 0 of 1", 3)

    def test_status_shows_who_answers_and_fails_for_the_rest(self):
        _, address = self.serve()
        nowhere = "127.0.0.1:%d" % free_port()
        result = self.gradwire("ps", "status", nowhere + "," + address)
        self.assertCode(result, 1)
        self.assertIn("server 0 of 1", result.out)
        self.assertEqual(len(result.err.splitlines()), 1, result)
        self.assertIn(nowhere, result.err)
        self.assertIn("gradwire ps serve", result.err)

    def test_stop(self):
        server, address = self.serve()
        result = self.gradwire("ps", "stop", address)
        self.assertCode(result, 0)
        self.assertIn(address, result.out)
        self.assertCode(server.finish(15), 0)
        self.assertCode(self.gradwire("ps", "stop", address), 1)

    def test_wants_its_token(self):
        _, address = self.serve(env={"GRADWIRE_TOKEN": "right"})
        self.assertCode(self.gradwire("ps", "status", address, env={"GRADWIRE_TOKEN": "right"}), 0)
        for token in ({"GRADWIRE_TOKEN": "wrong"}, {}):
            result = self.gradwire("ps", "status", address, env=token)
            self.assertCode(result, 1)
            self.assertRegex(result.err, "(?i)token")
            result = self.gradwire("ps", "stop", address, env=token)
            self.assertCode(result, 1)
        self.assertCode(self.gradwire("ps", "status", address, env={"GRADWIRE_TOKEN": "right"}), 0)

    def test_a_rendezvous_is_no_server(self):
        rendezvous = self.start(PROGRAM, "rendezvous", "--port", 0, "--address", "127.0.0.1")
        address = rendezvous.wait_for(r"listening on (127\.0\.0\.1:\d+)$")[0].group(1)
        result = self.gradwire("ps", "status", address)
        self.assertCode(result, 1)
        self.assertIn("is a rendezvous", result.err)

    def test_taken_port(self):
        _, address = self.serve()
        port = address.rpartition(":")[2]
        result = self.gradwire("ps", "serve", "--port", port, "--address", "127.0.0.1",
                               "--transport", "tcp")
        self.assertOneLine(result, port, code=1)

    def test_ends_when_idle(self):
        server, _ = self.serve("--idle-timeout", "500ms")
        self.assertCode(server.finish(15), 0)

    def test_checkpoint_without_a_folder_or_anybody(self):
        _, address = self.serve()
        result = self.gradwire("ps", "checkpoint", address)
        self.assertCode(result, 1)
        self.assertIn("--checkpoint", result.err)
        _, address = self.serve("--checkpoint", os.path.join(self.folder(), "ckpt"))
        result = self.gradwire("ps", "checkpoint", address)
        self.assertCode(result, 1)
        self.assertIn("nobody has joined", result.err)

    def test_unwritable_checkpoint_folder(self):
        blocked = os.path.join(self.folder(), "file")
        with open(blocked, "w") as file:
            file.write("not a folder")
        result = self.gradwire("ps", "serve", "--port", 0, "--address", "127.0.0.1", "--transport",
                               "tcp", "--checkpoint", os.path.join(blocked, "ckpt"))
        self.assertFailed(result)
        self.assertEqual(len(result.err.splitlines()), 1, result)
        self.assertIn(blocked, result.err)

    def test_export_of_nothing(self):
        result = self.gradwire("ps", "export", os.path.join(self.folder(), "none"), "x.safetensors")
        self.assertFailed(result)
        self.assertEqual(len(result.err.splitlines()), 1, result)

    def test_misuse_is_one_line(self):
        for arguments, pattern in (
                (("serve", "--consistency", "maybe"), "maybe"),
                (("serve", "--optimizer", "magic"), "--optimizer"),
                (("serve", "--staleness", "3"), "--staleness"),
                (("serve", "--index", "2", "--of", "2"), "--index"),
                (("serve", "--replica"), "--replica"),
                (("serve", "--replica", "--of", "2"), "--peers"),
                (("serve", "--checkpoint-every", "5"), "--checkpoint"),
                (("serve", "--lr-schedule", "never"), "--lr-schedule"),
                (("serve", "--idle-timeout", "soon"), "--idle-timeout"),
                (("serve", "--window", "1"), "--window"),
                (("status",), "SERVER"),
                (("status", "nowhere"), "nowhere"),
        ):
            result = self.gradwire("ps", *arguments, timeout=15)
            self.assertOneLine(result, re.escape(pattern))

    def test_help_teaches(self):
        for command in ("serve", "status", "stop", "checkpoint", "export"):
            result = self.gradwire("ps", command, "--help")
            self.assertCode(result, 0)
            self.assertRegex(result.out, "Example")


if __name__ == "__main__":
    unittest.main()
