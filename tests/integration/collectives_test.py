"""Every collective, type and operation over odd sizes, at 1 to 8 ranks and with odd settings."""

import unittest

from harness import SLOWNESS, ProcessTest

# The worker computes every element itself, which takes minutes in an instrumented build.
LARGE = ("--large",) if SLOWNESS == 1 else ()
BRIEF = () if SLOWNESS == 1 else ("--brief",)


class CollectivesTest(ProcessTest):

    def sweep(self, ranks, *arguments):
        result = self.worker(ranks, "sweep", *BRIEF, *arguments).finish(110)
        self.assertCode(result, 0)
        for rank in range(ranks):
            self.assertRegex(result.of_rank(rank), r"\d{4,} checks passed")

    def test_1_rank(self):
        self.sweep(1, *LARGE)

    def test_2_ranks(self):
        self.sweep(2, *LARGE)

    def test_3_ranks(self):
        self.sweep(3, *LARGE)

    def test_4_ranks(self):
        self.sweep(4)

    def test_5_ranks(self):
        self.sweep(5)

    def test_6_ranks(self):
        self.sweep(6)

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

    def test_spinning_and_blocking_waits(self):
        self.sweep(2, "--spin-us", "100000")
        self.sweep(2, "--spin-us", "0")

    def test_ipv6(self):
        self.sweep(2, "--socket-family", "ipv6", "--socket-interface", "::1/128")


if __name__ == "__main__":
    unittest.main()
