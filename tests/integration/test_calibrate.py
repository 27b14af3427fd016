#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shoal-forge calibrate against a second count: models cut at each exit give the logits of that exit to the
ordinary command, and what every stored policy lets go is counted again from those, in plain double arithmetic."""
import json
import math
import os
import random

from harness import Site, binary, expect, main, run

RISK, DELTA = 0.25, 0.2
WORDS = ("the", "and", "thing", "on", "in", "stand", "hand", "then", "other", "ring", "sand", "a")


def forge(*args, check=True):
    return run(binary("shoal-forge"), *args, check=check)


def make_data(path, seed, n):
    rng = random.Random(seed)
    questions = [(" ".join(rng.choices(WORDS, k=rng.randint(1, 4))), " ".join(rng.choices(WORDS, k=rng.randint(1, 6))))
                 for _ in range(n)]
    with open(path, "w") as f:
        for prompt, answer in questions:
            f.write(json.dumps({"kind": "words", "prompt": prompt, "answer": answer}) + "\n")
    return questions


def ids_of(model, text, *options):
    return run(binary("shoal-forge"), "tokenize", "-m", model, *options, text=text).stdout.split()


def features(row):
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    total = sum(math.exp(x - row[order[0]]) for x in row)
    p = [math.exp(x - row[order[0]]) / total for x in row]
    return {"id": order[0], "top": p[order[0]], "gap": p[order[0]] - p[order[1]],
            "entropy": -sum(x * math.log(x) for x in p if x > 0)}


class Heard:
    """What each of several models says along every answer."""

    def __init__(self, site, models, questions):
        self.answers = []  # [question][position][model]
        self.next = []     # the references
        for prompt, answer in questions:
            head = ids_of(models[0], prompt, "--bos")
            tail = ids_of(models[0], answer) + ["2"]
            text = ",".join(head + tail[:-1])
            rows = [json.loads(forge("logits", "-m", m, "--tokens", text, "--all", "--json").stdout)["logits"] for m in models]
            self.answers.append([[features(r[len(head) - 1 + i]) for r in rows] for i in range(len(tail))])
            self.next.append([int(i) for i in tail])


def leaves(text, row, depth):
    """None where the count must not be relied on: a hair's breadth from the threshold."""
    kind, numbers = text.split(":")
    p = {key: float(value) for key, value in (pair.split("=") for pair in numbers.split(","))}
    score = {"fixed": row["top"], "risk": row["top"], "margin": row["gap"], "entropy": -row["entropy"]}.get(kind)
    limit = -p["threshold"] if kind == "entropy" else p["threshold"]
    if kind == "linear":
        x = p["bias"] + p["top"] * row["top"] + p["gap"] * row["gap"] + p["depth"] * depth
        score = 1 / (1 + math.exp(-x))
    return score >= limit - 2e-6  # fitted thresholds lie on a row, which is rounded to float here


def count(text, heard, model, judge, depth):
    left = wrong = risk = total = 0
    for q, positions in enumerate(heard.answers):
        mine = 0
        for i, rows in enumerate(positions):
            said = heard.next[q][i] if judge is None else rows[judge]["id"]
            if leaves(text, rows[model], depth):
                left += 1
                mine += rows[model]["id"] != said
            total += 1
        wrong += mine
        risk += mine / len(positions)
    return left / total, wrong / total, risk / len(heard.answers), total


