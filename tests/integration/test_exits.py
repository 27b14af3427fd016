#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exit heads through the workshop: carried, cut at, shown. Files are read by a reader of our own."""
import json
import math
import struct

from harness import Site, binary, expect, main, run

DIM = 64  # of the tiny model
LAYERS, NORM = "shoal.exit.layers", "shoal.exit.norm"


def forge(*args, check=True):
    return run(binary("shoal-forge"), *args, check=check)


def read_gguf(path):
    """(pairs, name -> bytes of F32 tensors of one dimension)."""
    with open(path, "rb") as f:
        data = f.read()
    at, formats = 8, dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}

    def take(fmt, n=1):
        nonlocal at
        values = struct.unpack_from(f"<{n}{fmt}", data, at)
        at += struct.calcsize(f"<{n}{fmt}")
        return list(values)

    def take_text():
        nonlocal at
        n = take("Q")[0]
        at += n
        return data[at - n:at].decode(errors="replace")

    def take_value(kind):
        if kind == 8:
            return take_text()
        if kind != 9:
            return take(formats[kind])[0]
        element, n = take("I")[0], take("Q")[0]
        return [take_text() for _ in range(n)] if element == 8 else take(formats[element], n)

    n_tensors, n_pairs = take("Q", 2)
    pairs, vectors, found = {}, {}, []
    for _ in range(n_pairs):
        key = take_text()
        pairs[key] = take_value(take("I")[0])
    for _ in range(n_tensors):
        name, dims = take_text(), take("Q", take("I")[0])
        found.append((name, dims, take("I")[0], take("Q")[0]))
    base = at + -at % pairs.get("general.alignment", 32)
    for name, dims, kind, offset in found:
        if len(dims) == 1 and kind == 0:
            vectors[name] = data[base + offset:base + offset + 4 * dims[0]]
    return pairs, vectors


def with_pair(path, out, key, value):
    """A copy with one more string pair, put in by hand."""
    with open(path, "rb") as f:
        data = f.read()
    raw = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IQ", 8, len(value)) + value.encode()
    pad = -len(raw) % 32  # the alignment of what follows stays: an unused key takes up the rest
    name = "general.x" + "x" * ((pad - 9 - 20) % 32)
    raw += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQ", 8, 0)
    expect(len(raw) % 32 == 0, len(raw))
    n = struct.unpack_from("<Q", data, 16)[0]
    with open(out, "wb") as f:
        f.write(data[:16] + struct.pack("<Q", n + 2) + raw + data[24:])


def test_exits_are_carried_by_convert_pack_and_merge():
    with Site() as site:
        model, out = site.tiny_model(6, variant="exits"), site.file("out.gguf")
        want, _ = read_gguf(model)
        expect(want[LAYERS] == [1, 3] and len(want[NORM]) == 2 * DIM, want[LAYERS])
        lora = site.tiny_lora(3, model)
        for command in (("convert", "--type", "Q8_0"), ("convert",), ("pack",), ("merge-lora", "--lora", lora)):
            forge(command[0], "-m", model, "-o", out, *command[1:])
            pairs, _ = read_gguf(out)
            expect(pairs[LAYERS] == want[LAYERS] and pairs[NORM] == want[NORM], command)
            facts = json.loads(forge("inspect", "-m", out, "--json").stdout)
            expect(facts["exits"] == [1, 3], facts)
        expect("after layers 1, 3" in forge("inspect", "-m", model).stdout, "inspect")
        plain = json.loads(forge("inspect", "-m", site.tiny_model(6), "--json").stdout)
        expect(plain["exits"] == [], plain)


def test_a_cut_at_an_exit_takes_its_norm_and_keeps_those_below():
    with Site() as site:
        model, out = site.tiny_model(6, variant="exits"), site.file("out.gguf")
        want, vectors = read_gguf(model)
        kept = vectors["output_norm.weight"]
        norm = struct.pack(f"<{DIM}f", *want[NORM][DIM:]), struct.pack(f"<{DIM}f", *want[NORM][:DIM])
        for n, exits, output in ((4, [1, 3], kept), (3, [1], norm[0]), (2, [1], kept), (1, [], norm[1])):
            forge("convert", "-m", model, "--layers", str(n), "-o", out)
            pairs, cut = read_gguf(out)
            expect(pairs.get(LAYERS, []) == exits, f"{n}: {pairs.get(LAYERS)}")
            expect(pairs.get(NORM, []) == want[NORM][:DIM * len(exits)], f"{n}: norms")
            expect(cut["output_norm.weight"] == output, f"{n}: output norm")
            facts = json.loads(forge("inspect", "-m", out, "--json").stdout)
            expect(facts["exits"] == exits and facts["n_layers"] == n, facts)
            logits = json.loads(forge("logits", "-m", out, "--tokens", "1,262,270", "--json").stdout)["logits"]
            expect(all(map(math.isfinite, logits)), "logits")


def test_what_was_fitted_to_the_weights_goes_when_they_change():
    with Site() as site:
        model, fitted, out = site.tiny_model(6, variant="exits"), site.file("fitted.gguf"), site.file("out.gguf")
        for key in ("shoal.exit.policy.3.fixed", "shoal.exit.calibration.hash", "shoal.escalate.policy.fixed"):
            with_pair(model, fitted, key, "x")
            expect(read_gguf(fitted)[0][key] == "x", key)
            for command, stays in ((("convert",), True), (("pack",), True), (("convert", "--type", "Q8_0"), False),
                                   (("convert", "--layers", "2"), False)):
                forge(command[0], "-m", fitted, "-o", out, *command[1:])
                expect((key in read_gguf(out)[0]) == stays, f"{key} after {command}")


def test_hostile_exits_are_refused_in_words():
    with Site() as site:
        model, bad, out = site.tiny_model(6, variant="exits"), site.file("bad.gguf"), site.file("out.gguf")
        with open(model, "rb") as f:
            data = f.read()
        at = data.index(LAYERS.encode()) + len(LAYERS) + 4 + 4 + 8
        for layers in ((3, 1), (0, 3), (1, 4), (-1, 3)):
            with open(bad, "wb") as f:
                f.write(data[:at] + struct.pack("<2i", *layers) + data[at + 8:])
            done = forge("logits", "-m", bad, "--tokens", "1", check=False)
            expect(done.returncode == 1 and LAYERS in done.stderr, done.stderr)
        with open(bad, "wb") as f:
            f.write(data.replace(NORM.encode(), b"shoal.exit.n0rm"))
        for command in (("convert", "--layers", "3", "-o", out), ("logits", "--tokens", "1")):
            done = forge(command[0], "-m", bad, *command[1:], check=False)
            expect(done.returncode == 1 and NORM in done.stderr, f"{command}: {done.stderr}")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
