#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shoal-forge from outside: the interfaces other programs rely on, and R2 through them."""
import json
import math
import os

from harness import SANITIZED, SHARED, Site, SOURCE, binary, expect, main, run

FORGE = "shoal-forge"


def forge(*args, text=None, check=True):
    return run(binary(FORGE), *args, text=text, check=check)


def logits(model, ids, *options):
    return json.loads(forge("logits", "-m", model, "--tokens", ",".join(map(str, ids)), "--json", *options).stdout)["logits"]


def golden():
    """(model, ids, reference logits) of every golden file whose model is there."""
    for name, model in (("stories260K", "stories260K.gguf"), ("stories3M", "stories3M-f32.gguf")):
        path = os.path.join(SHARED, "models", model)
        if os.path.exists(path):
            with open(os.path.join(SOURCE, "tests/golden/data", name + ".txt"), encoding="ascii") as f:
                lines = f.read().split("\n")
            yield path, [int(i) for i in lines[2].split()], [float(v) for v in lines[3:] if v]


def test_logits_golden_within_1e_5_on_every_tier():
    worst = 0.0
    found = list(golden())
    if not found:
        return "skipped: no models beside the checkout"
    for path, ids, reference in found:
        rows = {tier: logits(path, ids, "--cpu-mask", tier) for tier in ("scalar", "avx2", "native")}
        for tier, row in rows.items():
            error = math.sqrt(sum((a - b) ** 2 for a, b in zip(row, reference)) / sum(b * b for b in reference))
            worst = max(worst, error)
            expect(error <= 1e-5, f"{path} on {tier}: relative error {error}")
            expect(row == rows["scalar"], f"{path}: {tier} differs from scalar")
    return f"worst relative error {worst:.2e}"


def test_logits_same_for_threads_and_rows():
    with Site() as site:
        model = site.tiny_model(3)
        ids = [(i * 37 + 5) % 250 for i in range(70)]
        every = logits(model, ids, "--all")
        for threads in (1, 2, 3, 4):
            expect(logits(model, ids, "-t", str(threads)) == every[-1], f"{threads} threads")
        for n in (1, 31, 32, 33, 64, 65):
            expect(logits(model, ids[:n]) == every[n - 1], f"prefix of {n}")


def test_kv_plan_says_when_kv_pays():
    with Site() as site:
        model = site.tiny_model(3)
        per_token = json.loads(forge("inspect", "-m", model, "--json").stdout)["kv_bytes_per_token_f16"]
        slow = ("kv-plan", "-m", model, "--edge", "10", "--cloud", "5000", "--down", "20", "--json")
        plan = json.loads(forge(*slow).stdout)
        sizes = {level["name"]: level["bytes"] for level in plan["levels"]}
        expect(sizes["f16"] == per_token and sizes["f16"] > sizes["q8"] > sizes["q4"] > 0, sizes)
        rows = plan["rows"]
        expect([r["tokens"] for r in rows] == [64 << i for i in range(9)], rows)
        expect(all(r["choice"] == "kv" and r["level"] == "q4" and r["ids_ms"] is None for r in rows), rows)
        for row in rows:
            expect(abs(row["local_ms"] - row["tokens"] * 100) < 0.01 and row["kv_ms"] < row["local_ms"], row)
        fast = json.loads(forge(*slow, "--edge", "1000000").stdout)["rows"]
        expect(all(r["choice"] == "local" for r in fast), fast)
        ids = json.loads(forge(*slow, "--ids", "100000", "--answer", "2").stdout)["rows"]
        expect(all(r["choice"] == "ids" for r in ids), ids)
        table = forge(*slow[:-1], "--archive", "1.5").stdout
        expect("archive" in table and len(table.splitlines()) == 2 + 9, table)
        failed = forge("kv-plan", "-m", model, "--edge", "10", "--cloud", "10", check=False)
        expect(failed.returncode == 1 and "--down MBIT is missing" in failed.stderr, failed.stderr)


