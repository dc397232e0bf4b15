"""Studies as a user meets them: measured by programs that really run, answered in a table, a sentence
and a page. Short ones; what is made of the numbers has unit tests."""

import json
import os
import unittest

import harness


class Studies(harness.ProcessTest):
    def study(self, *arguments, code=0):
        folder = self.folder()
        file = os.path.join(folder, "all.json")
        result = self.gradwire("study", *arguments, "--quick", "--out", folder, "--json", file)
        self.assertCode(result, code)
        self.assertLessEqual(max(map(len, result.out.splitlines())), 80, result)
        with open(os.path.join(folder, "report.html")) as page:
            self.assertIn("<!doctype html>", page.read(200).lower())
        self.assertEqual(sorted(os.listdir(folder)), ["all.json", "report.html"])
        with open(file) as report:
            return result, json.load(report)

    def test_an_interval_as_long_as_the_queue_is_refused(self):
        result, report = self.study("signal_interval")
        study = report["studies"][0]
        self.assertEqual([row[0] for row in study["table"]["rows"]],
                         ["1", "2", "4", "8", "12", "15"])
        self.assertRegex("\n".join(study["notes"]), "16 is refused: .*never drains")
        for row in study["table"]["rows"]:
            self.assertGreater(float(row[1]), 0)
        shares = study["charts"][1]["series"]
        for i in range(6):
            self.assertAlmostEqual(sum(s["y"][i] for s in shares), 100, delta=2)
        self.assertEqual(len(study["commands"]), 7)
        self.assertRegex(study["devices"][0], "urxe0")
        self.assertIn("Linux", report["machine"])
        self.assertIn("In theory: ", " ".join(result.out.split()))

    def test_other_programs_of_ours_measure_too(self):
        _, report = self.study("write_vs_read", "allreduce_vs_ps")
        for study in report["studies"]:
            if study["answer"] == "Not measured.":
                self.assertRegex(study["notes"][0], "GRADWIRE_EXTRAS")
                continue
            self.assertGreater(len(study["table"]["rows"]), 2, study)
            for series in study["charts"][0]["series"]:
                self.assertGreater(min(series["y"]), 0)

    def test_one_that_fails_is_told_and_the_rest_stays(self):
        result, report = self.study("rdma_vs_tcp", "inline_size", "--device", "none9", code=1)
        self.assertRegex(result.err, "(?m)^gradwire: study rdma_vs_tcp: .*none9")
        self.assertEqual([s["answer"][:10] for s in report["studies"]], ["It failed:"] * 2)


if __name__ == "__main__":
    unittest.main()
