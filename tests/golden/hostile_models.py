# SPDX-License-Identifier: Apache-2.0
"""Sound containers that are no sound models: numbers of every architecture out of their range,
tensors missing, of another shape or type, weights that are not numbers, FP8 without its scales,
codes of our own types that lie, sides that do not fit their matrix, packed files whose metadata
lies. attacks() gives (name, bytes) that must be refused; lora_attacks() adapters of
micro_models.micro("llama")."""
import struct

from make_hostile_gguf import (ARR, F32, I32, STR, U32, U64, Marks, array, inserted, padding, pair,
                               patched, tensor, text, u32, u64, value)
from micro_models import ARCHS, OWN, TYPES, micro, micro_lora, micro_sides

NAN, INF = float("nan"), float("inf")
HALVES = {"inf": 0x7C00, "minus_inf": 0xFC00, "nan": 0x7E00}
BRAINS = {"inf": 0x7F80, "nan": 0xFFC0}


def replaced(raw, at, end, new):
    """Bytes [at, end) of the metadata by others; padding stays right."""
    m = Marks(raw)
    head = raw[:at] + new + raw[end:m.meta_end]
    return head + padding(len(head), m.align) + raw[m.data:]


def with_value(raw, p, kind, x):
    return replaced(raw, p["kind_at"], p["end"], u32(kind) + value(kind, x))


def key_attacks(raw, arch):
    m = Marks(raw)
    prefix = arch.encode() + b"."
    end = m.pairs[-1]["end"]
    yield "key_unknown", inserted(raw, end, pair(arch + ".clamp_kqv", F32, 8.0), 0, 1)
    for p in m.pairs:
        name = p["name"].decode()
        if not p["name"].startswith(prefix):
            continue
        short = name[len(prefix):]
        if p["kind"] == U32:
            for what, x in (("huge", 0xFFFFFFFF), ("2_31", 1 << 31)):
                yield "%s_%s" % (short, what), patched(raw, p["value"], u32(x))
            yield short + "_u64", with_value(raw, p, U64, 1 << 63)
            yield short + "_negative", with_value(raw, p, I32, -1)
        elif p["kind"] == F32:
            for what, x in (("nan", NAN), ("inf", INF), ("minus_inf", -INF), ("negative", -1.0)):
                yield "%s_%s" % (short, what), patched(raw, p["value"], struct.pack("<f", x))
        elif p["kind"] == STR:
            yield short + "_unknown", with_value(raw, p, STR, "\u03c9")
        yield short + "_array", replaced(raw, p["kind_at"], p["end"],
                                         u32(ARR) + u32(U32) + u64(2) + u32(1) + u32(1))
        if p["kind"] != STR:
            yield short + "_string", with_value(raw, p, STR, "1")
    for p in m.pairs:
        if p["name"] in (b"general.architecture", prefix + b"block_count",
                         prefix + b"embedding_length", prefix + b"context_length",
                         prefix + b"attention.head_count",
                         prefix + b"attention.layer_norm_rms_epsilon", b"tokenizer.ggml.tokens",
                         b"tokenizer.ggml.model"):
            yield "no_" + p["name"].decode(), renamed(raw, p)


def renamed(raw, p):
    """The key becomes one that nobody asks for."""
    return replaced(raw, p["key_len"], p["kind_at"], text("x" + p["name"].decode()))


def tensor_attacks(raw):
    m = Marks(raw)
    yield "tensor_unused", inserted(raw, m.tensors[-1]["end"],
                                    tensor("blk.7.attn_q.weight", [1], 0, len(raw) - m.data), 1) + bytes(32)
    for t in m.tensors:
        name = t["name"].decode()
        yield name + "_renamed", patched(raw, t["name_at"], b"x")
        for i, at in enumerate(t["dims"]):
            d = struct.unpack_from("<Q", raw, at)[0]
            if d > 1:
                yield "%s_dim%d_less" % (name, i), patched(raw, at, u64(d - 1))
            yield "%s_dim%d_more" % (name, i), patched(raw, at, u64(d + 1))
        yield name + "_i8", patched(raw, t["type"], u32(TYPES["I8"][0]))
        yield name + "_q8_0", patched(raw, t["type"], u32(TYPES["Q8_0"][0]))
        at = m.data + struct.unpack_from("<Q", raw, t["offset"])[0]
        for what, x in (("nan", NAN), ("inf", INF), ("minus_inf", -INF)):
            yield "%s_%s" % (name, what), patched(raw, at, struct.pack("<f", x))