def test_tokenize_round_trips():
    with Site() as site:
        model = site.tiny_model(4)
        text = "Hello, world! \u00e4\u20ac\U0001f600 tabs\tand\nlines"
        ids = forge("tokenize", "-m", model, text=text).stdout
        expect(all(part.isdigit() for part in ids.split()) and ids.count("\n") == 1, f"ids on one line: {ids!r}")
        expect(forge("tokenize", "-m", model, "--decode", text=ids).stdout == text, "decode gives the input back")


def test_generate_is_reproducible_and_seeded():
    with Site() as site:
        model = site.tiny_model(5)

        def generate(*options):
            return json.loads(forge("generate", "-m", model, "-p", "Once", "-n", "16", "--json", *options).stdout)["ids"]
        expect(generate() == generate(), "greedy twice")
        one = generate("--temp", "1.0", "--seed", "1")
        expect(one == generate("--temp", "1.0", "--seed", "1"), "one seed twice")
        expect(one != generate("--temp", "1.0", "--seed", "2"), "another seed")


def test_convert_perplexity_inspect_bench_speak_json():
    with Site() as site:
        model = site.tiny_model(6)
        text = site.file("text.txt")
        with open(text, "w", encoding="utf-8") as f:
            f.write("Once upon a time there was a dog. " * 20)
        base = json.loads(forge("perplexity", "-m", model, "-f", text, "--ctx", "64", "--json").stdout)
        expect(base["tokens"] > 100 and base["ppl"] > 1, base)
        for kind, factor in (("F16", 1.01), ("BF16", 1.05), ("Q8_0", 1.05), ("Q4_0", 2.0), ("Q4_1", 2.0),
                             ("Q5_0", 1.5), ("Q5_1", 1.5), ("IQ4_NL", 2.0), ("FP8", 1.3), ("C3_32", 3.0),
                             ("C4_64", 2.0)):
            out = site.file(kind + ".gguf")
            forge("convert", "-m", model, "--type", kind, "-o", out, "--json")
            again = json.loads(forge("perplexity", "-m", out, "-f", text, "--ctx", "64", "--json").stdout)
            ratio = again["ppl"] / base["ppl"]
            expect(1 / factor < ratio < factor, f"{kind}: perplexity {ratio:.3f} of F32")
            expect(json.loads(forge("inspect", "-m", out, "--json").stdout)["type"] == kind, kind)

        def over(kv, *args):
            return json.loads(forge("perplexity", "-m", model, "-f", text, "--ctx", "128", "--kv", kv, *args, "--json").stdout)

        plain = over("f16")
        expect(plain["kv_bits"] == 16, plain)
        bits = float("inf")
        for level in ("q8", "k8v4", "q3"):
            lossy = over(level)
            ratio = lossy["ppl"] / plain["ppl"]
            expect(lossy["ppl"] != plain["ppl"] and 0.9 < ratio < 1.1, f"{level}: perplexity {ratio:.3f} of f16")
            expect(lossy["kv_bits"] < bits, f"{level}: {lossy}")
            bits = lossy["kv_bits"]
        for level in ("f16", "q3", "q8*1,q4"):
            turned = over("h-" + level)
            ratio = turned["ppl"] / plain["ppl"]
            expect(turned["ppl"] != over(level)["ppl"] and 0.9 < ratio < 1.1, f"h-{level}: perplexity {ratio:.3f} of f16")
            expect(turned["kv_bits"] == over(level)["kv_bits"], f"h-{level}: {turned}")
            again = over("h-" + level, "-t", "1", "--cpu-mask", "scalar")
            expect(again == turned, f"h-{level}: {again} by scalar, {turned} else")
        failed = forge("perplexity", "-m", model, "-f", text, "--kv", "q5", check=False)
        expect(failed.returncode != 0 and "--kv q5: known are" in failed.stderr, failed.stderr)
        for policy in ("window", "h2o", "diverse", "a2sf"):
            whole = over("f16", "--evict", policy, "--budget", "128")
            expect(whole == plain, f"{policy} with a budget for all: {whole}")
            held = over("f16", "--evict", policy, "--budget", "32")
            # A random model says nothing of what eviction costs (tests/bench/kv_levels does), but its bits are the same.
            expect(held["ppl"] != plain["ppl"], f"{policy}: nothing was evicted")
            again = over("f16", "--evict", policy, "--budget", "32", "-t", "1", "--cpu-mask", "scalar")
            expect(again == held, f"{policy}: {again} by scalar, {held} else")
            expect(held["kv_bytes"] * 4 == plain["kv_bytes"], f"{policy}: {held}, all tokens {plain}")
        basis = site.file("kv.basis")
        made = json.loads(forge("kv-calibrate", "-m", model, "-f", text, "--ctx", "128", "--bits", "3", "--group", "1",
                                "-o", basis, "--json").stdout)
        expect((made["groups"], made["channels"]) == (2, 128) and 0 < made["kept"] <= 128, made)
        archived = over("f16", "--archive", basis, "--keep", "32", "--from", "64")
        plain = over("f16", "--from", "64")
        ratio = archived["ppl"] / plain["ppl"]
        expect(archived["ppl"] != plain["ppl"] and 0.9 < ratio < 1.1, f"archived: perplexity {ratio:.3f} of f16")
        expect(1 < archived["kv_bits"] < 8, archived)
        for args, why in ((("kv-calibrate", "-f", text, "-o", basis, "--tokens", "96"), "96 tokens are too few"),
                          (("kv-calibrate", "-f", text), "-o FILE is missing"),
                          (("perplexity", "-f", text, "--kv", "f16", "--archive", text), "not a GGUF file"),
                          (("perplexity", "-f", text, "--kv", "f16", "--evict", "lru", "--budget", "32"),
                           "--evict lru: known are window, h2o, diverse, a2sf"),
                          (("perplexity", "-f", text, "--kv", "f16", "--evict", "h2o"), "--evict and --budget go together"),
                          (("perplexity", "-f", text, "--kv", "f16", "--budget", "32"), "--evict and --budget go together"),
                          (("perplexity", "-f", text, "--kv", "f16", "--evict", "h2o", "--budget", "40"),
                           "a KV budget of 40 tokens is not possible: take a multiple of 32"),
                          (("perplexity", "-f", text, "--kv", "q4", "--evict", "h2o", "--budget", "32"),
                           "KV cannot be evicted (h2o) from q4"),
                          (("perplexity", "-f", text, "--kv", "f16", "--evict", "h2o", "--budget", "32", "--archive", basis),
                           "--archive and --evict"),
                          (("perplexity", "-f", text, "--kv", "f32", "--archive", basis), "--archive needs --kv f16"),
                          (("perplexity", "-f", text, "--kv", "h-f16", "--archive", basis), "Hadamard"),
                          (("perplexity", "-f", text, "--kv", "h-q5"), "--kv h-q5: known are")):
            failed = forge(args[0], "-m", model, *args[1:], check=False)
            expect(failed.returncode != 0 and why in failed.stderr, failed.stderr)
        cut = site.file("cut.gguf")
        forge("convert", "-m", model, "--layers", "1", "-o", cut)
        expect(json.loads(forge("inspect", "-m", cut, "--json").stdout)["n_layers"] == 1, "layers")
        failed = forge("perplexity", "-m", cut, "-f", text, "--kv", "f16", "--archive", basis, check=False)
        expect(failed.returncode != 0 and "shoal.archive.model is" in failed.stderr, failed.stderr)
        if not SANITIZED:
            bench = json.loads(forge("bench", "-m", model, "-p", "32", "-n", "8", "-t", "2", "--batch", "1,4", "--json").stdout)
            for key in ("prefill_tok_s", "decode_tok_s", "weight_bytes_per_token", "read_gb_s", "bandwidth_gb_s",
                        "batch", "rss_mib", "first_token_s", "sessions_gib"):
                expect(key in bench, key)