def test_every_policy_does_what_it_says():
    with Site() as site:
        edge, teacher = site.tiny_model(6, variant="exits"), site.tiny_model(9, variant="exits")
        data, unseen, out = site.file("dev.jsonl"), site.file("test.jsonl"), site.file("out.gguf")
        questions, others = make_data(data, 1, 24), make_data(unseen, 2, 10)
        cuts = [site.file("cut1.gguf"), site.file("cut3.gguf")]
        for layers, cut in zip((1, 3), cuts):
            forge("convert", "-m", edge, "--layers", str(layers), "-o", cut)
        models = cuts + [edge, teacher]
        heard, heard_unseen = Heard(site, models, questions), Heard(site, models, others)
        for options, judge in ((("--teacher", teacher), 3), ((), None)):
            said = json.loads(forge("calibrate", "-m", edge, "--data", data, "--check", unseen, "--risk", str(RISK),
                                    "--delta", str(DELTA), "-o", out, "--json", *options).stdout)
            expect(len(said["policies"]) == 18 and said["answers"] == 24 and said["checked_answers"] == 10, said)
            greater = said["risks"]
            expect([r["risk"] for r in greater] == sorted(r["risk"] for r in greater) and greater[0]["risk"] > RISK, greater)
            for a, b in zip(greater, greater[1:]):
                expect(a["threshold"] >= b["threshold"] and a["left"] <= b["left"], f"{a}, {b}")
            for r in greater:
                got = count(f"risk:threshold={r['threshold']}", heard_unseen, 2, judge, 1)
                expect(abs(got[0] - r["left"]) < 2e-6 and abs(got[2] - r["checked_risk"]) < 2e-6, f"{r} counted {got}")
            for line in said["policies"]:
                model = {1: 0, 3: 1, 4: 2}[line["layers"]]
                if line["policy"].startswith("percentile"):
                    continue
                for source, prefix in ((heard, ""), (heard_unseen, "checked_")):
                    got = [line[prefix + key] for key in ("left", "disagreed", "risk")]
                    want = count(line["policy"], source, model, judge if model == 2 else 2, line["layers"] / 4)
                    expect(source is not heard or want[3] == said["tokens"], f"{want[3]} tokens, {said['tokens']}")
                    expect(all(abs(a - b) < 2e-6 for a, b in zip(got, want)), f"{line} counted {want}")
                expect(line["risk" if line["policy"].startswith("risk") else "disagreed"] <= RISK, line)


def test_policies_lie_in_the_copy_which_is_the_same_model():
    with Site() as site:
        edge, data, out = site.tiny_model(6, variant="exits"), site.file("dev.jsonl"), site.file("out.gguf")
        make_data(data, 3, 30)
        said = json.loads(forge("calibrate", "-m", edge, "--data", data, "--risk", "0.3", "-o", out, "--json").stdout)
        text = forge("inspect", "-m", out, "--all").stdout
        for line in said["policies"]:
            kind = line["policy"].split(":")[0]
            key = f"shoal.escalate.policy.{kind}" if line["layers"] == 4 else f"shoal.exit.policy.{line['layers']}.{kind}"
            expect(f'{key} = "{line["policy"]}"' in text, key)
        for prefix in ("shoal.exit", "shoal.escalate"):
            expect(f'{prefix}.calibration.hash = "{said["data_hash"]}"' in text, text[:2000])
            expect(f"{prefix}.calibration.n = 30" in text and f"{prefix}.calibration.tokens = {said['tokens']}" in text, prefix)
        facts = [json.loads(forge("inspect", "-m", m, "--json").stdout) for m in (edge, out)]
        expect(facts[0]["model_hash"] == facts[1]["model_hash"] and facts[1]["exits"] == [1, 3], facts)
        fitted = facts[1]["calibration"]
        expect(facts[0]["calibration"] is None and fitted["fits"] and fitted["answers"] == 30 and fitted["risk"] == 0.3, facts)
        expect("fitted to 30 answers, risk 0.3, delta 0.05\n" in forge("inspect", "-m", out).stdout, "inspect")
        packed = site.file("packed.gguf")
        forge("pack", "-m", out, "-o", packed)
        expect(json.loads(forge("inspect", "-m", packed, "--json").stdout)["calibration"] == fitted, "packed")
        other = site.file("other.gguf")  # the last byte of the file is in some weight
        with open(out, "rb") as f, open(other, "wb") as g:
            raw = f.read()
            g.write(raw[:-4] + bytes([raw[-4] ^ 1]) + raw[-3:])
        expect("OTHER weights" in forge("inspect", "-m", other).stdout, "other weights")
        again = site.file("again.gguf")
        with open(out, "rb") as f:
            first = f.read()
        forge("calibrate", "-m", out, "--data", data, "--risk", "0.3", "-o", again, "-t", "1")
        with open(again, "rb") as f:
            expect(f.read() == first, "fitted again, in other threads, the file is another one")
        forge("calibrate", "-m", out, "--data", data, "--risk", "0.3", "--policy", "risk,fixed", "-o", again)
        keys = [line.split(" = ")[0].strip() for line in forge("inspect", "-m", again, "--all").stdout.splitlines()]
        kept = [k for k in keys if ".policy." in k]
        expect(len(kept) == 7 and all(k.split(".")[-1] in ("risk", "fixed", "risks") for k in kept), kept)


