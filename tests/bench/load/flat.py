# SPDX-License-Identifier: Apache-2.0
"""Whether a figure that is taken again and again stays what it was: how a long run is judged.

The first tenth fills caches and buffers and is passed over; of the rest the first third is held against the last. Memory is not
noisy, so the last third is held against the first figure of all, lest a step hide within the first third. A time is noisy, so one that grew counts only if the whole row rises too, by the test of
Mann ("Nonparametric tests against trend", Econometrica 13, 1945) and Kendall: S is the number of pairs in order less that of pairs out of order.
"""
import math
import statistics

LEAST = 10  # figures; fewer say nothing
MEMORY_GROWS = 0.01  # share
TIME_GROWS = 0.25  # share
BY_CHANCE = 0.01  # probability


def thirds(values):
    rest = values[len(values) // 10:]
    n = max(1, len(rest) // 3)
    return rest[:n], rest[-n:]


def growth(values):
    """Of the median of the last third over that of the first, as a share."""
    first, last = (statistics.median(part) for part in thirds(values))
    return last / first - 1


def rises_by_chance(values):
    """Probability that a row without a trend rises as much."""
    n = len(values)
    s = sum((later > earlier) - (later < earlier) for i, earlier in enumerate(values) for later in values[i + 1:])
    return 0.5 * math.erfc((s - 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18) / math.sqrt(2))


def judge(name, kind, values):
    """A line about the row, and whether it is flat: kind is "memory", "descriptors" or "time"."""
    if len(values) < LEAST:
        return f"{name}: {len(values)} figures are too few to judge", True
    first, last = thirds(values)
    if kind == "descriptors":
        return f"{name}: {max(first)} -> {max(last)}", max(last) <= max(first)
    grown = growth(values)
    line = f"{name}: {statistics.median(first):.5g} -> {statistics.median(last):.5g} ({100 * grown:+.2f} %)"
    if kind == "memory":
        since = statistics.median(last) / first[0] - 1
        return f"{line}, since the first {100 * since:+.2f} %", max(grown, since) <= MEMORY_GROWS
    chance = rises_by_chance(values)
    return f"{line}, rises so by chance: p = {chance:.2g}", grown <= TIME_GROWS or chance >= BY_CHANCE