def test_make_random_models_load_and_speak_sanely():
    with Site() as site:
        for kind in ("Q4_0",) if SANITIZED else ("F16", "Q8_0", "Q4_K", "Q4_0"):
            out = site.file(kind + ".gguf")
            made = json.loads(forge("make-random", "--shape", "llama-110m", "--type", kind, "-o", out, "--json").stdout)
            expect(made["bytes"] == os.path.getsize(out) and made["fallbacks"] == 0, made)
            seen = json.loads(forge("inspect", "-m", out, "--json").stdout)
            expect((seen["type"], seen["n_vocab"], seen["params"], seen["tied"]) == (kind, 32000, made["params"], True), seen)
            row = logits(out, [31997, 5, 1000, 30000], "--ctx", "64")
            spread = math.sqrt(sum(v * v for v in row) / len(row))
            expect(1 < spread < 10, f"{kind}: logits spread by {spread}")
            ids = forge("tokenize", "-m", out, text="hello \u00e4 42").stdout
            expect(forge("tokenize", "-m", out, "--decode", text=ids).stdout == "hello \u00e4 42", "round trip")
        if not SANITIZED:
            out = site.file("qwen.gguf")
            made = json.loads(forge("make-random", "--shape", "qwen-0.5b", "--type", "Q4_K", "-o", out, "--json").stdout)
            expect(made["fallbacks"] == 24 * 6 + 1, f"rows of 896 are no whole blocks of 256: {made}")
            expect(len(logits(out, [1, 2, 3], "--ctx", "64")) == 151936, "a row of logits")
        again = site.file("again.gguf")
        for seed, same in (("0", True), ("1", False)):
            forge("make-random", "--shape", "llama-110m", "--type", "Q4_0", "--seed", seed, "-o", again)
            with open(again, "rb") as a, open(site.file("Q4_0.gguf"), "rb") as b:
                expect((a.read() == b.read()) == same, f"seed {seed}")
        done = forge("make-random", "--shape", "llama-9b", "-o", again, check=False)
        expect(done.returncode == 1 and "llama-110m" in done.stderr, done.stderr)


