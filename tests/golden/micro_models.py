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


def feed_forward(flags, dim=DIM, experts=0, ffn=FFN, shared=0, weighed=False, **_):
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
        yield "ffn_gate.weight", [dim, dim]
    yield "ffn_up.weight", [dim, 2 * dim if "fused" in flags else dim]
    yield "ffn_down.weight", [dim, dim]


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
    if kind not in ("F32", "F16"):
        _, block, block_bytes, _ = TYPES[kind]
        return bytes(n // block * block_bytes)
    return struct.pack("<%d%s" % (n, "f" if kind == "F32" else "e"), *((i % 7 - 2) / 16 for i in range(n)))


def assemble(pairs, entries):
    """entries: (name, dims, type name, bytes)."""
    infos, data = b"", b""
    for name, dims, kind, raw in entries:
        infos += tensor(name, dims, TYPES[kind][0], len(data))
        data += raw + padding(len(raw))
    head = b"GGUF" + u32(3) + u64(len(entries)) + u64(len(pairs)) + b"".join(pairs) + infos
    return head + padding(len(head), ALIGN) + data


def micro(name, kind="F32", dim=DIM):
    """A model of ARCHS; matrices of any type but F32 ask for the plain llama, blocks for dim 256."""
    arch, flags, keys, sizes = ARCHS[name]
    if dim != DIM:
        sizes = {"dim": dim, "head": dim // HEADS}
        keys = {"rope.dimension_count": dim // HEADS}
    pairs = metadata(arch, keys, dim)
    entries = []
    for tensor_name, dims in tensors(flags, sizes):
        n = 1
        for d in dims:
            n *= d
        own = kind if len(dims) == 2 else "F32"
        factor = tensor_name.startswith("rope_")
        raw = struct.pack("<f", 0.25) if factor else numbers(own, n)
        entries.append((tensor_name, dims, own, raw))
        if own == "I8":
            tiles = [-(-d // 128) for d in dims]
            scales = struct.pack("<f", 0.25) * (tiles[0] * tiles[1])
            entries.append((tensor_name + "_scale", tiles, "F32", scales))
    if kind == "I8":
        pairs.append(pair("shoal.fp8.format", STR, "e4m3"))
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
