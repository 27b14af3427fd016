#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shoal-forge convert: every type into every other, read back by an independent reader of GGUF and of the
published block definitions (tests/golden/blocks.py)."""
import json
import math
import os
import random
import struct
import sys

from harness import SANITIZED, SHARED, Site, SOURCE, binary, expect, main, run

sys.path.insert(0, os.path.join(SOURCE, "tests/golden"))
import blocks  # noqa: E402

F32, F16, I8, BF16 = 0, 1, 24, 30
NUMBERS = {"F32": F32, "F16": F16, "BF16": BF16, **{row[0]: number for number, row in blocks.TYPES.items()}}
# Relative error on normal data, the budgets of tests/unit/weight/test_quality.c.
BUDGETS = {"F32": 0.0, "F16": 3e-4, "BF16": 3e-3, "FP8": 0.03, "Q8_0": 0.006, "Q4_0": 0.09, "Q4_1": 0.082, "Q5_0": 0.045,
           "Q5_1": 0.04, "Q2_K": 0.28, "Q3_K": 0.16, "Q4_K": 0.075, "Q5_K": 0.038, "Q6_K": 0.019, "IQ4_NL": 0.08}


# The budgets of tests/unit/weight/test_codes.c.
OWN_BUDGETS = {"C2_32": 0.40, "C2_64": 0.42, "C2_128": 0.45, "C3_32": 0.18, "C3_64": 0.195, "C3_128": 0.21, "C4_64": 0.10,
               "C4_128": 0.11, "S4_32": 0.40, "S4_64": 0.405, "S4_128": 0.41, "N3_32": 0.18, "N3_64": 0.195, "N3_128": 0.21,
               "N4_32": 0.10, "N4_64": 0.10, "N4_128": 0.11, "S8_32": 0.38, "S8_64": 0.38, "S8_128": 0.38,
               "B16_32": 0.30, "B16_64": 0.30, "B16_128": 0.31, "B8_32": 0.56, "B8_64": 0.56, "B8_128": 0.56}


def convert(*args, check=True):
    return run(binary("shoal-forge"), "convert", *args, check=check)


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def write_gguf(path, pairs, tensors):
    """pairs: key -> str or int; tensors: name -> (dims, list of floats), all F32."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, value in pairs.items():
        head += text(key) + (struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value))
    data = b""
    for name, (dims, values) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, F32, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % 32)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)


def decode(kind, raw, n):
    if kind == F32:
        return list(struct.unpack(f"<{n}f", raw[:4 * n]))
    if kind == F16:
        return list(struct.unpack(f"<{n}e", raw[:2 * n]))
    if kind == BF16:
        return [struct.unpack("<f", bytes(2) + raw[2 * i:2 * i + 2])[0] for i in range(n)]
    if kind == I8:
        return [blocks.e4m3(code) for code in raw[:n]]
    return blocks.decode(kind, raw, n)


