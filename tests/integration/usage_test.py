"""Wrong usage, and the subcommands that only look: config, devices and doctor."""

import json
import os
import re
import socket
import unittest

from harness import PROGRAM, WORKER, ProcessTest, free_port, kernel_has_device


class UsageTest(ProcessTest):

    def test_misuse_is_one_line_and_code_2(self):
        for arguments, pattern in (
                ((), "subcommand is missing.*launch"),
                (("lunch",), "did you mean 'launch'"),
                (("frobnicate",), "no subcommand 'frobnicate'"),
                (("--frobnicate",), "--frobnicate"),
                (("launch",), "--ranks is required"),
                (("launch", "-n", "2"), "no program"),
                (("launch", "-n", "0", "true"), "--ranks.*0"),
                (("launch", "-n", "-1", "true"), "--ranks.*-1"),
                (("launch", "-n", "1025", "true"), "--ranks.*1025"),
                (("launch", "-n", "two", "true"), "--ranks.*two"),
                (("launch", "-n", "2", "--frobnicate", "true"), "--frobnicate"),
                (("launch", "-n", "2", "--bind", "socket", "true"), "--bind.*socket"),
                (("launch", "-n", "2", "--grace", "soon", "true"), "--grace.*soon.*10s"),
                (("launch", "-n", "2", "--port", "70000", "true"), "--port.*70000"),
                (("launch", "-n", "2", "--nnodes", "2", "true"), "--master-addr and --master-port"),
                (("launch", "-n", "2", "--nnodes", "2", "--node-rank", "2", "--port", "9", "true"),
                 "node rank 2 of 2"),
                (("launch", "-n", "2", "no-such-program"), "no-such-program"),
                (("launch", "-n", "2", "/etc/passwd"), "/etc/passwd"),
                (("config", "--slots", "1000"), r"--slots.*1000.*2\.\.\d+"),
                (("config", "--slots", "many"), "--slots.*many"),
                (("config", "--slice-bytes", "5000"), "--slice-bytes 5000.*64"),
                (("config", "--transport", "pigeon"), "--transport.*pigeon.*auto"),
                (("config", "--op-timeout", "-3s"), "--op-timeout.*-3s"),
                (("config", "--tls-cert", "x.pem"), "--tls-cert and --tls-key"),
                (("config", "surplus"), "surplus"),
                (("config", "--slot", "3"), r"no flag --slot; did you mean '--slots'"),
                (("config", "--frobnicate", "3"), "no flag --frobnicate "),
                (("config", "--slots"), "--slots: its value is missing"),
                (("bench",), "measurement is missing: allreduce, "),
                (("bench", "alreduce"), "did you mean 'allreduce'.*write_bw.*gradwire bench --help"),
                (("bench", "frobnicate"), "no measurement 'frobnicate'; there are allreduce, "),
                (("bench", "allreduce", "--frobnicate"), "see gradwire bench allreduce --help"),
                (("bench", "allreduce", "-n", "0"), "--iters: 0 is.*gradwire bench allreduce --help"),
                (("bench", "compare", "foo"), "foo.*see gradwire bench compare --help"),
                (("bench", "all_reduce", "--device", "mlx5_0", "--ranks", "2"), "'mlx5_0'"),
                (("ps",), "subcommand is missing: serve"),
                (("ps", "serve", "--frobnicate"), "see gradwire ps serve --help"),
                (("predict", "--servers", "0"), r"--servers: 0 is outside 1\.\."),
                (("predict", "--link", "0"), "--link: 0 is not above 0"),
                (("predict", "--latency", "-1us"), "--latency: -1 us is below 0"),
                (("train", "--epochs", "x"), "--epochs: 'x' is not a number"),
                (("analyze", "rec", "--flows", "-1"), r"--flows: -1 is outside 0\.\."),
                (("devices", "--counters", "--pid", "x"), "--pid: 'x' is not a whole number"),
                (("doctor", "--port", "0"), "--port.*0"),
                (("devices", "surplus"), "surplus"),
                (("devices", "--pid", "1"), "--pid.*--counters"),
                (("devices", "--counters", "--pid", "-1"), "--pid.*-1"),
                (("devices", "--counters", "--pid", "999999999"), "no process 999999999"),
                (("devices", "--device", "rxe0:x"), "rxe0:x"),
                (("rendezvous", "--port", "-1"), "--port.*-1"),
                (("rendezvous", "--frobnicate"), "--frobnicate"),
        ):
            with self.subTest(arguments=arguments):
                self.assertOneLine(self.gradwire(*arguments), pattern)

    def test_bad_variables_are_one_line_and_code_2(self):
        for variables, pattern in (
                ({"GRADWIRE_SLOT": "8"}, "GRADWIRE_SLOT"),
                ({"GRADWIRE_SLOTS": "x"}, "GRADWIRE_SLOTS.*x"),
                ({"GRADWIRE_JOIN_TIMEOUT": "0"}, "GRADWIRE_JOIN_TIMEOUT"),
                ({"URXE_FAULTS": "drop=2"}, "URXE_FAULTS=drop=2: .*0 to 1"),
                ({"URXE_FROBNICATE": "1"}, "URXE_FROBNICATE=1: is no setting"),
                ({"URXE_INTERFACES": "lo,nosuch"}, "URXE_INTERFACES=lo,nosuch: 'nosuch' is no"),
        ):
            with self.subTest(variables=variables):
                self.assertOneLine(self.gradwire("config", env=variables), pattern)
        result = self.gradwire("bench", "allreduce", "--ranks", 2, env={"URXE_FAULTS": "drop=2"})
        self.assertOneLine(result, "URXE_FAULTS=drop=2")
        # TCP does not ask.
        result = self.gradwire("config", "--transport", "tcp", env={"URXE_FAULTS": "drop=2"})
        self.assertCode(result, 0)

    def test_program_that_cannot_be_executed(self):
        path = os.path.join(self.folder(), "broken")
        with open(path, "wb") as file:
            file.write(b"\x7fELF not really")
        os.chmod(path, 0o755)
        self.assertOneLine(self.gradwire("launch", "-n", "2", path), "cannot execute .*broken")

    def test_help_teaches(self):
        result = self.gradwire("--help")
        self.assertCode(result, 0)
        for word in ("launch", "config", "doctor", "rendezvous", "Examples"):
            self.assertIn(word, result.out)
        for command in ("launch", "config", "devices", "doctor", "rendezvous"):
            with self.subTest(command=command):
                # Help must be had although a variable is wrong: it is what one looks at then.
                result = self.gradwire(command, "--help", env={"GRADWIRE_SLOTS": "x"})
                self.assertCode(result, 0)
                self.assertIn("Usage: gradwire %s" % command, result.out)

    def test_help_fits_a_terminal(self):
        commands = ["", "launch", "config", "devices", "doctor", "rendezvous", "demo", "train",
                    "bench", "study", "analyze", "predict", "ps", "ps serve", "ps swarm"]
        commands += ["bench " + name for name in (
            "allreduce", "reduce_scatter", "all_gather", "broadcast", "ps", "write_bw",
            "write_lat", "msg_rate", "compare", "peers")]
        for command in commands:
            with self.subTest(command=command):
                result = self.gradwire(*command.split(), "--help")
                self.assertCode(result, 0)
                for line in result.out.splitlines():
                    self.assertLessEqual(len(line), 80, line)

    def test_examples_are_of_the_command(self):
        for command in ("bench", "study", "config", "ps"):
            result = self.gradwire(command, "--help")
            self.assertNotIn("gradwire demo", result.out)
            self.assertRegex(result.out, r"Examples?:[\s\S]*gradwire %s" % command)

    def test_scripts_say_what_they_do_before_they_do_it(self):
        top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples")
        for script in ("demo.sh", "fetch_mnist.sh"):
            for flag in ("-h", "--help"):
                result = self.run_to_end("sh", os.path.join(top, script), flag, timeout=5)
                self.assertCode(result, 0)
                self.assertRegex(result.out, "^usage: examples/" + script)
                self.assertEqual(result.err, "")
        self.assertOneLine(self.run_to_end("sh", os.path.join(top, "fetch_mnist.sh"), "--bogus"),
                           "no flag --bogus")

    def test_version(self):
        result = self.gradwire("--version")
        self.assertCode(result, 0)
        self.assertRegex(result.out, r"^gradwire \d+\.\d+\.\d+\n$")