def test_packed_model_is_the_same_model():
    with Site() as site:
        for kind in ("Q4_0",) if SANITIZED else ("F16", "Q8_0", "Q4_K", "Q4_0"):
            plain, packed = site.file("plain.gguf"), site.file("packed.gguf")
            forge("make-random", "--shape", "llama-110m", "--type", kind, "-o", plain)
            made = json.loads(forge("pack", "-m", plain, "-o", packed, "--json").stdout)
            expect(made["packed"] == 85 and made["bytes_out"] == os.path.getsize(packed), made)
            a, b = (json.loads(forge("inspect", "-m", m, "--json").stdout) for m in (plain, packed))
            expect((a.pop("packed"), b.pop("packed")) == (False, True), "packed")
            del a["file_bytes"], b["file_bytes"]
            expect(a == b, f"{kind}: {a} {b}")
            ids = [31997, 5, 1000, 30000]
            for options in (("-t", "1"), ("-t", "2"), ("--cpu-mask", "scalar")):
                one, other = (logits(m, ids, "--ctx", "64", *options) for m in (plain, packed))
                expect(one == other, f"{kind} {options}: logits differ")
            forge("inspect", "-m", packed, "--verify")
            again = site.file("again.gguf")
            forge("convert", "-m", packed, "-o", again)
            with open(plain, "rb") as f, open(again, "rb") as g:
                expect(f.read() == g.read(), f"{kind}: unpacking gives the file that was packed")
        done = forge("pack", "-m", packed, "-o", site.file("twice.gguf"), check=False)
        expect(done.returncode == 1 and "packed already" in done.stderr, done.stderr)
        with open(packed, "r+b") as f:
            f.seek(-100000, os.SEEK_END)
            byte = f.read(1)
            f.seek(-100000, os.SEEK_END)
            f.write(bytes([byte[0] ^ 1]))
        done = forge("logits", "-m", packed, "--tokens", "1", check=False)
        expect(done.returncode == 1 and "damaged" in done.stderr and "packed.gguf" in done.stderr, done.stderr)


