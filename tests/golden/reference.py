#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An independent float64 reference of the forward pass of every architecture, and the maker of
golden logits.

It reads GGUF by itself and shares no code with the engine.

  reference.py logits MODEL IDS          one JSON row of logits per position
  reference.py golden MODEL IDS OUT      a golden file: ids, then the last row and its norm
  reference.py golden MODEL IDS OUT POLICY BUDGET   the same, each KV head holding BUDGET tokens at most
"""
import json
import struct
import sys

import numpy as np

import blocks as published

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
           11: "<q", 12: "<d"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, fmt):
        value = struct.unpack_from(fmt, self.data, self.at)[0]
        self.at += struct.calcsize(fmt)
        return value

    def string(self):
        n = self.scalar("<Q")
        value = self.data[self.at:self.at + n]
        self.at += n
        return value

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            element, n = self.scalar("<I"), self.scalar("<Q")
            return [self.value(element) for _ in range(n)]
        return self.scalar(SCALARS[kind])


def decode(kind, raw, n):
    """Tensor bytes to float64 by the published block definitions."""
    if kind == 0:
        return np.frombuffer(raw, "<f4", n).astype(np.float64)
    if kind == 1:
        return np.frombuffer(raw, "<f2", n).astype(np.float64)
    if kind == 30:
        bits = np.frombuffer(raw, "<u2", n).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    if kind == 26:
        return np.frombuffer(raw, "<i4", n)
    if kind in published.TYPES and kind not in (2, 8):
        return np.array(published.decode(kind, raw, n), dtype=np.float64)
    if kind == 24:
        return np.array([published.e4m3(code) for code in range(256)])[np.frombuffer(raw, "u1", n)]
    if kind == 8:
        blocks = np.frombuffer(raw, np.dtype([("d", "<f2"), ("q", "i1", 32)]), n // 32)
        return (blocks["d"].astype(np.float64)[:, None] * blocks["q"]).reshape(-1)
    if kind == 2:
        blocks = np.frombuffer(raw, np.dtype([("d", "<f2"), ("q", "u1", 16)]), n // 32)
        q = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype(np.float64) - 8
        return (blocks["d"].astype(np.float64)[:, None] * q).reshape(-1)
    raise SystemExit(f"tensor type {kind} is not known here")


def size_of(kind, n):
    plain = {0: 4, 1: 2, 24: 1, 26: 4, 30: 2}
    return plain[kind] * n if kind in plain else published.size_of(kind, n)


def with_sides(tensors, name):
    """A matrix with what stands beside it: base diag(1 / s) + L R + single elements."""
    w = tensors[name]
    if name + "_column_scale" in tensors:
        w = w / tensors[name + "_column_scale"]
    if name + "_low_left" in tensors:
        w = w + tensors[name + "_low_left"].T[:len(w)] @ tensors[name + "_low_right"]
    if name + "_single_begin" in tensors:
        w = w.copy()
        begin = tensors[name + "_single_begin"]
        for row in range(len(w)):
            at = slice(begin[row], begin[row + 1])
            w[row, tensors[name + "_single_cols"][at]] += tensors[name + "_single_values"][at]
    return w


def load(path):
    data = open(path, "rb").read()
    r = Reader(data)
    assert r.scalar("<I") == 0x46554747
    r.scalar("<I")
    n_tensors, n_kv = r.scalar("<Q"), r.scalar("<Q")
    meta = {}
    for _ in range(n_kv):
        key = r.string().decode()
        meta[key] = r.value(r.scalar("<I"))
    infos = []
    for _ in range(n_tensors):
        name = r.string().decode()
        dims = [r.scalar("<Q") for _ in range(r.scalar("<I"))]
        infos.append((name, dims, r.scalar("<I"), r.scalar("<Q")))
    align = meta.get("general.alignment", 32)
    base = (r.at + align - 1) // align * align
    tensors = {}
    for name, dims, kind, offset in infos:
        n = int(np.prod(dims))
        raw = data[base + offset:base + offset + size_of(kind, n)]
        tensors[name] = decode(kind, raw, n).reshape(dims[::-1])
    for name, x in tensors.items():
        if name + "_scale" in tensors:
            # FP8: one scale for each tile of 128 x 128.
            scale = tensors[name + "_scale"].repeat(128, axis=-1).repeat(128, axis=-2)
            tensors[name] = x * scale[..., :x.shape[-2], :x.shape[-1]]
    for name in [name for name in tensors if name.endswith(".weight")]:
        tensors[name] = with_sides(tensors, name)
    return meta, tensors


def rmsnorm(x, w, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def victim(policy, held, mass, keys, position):
    """Which of the held tokens goes for the one at a position, as common/kv/evict.h says in words."""
    if policy == "window":
        return min(j for j in held if j >= 4)
    old = sorted((j for j in held if j < position + 1 - len(held) // 2), key=lambda j: (mass[j], j))
    if policy in ("h2o", "a2sf"):
        return old[0]
    assert policy == "diverse"
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)

    def loss(j):
        return mass[j] * (1 - max(0.0, *(unit[j] @ unit[i] for i in held if i != j)))
    return min(old[:8], key=loss)


class Model:
    """Metadata under the architecture's prefix, tensors, and the facts each family's paper or
    published code states."""

    def __init__(self, meta, tensors):
        self.meta, self.w = meta, tensors
        self.arch = meta["general.architecture"].decode()
        self.halves = self.arch in ("qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma2", "gemma3", "phi3")
        self.gemma = self.arch.startswith("gemma")
        self.n_layers, self.n_heads = self.key("block_count"), self.key("attention.head_count")
        self.n_kv = self.key("attention.head_count_kv", self.n_heads)
        self.dim = self.key("embedding_length")
        self.eps = self.key("attention.layer_norm_rms_epsilon")
        head = self.key("attention.key_length", self.dim // self.n_heads)
        self.head = self.key("attention.key_length_mla", head)
        self.value = self.key("attention.value_length_mla", self.key("attention.value_length", self.head))
        self.rot = self.key("rope.dimension_count", self.head)
        self.base = self.key("rope.freq_base", 10000.0)
        self.rank = self.key("attention.kv_lora_rank", 0)
        self.scale = self.head ** -0.5
        self.evict = None
        kind, factor = self.key("rope.scaling.type", b""), self.key("rope.scaling.factor", 1.0)
        if kind == b"yarn" and "rope.scaling.yarn_log_multiplier" in self.keys():
            self.scale *= (1 + self.key("rope.scaling.yarn_log_multiplier") * np.log(factor)) ** 2
        self.local = self.rotation(10000.0, b"", 1.0)
        self.full = self.rotation(self.base, kind, factor)

    def keys(self):
        return [k[len(self.arch) + 1:] for k in self.meta if k.startswith(self.arch + ".")]

    def key(self, suffix, default=None):
        value = self.meta.get(self.arch + "." + suffix, default)
        assert value is not None, suffix
        return value

    def rotation(self, base, kind, factor):
        """(radians per position of each pair, magnitude of cosine and sine)"""
        n = self.rot
        freq = base ** (-np.arange(0, n, 2) / n)
        magnitude = self.key("rope.scaling.attn_factor", 1.0)
        original = self.key("rope.scaling.original_context_length", self.key("context_length"))
        for name in ("rope_freqs.weight",
                     "rope_factors_long.weight" if self.key("context_length") > original
                     else "rope_factors_short.weight"):
            if name in self.w:
                freq = freq / self.w[name]
        if kind == b"linear":
            freq = freq / factor
        if kind == b"yarn":
            def pair(turns):
                return n * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base))
            low, high = max(np.floor(pair(32)), 0), min(np.ceil(pair(1)), n - 1)
            keep = 1 - np.clip((np.arange(n // 2) - low) / max(high - low, 0.001), 0, 1)
            freq = freq / factor * (1 - keep) + freq * keep
            if "rope.scaling.yarn_log_multiplier" not in self.keys():
                magnitude *= 1 + 0.1 * np.log(factor)
        return freq, magnitude

    def rotate(self, x, rotation):
        """x (t, heads, rot)"""
        freq, magnitude = rotation
        angle = np.arange(x.shape[0])[:, None] * freq[None, :]
        z = magnitude * np.exp(1j * angle)[:, None, :]
        n = self.rot
        if self.halves:
            y = (x[..., :n // 2] + 1j * x[..., n // 2:n]) * z
            return np.concatenate([y.real, y.imag, x[..., n:]], axis=-1)
        y = (x[..., 0:n:2] + 1j * x[..., 1:n:2]) * z
        return np.concatenate([np.stack([y.real, y.imag], -1).reshape(*y.shape[:2], n), x[..., n:]], axis=-1)

    def window(self, layer):
        """Positions a layer sees, 0 for all."""
        size = self.key("attention.sliding_window", 0)
        period = {"gemma2": 2, "gemma3": 6}.get(self.arch, 0)
        return 0 if period and (layer + 1) % period == 0 else size

    def attend(self, q, k, v, window):
        """q (t, heads, d), k (t, kv, d), v (t, kv, e)"""
        if self.evict:
            return self.attend_held(q, k, v)
        t, group = q.shape[0], q.shape[1] // k.shape[1]
        s = np.einsum("ihd,jhd->hij", q, np.repeat(k, group, axis=1)) * self.scale
        cap = self.key("attn_logit_softcapping", 0.0) if self.gemma else 0
        if cap:
            s = cap * np.tanh(s / cap)
        ago = np.arange(t)[:, None] - np.arange(t)[None, :]
        s = np.where((ago < 0) | (ago >= window if window else False), -np.inf, s)
        return np.einsum("hij,jhe->ihe", softmax(s), np.repeat(v, group, axis=1)).reshape(t, -1)

    def attend_held(self, q, k, v):
        """As attend, where each KV head holds so many tokens; they keep the rotation of their own positions."""
        policy, budget = self.evict
        t, group = q.shape[0], q.shape[1] // k.shape[1]
        out = np.zeros((t, q.shape[1], v.shape[2]))
        for head in range(k.shape[1]):
            heads = slice(head * group, (head + 1) * group)
            held, mass = [], np.zeros(t)
            for i in range(t):
                if len(held) == budget:
                    held.remove(victim(policy, held, mass, k[:, head], i))
                held.append(i)
                p = softmax(q[i, heads] @ k[held, head].T * self.scale)
                mass = mass * (31 / 32 if policy == "a2sf" else 1)
                mass[held] += p.sum(axis=0)
                out[i, heads] = p @ v[held, head]
        return out.reshape(t, -1)

    def plain_attention(self, b, h, layer):
        t, w = h.shape[0], self.w
        nq, nkv = self.n_heads * self.head, self.n_kv * self.head
        if b + "attn_qkv.weight" in w:
            q, k, v = np.split(h @ w[b + "attn_qkv.weight"].T, [nq, nq + nkv], axis=1)
        else:
            q, k, v = (h @ w[b + f"attn_{n}.weight"].T + w.get(b + f"attn_{n}.bias", 0) for n in "qkv")
        q, k = q.reshape(t, self.n_heads, -1), k.reshape(t, self.n_kv, -1)
        if b + "attn_q_norm.weight" in w:
            q = rmsnorm(q, w[b + "attn_q_norm.weight"], self.eps)
            k = rmsnorm(k, w[b + "attn_k_norm.weight"], self.eps)
        window = self.window(layer)
        rotation = self.local if self.arch == "gemma3" and window else self.full
        return self.attend(self.rotate(q, rotation), self.rotate(k, rotation),
                           v.reshape(t, self.n_kv, -1), window)

    def latent_attention(self, b, h):
        """As the paper writes it: every head's keys and values, nothing absorbed."""
        t, w, plain = h.shape[0], self.w, self.head - self.rot
        if b + "attn_q_a.weight" in w:
            low = rmsnorm(h @ w[b + "attn_q_a.weight"].T, w[b + "attn_q_a_norm.weight"], self.eps)
            q = low @ w[b + "attn_q_b.weight"].T
        else:
            q = h @ w[b + "attn_q.weight"].T
        q = q.reshape(t, self.n_heads, self.head)
        c, shared = np.split(h @ w[b + "attn_kv_a_mqa.weight"].T, [self.rank], axis=1)
        c = rmsnorm(c, w[b + "attn_kv_a_norm.weight"], self.eps)
        if b + "attn_kv_b.weight" in w:
            kv = (c @ w[b + "attn_kv_b.weight"].T).reshape(t, self.n_heads, plain + self.value)
            k, v = kv[..., :plain], kv[..., plain:]
        else:
            k = np.einsum("tr,hrp->thp", c, w[b + "attn_k_b.weight"])
            v = np.einsum("tr,hvr->thv", c, w[b + "attn_v_b.weight"])
        shared = np.repeat(self.rotate(shared[:, None, :], self.full), self.n_heads, axis=1)
        q = np.concatenate([q[..., :plain], self.rotate(q[..., plain:], self.full)], axis=-1)
        return self.attend(q, np.concatenate([k, shared], axis=-1), v, 0)

    def gated(self, h, gate, up, down):
        act = gelu_tanh if self.gemma else silu
        return (act(h @ gate.T) * (h @ up.T)) @ down.T

    def experts(self, b, h):
        w, n = self.w, self.key("expert_count")
        used = self.key("expert_used_count")
        score = h @ w[b + "ffn_gate_inp.weight"].T
        p = sigmoid(score) if self.key("expert_gating_func", 1) == 2 else softmax(score)
        choice = p + w.get(b + "exp_probs_b.bias", 0)
        groups = self.key("expert_group_count", 1)
        if groups > 1:
            by_group = np.sort(choice.reshape(-1, groups, n // groups), axis=-1)
            worth = by_group[..., -2:].sum(-1) if self.key("expert_gating_func", 1) == 2 else by_group[..., -1]
            best = np.argsort(-worth, axis=1, kind="stable")[:, :self.key("expert_group_used_count")]
            allowed = np.zeros((len(h), groups), bool)
            np.put_along_axis(allowed, best, True, axis=1)
            choice = np.where(np.repeat(allowed, n // groups, axis=1), choice, -np.inf)
        norm = self.key("expert_weights_norm", self.arch in ("llama", "qwen3moe"))
        out = np.zeros_like(h)
        for row in range(len(h)):
            ids = np.argsort(-choice[row], kind="stable")[:used]
            weights = p[row, ids] / (p[row, ids].sum() if norm else 1)
            for weight, e in zip(weights * self.key("expert_weights_scale", 1.0), ids):
                out[row] += weight * self.gated(h[row], *(w[b + f"ffn_{x}_exps.weight"][e]
                                                          for x in ("gate", "up", "down")))
        if b + "ffn_up_shexp.weight" in w:
            y = self.gated(h, *(w[b + f"ffn_{x}_shexp.weight"] for x in ("gate", "up", "down")))
            if b + "ffn_gate_inp_shexp.weight" in w:
                y = y * sigmoid(h @ w[b + "ffn_gate_inp_shexp.weight"])[:, None]
            out = out + y
        return out

    def feed_forward(self, b, h):
        w = self.w
        if b + "ffn_gate_inp.weight" in w:
            return self.experts(b, h)
        if b + "ffn_gate.weight" in w:
            gate, up = w[b + "ffn_gate.weight"], w[b + "ffn_up.weight"]
        else:
            gate, up = np.split(w[b + "ffn_up.weight"], 2)
        return self.gated(h, gate, up, w[b + "ffn_down.weight"])

    def post(self, name, y):
        return rmsnorm(y, self.w[name], self.eps) if name in self.w else y

    def block(self, x, i):
        """The stream above layer i from that below it."""
        w, b = self.w, f"blk.{i}."
        h = rmsnorm(x, w[b + "attn_norm.weight"], self.eps)
        y = self.latent_attention(b, h) if self.rank else self.plain_attention(b, h, i)
        x = x + self.post(b + "post_attention_norm.weight", y @ w[b + "attn_output.weight"].T)
        h = rmsnorm(x, w[b + "ffn_norm.weight"], self.eps)
        return x + self.post(b + "post_ffw_norm.weight", self.feed_forward(b, h))

    def embed(self, ids):
        return self.w["token_embd.weight"][ids] * (np.sqrt(self.dim) if self.gemma else 1)

    def logits(self, x, norm="output_norm.weight"):
        w = self.w
        logits = rmsnorm(x, w[norm], self.eps) @ w.get("output.weight", w["token_embd.weight"]).T
        cap = self.key("final_logit_softcapping", 0.0) if self.gemma else 0
        return cap * np.tanh(logits / cap) if cap else logits

    def forward(self, ids):
        x = self.embed(ids)
        for i in range(self.n_layers):
            x = self.block(x, i)
        return self.logits(x)


def main():
    command, model, ids = sys.argv[1], sys.argv[2], [int(i) for i in sys.argv[3].split(",")]
    meta, weights = load(model)
    reference = Model(meta, weights)
    if len(sys.argv) > 5:
        reference.evict = sys.argv[5], int(sys.argv[6])
    rows = reference.forward(ids)
    if command == "logits":
        print(json.dumps({"logits": rows.tolist()}))
    else:
        with open(sys.argv[4], "w", encoding="ascii") as f:
            f.write(f"# last row of logits, float64 reference; {len(ids)} ids, {rows.shape[1]} logits\n")
            f.write(f"{len(ids)} {rows.shape[1]}\n" + " ".join(map(str, ids)) + "\n")
            f.write("\n".join(f"{v:.12g}" for v in rows[-1]) + "\n")


if __name__ == "__main__":
    main()
