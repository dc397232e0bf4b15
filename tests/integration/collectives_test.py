"""Every collective, type and operation over odd sizes, at 1 to 8 ranks and with odd settings.

Where nothing is said, the data move over RDMA: a kernel's device if there is one, else urxe.
"""

import unittest

from harness import PROGRAM, SLOWNESS, ProcessTest

# The worker computes every element itself, which takes minutes in an instrumented build.
LARGE = ("--large",) if SLOWNESS == 1 else ()
BRIEF = () if SLOWNESS == 1 else ("--brief",)
KINDS = "all" if SLOWNESS == 1 else "float"
# What another number of ranks shows has nothing to do with memory or threads.
plain_build_only = unittest.skipIf(SLOWNESS != 1, "3, 5 and 8 ranks do in an instrumented build")


class CollectivesTest(ProcessTest):

    def sweep(self, ranks, *arguments, env=None):
        result = self.worker(ranks, "sweep", *BRIEF, *arguments, env=env).finish(110)
        self.assertCode(result, 0)
        for rank in range(ranks):
            self.assertRegex(result.of_rank(rank), r"\d{4,} checks passed")

    def test_1_rank(self):
        self.sweep(1, *LARGE)

    def test_2_ranks(self):
        self.sweep(2, *LARGE)

    def test_3_ranks(self):
        self.sweep(3, *LARGE)

    @plain_build_only
    def test_4_ranks(self):
        self.sweep(4)

    def test_5_ranks(self):
        self.sweep(5)

    @plain_build_only
    def test_6_ranks(self):
        self.sweep(6)

    @plain_build_only
    def test_7_ranks(self):
        self.sweep(7)

    def test_8_ranks(self):
        self.sweep(8)

    def test_ring_for_every_size(self):
        self.sweep(3, "--all-reduce", "ring")

    def test_recursive_doubling_for_every_size(self):
        self.sweep(3, "--all-reduce", "recursive_doubling")

    def test_tree_for_every_size(self):
        self.sweep(3, "--all-reduce", "tree")

    def test_smallest_slices_and_fewest_slots(self):
        self.sweep(3, "--slice-bytes", "4K", "--slots", "2")

    def test_several_lanes(self):
        self.sweep(3, "--lanes", "3", "--slice-bytes", "4K", "--slots", "64")

    def test_several_lanes_of_ranks_that_sleep(self):
        # Batches of completions of which none is due: what stands behind them raises no event.
        self.sweep(3, "--lanes", "3", "--slice-bytes", "4K", "--slots", "64", "--spin-us", "0")

    def test_spinning_and_blocking_waits(self):
        self.sweep(2, "--spin-us", "100000")
        self.sweep(2, "--spin-us", "0")

    def test_ipv6(self):
        self.sweep(2, "--transport", "tcp", "--socket-family", "ipv6", "--socket-interface",
                   "::1/128")

    @plain_build_only
    def test_tcp_1_rank(self):
        self.sweep(1, "--transport", "tcp")

    def test_tcp_2_ranks(self):
        self.sweep(2, "--transport", "tcp", *LARGE)

    def test_tcp_3_ranks(self):
        self.sweep(3, "--transport", "tcp", *LARGE)

    @plain_build_only
    def test_tcp_5_ranks(self):
        self.sweep(5, "--transport", "tcp")

    def test_tcp_8_ranks(self):
        self.sweep(8, "--transport", "tcp")

    def test_tcp_smallest_slices_and_fewest_slots(self):
        self.sweep(3, "--transport", "tcp", "--slice-bytes", "4K", "--slots", "2")

    def test_tcp_several_lanes(self):
        self.sweep(3, "--transport", "tcp", "--lanes", "3", "--slice-bytes", "4K", "--slots", "64")

    # --- The ways of urxe ---

    def over_urxe(self, ranks, *arguments, **settings):
        urxe = self.urxe(**settings)
        self.sweep(ranks, "--device", "urxe", *arguments, env=urxe.env)
        return urxe

    def test_urxe_same_host_path(self):
        urxe = self.over_urxe(3)
        if urxe.counted("local_refusals") > 0:
            self.skipTest("two processes may not copy here; gradwire doctor says why")
        self.assertGreater(urxe.counted("local_bytes"), 0)
        self.assertEqual(urxe.counted("udp_connections"), 0)

    def packets(self, ranks, *arguments, **settings):
        urxe = self.over_urxe(ranks, *arguments, path="udp", **settings)
        self.assertGreater(urxe.counted("packets_received"), 1000)
        self.assertEqual(urxe.counted("local_operations"), 0)
        self.assertEqual(urxe.counted("rnr_naks_sent"), 0)
        return urxe

    def test_urxe_slices_read_where_they_lie(self):
        """Allocated tensors are mapped by the neighbour: half of what travels need not."""
        for ranks in (2, 3, 4):
            moved = {}
            for registered in ("0", "1"):
                urxe = self.urxe()
                result = self.launch(
                    ranks, PROGRAM, "bench", "allreduce", "--device", "urxe", "-R", registered,
                    "-b", "299952", "-e", "1200048", "-i", "299984", "-d", KINDS, "-o", "sum",
                    "-n", "3", "-w", "1", "-c", "1", "--all-reduce", "ring", env=urxe.env).finish(110)
                self.assertCode(result, 0)
                self.assertIn("Out of bounds values : 0 OK", result.of_rank(0))
                if urxe.counted("local_refusals") > 0:
                    self.skipTest("two processes may not copy here; gradwire doctor says why")
                moved[registered] = urxe.counted("local_bytes")
            self.assertLess(moved["1"], 0.7 * moved["0"])

    def test_urxe_samples_of_allocated_tensors(self):
        """What bench/peers measures: as many calls as can be counted, with either memory."""
        moved = {}
        for registered in ("0", "1"):
            urxe = self.urxe()
            result = self.launch(
                2, PROGRAM, "bench", "allreduce", "--device", "urxe", "-R", registered, "--csv",
                "--sizes", "1M", "--budget", "0.000001", "--all-reduce", "ring",
                env=urxe.env).finish(60)
            self.assertCode(result, 0)
            if urxe.counted("local_refusals") > 0:
                self.skipTest("two processes may not copy here; gradwire doctor says why")
            moved[registered] = urxe.counted("local_bytes")
        self.assertLess(moved["1"], 0.7 * moved["0"])

    def test_urxe_packets_2_ranks(self):
        self.packets(2, *LARGE)

    def test_urxe_packets_5_ranks(self):
        self.packets(5)

    def test_urxe_packets_own_receives(self):
        self.packets(3, "--receive-queue", "own", "--lanes", "2", "--completion", "channel")

    def test_urxe_lost_and_spoilt_packets(self):
        urxe = self.packets(3, faults="drop=0.005,duplicate=0.005,reorder=0.005,corrupt=0.002,"
                            "seed=9")
        self.assertGreater(urxe.counted("faults_dropped"), 0)
        self.assertGreater(urxe.counted("retransmits"), 0)
        self.assertGreater(urxe.counted("icrc_errors"), 0)


if __name__ == "__main__":
    unittest.main()
