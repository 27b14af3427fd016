#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What shoal-forge learns of a model's weights: calibrate-weights is killed and goes on to the same bytes, and
compare-passes tells rows as a table, as JSON and as a picture, and goes on behind the last row that it has. What
sparsify makes of a model: the same logits for any batch, tier and file, and others than without it."""
import json
import os
import random
import re
import signal
import subprocess
import time
import xml.etree.ElementTree

from harness import Site, binary, expect, main, run

TOKENS = 24000
LAYERS = 2 * 7


def forge(*args, check=True):
    return run(binary("shoal-forge"), *args, check=check)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def make_ids(path, n, seed=1):
    rng = random.Random(seed)
    with open(path, "w") as f:
        f.write(" ".join(str(rng.randrange(3, 300)) for _ in range(n)))


def kill_once_saved(command, part):
    """True when it was killed after a state was there, False when it was done before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not os.path.exists(part):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_killed_calibration_goes_on_to_the_same_bytes():
    with Site() as site:
        model, ids = site.tiny_model(5), site.file("text.ids")
        whole, out = site.file("whole.moments"), site.file("out.moments")
        make_ids(ids, TOKENS)
        command = ["calibrate-weights", "-m", model, "-f", ids, "--ids", "--window", "32", "--tokens", str(TOKENS)]
        forge(*command, "-o", whole)
        expect(not os.path.exists(whole + ".part"), "a state is left behind")
        killed = 0
        for _ in range(3):
            killed += kill_once_saved([binary("shoal-forge"), *command, "-o", out, "--save-every", "0"], out + ".part")
            expect(not os.path.exists(out) or killed == 0, "a file before its end")
        expect(killed > 0, "it was never killed in time")
        done = forge(*command, "-o", out)
        expect("goes on behind" in done.stderr, done.stderr)
        expect(read(out) == read(whole), "other bytes than without the interruption")
        expect(not os.path.exists(out + ".part"), "a state is left behind")


def test_state_of_another_run_is_not_gone_on_with():
    with Site() as site:
        model, ids = site.tiny_model(5), site.file("text.ids")
        whole, out = site.file("whole.moments"), site.file("out.moments")
        make_ids(ids, TOKENS)
        command = ["calibrate-weights", "-m", model, "-f", ids, "--ids", "--window", "32"]
        expect(kill_once_saved([binary("shoal-forge"), *command, "-o", out, "--save-every", "0"], out + ".part"), "done")
        make_ids(ids, 600, seed=2)
        forge(*command, "-o", whole)
        done = forge(*command, "-o", out)
        expect("begins anew" in done.stderr and "another text" in done.stderr, done.stderr)
        expect(read(out) == read(whole), "other bytes than without the other run")