class ConfigTest(ProcessTest):

    def config(self, *arguments, **more):
        result = self.gradwire("config", "--json", "-", *arguments, **more)
        self.assertCode(result, 0)
        return {row["name"]: row for row in json.loads(result.out)["settings"]}

    def test_flags_go_over_variables_over_defaults(self):
        rows = self.config("--slots", "16", env={"GRADWIRE_SLOTS": "4", "GRADWIRE_LANES": "2"})
        self.assertEqual((rows["slots"]["value"], rows["slots"]["source"]), ("16", "flag"))
        self.assertEqual((rows["lanes"]["value"], rows["lanes"]["source"]), ("2", "environment"))
        self.assertEqual((rows["transport"]["value"], rows["transport"]["source"]),
                         ("auto", "default"))
        self.assertEqual(rows["slots"]["variable"], "GRADWIRE_SLOTS")
        self.assertRegex(rows["slots"]["range"], r"^2\.\.\d+$")

    def test_sizes_and_times_are_understood(self):
        rows = self.config("--slice-bytes", "1M", "--op-timeout", "2m", "--join-timeout=250ms")
        self.assertEqual(rows["slice-bytes"]["value"], str(1 << 20))
        self.assertEqual(rows["op-timeout"]["value"], "120000ms")
        self.assertEqual(rows["join-timeout"]["value"], "250ms")

    def test_secrets_are_never_shown(self):
        for arguments, env in ((("--token", "hush-hush"), {}), ((), {"GRADWIRE_TOKEN": "hush-hush"})):
            for form in ((), ("--json", "-")):
                result = self.gradwire("config", *arguments, *form, env=env)
                self.assertCode(result, 0)
                self.assertNotIn("hush", result.out + result.err)
                self.assertIn("(set)", result.out)

    def test_text_fits_80_columns_and_lists_all(self):
        result = self.gradwire("config")
        for line in result.out.splitlines():
            self.assertLessEqual(len(line), 80, line)
        for name in self.config():
            self.assertIn("\n%s = " % name, result.out)

    def test_json_file(self):
        path = os.path.join(self.folder(), "config.json")
        self.assertCode(self.gradwire("config", "--json", path), 0)
        with open(path) as file:
            self.assertGreater(len(json.load(file)["settings"]), 10)
        result = self.gradwire("config", "--json", path + "/x")
        self.assertOneLine(result, re.escape(path + "/x"))


