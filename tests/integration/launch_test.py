"""gradwire launch: output, variables, exit codes, failures and signals."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

from harness import PROGRAM, ProcessTest, alive, eventually, free_port, python, seconds


class LaunchTest(ProcessTest):

    # --- Output ---

    def test_lines_carry_their_rank_and_stream(self):
        result = self.launch(3, "sh", "-c", "echo out $RANK; echo err $RANK >&2; printf end").finish()
        self.assertCode(result, 0)
        self.assertEqual(sorted(result.out.splitlines()), sorted(
            line for r in range(3) for line in ("[%d] out %d" % (r, r), "[%d] end" % r)))
        self.assertEqual(sorted(result.err.splitlines()), ["[%d] err %d" % (r, r) for r in range(3)])

    def test_lines_stay_whole(self):
        # Each line comes in pieces, so that a launcher that passes on what it reads would mix them.
        code = """
import os, sys
mark = chr(97 + int(os.environ["RANK"])) * 1500
for i in range(300):
    for piece in (mark[:700], mark[700:], "\\n"):
        os.write(1, piece.encode())
"""
        result = self.launch(4, *python(code)).finish()
        self.assertCode(result, 0)
        lines = result.out.splitlines()
        self.assertEqual(len(lines), 4 * 300)
        for line in lines:
            rank = int(line[1])
            self.assertEqual(line, "[%d] %s" % (rank, chr(97 + rank) * 1500))

    def test_much_output_at_the_end_is_not_lost(self):
        result = self.launch(2, *python("import os; os.write(1, (b'y' * 99 + b'\\n') * 20000)")
                             ).finish()
        self.assertEqual(len(result.out.splitlines()), 40000, result.err)

    def test_closed_output_ends_the_job(self):
        command = "%s launch -n 2 --grace 1s yes | head -n 3; echo ${PIPESTATUS[0]}" % PROGRAM
        result = self.run_to_end("bash", "-c", command, timeout=20)
        self.assertEqual(result.out.splitlines()[-1], str(128 + signal.SIGPIPE), result)

    def test_ranks_have_no_standard_input(self):
        result = self.launch(1, "cat").finish(10)
        self.assertCode(result, 0)

    # --- What ranks are told ---

    def test_variables(self):
        names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR".split()
        shown = " ".join("$" + name for name in names)
        result = self.launch(2, "sh", "-c", "echo %s" % shown).finish()
        self.assertEqual(sorted(result.out.splitlines()),
                         ["[0] 0 2 0 2 0 127.0.0.1", "[1] 1 2 1 2 0 127.0.0.1"])

    def test_several_nodes(self):
        result = self.launch(2, "sh", "-c", "echo $RANK $WORLD_SIZE $LOCAL_RANK $GROUP_RANK "
                             "$MASTER_ADDR:$MASTER_PORT token=$GRADWIRE_TOKEN",
                             flags=("--nnodes", 3, "--node-rank", 2, "--master-addr", "node0",
                                    "--master-port", 4321)).finish()
        self.assertEqual(sorted(result.out.splitlines()),
                         ["[4] 4 6 0 2 node0:4321 token=", "[5] 5 6 1 2 node0:4321 token="])

    def test_port_is_kept_for_the_job(self):
        code = """
import os, socket
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))
    s.listen()