def counts(arch):
    """Numbers that are in their range and do not fit each other or the tensors."""
    yield from (("embedding_length", 8), ("attention.head_count", 3), ("block_count", 2),
                ("attention.head_count_kv", 4), ("rope.dimension_count", 3),
                ("rope.dimension_count", 64))
    if arch in ("qwen2moe", "qwen3moe", "deepseek2"):
        yield from (("expert_count", 1), ("expert_count", 1024), ("expert_used_count", 63),
                    ("expert_used_count", 0), ("expert_feed_forward_length", 3))
    if arch == "deepseek2":
        yield from (("attention.kv_lora_rank", 3), ("attention.kv_lora_rank", 16384),
                    ("leading_dense_block_count", 1), ("expert_gating_func", 3),
                    ("expert_group_count", 3), ("expert_group_used_count", 9))


def fit_attacks(raw, arch):
    for p in Marks(raw).pairs:
        for key, x in counts(arch):
            if p["name"].decode() == arch + "." + key and p["kind"] == U32:
                yield "%s_%d" % (key, x), patched(raw, p["value"], u32(x))


def first_weights(raw, name):
    m = Marks(raw)
    t = next(t for t in m.tensors if t["name"] == name)
    return m.data + struct.unpack_from("<Q", raw, t["offset"])[0]