class DevicesTest(ProcessTest):

    def devices(self, *arguments, **more):
        result = self.gradwire("devices", "--json", "-", *arguments, **more)
        self.assertCode(result, 0)
        return json.loads(result.out)

    def test_urxe_is_listed(self):
        report = self.devices()
        urxe = [entry for entry in report["devices"] if entry["device"] == "urxe0"]
        self.assertEqual(len(urxe), 1, report)
        self.assertEqual(urxe[0]["kind"], "user")
        self.assertIn(urxe[0]["mtu"], (256, 512, 1024, 2048, 4096))
        self.assertEqual(urxe[0]["gids"][0]["type"], "RoCE v2")
        if not kernel_has_device():
            self.assertEqual(report["chosen"], "urxe0")
            self.assertIn("no kernel device", report["reason"])

    def test_interfaces_become_devices(self):
        report = self.devices(env={"URXE_INTERFACES": "lo"})
        urxe = next(entry for entry in report["devices"] if entry["device"] == "urxe0")
        self.assertEqual(urxe["gids"][0]["address"], "127.0.0.1")
        self.assertEqual(urxe["mtu"], 4096)

    def test_device_table_fits_80_columns(self):
        result = self.gradwire("devices")
        self.assertCode(result, 0)
        self.assertRegex(result.out, r"(?m)^urxe0:1 +user +active +\d+ +0 v2 +\S+$")
        for line in result.out.splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_counters_of_running_ranks(self):
        job = self.worker(2, "loop", "--seconds", 60, "--device", "urxe",
                          env={"URXE_PATH": "udp"})
        pids = {int(match.group(2))
                for match in job.wait_for(r"joined (\d+) of \d+, pid (\d+)", 2)}
        job.wait_for("looping", 2)
        shown = {process["pid"]: process for process in self.devices("--counters")["processes"]}
        self.assertLessEqual(pids, set(shown))
        for pid in pids:
            self.assertEqual(shown[pid]["program"], "collective_work")  # as the kernel cuts it
            self.assertGreater(shown[pid]["counters"]["packets_sent"], 0)
            self.assertEqual(shown[pid]["counters"]["icrc_errors"], 0)
            # They go on counting.
            again = self.devices("--counters", "--pid", pid)["processes"]
            self.assertEqual([process["pid"] for process in again], [pid])
            self.assertGreater(again[0]["counters"]["packets_received"],
                               shown[pid]["counters"]["packets_received"])
        result = self.gradwire("devices", "--counters")
        self.assertRegex(result.out, r"(?m)^  packets_sent +\d+  packets put on the wire")
        for line in result.out.splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_a_process_without_urxe_is_told(self):
        result = self.gradwire("devices", "--counters", "--pid", os.getpid())
        self.assertOneLine(result, r"process %d .* has no urxe device open" % os.getpid())


def interface_that_is_down():
    """The name of one, or None."""
    for name in sorted(os.listdir("/sys/class/net")):
        try:
            with open("/sys/class/net/%s/operstate" % name) as state:
                if state.read().strip() == "down":
                    return name
        except OSError:
            pass
    return None