def test_a_loaded_model_is_in_memory_once():
    if SANITIZED:
        return "skipped: sanitizers take memory of their own"
    with Site() as site:
        plain, packed = site.file("plain.gguf"), site.file("packed.gguf")
        forge("make-random", "--shape", "llama-110m", "--type", "Q8_0", "-o", plain)
        forge("pack", "-m", plain, "-o", packed)
        extra = []
        for model in (plain, packed):
            bench = json.loads(forge("bench", "-m", model, "-p", "1", "-n", "1", "--json").stdout)
            extra.append(bench["rss_mib"] - os.path.getsize(model) / 2**20)
            expect(extra[-1] < 40, f"{model}: {extra[-1]:.1f} MiB above the file's size")
    return f"{extra[0]:.1f} and {extra[1]:.1f} MiB above the file's size"


def test_every_architecture_is_inspected_packed_and_converted():
    variants = ("mistral", "mixtral", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma2", "gemma3", "phi3", "deepseek2")
    ids = [(i * 37 + 5) % 250 for i in range(40)]
    with Site() as site:
        for variant in variants[::4] if SANITIZED else variants:
            model, packed, small = site.tiny_model(8, "Q8_0", variant), site.file("packed.gguf"), site.file("small.gguf")
            seen = json.loads(forge("inspect", "-m", model, "--json").stdout)
            expect(seen["name"] == variant and variant in forge("inspect", "-m", model).stdout, seen)
            forge("pack", "-m", model, "-o", packed)
            expect(logits(packed, ids) == logits(model, ids), f"{variant}: packed differs")
            forge("convert", "-m", packed, "--type", "Q4_0", "--layers", "1", "-o", small)
            small = json.loads(forge("inspect", "-m", small, "--json").stdout)
            expect((small["n_layers"], small["type"]) == (1, "Q4_0"), f"{variant}: {small}")


def test_sides_are_inspected_packed_converted_and_adapted():
    ids = [(i * 37 + 5) % 250 for i in range(20)]
    with Site() as site:
        model, packed, out = site.tiny_model(8, "Q8_0", "sides"), site.file("packed.gguf"), site.file("out.gguf")
        seen = json.loads(forge("inspect", "-m", model, "--json").stdout)
        sides = seen["sides"]
        expect(sides["low_rank"] > 0 and (sides["rank_min"], sides["rank_max"]) == (1, 33), sides)
        expect(sides["singles"] > 0 and sides["single_elements"] > 100 and sides["column_scales"] > 0, sides)
        expect("low rank (1 to 33) beside" in forge("inspect", "-m", model).stdout, "inspect")
        plain = json.loads(forge("inspect", "-m", site.tiny_model(8, "Q8_0"), "--json").stdout)
        expect(plain["sides"] is None and plain["model_hash"] != seen["model_hash"], plain)
        for number in ("weight_bytes_per_token", "flops_per_token", "file_bytes"):
            expect(seen[number] > plain[number], f"{number} counts the sides")
        forge("pack", "-m", model, "-o", packed)
        forge("inspect", "-m", packed, "--verify")
        again = json.loads(forge("inspect", "-m", packed, "--json").stdout)
        expect((again["sides"], again["model_hash"]) == (sides, seen["model_hash"]), again)
        expect(logits(packed, ids) == logits(model, ids), "packed differs")
        forge("convert", "-m", packed, "-o", out)
        with open(model, "rb") as f, open(out, "rb") as g:
            expect(f.read() == g.read(), "unpacking gives the file that was packed")
        forge("convert", "-m", model, "--type", "F16", "-o", out)
        small = json.loads(forge("inspect", "-m", out, "--json").stdout)
        expect((small["sides"], small["type"]) == (sides, "F16"), small)
        expect(relative(logits(out, ids), logits(model, ids)) < 0.1, "another base, the same sides")
        adapter = site.tiny_lora(9, site.tiny_model(8, "Q8_0"))
        base, adapted = logits(model, ids), logits(model, ids, "--lora", adapter)
        expect(logits(packed, ids, "--lora", adapter) == adapted, "adapted: packed differs")
        expect(logits(model, ids, "--lora", adapter + "=0") == base, "strength 0")
        expect(relative(adapted, base) > 1e-3, "the adapter changes nothing")
        done = forge("merge-lora", "-m", model, "--lora", adapter, "-o", out, check=False)
        expect(done.returncode == 1 and "column scales" in done.stderr, done.stderr)


def relative(row, reference):
    return max(abs(a - b) for a, b in zip(row, reference)) / max(abs(b) for b in reference)


def test_adapter_beside_the_model_equals_the_merged_model():
    worst = 0.0
    ids = [5, 20, 260, 261, 9, 33, 280]
    with Site() as site:
        merged = site.file("merged.gguf")
        for variant in (None, "phi3", "gemma2", "qwen2moe", "deepseek2"):
            model = site.tiny_model(8, variant=variant)
            adapter = site.tiny_lora(9, model)
            base = logits(model, ids)
            for strength in ("", "=1", "=-0.5", "=1e-1"):
                done = json.loads(forge("merge-lora", "-m", model, "--lora", adapter + strength, "-o", merged, "--json").stdout)
                expect(done["merged"] == done["converted"] > 8, done)
                beside = logits(model, ids, "--lora", adapter + strength)
                error = relative(logits(merged, ids), beside)
                worst = max(worst, error)
                expect(error <= 1e-5, f"{variant}{strength}: merged and unmerged differ by {error}")
                expect(relative(beside, base) > 1e-3, f"{variant}{strength}: the adapter changes nothing")
            expect(logits(model, ids, "--lora", adapter + "=0") == base, f"{variant}: strength 0")
    return f"worst relative error {worst:.2e}"


def test_adapter_serves_every_command_and_type():
    with Site() as site:
        model = site.tiny_model(8)
        adapter = site.tiny_lora(10, model, 16)
        merged, packed, out = site.file("merged.gguf"), site.file("packed.gguf"), site.file("out.gguf")
        forge("merge-lora", "-m", model, "--lora", adapter, "-o", merged)
        forge("pack", "-m", model, "-o", packed)
        forge("merge-lora", "-m", packed, "--lora", adapter, "-o", out)
        with open(merged, "rb") as f, open(out, "rb") as g:
            expect(f.read() == g.read(), "a packed model merges to the same file")
        expect(logits(packed, [1, 2, 3], "--lora", adapter) == logits(model, [1, 2, 3], "--lora", adapter), "packed")
        text = site.file("text.txt")
        with open(text, "w", encoding="utf-8") as f:
            f.write("Once upon a time there was a dog. " * 8)

        def ppl(*args):
            return json.loads(forge("perplexity", *args, "-f", text, "--ctx", "64", "--json").stdout)["ppl"]
        beside = ppl("-m", model, "--lora", adapter)
        expect(abs(ppl("-m", merged) / beside - 1) < 1e-4, "perplexity of the merged model")
        for kind, factor in (("F16", 1.02), ("Q8_0", 1.1), ("FP8", 1.5)):
            forge("merge-lora", "-m", model, "--lora", adapter, "--type", kind, "-o", out)
            ratio = ppl("-m", out) / beside
            expect(1 / factor < ratio < factor, f"{kind}: perplexity {ratio:.3f} of F32")
            expect(json.loads(forge("inspect", "-m", out, "--json").stdout)["type"] == kind, kind)

        def generate(*args):
            return json.loads(forge("generate", "-p", "Once", "-n", "16", "--json", *args).stdout)["ids"]
        expect(generate("-m", model, "--lora", adapter) == generate("-m", merged), "greedy text")
        expect(generate("-m", model, "--lora", adapter) != generate("-m", model), "another text")
        forge("bench", "-m", model, "--lora", adapter, "-p", "16", "-n", "4", "--batch", "1,3")


def test_adapters_that_do_not_fit_are_refused():
    with Site() as site:
        model, other = site.tiny_model(7), site.tiny_model(7, variant="qwen3")
        adapter, foreign = site.tiny_lora(1, model), site.tiny_lora(2, other)
        deep = site.tiny_lora(3, site.tiny_model(7, variant="mixtral"), 1025)
        out = site.file("out.gguf")
        for lora, word in ((model, "no adapter"), (foreign, "another kind of model"), (deep, "more than 1024"),
                           (adapter + "=2000", "strength of 2000"), (adapter + "=x", "lora-1-4.gguf=x"),
                           ("/nonexistent.gguf=2", "nonexistent.gguf")):
            for command in (("logits", "--tokens", "1"), ("merge-lora", "-o", out)):
                done = forge(*command, "-m", model, "--lora", lora, check=False)
                expect(done.returncode == 1 and word in done.stderr, f"{command} {lora}: {done.stderr!r}")
                expect(len(done.stderr.strip().splitlines()) == 1, done.stderr)
                expect(not os.path.exists(out), "a refused merge leaves no file")
        done = forge("merge-lora", "-m", model, "-o", out, check=False)
        expect(done.returncode == 1 and "--lora" in done.stderr, done.stderr)


def test_train_tokenizer_learns_what_tokenize_reads():
    prose = "The pump reports fault E17. Replace the seal of the pump, then clear fault E17 at the panel. " * 40
    codes = "E17 E18 E19 E20 P-4471 P-4472 \u00e4\u20ac\xff\n\n\t{\"valve\": 3}\n" * 30
    with Site() as site:
        one, two, out, again = (site.file(name) for name in ("one.txt", "two=x.txt", "tok.gguf", "again.gguf"))
        for path, text in ((one, prose), (two, codes)):
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        made = json.loads(forge("train-tokenizer", "--vocab", "320", one, two, "-o", out, "--json").stdout)
        expect((made["vocab"], made["wanted"]) == (320, 320) and made["bytes_per_token"] > 2, made)
        ids = forge("tokenize", "-m", out, text=prose).stdout
        tokens = len(ids.split()) + len(forge("tokenize", "-m", out, text=codes).stdout.split())
        size = os.path.getsize(one) + os.path.getsize(two)
        expect(abs(size / tokens / made["bytes_per_token"] - 1) < 1e-5, f"{size} bytes, {tokens} tokens: {made}")
        expect(forge("tokenize", "-m", out, "--decode", text=ids).stdout == prose, "round trip")
        seen = forge("inspect", "-m", out).stdout
        expect('general.name = "shoal-tokenizer"' in seen and "320 elements" in seen and "0 tensors" in seen, seen)
        forge("train-tokenizer", "--vocab", "320", two, one, "-o", again)
        with open(out, "rb") as f, open(again, "rb") as g:
            expect(f.read() == g.read(), "the order of the files does not matter")
        lengths = []
        for share in ("100", "0.01"):
            forge("train-tokenizer", "--vocab", "280", f"{one}={share}", f"{two}=1", "-o", again)
            lengths.append([len(forge("tokenize", "-m", again, text=text).stdout.split()) for text in (prose, codes)])
        expect(lengths[0][0] < lengths[1][0] and lengths[0][1] > lengths[1][1], f"shares weigh: {lengths}")
        few = json.loads(forge("train-tokenizer", "--vocab", "5000", "--min-count", "20", one, "-o", again, "--name", "few", "--json").stdout)
        expect(few["vocab"] < 5000 and few["last_count"] >= 20, few)
        expect("fewer than the 5000 wanted" in forge("train-tokenizer", "--vocab", "5000", one, "-o", again).stdout, "says so")
        os.remove(again)
        empty = site.file("empty.txt")
        open(empty, "w", encoding="utf-8").close()
        for args, status, word in (
                ((one,), 1, "-o"), (("-o", again), 1, "FILE"), ((one, "-o", again, "--vocab", "261"), 2, "262"),
                ((one, "-o", again, "--token-bytes", "1025"), 2, "1024"), (("/nonexistent.txt", "-o", again), 1, "nonexistent"),
                ((one + "=1", two, "-o", again), 1, "every file"), ((one + "=0", "-o", again), 1, "above 0"),
                ((one + "=nan", "-o", again), 1, "above 0"), ((empty + "=1", "-o", again), 1, "empty"),
                ((one + "=1e9", two + "=1", "-o", again), 1, "more alike")):
            done = forge("train-tokenizer", *args, check=False)
            expect(done.returncode == status and word in done.stderr, f"{args}: {done.returncode} {done.stderr!r}")
            expect(len(done.stderr.strip().splitlines()) == 1 and not os.path.exists(again), f"{args}: {done.stderr!r}")
        forge("train-tokenizer", empty, "-o", again)
        expect(forge("tokenize", "-m", again, text="a").stdout.strip() == str(6 + ord("a")), "bytes alone")


def test_make_data_writes_lines_text_and_a_catalogue():
    with Site() as site:
        out = site.file("data.jsonl")
        forge("make-data", "--seed", "5", "--entries", "300", "-n", "200", "-o", out)
        with open(out, encoding="ascii") as f:
            rows = [json.loads(line) for line in f]
        expect(len(rows) == 200 and {row["kind"] for row in rows} == {"fact", "command", "convert", "refuse"}, rows[:5])
        expect(all((row["kind"] == "fact") == (row["entry"] is not None) for row in rows), "entries")
        for row in rows:
            if row["kind"] == "command":
                expect({"room", "device"} < set(json.loads(row["answer"])), row)
        text = forge("make-data", "--seed", "5", "--entries", "300", "-n", "200", "--text").stdout.splitlines()
        expect(text == [line for row in rows for line in (row["prompt"], row["answer"])], "the text differs from the lines")
        whole = forge("make-data", "--entries", "300", "--split", "catalogue").stdout.splitlines()
        expect([json.loads(line)["entry"] for line in whole] == list(range(300)), "the catalogue split")
        table = forge("make-data", "--entries", "300", "--catalogue").stdout.splitlines()
        expect(len(table) == 301, f"{len(table)} lines of a catalogue of 300")
        done = forge("make-data", "--split", "tests", check=False)
        expect(done.returncode == 1 and "known are train" in done.stderr, done.stderr)
        done = forge("make-data", "--exponent", "0.3", "-o", out + "x", check=False)
        expect(done.returncode == 1 and "quarters" in done.stderr and not os.path.exists(out + "x"), done.stderr)
        done = forge("make-data", "--entries", "60001", check=False)
        expect(done.returncode == 2 and "60000" in done.stderr, done.stderr)


def test_refusals_name_the_cause():
    with Site() as site:
        model = site.tiny_model(7)
        for args, status, word in (
                (("logits", "-m", model, "--tokens", "1,999999", "--json"), 1, "999999"),
                (("logits", "-m", model, "--json"), 1, "--tokens"),
                (("logits", "-m", "/nonexistent.gguf", "--tokens", "1"), 1, "nonexistent"),
                (("generate", "-m", model, "-p", "x", "--temp", "-3"), 2, "--temp"),
                (("convert", "-m", model, "--type", "Q9", "-o", site.file("x")), 1, "Q9"),
                (("nothing",), 2, "nothing"), (("logits", "--frob"), 2, "--frob")):
            done = forge(*args, check=False)
            expect(done.returncode == status and word in done.stderr, f"{args}: {done.returncode} {done.stderr!r}")
            expect(len(done.stderr.strip().splitlines()) == 1, f"{args}: more than one line: {done.stderr!r}")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
