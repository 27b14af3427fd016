#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/bench/soak: what counts as flat, and a short run all the way. Ten seconds say nothing of growth and are not judged."""
import json
import os
import random
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "..", "integration"))
from flat import LEAST, judge  # noqa: E402
from harness import SANITIZED, SOURCE, expect, main, run  # noqa: E402

N = 30


def flat(kind, values):
    return judge("x", kind, values)[1]


def test_what_grows_is_seen():
    for percent, ok in ((0, True), (0.9, True), (1.1, False), (5, False)):
        expect(flat("memory", [60000] * 12 + [60000 * (1 + percent / 100)] * 18) == ok, f"memory and {percent} % more")
    expect(not flat("memory", [60000 + 60 * i for i in range(N)]), "a leak of 0.1 % a window was not seen")
    for at, ok in ((N // 10, True), (N // 10 + 1, False), (6, False), (N - 1, True)):
        expect(flat("memory", [60000] * at + [63000] * (N - at)) == ok, f"a step of 5 % at figure {at}")
    expect(flat("memory", [40000, 50000, 59000] + [60000] * 27), "caches that fill were taken for a leak")
    expect(flat("descriptors", [21, 20, 21, 19] * 8), "descriptors that come and go were taken for a leak")
    expect(not flat("descriptors", [20] * 25 + [21] * 5), "one descriptor more was not seen")
    expect(not flat("descriptors", [30] * 3 + [20] * 22 + [21] * 5), "what a start held hid one descriptor more")


def test_times_that_rise_are_told_from_noise():
    rng = random.Random(1)
    for kind, slope, ok in (("flat", 0, True), ("20 % slower", 0.2, True), ("twice as slow", 1, False)):
        values = [20 * (1 + slope * i / N) * rng.uniform(0.9, 1.1) for i in range(N)]
        expect(flat("time", values) == ok, f"{kind}: {judge('x', 'time', values)}")
    # Of times that jump about by a factor of four hardly any are taken for a rise.
    jumps = [[20 * rng.choice((1, 2, 4)) * rng.uniform(0.8, 1.2) for _ in range(N)] for _ in range(200)]
    n_flat = sum(flat("time", values) for values in jumps)
    expect(n_flat >= 196, f"{200 - n_flat} of 200 rows of noise were taken for a rise")


def test_few_figures_are_not_judged():
    for n, ok in ((LEAST - 1, True), (LEAST, False)):
        expect(flat("memory", [1000 * (i + 1) for i in range(n)]) == ok, f"{n} figures")


def test_soak_in_short():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "soak.json")
        done = run(os.path.join(SOURCE, "tests/bench/soak"), "--minutes", "0.1", "--windows", "2", "--json", path, timeout=300)
        with open(path, encoding="ascii") as f:
            told = json.load(f)
        for name in ("node", "edge"):
            for row in told["seen"][name]:
                expect(row["KiB"] > 1000 and row["descriptors"] > 3 and min(row["first_ms"], row["gap_ms"]) > 0, f"{name}: {row}")
            expect(len(told["seen"][name]) == 2, f"{told['seen']}")
        expect(SANITIZED or all(1000 < row["used"] < row["KiB"] for row in told["seen"]["node"]), f"{told['seen']['node']}")
        expect(told["counts"]["node"]["ok"] > 0 and told["counts"]["edge"]["whole"] > 0, f"{told['counts']}")
        return next(line for line in done.stdout.splitlines() if line.startswith("node: "))


if __name__ == "__main__":
    main([test_what_grows_is_seen, test_times_that_rise_are_told_from_noise, test_few_figures_are_not_judged, test_soak_in_short])