def type_attacks():
    """Scales that are not finite, in the first block of a matrix and in the last."""
    for kind, (_, block, size, places) in TYPES.items():
        if kind in ("F32", "I8"):
            continue
        raw = micro("llama", kind, 256)
        at = first_weights(raw, b"blk.0.attn_q.weight")
        last = at + (256 * 256 // block - 1) * size
        for what, x in (BRAINS if kind == "BF16" else HALVES).items():
            for place in places or (0,):
                for where, base in (("first", at), ("last", last)):
                    yield "%s_%s_%s_%d" % (kind, what, where, place), patched(
                        raw, base + place, struct.pack("<H", x))


def fp8_attacks():
    raw = micro("llama", "I8")
    m = Marks(raw)
    scale = next(t for t in m.tensors if t["name"] == b"blk.0.attn_q.weight_scale")
    key = next(p for p in m.pairs if p["name"] == b"shoal.fp8.format")
    at = first_weights(raw, b"blk.0.attn_q.weight")
    yield "fp8_no_scales", patched(raw, scale["name_at"], b"x")
    yield "fp8_scales_2", patched(raw, scale["dims"][0], u64(2))
    yield "fp8_scales_f16", patched(raw, scale["type"], u32(1))
    yield "fp8_scales_i8", patched(raw, scale["type"], u32(24))
    yield "fp8_no_format", renamed(raw, key)
    yield "fp8_format_unknown", with_value(raw, key, STR, "e5m2")
    yield "fp8_format_number", with_value(raw, key, U32, 1)
    for code in (0x7F, 0xFF):
        yield "fp8_code_%x" % code, patched(raw, at, bytes([code]))
    for what, x in (("nan", NAN), ("inf", INF)):
        yield "fp8_scale_" + what, patched(raw, first_weights(raw, scale["name"]),
                                           struct.pack("<f", x))


def find_tensor(raw, name):
    return next(t for t in Marks(raw).tensors if t["name"] == name.encode())


def find_pair(raw, key):
    return next(p for p in Marks(raw).pairs if p["name"] == key.encode())


def with_array(raw, key, kind, xs):
    p = find_pair(raw, key)
    return replaced(raw, p["kind_at"], p["end"], array("", kind, xs)[8:])


def own_attacks():
    """Places that do not ascend, more columns than there is room for, and names that lie."""
    lies = {"S4": bytes(12), "S8": bytes(20), "B16": b"\xff" * 12, "B8": b"\xff" * 8}
    for kind in OWN:
        family, group = kind.split("_")
        if family not in lies:
            continue
        raw = micro("llama", kind, 256)
        at = first_weights(raw, b"blk.0.attn_q.weight")
        _, block, size, _ = TYPES[kind]
        last = at + 256 * 256 // block * size - len(lies[family])
        yield kind + "_first_run", patched(raw, at + 2, lies[family])
        yield kind + "_last_run", patched(raw, last, lies[family])
    names, types = "shoal.codes.names", "shoal.codes.types"
    raw = micro("llama", "C3_32", 32)
    matrices = [t["name"] for t in Marks(raw).tensors
                if struct.unpack_from("<I", raw, t["type"])[0] == TYPES["I8"][0]]
    n = len(matrices)
    for what, xs in (("short", ["C3_32"] * (n - 1)), ("long", ["C3_32"] * (n + 1)), ("empty", []),
                     ("unknown", ["C9_32"] * n), ("of_ggml", ["Q8_0"] * n), ("i8", ["I8"] * n),
                     ("huge", ["C" * 4096] * n), ("other", ["C4_64"] * n)):
        yield "own_types_" + what, with_array(raw, types, STR, xs)
    for what, xs in (("twice", [matrices[0]] * n), ("nobody", matrices[1:] + [b"blk.7.attn_q.weight"]),
                     ("vector", matrices[1:] + [b"output_norm.weight"]), ("one_less", matrices[1:])):
        yield "own_names_" + what, with_array(raw, names, STR, xs)
    for key in (names, types):
        yield key + "_missing", renamed(raw, find_pair(raw, key))
        yield key + "_string", with_value(raw, find_pair(raw, key), STR, "C3_32")
        yield key + "_numbers", with_array(raw, key, U32, [1] * n)


def side_attacks(raw, of):
    """of: the kinds of sides that the file has, with where each stands."""
    key = find_pair(raw, "shoal.sides.format")
    yield "sides_no_format", renamed(raw, key)
    yield "sides_format_2", with_value(raw, key, STR, "2")
    yield "sides_format_number", with_value(raw, key, U32, 1)
    values = {"_low_left": [("<H", x) for x in HALVES.values()], "_low_right": [("<H", x) for x in HALVES.values()],
              "_column_scale": [("<H", x) for x in (0, 0x8000, 0xBC00, *HALVES.values())],
              "_threshold": [("<f", x) for x in (0.0, -1.0, NAN, INF)],
              "_single_begin": [("<I", x) for x in (1, 4, 0xFFFFFFFF)],
              "_single_cols": [("<I", x) for x in (31, 32, 0x80000000, 0xFFFFFFFF)],
              "_single_values": [("<H", x) for x in HALVES.values()], "_levels": [("<b", -128)]}
    for side, where in of.items():
        t = find_tensor(raw, where + side)
        at = first_weights(raw, t["name"])
        for fmt, x in values[side]:
            yield "%s%s_%s" % (where, side, x), patched(raw, at, struct.pack(fmt, x))
        yield where + side + "_renamed", patched(raw, t["name_at"], b"x")
        for i, dim in enumerate(t["dims"]):
            d = struct.unpack_from("<Q", raw, dim)[0]
            yield "%s%s_dim%d_more" % (where, side, i), patched(raw, dim, u64(d + 1))
            if d > 1:
                yield "%s%s_dim%d_less" % (where, side, i), patched(raw, dim, u64(d - 1))
        for name in ("F32", "BF16"):
            if not (name == "F32" and side == "_threshold"):
                yield "%s%s_as_%s" % (where, side, name), patched(raw, t["type"], u32(TYPES[name][0]))
    for row in (0, 1, 2):  # of the begins: a row that ends before it begins, or past the end
        t = find_tensor(raw, of["_single_begin"] + "_single_begin")
        at = first_weights(raw, t["name"]) + 4 * (row + 1)
        yield "single_begin_of_row_%d" % row, patched(raw, at, u32(4))


def sides_attacks():
    q, gate, down = ("blk.0.%s.weight" % name for name in ("attn_q", "ffn_gate", "ffn_down"))
    apart = {"_low_left": q, "_low_right": q, "_column_scale": q, "_threshold": down,
             "_single_begin": gate, "_single_cols": gate, "_single_values": gate, "_levels": gate}
    yield from side_attacks(micro_sides(), apart)
    fused = {side: "blk.0.attn_qkv.weight" for side in apart if side != "_levels"}
    for name, bad in side_attacks(micro_sides(True), fused):
        yield "fused_" + name, bad


def lora_attacks(dim=4):
    """Adapters that are none of a llama of that width, of micro("llama") with 4."""
    raw = micro_lora("llama", [("blk.0.attn_q.weight", dim, dim)])
    for key in ("general.type", "adapter.type", "general.architecture"):
        yield key + "_missing", renamed(raw, find_pair(raw, key))
        yield key + "_other", with_value(raw, find_pair(raw, key), STR, "model")
        yield key + "_number", with_value(raw, find_pair(raw, key), U32, 1)
    alpha = find_pair(raw, "adapter.lora.alpha")
    yield "alpha_missing", renamed(raw, alpha)
    yield "alpha_string", with_value(raw, alpha, STR, "8")
    for what, x in (("nan", NAN), ("inf", INF), ("negative", -1.0), ("huge", 65537.0)):
        yield "alpha_" + what, patched(raw, alpha["value"], struct.pack("<f", x))
    yield "key_unknown", inserted(raw, alpha["end"], pair("adapter.alora.tokens", U32, 1), 0, 1)
    for t in Marks(raw).tensors:
        name = t["name"].decode()
        yield name + "_renamed", patched(raw, t["name_at"], b"x")
        yield name + "_whole", patched(raw, t["name_at"] + len(name) - 1, b"c")
        for i, at in enumerate(t["dims"]):
            d = struct.unpack_from("<Q", raw, at)[0]
            yield "%s_dim%d_more" % (name, i), patched(raw, at, u64(d + 1))
            yield "%s_dim%d_less" % (name, i), patched(raw, at, u64(d - 1))
        for kind in (TYPES["I8"][0], 26):
            yield "%s_type_%d" % (name, kind), patched(raw, t["type"], u32(kind))
        for what, x in (("nan", NAN), ("inf", INF)):
            yield "%s_%s" % (name, what), patched(raw, first_weights(raw, t["name"]), struct.pack("<f", x))
    for what, matrices, rank in (("rank_1025", [("blk.0.attn_q.weight", dim, dim)], 1025),
                                 ("layer_1", [("blk.1.attn_q.weight", dim, dim)], 2),
                                 ("layer_00", [("blk.00.attn_q.weight", dim, dim)], 2),
                                 ("layer_huge", [("blk.%d.attn_q.weight" % (1 << 64), dim, dim)], 2),
                                 ("embedding", [("token_embd.weight", dim, 3)], 2),
                                 ("norm", [("blk.0.attn_norm.weight", dim, 1)], 2),
                                 ("of_another", [("blk.0.attn_q.weight", 2 * dim, dim)], 2),
                                 ("empty", [], 2)):
        yield "lora_" + what, micro_lora("llama", matrices, rank)
    yield "lora_stack", micro_lora("llama", [("blk.0.attn_q.weight", dim, dim)], n=2)
    yield "lora_qwen2", micro_lora("qwen2", [("blk.0.attn_q.weight", dim, dim)])
    yield "lora_is_the_model", micro("llama")


def packed_attacks(raw):
    """raw is a packed file."""
    m = Marks(raw)
    for p in m.pairs:
        name = p["name"].decode()
        if not name.startswith("shoal.pack."):
            continue
        yield name + "_missing", renamed(raw, p)
        yield name + "_number", with_value(raw, p, U32, 2)
        if p["kind"] != ARR:
            continue
        yield name + "_short", patched(raw, p["n_at"], u64(1))
        yield name + "_empty", replaced(raw, p["kind_at"], p["end"], array("", p["element"], [])[8:])
        if p["element"] == STR:
            yield name + "_not_hex", patched(raw, p["first"] + 8, b"z")
            if not name.endswith("digests"):  # which are believed (pack.h)
                digit = raw[p["first"] + 8]
                yield name + "_other", patched(raw, p["first"] + 8, b"0" if digit != 48 else b"1")
        else:
            for x in (-2, 99, 0x7FFFFFFF, -(1 << 31)):
                yield "%s_%d" % (name, x), patched(raw, p["first"], struct.pack("<i", x))
    for t in m.tensors:
        name = t["name"].decode()
        at = m.data + struct.unpack_from("<Q", raw, t["offset"])[0]
        n = struct.unpack_from("<Q", raw, t["dims"][0])[0]
        if struct.unpack_from("<I", raw, t["type"])[0] == TYPES["I8"][0]:
            yield name + "_panel_bit", patched(raw, at, bytes([raw[at] ^ 1]))
            yield name + "_panel_end", patched(raw, at + n - 1, bytes([raw[at + n - 1] ^ 128]))
            yield name + "_shorter", patched(raw, t["dims"][0], u64(n - 1))
            yield name + "_unaligned", patched(raw, t["offset"], u64(at - m.data + 32))


def attacks():
    """What one architecture has in common with two before it has been tried on those."""
    seen = {}
    for variant, (arch, _, _, _) in ARCHS.items():
        raw = micro(variant)
        for group in (key_attacks(raw, arch), tensor_attacks(raw), fit_attacks(raw, arch)):
            for name, bad in group:
                seen[name] = seen.get(name, 0) + 1
                if seen[name] <= 2:
                    yield variant + "." + name, bad
    yield from type_attacks()
    yield from fp8_attacks()
    yield from own_attacks()
    yield from sides_attacks()
