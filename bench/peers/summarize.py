#!/usr/bin/env python3
"""Tables of a run of run.sh, in Markdown: for each number of ranks and each size, every library's
median over rounds of its medians, how far the rounds lie apart, its bus bandwidth, and Gradwire's
bandwidth as a multiple of the best other's.

    summarize.py FOLDER [OURS]     OURS: the peer that is compared (default: gradwire)

Exit code 1 when a result was wrong or there is nothing to show.
"""
import csv
import os
import statistics
import sys
from collections import defaultdict


def size_name(count):
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power and count % (1 << power) == 0:
            return f"{count >> power} {unit}"
    return f"{count} B"


def microseconds(value):
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def load(path):
    """{(ranks, bytes): {peer: [median of each round]}}, and the rows that were wrong."""
    medians = defaultdict(lambda: defaultdict(list))
    wrong = []
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if int(row["bad"]) != 0:
                wrong.append(row)
                continue
            key = int(row["ranks"]), int(row["bytes"])
            medians[key][row["peer"]].append(float(row["median_us"]))
    return medians, wrong


def cell(times, ranks, size):
    median = statistics.median(times)
    bandwidth = size / (median * 1e3) * 2 * (ranks - 1) / ranks
    spread = max(times) / min(times)
    return f"{microseconds(median)} ({spread:.2f}), {bandwidth:.3f}"


def table(medians, ranks, peers, ours):
    others = [peer for peer in peers if not peer.startswith("gradwire")]
    compared = ours in peers and others
    heads = ["size"] + peers + (["best other", f"{ours} / best"] if compared else [])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for size in sorted(size for count, size in medians if count == ranks):
        times = medians[ranks, size]
        cells = [cell(times[peer], ranks, size) if peer in times else "-" for peer in peers]
        if compared:
            measured = [peer for peer in others if peer in times]
            best = min(measured, key=lambda peer: statistics.median(times[peer]), default=None)
            if best and ours in times:
                ratio = statistics.median(times[best]) / statistics.median(times[ours])
                cells += [best, f"{ratio:.2f}"]
            else:
                cells += [best or "-", "-"]
        lines.append("| " + " | ".join([size_name(size)] + cells) + " |")
    return "\n".join(lines)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder = sys.argv[1]
    ours = sys.argv[2] if len(sys.argv) == 3 else "gradwire"
    medians, wrong = load(os.path.join(folder, "samples.csv"))
    about = os.path.join(folder, "about.txt")
    if os.path.exists(about):
        with open(about) as file:
            print("\n".join("- " + line for line in file.read().splitlines()))
    print("\nEach cell: median of the rounds' medians in us (largest / smallest round), bus "
          "bandwidth in GB/s.")
    for ranks in sorted({count for count, _ in medians}):
        present = {peer for (count, _), times in medians.items() if count == ranks
                   for peer in times}
        peers = sorted(present, key=lambda peer: (peer != ours, peer))
        print(f"\n### {ranks} ranks\n")
        print(table(medians, ranks, peers, ours))
    for row in wrong:
        print(f"\nWRONG: {row['peer']}, {row['ranks']} ranks, {row['bytes']} bytes, round "
              f"{row['rep']}: {row['bad']} elements; not in the tables")
    if wrong or not medians:
        sys.exit(1)


if __name__ == "__main__":
    main()
