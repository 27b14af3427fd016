#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes malformed variants of a good GGUF, for whole programs to refuse.

make_hostile_gguf.py OUT [GOOD.gguf]   one file per attack, and MANIFEST with their names
make_hostile_gguf.py --seeds DIR       the seeds of tests/fuzz/corpus/gguf
make_hostile_gguf.py --adapters DIR    the seeds of tests/fuzz/corpus/lora

Every file in MANIFEST must be refused with words, without a crash and without a hang. GOOD (any
little-endian GGUF) is read by itself here; without it a small one is made. Standard library only.
"""
import os
import struct
import sys

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B",
           U64: "Q", I64: "q", F64: "d"}
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 30: (1, 2)}
ALIGN = 32


def u32(x):
    return struct.pack("<I", x & 0xFFFFFFFF)


def u64(x):
    return struct.pack("<Q", x & 0xFFFFFFFFFFFFFFFF)


def text(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return u64(len(raw)) + raw


def value(kind, x):
    return text(x) if kind == STR else struct.pack("<" + FORMATS[kind], x)


def pair(key, kind, x):
    return text(key) + u32(kind) + value(kind, x)


def array(key, kind, xs):
    return text(key) + u32(ARR) + u32(kind) + u64(len(xs)) + b"".join(value(kind, x) for x in xs)


def tensor(name, dims, kind, offset):
    return text(name) + u32(len(dims)) + b"".join(u64(d) for d in dims) + u32(kind) + u64(offset)


def padding(n, align=ALIGN):
    return bytes(-n % align)


def build(pairs, tensors, version=3, align=ALIGN):
    """tensors: (name, dims, type)."""
    infos, data = b"", b""
    for name, dims, kind in tensors:
        infos += tensor(name, dims, kind, len(data))
        n = 1
        for d in dims:
            n *= d
        block, block_bytes = BLOCKS[kind]
        raw = struct.pack("<e", 0.5) + bytes(range(block_bytes - 2)) if block > 1 else bytes(block_bytes)
        data += raw * (n // block)
        data += padding(len(data), align)
    head = b"GGUF" + u32(version) + u64(len(tensors)) + u64(len(pairs)) + b"".join(pairs) + infos
    return head + padding(len(head), align) + data


def every_kind():
    pairs = [pair("general.architecture", STR, "llama"), pair("general.alignment", U32, ALIGN)]
    for kind, x in ((U8, 200), (I8, -3), (U16, 60000), (I16, -300), (U32, 1 << 31), (I32, -7),
                    (F32, 0.25), (BOOL, 1), (U64, 1 << 63), (I64, -(1 << 62)), (F64, 1e300)):
        pairs.append(pair("t.plain.%d" % kind, kind, x))
        pairs.append(array("t.array.%d" % kind, kind, [x] * 3))
    pairs.append(array("t.strings", STR, ["<unk>", "", "\u2581the"]))
    pairs.append(array("t.empty", U32, []))
    return pairs


TENSORS = [("token_embd.weight", [32, 3], 0), ("blk.0.attn_q.weight", [32, 2], 8),
           ("blk.0.attn_k.weight", [64, 2], 2), ("blk.0.attn_v.weight", [8, 2, 2], 1),
           ("output_norm.weight", [8], 30)]


class Marks:
    """Where everything lies in a good file."""

    def __init__(self, raw):
        self.raw, self.at, self.pairs, self.tensors, self.align = raw, 24, [], [], ALIGN
        self.n_tensors, self.n_pairs = struct.unpack_from("<QQ", raw, 8)
        for _ in range(self.n_pairs):
            self.pairs.append(self.pair())
        for _ in range(self.n_tensors):
            self.tensors.append(self.tensor())
        self.meta_end = self.at
        self.data = -(-self.at // self.align) * self.align

    def take(self, fmt):
        x = struct.unpack_from("<" + fmt, self.raw, self.at)[0]
        self.at += struct.calcsize(fmt)
        return x

    def skip_text(self):
        n = self.take("Q")
        self.at += n
        return self.raw[self.at - n:self.at]

    def pair(self):
        p = {"key_len": self.at, "key": self.at + 8, "name": self.skip_text()}
        p["kind_at"] = self.at
        p["kind"] = self.take("I")
        p["value"] = self.at
        if p["kind"] == STR:
            self.skip_text()
        elif p["kind"] == ARR:
            p["element"], p["n_at"] = self.take("I"), self.at
            n = self.take("Q")
            p["first"] = self.at
            if p["element"] == STR:
                for _ in range(n):
                    self.skip_text()
            else:
                self.at += n * struct.calcsize(FORMATS[p["element"]])
        else:
            x = self.take(FORMATS[p["kind"]])
            if p["name"] == b"general.alignment":
                self.align = x
        p["end"] = self.at
        return p

    def tensor(self):
        t = {"name_len": self.at, "name_at": self.at + 8, "name": self.skip_text()}
        t["n_dims_at"] = self.at
        n_dims = self.take("I")
        t["dims"] = [self.at + 8 * i for i in range(n_dims)]
        self.at += 8 * n_dims
        t["type"] = self.at
        self.take("I")
        t["offset"] = self.at
        self.take("Q")
        t["end"] = self.at
        return t


def patched(raw, at, new):
    return raw[:at] + new + raw[at + len(new):]


def inserted(raw, at, new, n_tensors=0, n_pairs=0):
    """Inserts and keeps counts and padding right, so that only the insertion is wrong."""
    m = Marks(raw)
    head = raw[:at] + new + raw[at:m.meta_end]
    head = patched(head, 8, u64(m.n_tensors + n_tensors) + u64(m.n_pairs + n_pairs))
    return head + padding(len(head), m.align) + raw[m.data:]


HUGE = {"minus1": 1 << 64, "2_63": 1 << 63, "2_62": 1 << 62, "2_61": 1 << 61, "2_32": 1 << 32,
        "2_31": 1 << 31, "64k1": 65537}


def header_attacks(raw):
    for name, magic in (("magic_zero", b"\0\0\0\0"), ("magic_big_endian", b"FUGG"),
                        ("magic_ggml", b"lmgg"), ("magic_lower", b"gguf")):
        yield name, patched(raw, 0, magic)
    for version in (0, 1, 4, 0x01000000, 0x02000000, 0x03000000, 0xFFFFFFFF):
        yield "version_%x" % version, patched(raw, 4, u32(version))
    for what, at in (("n_tensors", 8), ("n_kv", 16)):
        for name, x in HUGE.items():
            yield "%s_%s" % (what, name), patched(raw, at, u64(x - (name == "minus1")))
        n = struct.unpack_from("<Q", raw, at)[0]
        yield "%s_one_more" % what, patched(raw, at, u64(n + 1))
        yield "%s_one_less" % what, patched(raw, at, u64(n - 1))
        yield "%s_zero" % what, patched(raw, at, u64(0))
    for n in (0, 1, 3, 4, 7, 8, 15, 16, 23, 24, 25):
        yield "trunc_%d" % n, raw[:n]


def pair_attacks(raw, m):
    first, end = m.pairs[0], m.pairs[-1]["end"]
    for name, x in HUGE.items():
        yield "key_len_%s" % name, patched(raw, first["key_len"], u64(x - (name == "minus1")))
    yield "key_len_zero", inserted(raw, end, pair("", U8, 1), 0, 1)
    yield "key_len_1025", inserted(raw, end, pair("k" * 1025, U8, 1), 0, 1)
    yield "key_nul", patched(raw, first["key"], b"\0")
    yield "key_control", patched(raw, first["key"], b"\x1b")
    yield "key_not_utf8", patched(raw, first["key"], b"\xff")
    yield "kv_duplicate_key", inserted(raw, end, raw[first["key_len"]:first["end"]], 0, 1)
    for kind in (13, 14, 255, 1 << 31, 0xFFFFFFFF):
        yield "kv_kind_%x" % kind, patched(raw, first["kind_at"], u32(kind))
    yield "bool_2", inserted(raw, end, pair("x.bool", BOOL, 2), 0, 1)
    yield "bool_array_255", inserted(raw, end, array("x.bool", BOOL, [0, 1, 255]), 0, 1)
    for name, x in HUGE.items():
        x -= name == "minus1"
        if x > 65537:
            yield "string_len_%s" % name, inserted(raw, end, text("x.s") + u32(STR) + u64(x), 0, 1)
        for kind in (U8, U16, F32, F64, STR):
            if x > 65537:
                yield "array_%d_%s" % (kind, name), inserted(
                    raw, end, text("x.a") + u32(ARR) + u32(kind) + u64(x), 0, 1)
    for kind in (ARR, 13, 0xFFFFFFFF):
        yield "array_of_%x" % kind, inserted(
            raw, end, text("x.a") + u32(ARR) + u32(kind) + u64(1) + bytes(16), 0, 1)
    yield "array_string_wraps", inserted(
        raw, end, text("x.a") + u32(ARR) + u32(STR) + u64(2) + u64((1 << 64) - 8) + u64(0), 0, 1)
    for a in (0, 1, 4, 24, 33, 131072, 1 << 31, 0xFFFFFFFF):
        yield "alignment_%x" % a, with_alignment(raw, m, U32, a)
    yield "alignment_negative", with_alignment(raw, m, I32, -32)
    yield "alignment_string", with_alignment(raw, m, STR, "32")
    yield "alignment_float", with_alignment(raw, m, F32, 32.0)


def with_alignment(raw, m, kind, x):
    for p in m.pairs:
        if p["name"] == b"general.alignment":
            head = raw[:p["key_len"]] + pair("general.alignment", kind, x) + raw[p["end"]:m.meta_end]
            return head + padding(len(head)) + raw[m.data:]
    return inserted(raw, m.pairs[-1]["end"], pair("general.alignment", kind, x), 0, 1)


def tensor_attacks(raw, m):
    t, last = m.tensors[0], m.tensors[-1]
    for name, x in HUGE.items():
        x -= name == "minus1"
        yield "tensor_name_len_%s" % name, patched(raw, t["name_len"], u64(x))
        yield "dims0_%s" % name, patched(raw, t["dims"][0], u64(x))
        yield "dims_last_%s" % name, patched(raw, t["dims"][-1], u64(x))
        yield "offset_%s" % name, patched(raw, last["offset"], u64(x))
    yield "tensor_name_nul", patched(raw, t["name_at"], b"\0")
    yield "tensor_name_newline", patched(raw, t["name_at"], b"\n")
    yield "tensor_name_empty", inserted(raw, last["end"], tensor("", [1], 0, 0), 1)
    yield "tensor_name_129", inserted(raw, last["end"], tensor("n" * 129, [1], 0, 0), 1)
    yield "tensor_duplicate", inserted(raw, last["end"], raw[t["name_len"]:t["end"]], 1)
    yield "tensor_overlap", inserted(raw, last["end"], tensor("x.overlap", [1], 0, 0), 1)
    for n in (0, 5, 255, 1 << 31, 0xFFFFFFFF):
        yield "n_dims_%x" % n, patched(raw, t["n_dims_at"], u32(n))
    yield "dims_zero", patched(raw, t["dims"][0], u64(0))
    yield "dims_product_wraps", inserted(
        raw, last["end"], tensor("x.wrap", [1 << 32, 1 << 31, 2], 0, 0), 1)
    yield "dims_bytes_wrap", inserted(raw, last["end"], tensor("x.wrap", [1 << 62], 0, 0), 1)
    yield "dims_not_whole_blocks", inserted(raw, last["end"], tensor("x.odd", [33, 1], 8, 0), 1)
    for kind in (3, 4, 5, 7, 26, 31, 255, 1 << 31, 0xFFFFFFFF):
        yield "tensor_type_%x" % kind, patched(raw, t["type"], u32(kind))
    yield "offset_unaligned", patched(raw, last["offset"], u64(1))
    yield "offset_past_end", patched(raw, last["offset"], u64(-(-len(raw) // 65536) * 65536))


def tail_attacks(raw, m):
    for cut in (1, 2, 17, 31):
        yield "trunc_data_%d" % cut, raw[:m.data - cut]
    yield "trunc_data_half", raw[:m.data + (len(raw) - m.data) // 2]
    yield "trunc_data_all", raw[:m.data]
    for k in range(1, 16):
        yield "trunc_meta_%d_of_16" % k, raw[:24 + (m.meta_end - 24) * k // 16]
    yield "trailing_64k", raw + bytes(65536)
    yield "joined_twice", raw + raw


def attacks(raw):
    m = Marks(raw)
    for group in (header_attacks(raw), pair_attacks(raw, m), tensor_attacks(raw, m),
                  tail_attacks(raw, m)):
        for name, bad in group:
            if bad != raw:
                yield name, bad


def write(folder, name, raw):
    with open(os.path.join(folder, name), "wb") as f:
        f.write(raw)


def seeds(folder):
    good = build(every_kind(), TENSORS)
    write(folder, "every_kind", good)
    write(folder, "version_2", build([pair("general.name", STR, "two")], TENSORS[:1], version=2))
    write(folder, "alignment_64", build([pair("general.alignment", U32, 64)], TENSORS, align=64))
    write(folder, "metadata_only", build(every_kind()[:5], []))
    write(folder, "empty", b"GGUF" + u32(3) + u64(0) + u64(0))
    write(folder, "four_dims", build([], [("t", [32, 2, 1, 3], 2)]))
    keep = ("kv_duplicate_key", "tensor_overlap", "dims_product_wraps", "array_string_wraps",
            "offset_unaligned", "alignment_0", "array_of_9", "bool_2", "joined_twice",
            "trunc_data_half", "tensor_name_nul", "key_not_utf8")
    for name, bad in attacks(good):
        if name in keep:
            write(folder, "bad_" + name, bad)
    import micro_models  # it is made of this file's words
    for name in micro_models.ARCHS:
        write(folder, "model_" + name, micro_models.micro(name))
    write(folder, "model_fp8", micro_models.micro("llama", "I8"))
    write(folder, "model_exits", micro_models.micro_exits())
    for kind in micro_models.RUNS:
        group = 64 if kind == "C4" else 32
        write(folder, "model_%s_%d" % (kind, group),
              micro_models.micro("llama", "%s_%d" % (kind, group), group, {"head": 2, "dense": 4}))
    for group in (64, 128):
        write(folder, "model_own_%d" % group, micro_models.micro_own(group))
    write(folder, "model_sides", micro_models.micro_sides())
    write(folder, "model_sides_fused", micro_models.micro_sides(True))


def adapters(folder):
    """For the models of tests/support/tiny_arch.c that fuzz_lora.c takes."""
    import hostile_models
    from micro_models import micro_lora
    layer = "blk.0."
    good = {
        "llama": ("llama", [(layer + "attn_q.weight", 64, 64), (layer + "attn_v.weight", 64, 32)]),
        "output": ("llama", [("output.weight", 64, 300)]),
        "fused": ("phi3", [(layer + "attn_qkv.weight", 64, 128), (layer + "ffn_up.weight", 64, 192)]),
        "experts": ("qwen2moe", [(layer + "ffn_gate_inp.weight", 64, 6), (layer + "ffn_down_shexp.weight", 64, 64)]),
        "latent": ("deepseek2", [("blk.1.attn_q_a.weight", 64, 32), ("blk.1.attn_kv_a_mqa.weight", 64, 40)]),
    }
    for name, (arch, matrices) in good.items():
        write(folder, name, micro_lora(arch, matrices, 1))
    arch, matrices = good["llama"]
    for kind in ("F16", "Q8_0", "N4_64"):
        write(folder, "llama_" + kind, micro_lora(arch, matrices, 1, kind))
    write(folder, "rank_64", micro_lora(arch, [("blk.1.attn_k.weight", 64, 32)], 64, "Q4_0"))
    q_a, q_b = (layer + "attn_q.weight.lora_" + half for half in "ab")
    keep = {"alpha_nan": "alpha_nan", "key_unknown": "key_unknown", "lora_layer_huge": "layer_huge",
            "lora_empty": "empty", "lora_stack": "stack", "lora_embedding": "embedding",
            q_a + "_renamed": "half_missing", q_b + "_nan": "nan", q_b + "_dim0_less": "ranks_differ"}
    for name, bad in hostile_models.lora_attacks(64):
        if name in keep:
            write(folder, "bad_" + keep[name], bad)


def main():
    makers = {"--seeds": seeds, "--adapters": adapters}
    if len(sys.argv) < 2 or (sys.argv[1] in makers and len(sys.argv) != 3):
        sys.exit(__doc__)
    if sys.argv[1] in makers:
        os.makedirs(sys.argv[2], exist_ok=True)
        makers[sys.argv[1]](sys.argv[2])
        return
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as f:
            good = f.read()
    else:
        good = build(every_kind(), TENSORS)
    names = []
    for name, bad in attacks(good):
        write(out, name + ".gguf", bad)
        names.append(name + ".gguf")
    with open(os.path.join(out, "MANIFEST"), "w") as f:
        f.write("\n".join(names) + "\n")
    assert len(names) == len(set(names))
    print(len(names), "malformed files in", out)


if __name__ == "__main__":
    main()
