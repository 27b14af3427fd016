# SPDX-License-Identifier: Apache-2.0
"""The smallest models of every architecture, of some 2 KB each: seeds of the fuzzer, and what
make_hostile_gguf.py spoils. Weights are small multiples of 1/16; nobody asks what they say."""
import struct

from make_hostile_gguf import BOOL, F32, I32, STR, U32, ALIGN, array, padding, pair, tensor, u32, u64

DIM, HEADS, FFN, VOCAB = 4, 2, 4, 3
# name: number, elements and bytes of a block, where its half-precision numbers lie
TYPES = {"F32": (0, 1, 4, ()), "F16": (1, 1, 2, (0,)), "Q4_0": (2, 32, 18, (0,)),
         "Q4_1": (3, 32, 20, (0, 2)), "Q5_0": (6, 32, 22, (0,)), "Q5_1": (7, 32, 24, (0, 2)),
         "Q8_0": (8, 32, 34, (0,)), "Q2_K": (10, 256, 84, (80, 82)), "Q3_K": (11, 256, 110, (108,)),
         "Q4_K": (12, 256, 144, (0, 2)), "Q5_K": (13, 256, 176, (0, 2)), "Q6_K": (14, 256, 210, (208,)),
         "IQ4_NL": (20, 32, 18, (0,)), "I8": (24, 1, 1, ()), "BF16": (30, 1, 2, ())}

# Types of our own (common/weight/codes.h), which a file holds as I8 and names: the words of 32
# columns. Of two in four the places ascend, of bitmaps as many are set as have room.
PLACED = bytes([3, 8 | 2] * 4 + [1, 72 | 3] * 2)  # fields of three bits: magnitudes; places 0 and 1
RUNS = {"C2": bytes(range(8)), "C3": bytes(range(12)), "C4": bytes(range(16)), "S4": PLACED,
        "N3": bytes(range(12)), "N4": bytes(range(16)), "S8": bytes(range(16)) + bytes([0, 0x55] * 2),
        "B16": bytes([0x55] * 4 + [0x96] * 8), "B8": bytes([0x11] * 4 + [0x96] * 4)}