class TransportTest(ProcessTest):
    """What `auto` takes, and that the first line says so."""

    def first_line(self, *arguments, env=None):
        result = self.launch(2, PROGRAM, "train", "--epochs", 1, *arguments, env=env).finish()
        self.assertCode(result, 0)
        line = result.out.splitlines()[0]
        self.assertLessEqual(len(line), 80 + len("[0] "), line)
        return line

    def test_urxe_where_the_kernel_has_no_device(self):
        if kernel_has_device():
            self.skipTest("this host has an RDMA device")
        self.assertRegex(self.first_line(),
                         r"rdma on urxe0 \(\S+, MTU \d+\): user-space RoCE v2, no kernel device")

    def test_device_names_urxe(self):
        self.assertRegex(self.first_line("--device", "urxe0"),
                         r"rdma on urxe0 .*: user-space RoCE v2, as --device urxe0 asks")

    def test_tcp_when_asked(self):
        self.assertRegex(self.first_line("--transport", "tcp"), r"\] tcp ")

    def test_tcp_when_a_rank_has_no_device(self):
        if kernel_has_device():
            self.skipTest("this host has an RDMA device")
        down = interface_that_is_down()
        if down is None:
            self.skipTest("this host has no interface that is down")
        command = ("[ $RANK = 1 ] && export URXE_INTERFACES=%s;"
                   " exec %s train --epochs 1" % (down, PROGRAM))
        result = self.launch(2, "sh", "-c", command).finish()
        self.assertCode(result, 0)
        self.assertRegex(result.out.splitlines()[0], r"\] tcp .*rank 1.*urxe0:1 is down")
        result = self.launch(2, "sh", "-c", command + " --transport rdma").finish()
        self.assertFailed(result)
        self.assertRegex(result.err, r"\[1\] gradwire: .*urxe0:1 is down")

    def test_a_mistake_of_one_rank_is_no_reason_for_tcp(self):
        command = ("[ $RANK = 1 ] && export URXE_INTERFACES=no-such-interface;"
                   " exec %s train --epochs 1" % PROGRAM)
        result = self.launch(2, "sh", "-c", command, flags=("--settle", "100ms")).finish()
        self.assertCode(result, 2)
        self.assertRegex(result.err, r"\[1\] gradwire: URXE_INTERFACES=no-such-interface")


class DoctorTest(ProcessTest):

    def doctor(self, *arguments, code=0, **more):
        result = self.gradwire("doctor", "--json", "-", "--port", free_port(), *arguments, **more)
        self.assertCode(result, code)
        report = json.loads(result.out)
        return report, {finding["subject"]: finding for finding in report["findings"]}

    def test_finds_what_is_there(self):
        report, findings = self.doctor()
        self.assertEqual(report["problems"], 0)
        for subject in ("cpu", "kernel", "memory", "locked memory", "interface lo", "loopback",
                        "settings"):
            self.assertIn(subject, findings)
        self.assertIn(os.uname().release, findings["kernel"]["detail"])
        self.assertIn("%d usable" % len(os.sched_getaffinity(0)), findings["cpu"]["detail"])
        self.assertIn("127.0.0.1", findings["interface lo"]["detail"])
        self.assertTrue(any(subject.startswith("rdma") for subject in findings))
        for subject in ("urxe0", "urxe0 UDP port 4791", "urxe same-host path",
                        "urxe receive buffer"):
            self.assertIn(subject, findings)
        if not kernel_has_device():
            self.assertIn("urxe0", findings["rdma"]["detail"])

    def test_busy_port_is_a_problem(self):
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            port = busy.getsockname()[1]
            result = self.gradwire("doctor", "--port", port)
        self.assertCode(result, 1)
        self.assertRegex(result.out, r"(?m)^problem +port %d: .*in use" % port)
        self.assertRegex(result.out, r"(?m)^1 problem, ")

    def test_bad_variable_is_a_problem(self):
        report, findings = self.doctor(code=1, env={"GRADWIRE_SLOTS": "999"})
        self.assertEqual(report["problems"], 1)
        self.assertEqual(findings["settings"]["verdict"], "problem")
        self.assertIn("GRADWIRE_SLOTS", findings["settings"]["detail"])

    def test_bad_urxe_variable_is_a_problem(self):
        report, findings = self.doctor(code=1, env={"URXE_INTERFACES": "nosuch"})
        self.assertEqual(report["problems"], 1)
        self.assertIn("URXE_INTERFACES=nosuch", findings["urxe settings"]["detail"])

    def test_text_fits_80_columns(self):
        result = self.gradwire("doctor", "--port", free_port())
        for line in result.out.splitlines():
            self.assertLessEqual(len(line), 80, line)
        self.assertRegex(result.out, r"0 problems, \d+ notes?\n$")


if __name__ == "__main__":
    unittest.main()
