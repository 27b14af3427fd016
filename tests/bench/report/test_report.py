#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/bench/run: what counts as worse, that docs/BENCHMARKS.md says what docs/benchmarks.json holds, and a quick part all the way."""
import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
sys.path.insert(0, os.path.join(HERE, "../../integration"))
from harness import SOURCE, expect, main  # noqa: E402
from report import pages  # noqa: E402

RUN = os.path.join(SOURCE, "tests/bench/run")
HERE_IS = {"cpu": "one", "cores": 2, "flags": ["avx2"]}


def part(values, quick=False, **machine):
    """Of {name: (value, better)}."""
    return {"date": "2026-01-01", "quick": quick, "machine": {**HERE_IS, **machine},
            "figures": [pages.figure(name, value, "u", better) for name, (value, better) in values.items()]}


def test_worse_and_better_are_told_from_noise():
    old = part({"a": (100, "more"), "b": (100, "less"), "c": (100, "same"), "d": (0, "same"), "e": (1, "less")})
    rows = ((90.1, "a", ""), (89.9, "a", "worse"), (110.1, "a", "better"), (109.9, "a", ""), (110.1, "b", "worse"), (109.9, "b", ""),
            (89.9, "b", "better"), (100.4, "c", ""), (100.6, "c", "worse"), (99.4, "c", "worse"), (0, "d", ""), (1, "d", "worse"))
    for value, name, verdict in rows:
        better = next(f["better"] for f in old["figures"] if f["id"] == name)
        found = pages.compare(part({name: (value, better)}), old)
        told = [key for key in ("worse", "better") if [f["id"] for f in found[key]] == [name]]
        expect(told == ([verdict] if verdict else []), f"{name} {value}: {told}, not {verdict!r}")
        expect(found["n"] == 1 and found["gone"] == sorted({"a", "b", "c", "d", "e"} - {name}), f"{found}")
        said = pages.say_comparison("x", found)
        expect(("WORSE: " + name in "\n".join(said)) == (verdict == "worse"), f"{said}")


def test_what_cannot_be_compared_is_not():
    old = part({"speed": (100, "more"), "bytes": (100, "same")})
    new = {"speed": (1, "more"), "bytes": (1, "same")}
    expect("not" in pages.compare(part(new), None) and "not" in pages.compare(part(new, quick=True), old), "compared")
    found = pages.compare(part(new, cpu="another"), old)
    expect([f["id"] for f in found["worse"]] == ["bytes"] and found["other_machine"] == "one", f"{found}")
    expect("not compared" in pages.say_comparison("x", found)[0], "the other machine is not named")


def test_page_says_what_the_report_holds():
    with open(os.path.join(SOURCE, "docs/BENCHMARKS.md"), encoding="utf-8") as f:
        text = f.read()
    with open(os.path.join(SOURCE, "docs/benchmarks.json"), encoding="utf-8") as f:
        report = json.load(f)
    expect(pages.put(text, report) == text, "docs/BENCHMARKS.md is not what docs/benchmarks.json holds: tests/bench/run --render")
    for name, one in report["parts"].items():
        expect(not one["quick"] and one["figures"] and one["commands"], f"{name} is not a whole part")
        for plot in one["plots"]:
            expect(os.path.exists(os.path.join(SOURCE, "docs", plot)), f"{name}: docs/{plot} is missing")
    try:
        pages.put(text.replace(pages.END, ""), report)
    except ValueError:
        return f"{len(report['parts'])} parts"
    raise AssertionError("a page without its mark was written")


def bench(out, *options, status=0):
    done = subprocess.run([RUN, "--out", out, *options], capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL)
    expect(done.returncode == status, f"{options} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return done


def test_quick_part_is_measured_kept_and_compared():
    names = os.environ.get("SHOAL_TEST_BENCH_PARTS", "engine")
    with tempfile.TemporaryDirectory() as out:
        bench(out, "--quick", "--only", names)
        report_json = os.path.join(out, "report.json")
        with open(report_json, encoding="utf-8") as f:
            report = json.load(f)
        expect(list(report["parts"]) == names.split(","), f"parts {list(report['parts'])}")
        with open(os.path.join(out, "report.md"), encoding="utf-8") as f:
            text = f.read()
        for name, one in report["parts"].items():
            expect(one["quick"] and one["machine"]["cores"] == os.cpu_count() and one["load"]["used"] >= 0, f"{one}")
            expect(len({f["id"] for f in one["figures"]}) == len(one["figures"]) > 0, "figures without names of their own")
            expect(all(f["value"] >= 0 for f in one["figures"]), f"{one['figures']}")
            expect(one["title"] in text and all(command in text for command in one["commands"]), f"{name} is not on the page")
            for plot in one["plots"]:
                expect(os.path.getsize(os.path.join(out, name, plot)) > 1000, f"{plot} is empty")
        # Again: nothing is measured, and nothing is worse than itself. A figure twice as good before is.
        first = report["parts"][names.split(",")[0]]
        worse = next(f for f in first["figures"] if f["better"] == "more")
        worse["value"] *= 2
        with open(os.path.join(out, "before.json"), "w", encoding="utf-8") as f:
            json.dump(report, f)
        done = bench(out, "--quick", "--only", names, "--against", os.path.join(out, "before.json"))
        expect("kept as it was" in done.stderr, done.stderr)
        expect(f"WORSE: {worse['id']} " in done.stdout and done.stdout.count("WORSE") == 1, done.stdout)
    return names


def test_wrong_use_and_a_busy_machine_are_refused():
    with tempfile.TemporaryDirectory() as out:
        expect("engine, cooperation" in bench(out, "--only", "nothing", status=2).stderr, "the parts are not named")
        expect("--quick mean nothing" in bench(out, "--quick", "--accept", status=2).stderr, "quick figures were accepted")
        expect("in use" in bench(out, "--only", "engine", "--busy", "-1", status=3).stderr, "a busy machine is not named")
        expect(not os.listdir(out), f"{os.listdir(out)} were left")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