def read_gguf(path):
    """(pairs, name -> (kind, dims, values)), FP8 already scaled."""
    with open(path, "rb") as f:
        data = f.read()
    at = 8

    def take(fmt):
        nonlocal at
        value = struct.unpack_from(fmt, data, at)
        at += struct.calcsize(fmt)
        return value[0]

    def take_text():
        nonlocal at
        n = take("<Q")
        at += n
        return data[at - n:at].decode()

    n_tensors, n_pairs = take("<Q"), take("<Q")
    pairs, found, tensors = {}, [], {}
    for _ in range(n_pairs):
        key, kind = take_text(), take("<I")
        if kind == 9:
            expect(take("<I") == 8, f"{key}: strings are expected")
            pairs[key] = [take_text() for _ in range(take("<Q"))]
        else:
            pairs[key] = take_text() if kind == 8 else take("<I")
    for _ in range(n_tensors):
        name = take_text()
        dims = [take("<Q") for _ in range(take("<I"))]
        found.append((name, dims, take("<I"), take("<Q")))
    base = at + -at % 32
    own = dict(zip(pairs.get("shoal.codes.names", ()), pairs.get("shoal.codes.types", ())))
    for name, dims, kind, offset in found:
        if name in own:
            words, group = blocks.OWN[own[name]]
            expect(kind == I8 and dims[0] % (2 + group // 8 * words) == 0, f"{name}: {kind} {dims}")
            dims = [dims[0] // (2 + group // 8 * words) * group] + dims[1:]
            tensors[name] = (own[name], dims, blocks.decode_own(own[name], data[base + offset:], math.prod(dims)))
            continue
        tensors[name] = (kind, dims, decode(kind, data[base + offset:], math.prod(dims)))
    for name, (kind, dims, codes) in tensors.items():
        if kind == I8:
            k, rows = dims[0], dims[1]
            _, tiles, scales = tensors[name + "_scale"]
            expect(tiles == [-(-k // 128), -(-rows // 128)] + dims[2:], f"{name}: tiles {tiles}")
            tensors[name] = (kind, dims, [
                code * scales[(i // k // rows * tiles[1] + i // k % rows // 128) * tiles[0] + i % k // 128]
                for i, code in enumerate(codes)])
    return pairs, tensors


def error(got, want):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(got, want)) / sum(b * b for b in want))


def make_model(path, seed):
    """Matrices of ragged row counts, a tensor of three matrices, rows of 96 and of 40, vectors, a router."""
    rng = random.Random(seed)
    shapes = {"token_embd.weight": [256, 37], "blk.0.ffn_down.weight": [512, 130], "blk.0.attn_q.weight": [96, 20],
              "blk.0.attn_k.weight": [40, 20], "blk.0.ffn_up_exps.weight": [256, 5, 3], "blk.0.attn_norm.weight": [256],
              "blk.0.ffn_gate_inp.weight": [256, 3], "blk.1.attn_q.weight": [256, 3], "output.weight": [256, 37]}
    tensors = {name: (dims, [rng.gauss(0, 0.02) for _ in range(math.prod(dims))]) for name, dims in shapes.items()}
    pairs = {"general.architecture": "llama", "llama.block_count": 2, "general.file_type": 0}
    write_gguf(path, pairs, tensors)
    return {name: (F32, dims, list(struct.unpack(f"<{len(v)}f", struct.pack(f"<{len(v)}f", *v))))
            for name, (dims, v) in tensors.items()}


def is_kept(name):
    return name.endswith("norm.weight") or "gate_inp" in name


def check(path, kind, want, budget):
    pairs, tensors = read_gguf(path)
    expect(pairs["llama.block_count"] == 2, pairs)
    expect((pairs.get("shoal.fp8.format") == "e4m3") == (kind == "FP8"), f"{kind}: {pairs}")
    for name, (_, dims, values) in want.items():
        got_kind, got_dims, got = tensors[name]
        number = I8 if kind == "FP8" else NUMBERS[kind]
        block = blocks.TYPES[number][1] if number in blocks.TYPES else 1
        if is_kept(name):
            number, limit = F32, 0.0
        elif dims[0] % block:
            number = 8 if dims[0] % 32 == 0 else F16
            limit = max(budget, BUDGETS["Q8_0"])
        else:
            limit = budget
        expect((got_kind, got_dims) == (number, dims), f"{name} as {kind}: {got_kind} {got_dims}")
        found = error(got, values)
        # Small tensors scatter around the figure of many numbers.
        expect(found <= limit * 1.1, f"{name} as {kind}: relative error {found:.4f}")
    scales = sum(name.endswith("_scale") for name in tensors)
    expect(len(tensors) - scales == len(want), sorted(tensors))


def test_every_type_is_written_within_its_error():
    with Site() as site:
        model, out = site.file("model.gguf"), site.file("out.gguf")
        want = make_model(model, 1)
        for kind, budget in BUDGETS.items():
            done = json.loads(convert("-m", model, "--type", kind, "-o", out, "--json").stdout)
            expect(done["bytes_out"] == os.path.getsize(out), done)
            check(out, kind, want, budget)


def test_every_type_converts_to_every_other():
    with Site() as site:
        model, first, second = site.file("model.gguf"), site.file("first.gguf"), site.file("second.gguf")
        make_model(model, 2)
        for a in BUDGETS:
            convert("-m", model, "--type", a, "-o", first)
            between = read_gguf(first)[1]
            for b in ("F32", "FP8", "Q4_K", "Q8_0"):
                convert("-m", first, "--type", b, "-o", second, "-t", "1")
                if b == "F32":
                    for name, (_, _, values) in read_gguf(second)[1].items():
                        expect(values == [struct.unpack("<f", struct.pack("<f", v))[0] for v in between[name][2]],
                               f"{name} from {a}: not the very floats")
                else:
                    check(second, b, {n: t for n, t in between.items() if not n.endswith("_scale")}, BUDGETS[b])


def test_threads_do_not_change_the_file():
    with Site() as site:
        model = site.file("model.gguf")
        make_model(model, 3)
        for kind in ("Q4_K", "FP8"):
            files = []
            for threads in ("1", "3"):
                out = site.file(f"out-{threads}.gguf")
                convert("-m", model, "--type", kind, "-o", out, "-t", threads)
                with open(out, "rb") as f:
                    files.append(f.read())
            expect(files[0] == files[1], kind)


def test_output_type_layers_and_words():
    with Site() as site:
        model, out = site.file("model.gguf"), site.file("out.gguf")
        make_model(model, 4)
        said = convert("-m", model, "--type", "Q4_K", "--output-type", "Q6_K", "--layers", "1", "--name", "one layer",
                       "-o", out).stdout
        pairs, tensors = read_gguf(out)
        expect("1 are Q8_0 and 1 F16" in said, said)
        expect(pairs["general.name"] == "one layer", pairs)
        expect(pairs["llama.block_count"] == 1 and pairs["general.file_type"] == 14, pairs)
        expect("blk.1.attn_q.weight" not in tensors, sorted(tensors))
        expect([tensors[n][0] for n in ("token_embd.weight", "output.weight", "blk.0.ffn_down.weight")] == [14, 14, 12], "types")


def test_fp8_is_half_of_f16_and_copies_as_it_is():
    with Site() as site:
        model = site.file("model.gguf")
        rng = random.Random(5)
        row = [rng.gauss(0, 1) for _ in range(512)]
        write_gguf(model, {"general.architecture": "llama", "llama.block_count": 1},
                   {"token_embd.weight": ([512, 512], row * 512), "output.weight": ([512, 640], row * 640)})
        sizes = {}
        for kind in ("F16", "FP8"):
            sizes[kind] = json.loads(convert("-m", model, "--type", kind, "-o", site.file(kind), "--json").stdout)["bytes_out"]
        expect(sizes["FP8"] <= 0.52 * sizes["F16"], sizes)
        convert("-m", site.file("FP8"), "-o", site.file("copy"))
        with open(site.file("FP8"), "rb") as a, open(site.file("copy"), "rb") as b:
            expect(a.read() == b.read(), "a copy differs")


def test_codes_are_i8_to_others_and_exact_to_us():
    """Types of our own, read by an independent decoder; rows that are no whole groups fall back."""
    with Site() as site:
        model, first, second = site.file("model.gguf"), site.file("first.gguf"), site.file("second.gguf")
        want = make_model(model, 6)
        for kind, budget in OWN_BUDGETS.items():
            convert("-m", model, "--type", kind, "-o", first)
            _, tensors = read_gguf(first)
            expect(sorted(tensors) == sorted(want), sorted(tensors))
            for name, (_, dims, values) in want.items():
                group = blocks.OWN[kind][1]
                stays = F32 if is_kept(name) else kind if dims[0] % group == 0 else 8 if dims[0] % 32 == 0 else F16
                expect(tensors[name][:2] == (stays, dims), f"{name} as {kind}: {tensors[name][:2]}")
                if stays == kind:
                    found = error(tensors[name][2], values)
                    expect(0.6 * budget <= found <= budget * 1.1, f"{name} as {kind}: relative error {found:.4f}")
            convert("-m", first, "--type", "F32", "-o", second, "-t", "1")
            for name, (_, _, values) in read_gguf(second)[1].items():
                expect(values == tensors[name][2], f"{name} from {kind}: not the very floats")
            convert("-m", first, "-o", second)
            with open(first, "rb") as a, open(second, "rb") as b:
                expect(a.read() == b.read(), f"{kind}: a copy differs")


def test_logits_of_every_type_follow_the_float64_reference():
    """The same file, its numbers exact in the reference. Products of integer types round activations to 8 bits."""
    script, python = os.path.join(SOURCE, "tests/golden/reference.py"), "/usr/bin/python3"
    models = [os.path.join(SHARED, "models", name) for name in ("stories260K.gguf", "stories3M-f32.gguf")]
    if SANITIZED or not all(map(os.path.exists, models)) or run(python, "-c", "import numpy", check=False).returncode:
        return "skipped: needs two models beside the checkout, numpy, and no sanitizer"
    ids, worst = "1,403,407,261,378,284,286,263,372,271,411,260", {}
    with Site() as site:
        out = site.file("out.gguf")
        for model, kinds, budget in ((models[0], [k for k in BUDGETS if not k.endswith("_K")], 0.01),
                                     (models[1], ["FP8", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"], 0.06)):
            for kind in kinds:
                convert("-m", model, "--type", kind, "-o", out)
                want = json.loads(run(python, script, "logits", out, ids).stdout)["logits"][-1]
                got = json.loads(run(binary("shoal-forge"), "logits", "-m", out, "--tokens", ids, "--json").stdout)["logits"]
                worst[kind] = error(got, want)
                limit = budget if "Q" in kind else 1e-3 if kind != "F32" else 1e-5
                expect(worst[kind] <= limit, f"{kind}: relative error {worst[kind]:.2e}")
    return ", ".join(f"{kind} {found:.1e}" for kind, found in worst.items())


def test_refusals_leave_no_file():
    with Site() as site:
        model, out = site.file("model.gguf"), site.file("out.gguf")
        good = {"token_embd.weight": ([256, 2], [0.5] * 512)}
        pairs = {"general.architecture": "llama", "llama.block_count": 1}
        cases = (
            (pairs, good, ("--type", "Q9_K"), "known are"), (pairs, good, ("--type", "I8"), "FP8"),
            (pairs, good, ("--type", "Q4_K", "--output-type", "none"), "--output-type"),
            (pairs, good, ("--layers", "2"), "the model has 1"),
            ({"llama.block_count": 1}, good, (), "general.architecture"),
            ({"general.architecture": "x" * 200, "llama.block_count": 1}, good, (), "200 bytes"),
            ({"general.architecture": "gpt"}, good, (), "gpt.block_count"),
            (pairs, {"a.weight": ([4], [1.0] * 4)}, (), "token_embd.weight"),
            (pairs, {"token_embd.weight": ([256, 2], [0.5] * 511 + [math.inf])}, ("--type", "Q4_K"), "token_embd.weight"),
            (pairs, {"token_embd.weight": ([256, 2], [0.5] * 511 + [math.nan])}, (), "element 511"),
            (pairs, {"token_embd.weight": ([256, 2], [math.inf] * 512)}, ("--type", "FP8"), "not finite"),
            (pairs, {"token_embd.weight": ([256, 2], [1e38] * 512)}, ("--type", "Q4_0"), "too large"))
        for keys, tensors, options, word in cases:
            write_gguf(model, keys, tensors)
            done = convert("-m", model, "-o", out, *options, check=False)
            expect(done.returncode == 1 and word in done.stderr, f"{options}: {done.returncode} {done.stderr!r}")
            expect(len(done.stderr.strip().splitlines()) == 1, done.stderr)
            expect(not os.path.exists(out) and not os.path.exists(out + ".tmp"), f"{options}: a file was left")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