def test_a_model_without_exits_gets_the_cloud_s_policies():
    with Site() as site:
        model, out = site.tiny_model(4), site.file("out.gguf")
        said = json.loads(forge("calibrate", "-m", model, "--data", "field:split=dev,n=20,entries=100,seed=3,exponent=0.5",
                                "--risk", "0.4", "-o", out, "--json").stdout)
        expect([p["layers"] for p in said["policies"]] == [2] * 6, said)
        text = forge("inspect", "-m", out, "--all").stdout
        expect("shoal.escalate.policy.risk" in text and "shoal.exit." not in text, text[:2000])


def test_the_seed_names_the_catalogue():
    with Site() as site:
        model, out = site.tiny_model(4), site.file("out.gguf")

        def hash_of(data, *more):
            forge("calibrate", "-m", model, "--data", data, "--risk", "0.4", "-o", out, *more)
            lines = forge("inspect", "-m", out, "--all").stdout.splitlines()
            return next(line for line in lines if "calibration.hash" in line)

        data = "field:split=dev,n=20,entries=100"
        expect(hash_of(data, "--seed", "3") == hash_of(data + ",seed=3"), "--seed 3 is not the catalogue of seed 3")
        expect(hash_of(data, "--seed", "3") != hash_of(data), "the seed changes nothing")


def test_resamples_count_how_often_the_risk_is_exceeded():
    with Site() as site:
        model, out = site.tiny_model(6, variant="exits"), site.file("out.gguf")
        said = json.loads(forge("calibrate", "-m", model, "--data", "field:dev,n=150,entries=200", "--check",
                                "field:split=test,n=150,entries=200,first=7", "--risk", "0.2", "--delta", "0.05",
                                "--policy", "risk", "--resamples", "200", "-o", out, "--json").stdout)
        expect(len(said["exceeded"]) == 3 and all(share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200) for share in said["exceeded"]),
               said["exceeded"])
        expect(any(p["left"] > 0.05 for p in said["policies"]), said["policies"])
        return f"exceeded in {said['exceeded']} of 200 resamples"


def test_refusals_leave_no_file():
    with Site() as site:
        model, data, out = site.tiny_model(6, variant="exits"), site.file("dev.jsonl"), site.file("out.gguf")
        packed, empty, bad = site.file("packed.gguf"), site.file("empty.jsonl"), site.file("bad.jsonl")
        make_data(data, 5, 3)
        forge("pack", "-m", model, "-o", packed)
        other = site.file("other.gguf")  # one piece of its vocabulary is spelt otherwise
        with open(model, "rb") as f, open(other, "wb") as g:
            before = f.read()
            after = before.replace(bytes([3] + [0] * 7) + b"ing", bytes([3] + [0] * 7) + b"gni")
            expect(before != after, "no piece to change")
            g.write(after)
        for path, text in ((empty, "\n"), (bad, '{"kind": "a", "prompt": "b"}\n')):
            with open(path, "w") as f:
                f.write(text)
        cases = (((), "--data"), (("--data", data, "--resamples", "5"), "--check"),
                 (("--data", data, "--policy", "risk,oracle"), "oracle"), (("--data", empty), "no questions"),
                 (("--data", bad), "answer"), (("--data", site.file("none")), "none"),
                 (("--data", data, "--ctx", "4"), "context of 4"), (("--data", "field:split=dev,n=0"), "n=0"),
                 (("--data", "field:split=dew"), "split="), (("--data", "field:n=-1"), "n=-1"),
                 (("--data", "field:n=1x"), "n=1x"), (("--data", "field:exponent=0.3"), "exponent=0.3"),
                 (("--data", "field:magic=1"), "magic"), (("--data", "field:n"), "keys are"), (("--data", "field:dew"), "keys are"),
                 (("--data", "field:entries=100000"), "60000"),
                 (("--data", data, "--teacher", other), "tokenizer"))
        for options, word in cases:
            done = forge("calibrate", "-m", model, "-o", out, *options, check=False)
            expect(done.returncode == 1 and word in done.stderr, f"{options}: {done.returncode} {done.stderr!r}")
            expect(len(done.stderr.strip().splitlines()) == 1 and not os.path.exists(out), f"{options}: {done.stderr}")
        done = forge("calibrate", "-m", packed, "--data", data, "-o", out, check=False)
        expect(done.returncode == 1 and "packed" in done.stderr, done.stderr)
        for options in (("--risk", "0"), ("--risk", "0.6"), ("--delta", "nan"), ("--rate", "1.1"), ("--resamples", "0")):
            done = forge("calibrate", "-m", model, "--data", data, "-o", out, *options, check=False)
            expect(done.returncode == 2 and options[0] in done.stderr, f"{options}: {done.stderr!r}")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
