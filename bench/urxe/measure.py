#!/usr/bin/env python3
"""The methods of bench/urxe/run.sh, their rounds and the table of medians."""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time

LIMIT = 120  # seconds of one program
DEVICE = ["-d", "urxe0", "-x", "0", "-F"]


class Pair:
    """A server and a client of one program on this host."""

    def __init__(self, options):
        self.options = options
        self.port = 21000 + os.getpid() % 8000

    def run(self, server, client, env=None):
        """What the client prints. Both get the port; CalledProcessError when one fails."""
        self.port += 1
        full = dict(os.environ, **(env or {}))
        ahead = subprocess.Popen([word.format(port=self.port) for word in server], env=full,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            self.await_listener(ahead)
            result = subprocess.run([word.format(port=self.port) for word in client], env=full,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                    timeout=LIMIT)
            out, _ = ahead.communicate(timeout=20)
        finally:
            if ahead.poll() is None:
                ahead.kill()
                ahead.communicate()
        for code, command, text in ((result.returncode, client, result.stdout),
                                    (ahead.returncode, server, out)):
            if code != 0:
                raise RuntimeError("%s: code %d\n%s" % (" ".join(command), code, text[-2000:]))
        return result.stdout

    def await_listener(self, process):
        # Looked up, since a connection tried would be taken for the client's.
        wanted = ":%04X 0" % self.port
        end = time.monotonic() + 20
        while time.monotonic() < end and process.poll() is None:
            for table in ("/proc/net/tcp", "/proc/net/tcp6"):
                with open(table) as file:
                    if any(wanted in line and " 0A " in line for line in file):
                        return
            time.sleep(0.01)
        raise RuntimeError("the server does not listen: " + " ".join(map(str, process.args)))

    def settings(self, urxe):
        env = {"URXE_" + name.upper(): value for name, value in urxe.items()}
        env["URXE_INTERFACES"] = self.options.interface
        return env

    def perftest(self, program, *flags, **urxe):
        """The columns of perftest's only line of figures."""
        env = self.settings(urxe)
        env["LD_PRELOAD"] = os.path.join(self.options.build, "lib/liburxe.so")
        command = [program, *DEVICE, "-p", "{port}", *flags]
        out = self.run(command, command + ["127.0.0.1"], env)
        rows = [line.split() for line in out.splitlines() if re.match(r"^ *\d+ +\d+ +[\d.]+", line)]
        if len(rows) != 1:
            raise RuntimeError("%s printed %d lines of figures\n%s" % (program, len(rows), out))
        return [float(word) for word in rows[0]]

    def write_bw(self, *flags, **urxe):
        """GB/s; perftest says MiB/s."""
        row = self.perftest("ib_write_bw", "-s", "1048576", "-D", "%d" % self.options.seconds,
                            *flags, **urxe)
        return row[3] * 1048576 / 1e9

    def message_rate(self, **urxe):
        """Millions a second."""
        row = self.perftest("ib_write_bw", "-s", "64", "-D", "%d" % self.options.seconds, "-l", "64",
                            "-t", "256", **urxe)
        return row[4]

    def write_lat(self, **urxe):
        """Typical microseconds one way."""
        row = self.perftest("ib_write_lat", "-s", "8", "-n", "20000", **urxe)
        return row[4]

    def iperf3(self):
        """GB/s of one TCP stream."""
        out = self.run(["iperf3", "-s", "-1", "-p", "{port}"],
                       ["iperf3", "-c", "127.0.0.1", "-p", "{port}", "-J", "-l", "1M", "-t",
                        "%d" % self.options.seconds])
        return json.loads(out)["end"]["sum_received"]["bits_per_second"] / 8e9

    def many(self, count, **urxe):
        env = dict(os.environ, **self.settings(urxe))
        program = os.path.join(self.options.build, "bench/urxe/many_queue_pairs")
        result = subprocess.run([program, "--queue-pairs", str(count), "--seconds",
                                 str(self.options.seconds)], env=env, capture_output=True, text=True,
                                timeout=LIMIT)
        if result.returncode != 0:
            raise RuntimeError("many_queue_pairs: %s" % result.stderr.strip())
        return json.loads(result.stdout)


def methods(pair):
    """name -> (unit, function); many_queue_pairs gives several figures at once."""
    table = {
        "tcp_iperf3": ("GB/s", pair.iperf3),
        "write_bw_udp": ("GB/s", lambda: pair.write_bw(path="udp")),
        "write_bw_same_host": ("GB/s", lambda: pair.write_bw(path="local")),
        "write_bw_same_host_shared": ("GB/s", lambda: pair.write_bw(path="local", share="on")),
        "write_bw_udp_loss_0.1%": ("GB/s", lambda: pair.write_bw(path="udp", faults="drop=0.001,seed=1")),
        "write_lat_udp": ("us", lambda: pair.write_lat(path="udp")),
        "write_lat_same_host": ("us", lambda: pair.write_lat(path="local")),
        "write_lat_same_host_shared": ("us", lambda: pair.write_lat(path="local", share="on")),
        "messages_64B_udp": ("M/s", lambda: pair.message_rate(path="udp")),
        "messages_64B_same_host": ("M/s", lambda: pair.message_rate(path="local")),
    }
    for count in (1, 100, 2000):
        table["queue_pairs_%d_udp" % count] = ("", lambda count=count: pair.many(count, path="udp"))
    return table


FIGURES = (("gigabytes_per_second", "GB/s"), ("queue_pairs_per_second", "1/s"),
           ("bytes_per_queue_pair", "B"), ("idle_cpu_share", "cores"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--interface", default="lo")
    parser.add_argument("--only", default="")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds take whole numbers above 0")
    pair = Pair(options)
    table = methods(pair)
    wanted = options.only.split(",") if options.only else list(table)
    for name in wanted:
        if name not in table:
            parser.error("no method %s; there are: %s" % (name, ", ".join(table)))

    samples, units, failures = {}, {}, {}

    def keep(name, unit, value):
        samples.setdefault(name, []).append(value)
        units[name] = unit
    for number in range(options.rounds):
        print("# round %d of %d" % (number + 1, options.rounds), file=sys.stderr, flush=True)
        for name in wanted:
            unit, measure = table[name]
            try:
                value = measure()
            except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
                failures.setdefault(name, []).append(str(error))
                print("# %s: %s" % (name, error), file=sys.stderr)
                continue
            if isinstance(value, dict):
                for key, unit in FIGURES:
                    keep("%s %s" % (name, key), unit, value[key])
            else:
                keep(name, unit, value)

    print("# %s, %d cores, %d rounds; spread: largest by smallest" %
          (socket.gethostname(), len(os.sched_getaffinity(0)), options.rounds))
    print("%-44s %12s %-6s %7s %5s" % ("#method", "median", "unit", "spread", "n"))
    report = []
    for name, values in samples.items():
        median = statistics.median(values)
        spread = max(values) / min(values) if min(values) > 0 else float("nan")
        print("%-44s %12.4g %-6s %7.2f %5d" % (name, median, units[name], spread, len(values)))
        report.append({"method": name, "unit": units[name], "median": median, "samples": values})
    medians = {entry["method"]: entry["median"] for entry in report}
    for ours, theirs in (("write_bw_udp", "tcp_iperf3"), ("write_bw_same_host", "tcp_iperf3"),
                         ("write_bw_udp_loss_0.1%", "write_bw_udp")):
        if ours in medians and theirs in medians:
            print("# %s / %s: %.2f" % (ours, theirs, medians[ours] / medians[theirs]))
    for name, texts in failures.items():
        print("# %s failed in %d of %d rounds" % (name, len(texts), options.rounds))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rounds": options.rounds, "methods": report, "failures": failures}, file,
                      indent=2)
            file.write("\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
