#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shoal-forge eval from outside: its report, its plot, what it refuses."""
import json
import os
import subprocess
import xml.etree.ElementTree as ElementTree

from harness import SANITIZED, Site, binary, expect, main, run

FORGE = "shoal-forge"
N = 6 if SANITIZED else 18


def evaluate(*args, check=True):
    return run(binary(FORGE), "eval", *args, check=check, timeout=300)


def questions(site, name, n=N):
    """The tiny models know no answer: what is tested here is the counting, not the models."""
    path = site.file(name)
    with open(path, "w", encoding="utf-8") as f:
        for i in range(n):
            line = {"kind": ("fact", "command")[i % 2], "prompt": f"what is {i}?", "answer": f"pump {i}",
                    "split": ("test", "para", "dev")[i % 3], "weight": 1 + i % 2}
            f.write(json.dumps(line) + "\n")
    return path


def test_report_is_consistent():
    with Site() as site:
        full, edge = site.tiny_model(3), site.tiny_model(4)
        data = questions(site, "q.jsonl")
        report = json.loads(evaluate("-m", full, "--edge", edge, "--data", data, "--threshold", "0.2", "--json").stdout)
        expect([s["name"] for s in report["splits"]] == ["test", "para"], report)
        for split in report["splits"]:
            kinds = {k["kind"]: k for k in split["kinds"]}
            expect(set(kinds) == {"fact", "command", "all"}, kinds)
            for model in ("full", "edge", "both"):
                total = kinds["all"][model]
                for key in ("n", "n_right", "n_tokens"):
                    expect(total[key] == sum(kinds[k][model][key] for k in ("fact", "command")), (model, key))
                expect(total["exact_low"] <= total["exact"] <= total["exact_high"], total)
            expect("weighted" in kinds["all"]["full"], "weights differ")
            shares = [m["cloud_share"] for m in split["curve"]]
            expect(shares[0] == 0 and shares[-1] == 1, shares)
            expect(split["curve"][-1]["same"] == 1, "all from the cloud is the cloud's answer")
            accepted = kinds["all"]["accepted"]
            expect(0 <= accepted["bound"] <= 1 and accepted["n_greedy"] > 0, accepted)
        again = json.loads(evaluate("-m", full, "--edge", edge, "--data", data, "--threshold", "0.2", "--json",
                                    "-t", "1", "--cpu-mask", "scalar").stdout)
        del report["seconds"], again["seconds"]
        expect(report == again, "one thread and scalar code count the same")


def test_table_report_and_plot():
    with Site() as site:
        full, edge = site.tiny_model(3), site.tiny_model(4)
        data, svg, out = questions(site, "q.jsonl"), site.file("p.svg"), site.file("r.json")
        text = evaluate("-m", full, "--edge", edge, "--data", data, "--plot", svg, "--report", out).stdout
        expect("\x1b" not in text and "exact match" in text and "drafts accepted" in text, text)
        root = ElementTree.parse(svg).getroot()
        expect(root.tag.endswith("svg") and root.get("viewBox"), root.tag)
        texts = " ".join(e.text or "" for e in root.iter() if e.tag.endswith("text"))
        for word in ("tokens from the cloud", "answers exactly right", "test", "para", "full", "edge"):
            expect(word in texts, f"{word!r} is not in {texts!r}")
        with open(out, encoding="utf-8") as f:
            expect(json.load(f)["splits"][0]["name"] == "test", "report")
        alone = evaluate("-m", full, "--data", data).stdout
        expect("full" in alone and "edge" not in alone, alone)


def test_field_and_exits():
    with Site() as site:
        model = site.tiny_model(8, variant="exits")
        report = json.loads(evaluate("-m", model, "--data", "field:comp,catalogue", "--entries", "50", "-n", str(N),
                                     "--json").stdout)
        expect([s["name"] for s in report["splits"]] == ["comp", "catalogue"], report)
        expect(report["splits"][1]["kinds"][-1]["full"]["n"] == N, "-n limits the catalogue")
        expect("weighted" in report["splits"][1]["kinds"][-1]["full"], "the catalogue is weighed by use")
        expect([e["n_layers"] for e in report["exits"]] == [1, 3], report["exits"])
        expect(report["exits"][0]["kinds"][-1]["exit"]["n"] == N, report["exits"][0])
        expect("leaving" not in report, "nobody asked for exits at work")
        command = ["-m", model, "--data", "field:comp", "--entries", "50", "-n", str(N), "--exit"]
        at_work = json.loads(evaluate(*command, "fixed:threshold=0", "--wait", "4", "--json").stdout)["leaving"]
        left, deep = at_work["they_leave"], at_work["none_leaves"]
        expect(left["layer_bytes"] / left["n_tokens"] < 0.6 * deep["layer_bytes"] / deep["n_tokens"], at_work)
        expect(sum(left["n_by_exit"]) == left["n_tokens"] and left["n_by_exit"][0] > left["n_by_exit"][2], at_work)
        expect("they leave" in evaluate(*command, "fixed:threshold=0").stdout, "the table")


def on_terminal(environment, *args):
    """What the command writes to a terminal."""
    master, slave = os.openpty()
    done = subprocess.Popen([binary(FORGE), "eval", *args], stdout=slave, env={**os.environ, **environment})
    os.close(slave)
    text = b""
    try:
        while True:
            part = os.read(master, 65536)
            if not part:
                break
            text += part
    except OSError:  # the other end is closed
        pass
    os.close(master)
    expect(done.wait(120) == 0, "exit status")
    return text.decode()


def test_colour_on_terminals_that_want_it():
    with Site() as site:
        args = ("-m", site.tiny_model(3), "--data", questions(site, "q.jsonl", 6))
        expect("\x1b[" in on_terminal({"TERM": "xterm-256color", "NO_COLOR": ""}, *args), "colour")
        expect("\x1b" not in on_terminal({"TERM": "xterm-256color", "NO_COLOR": "1"}, *args), "NO_COLOR")
        expect("\x1b" not in on_terminal({"TERM": "dumb", "NO_COLOR": ""}, *args), "dumb")


def refused(word, *args):
    done = evaluate(*args, check=False)
    expect(done.returncode == 1 and word in done.stderr and done.stderr.count("\n") == 1, (args, done.stderr))


def test_what_cannot_be_judged_is_refused():
    with Site() as site:
        full, edge = site.tiny_model(3), site.tiny_model(4)
        data, empty = questions(site, "q.jsonl"), questions(site, "empty.jsonl", 0)
        refused("no question", "-m", full, "--data", empty)
        refused("missing.jsonl", "-m", full, "--data", site.file("missing.jsonl"))
        refused("--edge", "-m", full, "--data", data, "--pick")
        refused("--edge", "-m", full, "--data", data, "--plot", site.file("p.svg"))
        refused("leave one out", "-m", full, "--edge", edge, "--data", data, "--pick", "--threshold", "0.5")
        refused("ask more", "-m", full, "--edge", edge, "--data", data, "--pick")
        refused("none of test", "-m", full, "--data", "field:best")
        refused("--exponent", "-m", full, "--data", "field", "--exponent", "0.3")
        other = site.file("other.gguf")
        run(binary(FORGE), "make-random", "--shape", "llama-tiny", "--type", "F32", "-o", other)
        refused("tokenizers", "-m", full, "--edge", other, "--data", data)
        bad = site.file("bad.jsonl")
        with open(bad, "w", encoding="utf-8") as f:
            f.write('{"kind": "a", "prompt": "b", "answer": "c"}\n{"kind": 3}\n')
        refused("bad.jsonl:2", "-m", full, "--data", bad)


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