def test_rows_of_a_comparison_are_kept():
    with Site() as site:
        model, ids, moments = site.tiny_model(5), site.file("text.ids"), site.file("c.moments")
        rows, plot = site.file("rows.json"), site.file("rows.svg")
        make_ids(ids, 400)
        forge("calibrate-weights", "-m", model, "-f", ids, "--ids", "-o", moments)
        command = ["compare-passes", "-m", model, "-c", moments]
        told = forge(*command, "-o", rows, "--plot", plot, "--json").stdout.splitlines()
        kept = read(rows).decode().splitlines()
        head, layers, tally = json.loads(kept[0]), [json.loads(line) for line in kept[1:-1]], json.loads(kept[-1])
        expect(head["bits"] == 3 and head["group"] == 64, head)
        expect(told == kept[1:] and len(layers) == tally["layers"] == LAYERS, f"{len(layers)} rows, {tally}")
        for row in layers:
            expect(row["refined"] <= row["gptq"] * 1.0001 and row["wrp"] <= row["2:4"], row)
            expect(row["=joint"] <= row["=refined"] * 1.0001, row)
        expect(tally["met"]["refined <= gptq"] == LAYERS, tally)
        expect(tally["met"]["wrp <= 2:4 / 2"] == sum(row["wrp"] <= row["2:4"] / 2 for row in layers), tally)
        root = xml.etree.ElementTree.parse(plot).getroot()
        lines = [e for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("fill") == "none"]
        expect(root.tag.endswith("svg") and len(lines) == 5, "a picture of five lines")
        expect(lines[-1].get("d").count("L") == LAYERS - 1, lines[-1].get("d"))
        # What is there is not made again: a row with another number stays, and the rows behind it are made as before.
        cut = [re.sub(r'"awq": [^,]*', '"awq": 7', line) for line in kept[:5]]
        with open(rows, "w") as f:
            f.write("\n".join(cut) + "\n")
        forge(*command, "-o", rows)
        again = read(rows).decode().splitlines()
        expect(again[:5] == cut and again[5:-1] == kept[5:-1], "other rows")
        table = forge(*command, "-o", rows).stdout
        expect(table.count("blk.") == LAYERS and "geometric mean" in table, table[:500])
        # Another comparison does not write over it.
        other = forge(*command, "-o", rows, "--bits", "4", check=False)
        expect(other.returncode != 0 and "another name" in other.stderr, other.stderr)
        with open(rows, "w") as f:
            f.write("\n".join(kept[:3]) + '\n{"layer": 5}\n')
        bad = forge(*command, "-o", rows, check=False)
        expect(bad.returncode != 0 and "line 4" in bad.stderr, bad.stderr)
        bad = forge(*command, "--group", "48", check=False)
        expect(bad.returncode != 0 and "32, 64 or 128" in bad.stderr, bad.stderr)


def test_layers_skip_their_smallest_inputs():
    with Site() as site:
        model, text = site.tiny_model(5, "Q4_0"), site.file("text.txt")
        out, again, packed = site.file("skip.gguf"), site.file("again.gguf"), site.file("packed.gguf")
        rng = random.Random(3)
        with open(text, "w") as f:
            f.write(" ".join("".join(rng.choice("abcdefgh") for _ in range(5)) for _ in range(600)))
        command = ["sparsify", "-m", model, "-f", text, "--tokens", "600", "--share", "0.4"]
        told = json.loads(forge(*command, "-o", out, "--json").stdout)
        expect(told["layers"] == told["layers_q4_0"] == LAYERS and abs(told["share"] - 0.4) < 0.02, told)
        forge(*command, "-o", again)
        expect(read(out) == read(again), "other bytes from the same text")
        seen = [json.loads(forge("inspect", "-m", path, "--json").stdout) for path in (model, out)]
        expect(seen[0]["sides"] is None and seen[1]["sides"]["thresholds"] == LAYERS, seen[1]["sides"])
        expect(seen[0]["model_hash"] != seen[1]["model_hash"], "another model has the same hash")
        # The same logits however many tokens a step has, by any tier, and from a packed file; others than with all inputs.
        forge("pack", "-m", out, "-o", packed)
        ids = "5,9,30,77,12,101,64,9"
        logits = ["logits", "--tokens", ids, "--all", "--json", "-m"]
        want = forge(*logits, out).stdout
        expect(forge(*logits, packed).stdout == want, "other logits when packed")
        expect(forge(*logits, out, "--cpu-mask", "scalar").stdout == want, "other logits by scalar code")
        for n in (1, 3):
            part = forge("logits", "--tokens", ",".join(ids.split(",")[:n]), "--all", "--json", "-m", out).stdout
            expect(json.loads(part)["logits"] == json.loads(want)["logits"][:n], f"other logits of {n} tokens alone")
        expect(forge(*logits, model).stdout != want, "nothing was skipped")
        bad = forge("sparsify", "-m", out, "-f", text, "-o", again, check=False)
        expect(bad.returncode != 0 and "there already" in bad.stderr, bad.stderr)
        bad = forge("sparsify", "-m", packed, "-f", text, "-o", again, check=False)
        expect(bad.returncode != 0 and "packed" in bad.stderr, bad.stderr)


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