print("port", os.environ["MASTER_PORT"])
"""
        jobs = [self.launch(1, *python(code)) for _ in range(4)]
        results = [job.finish() for job in jobs]
        for result in results:
            self.assertCode(result, 0)
        self.assertEqual(len({result.out for result in results}), 4)

    def test_token_is_fresh_shared_and_overridable(self):
        show = ("sh", "-c", "echo $GRADWIRE_TOKEN")
        first, second = (self.launch(2, *show).finish() for _ in range(2))
        tokens = {line[4:] for line in first.out.splitlines()}
        self.assertEqual(len(tokens), 1)
        token = tokens.pop()
        self.assertRegex(token, "^[0-9a-f]{32}$")
        self.assertNotIn(token, second.out)
        given = self.launch(1, *show, env={"GRADWIRE_TOKEN": "mine"}).finish()
        self.assertEqual(given.out, "[0] mine\n")

    def test_binding(self):
        usable = sorted(os.sched_getaffinity(0))
        code = "import os; print(sorted(os.sched_getaffinity(0)))"
        result = self.launch(3, *python(code), flags=("--bind", "core")).finish()
        self.assertEqual(sorted(result.out.splitlines()),
                         ["[%d] [%d]" % (r, usable[r % len(usable)]) for r in range(3)])
        result = self.launch(1, *python(code)).finish()
        self.assertEqual(result.out, "[0] %s\n" % usable)

    def test_arguments_arrive_unchanged(self):
        words = ["-n", "7", "[a,b]", "", "--help", "--", "x y", "--ranks=3"]
        code = "import sys; print(sys.argv[1:])"
        result = self.run_to_end(PROGRAM, "launch", "-n1", *python(code), *words)
        self.assertEqual(result.out, "[0] %s\n" % words, result)

    def test_gradwire_is_this_program(self):
        result = self.launch(1, "gradwire", "--version", env={"PATH": "/usr/bin:/bin"}).finish()
        self.assertRegex(result.out, r"^\[0\] gradwire \d")

    def test_program_from_path(self):
        folder = self.folder()
        shutil.copy("/bin/true", os.path.join(folder, "own-name"))
        path = "%s:%s" % (folder, os.environ["PATH"])
        self.assertCode(self.launch(2, "own-name", env={"PATH": path}).finish(), 0)

    # --- Exits ---

    def test_first_failure_is_the_exit_code(self):
        # Rank 1 fails first; rank 0 fails because of it, later and otherwise.
        script = "if [ $RANK = 1 ]; then exit 7; fi; sleep 0.5; exit 3"
        result = self.launch(3, "sh", "-c", script).finish()
        self.assertCode(result, 7)
        self.assertRegex(result.err, r"^gradwire launch: rank 1 \(pid \d+\) exited with code 7\n$")

    def test_who_is_killed_is_to_blame_also_when_it_shows_later(self):
        script = "if [ $RANK = 1 ]; then exit 7; fi; sleep 0.3; kill -KILL $$"
        result = self.launch(2, "sh", "-c", script).finish()
        self.assertCode(result, 128 + signal.SIGKILL)
        self.assertRegex(result.err, r"rank 1 \(pid \d+\) exited with code 7")
        self.assertRegex(result.err, r"rank 0 \(pid \d+\) was killed by signal 9")

    def test_killed_rank_is_named(self):
        script = "if [ $RANK = 2 ]; then kill -KILL $$; fi; sleep 0.3"
        result = self.launch(3, "sh", "-c", script).finish()
        self.assertCode(result, 128 + signal.SIGKILL)
        self.assertRegex(result.err, r"rank 2 \(pid \d+\) was killed by signal 9 \(Killed\)")

    def test_keep_going_leaves_the_others_alone(self):
        script = """
if [ $RANK = 1 ]; then kill -KILL $$; fi
if [ $RANK = 2 ]; then exit 3; fi
sleep 2; echo ended by itself"""
        result = self.launch(3, "sh", "-c", script,
                             flags=("--keep-going", "--settle", "100ms")).finish()
        self.assertCode(result, 0)  # rank 0's
        self.assertIn("[0] ended by itself", result.out)
        self.assertRegex(result.err, r"rank 1 \(pid \d+\) was killed by signal 9")
        self.assertRegex(result.err, r"rank 2 \(pid \d+\) exited with code 3")

    def test_keep_going_ends_as_rank_0_does(self):
        script = "if [ $RANK = 0 ]; then sleep 0.3; exit 4; fi; if [ $RANK = 1 ]; then exit 3; fi; sleep 1; echo ended"
        result = self.launch(3, "sh", "-c", script, flags=("--keep-going",)).finish()
        self.assertCode(result, 4)
        self.assertIn("[2] ended", result.out)
        other_node = ("--keep-going", "--nnodes", 2, "--node-rank", 1, "--master-port", 4321)
        script = "if [ $RANK = 4 ]; then exit 6; fi; sleep 0.5"
        result = self.launch(3, "sh", "-c", script, flags=other_node).finish()
        self.assertCode(result, 6)

    def test_keep_going_hears_signals(self):
        job = self.launch(2, "sh", "-c", "if [ $RANK = 1 ]; then exit 3; fi; echo up; sleep 60",
                          flags=("--keep-going",))
        job.wait_for(r"\[0\] up")
        job.wait_for(r"rank 1 .* exited with code 3", name="err")
        os.kill(job.pid, signal.SIGTERM)
        self.assertFailed(job.finish(15))

    def test_survivors_get_time_to_end_by_themselves(self):
        script = "if [ $RANK = 0 ]; then exit 5; fi; sleep 1.5; echo ended by itself"
        result = self.launch(2, "sh", "-c", script).finish()
        self.assertCode(result, 5)
        self.assertIn("[1] ended by itself", result.out)

    def test_survivors_are_ended_then_killed(self):
        script = """
