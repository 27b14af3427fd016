# SPDX-License-Identifier: Apache-2.0
"""Sound containers that are no sound models: numbers of every architecture out of their range,
tensors missing, of another shape or type, weights that are not numbers, FP8 without its scales,
packed files whose metadata lies. attacks() gives (name, bytes) that must be refused."""
import struct

from make_hostile_gguf import (ARR, F32, I32, STR, U32, U64, Marks, array, inserted, padding, pair,
                               patched, tensor, text, u32, u64, value)
from micro_models import ARCHS, TYPES, micro

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