OWN = {"%s_%d" % (kind, group): run * (group // 32) for kind, run in RUNS.items()
       for group in (32, 64, 128) if (kind, group) != ("C4", 32)}
TYPES.update({kind: (TYPES["I8"][0], int(kind.split("_")[1]), 2 + len(words), (0,))
              for kind, words in OWN.items()})

# flags; keys after "<arch>."; sizes that differ from the defaults of tensors()
ARCHS = {
    "llama": ("llama", (), {}, {}),
    "llama-yarn": ("llama", (), {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                                 "rope.scaling.original_context_length": 8}, {}),
    "llama-freqs": ("llama", ("tied", "freqs"), {"rope.freq_base": 5e5}, {}),
    "mistral": ("llama", (), {"attention.sliding_window": 2}, {}),
    "mixtral": ("llama", (), {"expert_count": 2, "expert_used_count": 1}, {"experts": 2, "ffn": FFN}),
    "qwen2": ("qwen2", ("bias", "tied"), {}, {}),
    "qwen3": ("qwen3", ("qk_norm",), {"attention.key_length": 4, "attention.value_length": 4},
              {"head": 4}),
    "qwen2moe": ("qwen2moe", ("bias",), {"expert_count": 3, "expert_used_count": 2,
                                         "expert_feed_forward_length": 2,
                                         "expert_shared_feed_forward_length": 2},
                 {"experts": 3, "ffn": 2, "shared": 2, "weighed": True}),
    "qwen3moe": ("qwen3moe", ("qk_norm",), {"expert_count": 2, "expert_used_count": 1,
                                            "expert_feed_forward_length": 2}, {"experts": 2, "ffn": 2}),
    "gemma2": ("gemma2", ("post", "tied"), {"attention.sliding_window": 2,
                                            "attn_logit_softcapping": 2.0,
                                            "final_logit_softcapping": 6.0}, {}),
    "gemma3": ("gemma3", ("post", "qk_norm", "tied"), {"attention.sliding_window": 2}, {}),
    "phi3": ("phi3", ("fused",), {}, {}),
    "phi3-long": ("phi3", ("fused", "factors"), {"rope.scaling.original_context_length": 8,
                                                 "rope.scaling.attn_factor": 1.25}, {}),
    "deepseek2": ("deepseek2", (), {"attention.key_length": 4, "attention.value_length": 2,
                                    "attention.kv_lora_rank": 2, "expert_count": 2,
                                    "expert_used_count": 1, "expert_feed_forward_length": 2,
                                    "expert_shared_count": 1, "leading_dense_block_count": 0},
                  {"head": 4, "value": 2, "rank": 2, "experts": 2, "ffn": 2, "shared": 2}),
    "deepseek2-split": ("deepseek2", ("split", "choice"),
                        {"attention.key_length_mla": 4, "attention.value_length_mla": 2,
                         "attention.kv_lora_rank": 2, "attention.q_lora_rank": 2, "expert_count": 4,
                         "expert_used_count": 2, "expert_feed_forward_length": 2,
                         "expert_shared_count": 1, "leading_dense_block_count": 0,
                         "expert_gating_func": 2, "expert_weights_norm": True,
                         "expert_weights_scale": 2.5, "expert_group_count": 2,
                         "expert_group_used_count": 1},
                        {"head": 4, "value": 2, "rank": 2, "q_rank": 2, "experts": 4, "ffn": 2,
                         "shared": 2}),
}


def metadata(arch, keys, dim=DIM):
    common = {"context_length": 16, "embedding_length": dim, "block_count": 1,
              "feed_forward_length": dim, "attention.head_count": HEADS,
              "attention.head_count_kv": 1, "rope.dimension_count": 2,
              "attention.layer_norm_rms_epsilon": 1e-5}
    pairs = [pair("general.architecture", STR, arch)]
    for key, x in {**common, **keys}.items():
        kind = {bool: BOOL, int: U32, float: F32, str: STR}[type(x)]
        pairs.append(pair(arch + "." + key, kind, x))
    pairs += [pair("tokenizer.ggml.model", STR, "llama"),
              array("tokenizer.ggml.tokens", STR, ["<unk>", "a", "b"]),
              array("tokenizer.ggml.scores", F32, [0.0, -1.0, -2.0]),
              pair("tokenizer.ggml.unknown_token_id", U32, 0)]
    return pairs


def attention(flags, dim=DIM, head=2, value=None, rank=0, q_rank=0, **_):
    value = value or head
    q, kv = HEADS * head, head
    yield "attn_norm.weight", [dim]
    if "post" in flags:
        yield "post_attention_norm.weight", [dim]
    if "fused" in flags:
        yield "attn_qkv.weight", [dim, q + 2 * kv]
    elif rank:
        if q_rank:
            yield "attn_q_a.weight", [dim, q_rank]
            yield "attn_q_a_norm.weight", [q_rank]
            yield "attn_q_b.weight", [q_rank, q]
        else:
            yield "attn_q.weight", [dim, q]
        yield "attn_kv_a_mqa.weight", [dim, rank + 2]
        yield "attn_kv_a_norm.weight", [rank]
        if "split" in flags:
            yield "attn_k_b.weight", [head - 2, rank, HEADS]
            yield "attn_v_b.weight", [rank, value, HEADS]
        else:
            yield "attn_kv_b.weight", [rank, HEADS * (head - 2 + value)]
    else:
        for name, n in (("q", q), ("k", kv), ("v", kv)):
            yield "attn_%s.weight" % name, [dim, n]
            if "bias" in flags:
                yield "attn_%s.bias" % name, [n]
    if "qk_norm" in flags:
        yield "attn_q_norm.weight", [head]
        yield "attn_k_norm.weight", [head]
    yield "attn_output.weight", [HEADS * value, dim]


def feed_forward(flags, dim=DIM, experts=0, ffn=FFN, shared=0, weighed=False, dense=0, **_):
    dense = dense or dim
    yield "ffn_norm.weight", [dim]
    if "post" in flags:
        yield "post_ffw_norm.weight", [dim]
    if experts:
        yield "ffn_gate_inp.weight", [dim, experts]
        yield "ffn_gate_exps.weight", [dim, ffn, experts]
        yield "ffn_up_exps.weight", [dim, ffn, experts]
        yield "ffn_down_exps.weight", [ffn, dim, experts]
        if "choice" in flags:
            yield "exp_probs_b.bias", [experts]
        if weighed:
            yield "ffn_gate_inp_shexp.weight", [dim]
        if shared:
            yield "ffn_gate_shexp.weight", [dim, shared]
            yield "ffn_up_shexp.weight", [dim, shared]
            yield "ffn_down_shexp.weight", [shared, dim]
        return
    if "fused" not in flags:
        yield "ffn_gate.weight", [dim, dense]
    yield "ffn_up.weight", [dim, 2 * dense if "fused" in flags else dense]
    yield "ffn_down.weight", [dense, dim]


def tensors(flags, sizes):
    dim = sizes.get("dim", DIM)
    yield "token_embd.weight", [dim, VOCAB]
    yield "output_norm.weight", [dim]
    if "tied" not in flags:
        yield "output.weight", [dim, VOCAB]
    if "freqs" in flags:
        yield "rope_freqs.weight", [1]
    if "factors" in flags:
        yield "rope_factors_long.weight", [1]
        yield "rope_factors_short.weight", [1]
    for name, dims in (*attention(flags, **sizes), *feed_forward(flags, **sizes)):
        yield "blk.0." + name, dims


def numbers(kind, n):
    if kind == "I8":
        return bytes(0x30 + i % 8 for i in range(n))
    if kind in OWN:
        return (struct.pack("<e", 1 / 16) + OWN[kind]) * (n // TYPES[kind][1])
    if kind not in ("F32", "F16"):
        _, block, block_bytes, places = TYPES[kind]
        one = bytearray(range(block_bytes))
        for place in places:
            struct.pack_into("<e", one, place, 1 / 16)
        return bytes(one) * (n // block)
    return struct.pack("<%d%s" % (n, "f" if kind == "F32" else "e"), *((i % 7 - 2) / 16 for i in range(n)))


def assemble(pairs, entries):
    """entries: (name, dims, type name, bytes)."""
    infos, data = b"", b""
    own = [(name, kind) for name, _, kind, _ in entries if kind in OWN]
    if own:
        pairs = pairs + [array("shoal.codes.names", STR, [name for name, _ in own]),
                         array("shoal.codes.types", STR, [kind for _, kind in own])]
    for name, dims, kind, raw in entries:
        if kind in OWN:
            dims = [dims[0] // TYPES[kind][1] * TYPES[kind][2], *dims[1:]]
        infos += tensor(name, dims, 26 if kind == "I32" else TYPES[kind][0], len(data))
        data += raw + padding(len(raw))
    head = b"GGUF" + u32(3) + u64(len(entries)) + u64(len(pairs)) + b"".join(pairs) + infos
    return head + padding(len(head), ALIGN) + data


def type_of(kind, turn, dims):
    """kind: one for all matrices, or some that take turns; F16 where rows are no whole blocks."""
    if len(dims) != 2:
        return "F32"
    kinds = [kind] if isinstance(kind, str) else kind
    fits = [k for k in kinds if dims[0] % TYPES[k][1] == 0]
    return fits[turn % len(fits)] if fits else "F16"


def parts(name, kind="F32", dim=DIM, more=None):
    """Pairs and entries of a model of ARCHS; matrices of any type but F32 ask for one without
    experts, blocks for rows of dim. more: sizes that differ."""
    arch, flags, keys, sizes = ARCHS[name]
    if dim != DIM:
        sizes = {**sizes, "dim": dim, "head": dim // HEADS, **(more or {})}
        keys = {**keys, "rope.dimension_count": sizes["head"],
                "feed_forward_length": sizes.get("dense", dim)}
        if sizes["head"] * HEADS != dim:
            keys.update({"attention.key_length": sizes["head"], "attention.value_length": sizes["head"]})
    pairs = metadata(arch, keys, dim)
    entries = []
    for tensor_name, dims in tensors(flags, sizes):
        n = 1
        for d in dims:
            n *= d
        own = type_of(kind, len(entries), dims)
        factor = tensor_name.startswith("rope_")
        raw = struct.pack("<f", 0.25) if factor else numbers(own, n)
        entries.append((tensor_name, dims, own, raw))
        if own == "I8":
            tiles = [-(-d // 128) for d in dims]
            scales = struct.pack("<f", 0.25) * (tiles[0] * tiles[1])
            entries.append((tensor_name + "_scale", tiles, "F32", scales))
    if kind == "I8":
        pairs.append(pair("shoal.fp8.format", STR, "e4m3"))
    return pairs, entries


def micro(name, kind="F32", dim=DIM, more=None):
    return assemble(*parts(name, kind, dim, more))


def micro_own(group):
    """The plain llama with one matrix of each of several types of our own, in one group."""
    kinds = [kind for kind in OWN if kind.endswith("_%d" % group)]
    return micro("llama", kinds, group, {"head": 2, "dense": 256 // group})


# What may stand beside a matrix (common/weight/sides.h); levels beside indices of them alone.
SIDES = ("low", "column_scale", "threshold", "single", "levels")


def beside(name, k, n_rows, what, rank=2):
    """Tensors beside a matrix of n_rows rows of k columns."""
    factor = struct.pack("<e", 1 / 64) + bytes(range(32))
    if what == "low":
        yield name + "_low_left", [-(-n_rows // 32) * 32, rank], "Q8_0", factor * (-(-n_rows // 32) * rank)
        yield name + "_low_right", [k, rank], "Q8_0", factor * (k // 32 * rank)
    elif what == "column_scale":
        yield name + "_column_scale", [k], "F16", struct.pack("<e", 2.0) * k
    elif what == "threshold":
        yield name + "_threshold", [1], "F32", struct.pack("<f", 1 / 256)
    elif what == "levels":
        yield name + "_levels", [16], "I8", struct.pack("<16b", *range(-120, 121, 16))
    else:  # two in the first row, one in the last
        begin = [0] + [2] * (n_rows - 1) + [3]
        yield name + "_single_begin", [n_rows + 1], "I32", struct.pack("<%dI" % len(begin), *begin)
        yield name + "_single_cols", [3], "I32", struct.pack("<3I", 1, k - 1, 5)
        yield name + "_single_values", [3], "F16", struct.pack("<3e", 0.5, -0.25, 1.0)


def micro_sides(fused=False):
    """Matrices with tensors beside them: of one weight each, or (fused) of several in one tensor."""
    if fused:
        pairs, entries = parts("phi3", "C2_32", 32, {"dense": 2})
        sides = {"blk.0.attn_qkv.weight": SIDES[:4]}
    else:
        pairs, entries = parts("llama", ("N4_32", "Q4_0", "Q4_0"), 32, {"head": 2, "dense": 32})
        sides = {"blk.0.attn_q.weight": ("low", "column_scale"), "blk.0.ffn_down.weight": ("threshold",),
                 "blk.0.ffn_gate.weight": ("single", "levels")}
    pairs.append(pair("shoal.sides.format", STR, "1"))
    for name, dims, _, _ in list(entries):
        for what in sides.get(name, ()):
            entries += beside(name, *dims, what)
    return assemble(pairs, entries)


def micro_lora(arch, matrices, rank=2, kind="F32", n=1):
    """An adapter of an architecture: matrices are (name, columns, rows), or stacks of n of them."""
    pairs = [pair("general.type", STR, "adapter"), pair("adapter.type", STR, "lora"),
             pair("general.architecture", STR, arch), pair("adapter.lora.alpha", F32, 8.0)]
    entries = []
    for name, k, n_rows in matrices:
        for half, dims in (("a", [k, rank]), ("b", [rank, n_rows])):
            own = type_of(kind, 0, dims)
            entries.append(("%s.lora_%s" % (name, half), dims + [n] * (n > 1), own,
                            numbers(own, dims[0] * dims[1] * n)))
    return assemble(pairs, entries)


def micro_exits():
    """The plain llama with two layers, an exit after the first, and fitted policies."""
    pairs = metadata("llama", {"block_count": 2})
    pairs += [array("shoal.exit.layers", I32, [1]), array("shoal.exit.norm", F32, [1.0] * DIM)]
    for prefix in ("shoal.exit.policy.1", "shoal.escalate.policy"):
        pairs += [pair(prefix + ".linear", STR, "linear:threshold=0.9,bias=-1,top=2,gap=3,depth=0.5"),
                  pair(prefix + ".percentile", STR, "percentile:threshold=0.9,rate=0.5,window=64"),
                  pair(prefix + ".risk", STR, "risk:threshold=0.75,risk=0.01,delta=0.05")]
    for prefix in ("shoal.exit.calibration", "shoal.escalate.calibration"):
        pairs += [pair(prefix + ".hash", STR, "0" * 64), pair(prefix + ".model", STR, "f" * 64),
                  pair(prefix + ".n", U32, 300), pair(prefix + ".tokens", U32, 4000),
                  pair(prefix + ".risk", F32, 0.01), pair(prefix + ".delta", F32, 0.05)]
    entries = []
    for name, dims in tensors((), {}):
        n = 1
        for d in dims:
            n *= d
        entries.append((name, dims, "F32", numbers("F32", n)))
        if name.startswith("blk.0."):
            entries.append(("blk.1." + name[6:], dims, "F32", numbers("F32", n)))
    return assemble(pairs, entries)