if [ $RANK = 0 ]; then exit 5; fi
if [ $RANK = 1 ]; then trap 'echo got it; exit 0' TERM; else trap '' TERM; fi
while :; do sleep 0.1; done"""
        result = self.launch(3, "bash", "-c", script,
                             flags=("--settle", "500ms", "--grace", "500ms")).finish(20)
        self.assertCode(result, 5)
        self.assertIn("[1] got it", result.out)
        self.assertRegex(result.err, r"ranks 1, 2 still running; sending SIGTERM")
        self.assertRegex(result.err, r"rank 2 still running; sending SIGKILL")
        self.assertLess(result.elapsed, seconds(5))

    def test_stopped_survivor_is_ended(self):
        script = "if [ $RANK = 0 ]; then sleep 0.5; exit 5; fi; kill -STOP $$; sleep 100"
        result = self.launch(2, "bash", "-c", script, flags=("--settle", "200ms")).finish(20)
        self.assertCode(result, 5)
        self.assertLess(result.elapsed, seconds(4))

    def test_early_success_ends_nothing(self):
        script = "if [ $RANK = 0 ]; then exit 0; fi; sleep 0.7; echo still here"
        result = self.launch(2, "sh", "-c", script).finish()
        self.assertCode(result, 0)
        self.assertIn("[1] still here", result.out)

    # --- Signals to the launcher ---

    def end_by(self, number):
        script = "trap 'echo ended by %d; exit 0' %d; echo ready; while :; do sleep 0.05; done" % (
            number, number)
        job = self.launch(2, "bash", "-c", script)
        job.wait_for("ready", 2)
        os.kill(job.pid, number)
        result = job.finish(20)
        self.assertCode(result, 128 + number)
        for rank in range(2):
            self.assertIn("[%d] ended by %d" % (rank, number), result.out)

    def test_sigterm_is_handed_on(self):
        self.end_by(signal.SIGTERM)

    def test_sigint_is_handed_on(self):
        self.end_by(signal.SIGINT)

    def test_second_signal_kills(self):
        job = self.launch(2, "bash", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
        job.wait_for("ready", 2)
        os.kill(job.pid, signal.SIGTERM)
        job.wait_for("ending", name="err")
        os.kill(job.pid, signal.SIGTERM)
        result = job.finish(4)
        self.assertCode(result, 128 + signal.SIGTERM)

    def test_nohup_is_respected(self):
        job = self.start("nohup", PROGRAM, "launch", "-n", "1", "sh", "-c",
                         "echo ready; sleep 1; echo done")
        job.wait_for("ready")
        os.kill(job.pid, signal.SIGHUP)
        result = job.finish()
        self.assertCode(result, 0)
        self.assertIn("[0] done", result.out)

    def test_ranks_die_with_the_launcher(self):
        job = self.launch(2, *python("import os, time; print(os.getpid(), flush=True); time.sleep(99)"))
        pids = [int(m.group(1)) for m in job.wait_for(r"^\[\d\] (\d+)$", 2)]
        os.kill(job.pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: not any(map(alive, pids))), pids)

    # --- Nothing is left ---

    def test_what_a_rank_started_ends_with_it(self):
        job = self.launch(1, "bash", "-c", "sleep 98 & echo $!; sleep 97 > /dev/null & echo $!")
        result = job.finish(10)
        self.assertCode(result, 0)
        pids = [int(line[4:]) for line in result.out.splitlines()]
        self.assertEqual(len(pids), 2)
        self.assertTrue(eventually(lambda: not any(map(alive, pids))), pids)

    def test_no_zombie_while_others_run(self):
        job = self.launch(6, "sh", "-c", "echo up; [ $RANK = 5 ] && sleep 3; exit 0")
        job.wait_for("up", 6)

        def children():
            path = "/proc/%d/task/%d/children" % (job.pid, job.pid)
            with open(path) as file:
                return file.read().split()
        self.assertTrue(eventually(lambda: len(children()) == 1, 2.5), children())
        self.assertCode(job.finish(), 0)

    def test_many_ranks(self):
        result = self.launch(200, "sh", "-c", "echo $RANK").finish(60)
        self.assertCode(result, 0)
        self.assertEqual(sorted(int(line.split()[1]) for line in result.out.splitlines()),
                         list(range(200)))


if __name__ == "__main__":
    unittest.main()
