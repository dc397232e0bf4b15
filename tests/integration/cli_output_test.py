"""Where output goes: standard output that is full, closed or read no more, and FILE of --json."""

import json
import os
import signal
import subprocess
import unittest

from harness import PROGRAM, ProcessTest, environment, seconds

QUICK = ("-b", 8, "-e", 8, "-n", 2)


class StandardOutputTest(ProcessTest):

    def lost(self, *arguments):
        """Runs it with a standard output that takes nothing; returns its code and stderr."""
        with open(os.devnull) as unwritable:
            result = subprocess.run([PROGRAM] + [str(word) for word in arguments],
                                    stdout=unwritable, stderr=subprocess.PIPE, text=True,
                                    env=environment(), timeout=seconds(60), check=False)
        return result.returncode, result.stderr

    def test_lost_output_is_one_line_and_code_1(self):
        for arguments in (("--help",), ("--version",), ("config",), ("devices",),
                          ("bench", "--help"), ("train", "--epochs", 1),
                          ("bench", "allreduce") + QUICK, ("config", "--json", "-")):
            with self.subTest(arguments=arguments):
                code, err = self.lost(*arguments)
                self.assertEqual(code, 1, err)
                self.assertEqual(len(err.splitlines()), 1, err)
                self.assertRegex(err, "^gradwire: .*standard output")

    def test_lost_output_of_ranks_is_told_once_by_rank_0(self):
        code, err = self.lost("bench", "allreduce", "--ranks", 2, *QUICK)
        self.assertEqual(code, 1, err)
        self.assertEqual(err.count("standard output cannot be written"), 1, err)
        code, err = self.lost("launch", "-n", 2, "echo", "hello")
        self.assertEqual(code, 1, err)
        self.assertEqual(err.count("output cannot be written"), 1, err)

    def test_closed_output_is_no_socket(self):
        for closed in (">&-", "<&- >&- 2>&-"):
            result = self.run_to_end("bash", "-c", "%s train --epochs 1 %s; echo $?" % (
                PROGRAM, closed))
            self.assertEqual(result.out, "1\n", result)
        result = self.run_to_end("bash", "-c", "%s frobnicate 2>&-; echo $?" % PROGRAM)
        self.assertEqual(result.out, "2\n", result)

    def test_output_that_nobody_reads_ends_the_run(self):
        for arguments in ("bench allreduce --ranks 2 -b 1K -e 1K -N 0",
                          "bench allreduce -b 1K -e 1K -N 0",
                          "train --epochs 1000000", "demo --ranks 2 --epochs 1000000",
                          "launch -n 2 %s train --epochs 1000000" % PROGRAM):
            with self.subTest(arguments=arguments):
                command = "%s %s | head -n 1; echo ${PIPESTATUS[0]}" % (PROGRAM, arguments)
                result = self.run_to_end("bash", "-c", command, timeout=30)
                self.assertEqual(result.out.splitlines()[-1], str(128 + signal.SIGPIPE), result)


class JsonTest(ProcessTest):

    def path(self, name):
        return os.path.join(self.folder(), name)

    def test_dash_is_json_alone(self):
        for arguments in (("config",), ("devices",), ("bench", "allreduce", "--ranks", 2) + QUICK,
                          ("bench", "write_bw", "-N", 1) + QUICK,
                          ("ps", "swarm", "--workers", 2, "--steps", 2)):
            for file in ("-", "/dev/stdout"):
                with self.subTest(arguments=arguments, file=file):
                    result = self.gradwire(*arguments, "--json", file, cwd=self.folder())
                    self.assertCode(result, 0)
                    json.loads(result.out)
                    if arguments[0] in ("bench", "ps"):
                        self.assertIn("# ", result.err)

    def test_an_existing_file_is_kept(self):
        for arguments in (("config",), ("devices",), ("bench", "write_bw", "-N", 1) + QUICK,
                          ("bench", "allreduce") + QUICK):
            with self.subTest(arguments=arguments):
                path = self.path("report.json")
                with open(path, "w") as file:
                    file.write("mine")
                result = self.gradwire(*arguments, "--json", path)
                self.assertCode(result, 0)
                self.assertIn(path + ".0", result.err)
                with open(path) as file:
                    self.assertEqual(file.read(), "mine")
                with open(path + ".0") as file:
                    json.load(file)

    def test_devices_and_pipes_are_written_as_they_are(self):
        folder = self.folder()
        link = os.path.join(folder, "null")
        os.symlink(os.devnull, link)
        self.assertCode(self.gradwire("bench", "allreduce", *QUICK, "-J", link), 0)
        self.assertEqual(os.listdir(folder), ["null"])
        result = self.run_to_end("bash", "-c", "%s config --json >(cat >&2) >/dev/null; wait $!"
                                 % PROGRAM)
        self.assertIn("settings", json.loads(result.err))

    def test_a_file_that_cannot_be_written_is_told_before_the_work(self):
        for arguments in (("config",), ("devices",), ("doctor",), ("predict",),
                          ("analyze", self.folder()), ("study", "lanes"),
                          ("bench", "allreduce", "--ranks", 2), ("bench", "write_bw"),
                          ("bench", "ps"), ("bench", "compare", "allreduce"), ("bench", "peers"),
                          ("ps", "swarm")):
            for file in ("/no/such/x.json", "/proc/x.json", "/"):
                with self.subTest(arguments=arguments, file=file):
                    result = self.gradwire(*arguments, "--json", file)
                    self.assertOneLine(result, "--json " + file)

    def test_a_folder_that_cannot_be_written_is_told_before_the_work(self):
        file = self.path("file")
        with open(file, "w"):
            pass
        for arguments in (("analyze", self.folder()), ("study", "lanes")):
            for folder in ("/proc/x", "/proc", file):
                with self.subTest(arguments=arguments, folder=folder):
                    result = self.gradwire(*arguments, "--out", folder)
                    self.assertOneLine(result, "--out " + folder)

    def test_nothing_is_left_of_a_report_that_was_not_written(self):
        path = self.path("report.json")
        self.assertCode(self.gradwire("analyze", "/no/such", "--json", path), 2)
        self.assertFalse(os.path.exists(path))


if __name__ == "__main__":
    unittest.main()
