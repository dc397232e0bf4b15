"""Runs rdma-core's tests (package `tests` in the current folder) on urxe0 and compares the outcome
with a list of expected skips.

usage: pyverbs_run.py SKIPPED [TEST...]

Each line of SKIPPED is a test's name, which may be a shell pattern, and the reason why urxe skips it.
"""
import fnmatch
import sys
import unittest

sys.path.insert(0, "tests")  # the package imports this module by its bare name
import args_parser  # noqa: E402

DEVICE = "urxe0"


class Outcome(unittest.TestResult):
    """What became of each test, by name."""

    def __init__(self):
        super().__init__()
        self.passed = set()
        self.problems = {}
        self.skips = {}

    def addSuccess(self, test):
        self.passed.add(test.id())

    def addSkip(self, test, reason):
        self.skips[test.id()] = reason

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.problems[test.id()] = self.failures[-1][1]

    def addError(self, test, err):
        super().addError(test, err)
        self.problems[test.id()] = self.errors[-1][1]


def read_list(path):
    """The patterns of the list, in its order."""
    with open(path, encoding="utf-8") as lines:
        return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def main():
    skipped, names = sys.argv[1], sys.argv[2:]
    sys.argv[1:] = ["--dev", DEVICE]
    args_parser.parser.parse_args()
    loader = unittest.defaultTestLoader
    suite = loader.loadTestsFromNames(names) if names else loader.loadTestsFromName("tests")
    outcome = Outcome()
    suite.run(outcome)

    patterns = read_list(skipped)
    listed = lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    complaints = [f"FAILED {name}\n{text}" for name, text in sorted(outcome.problems.items())]
    complaints += [f"SKIPPED, not listed: {name}: {reason}"
                   for name, reason in sorted(outcome.skips.items()) if not listed(name)]
    complaints += [f"LISTED as skipped, but passed: {name}"
                   for name in sorted(outcome.passed) if listed(name)]
    if not outcome.passed:
        complaints.append("FAILED: no test passed")
    for complaint in complaints:
        print(complaint)
    print(f"{len(outcome.passed)} passed, {len(outcome.skips)} skipped, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
