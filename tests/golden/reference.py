#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An independent float64 reference of the llama forward pass, and the maker of golden logits.

It reads GGUF by itself and shares no code with the engine.

  reference.py logits MODEL IDS          one JSON row of logits per position
  reference.py golden MODEL IDS OUT      a golden file: ids, then the last row and its norm
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
    if kind in published.TYPES and kind not in (2, 8):
        return np.array(published.decode(kind, raw, n), dtype=np.float64)
    if kind == 8:
        blocks = np.frombuffer(raw, np.dtype([("d", "<f2"), ("q", "i1", 32)]), n // 32)
        return (blocks["d"].astype(np.float64)[:, None] * blocks["q"]).reshape(-1)
    if kind == 2:
        blocks = np.frombuffer(raw, np.dtype([("d", "<f2"), ("q", "u1", 16)]), n // 32)
        q = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype(np.float64) - 8
        return (blocks["d"].astype(np.float64)[:, None] * q).reshape(-1)
    raise SystemExit(f"tensor type {kind} is not known here")


def size_of(kind, n):
    return {0: 4 * n, 1: 2 * n, 30: 2 * n}[kind] if kind in (0, 1, 30) else published.size_of(kind, n)


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
    return meta, tensors


def rmsnorm(x, w, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w


def rope(x, n_heads, head_dim, rope_dim, base):
    """Adjacent pairs of each head turn by position * base^(-2i / rope_dim)."""
    t = x.shape[0]
    x = x.reshape(t, n_heads, head_dim).copy()
    freq = base ** (-np.arange(0, rope_dim, 2) / rope_dim)
    angle = np.arange(t)[:, None] * freq[None, :]
    c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    even, odd = x[..., 0:rope_dim:2].copy(), x[..., 1:rope_dim:2].copy()
    x[..., 0:rope_dim:2] = even * c - odd * s
    x[..., 1:rope_dim:2] = even * s + odd * c
    return x


def forward(meta, w, ids):
    p = "llama."
    n_layers, n_heads = meta[p + "block_count"], meta[p + "attention.head_count"]
    n_kv = meta.get(p + "attention.head_count_kv", n_heads)
    dim, eps = meta[p + "embedding_length"], meta[p + "attention.layer_norm_rms_epsilon"]
    head_dim = meta.get(p + "attention.key_length", dim // n_heads)
    rope_dim = meta.get(p + "rope.dimension_count", head_dim)
    base = meta.get(p + "rope.freq_base", 10000.0)
    x = w["token_embd.weight"][ids]
    t = len(ids)
    mask = np.triu(np.full((t, t), -np.inf), 1)
    for i in range(n_layers):
        b = f"blk.{i}."
        h = rmsnorm(x, w[b + "attn_norm.weight"], eps)
        q = rope(h @ w[b + "attn_q.weight"].T, n_heads, head_dim, rope_dim, base)
        k = rope(h @ w[b + "attn_k.weight"].T, n_kv, head_dim, rope_dim, base)
        v = (h @ w[b + "attn_v.weight"].T).reshape(t, n_kv, head_dim)
        out = np.empty((t, n_heads, head_dim))
        for head in range(n_heads):
            kv = head // (n_heads // n_kv)
            s = q[:, head] @ k[:, kv].T / np.sqrt(head_dim) + mask
            s = np.exp(s - s.max(axis=1, keepdims=True))
            out[:, head] = s / s.sum(axis=1, keepdims=True) @ v[:, kv]
        x = x + out.reshape(t, -1) @ w[b + "attn_output.weight"].T
        h = rmsnorm(x, w[b + "ffn_norm.weight"], eps)
        g = h @ w[b + "ffn_gate.weight"].T
        x = x + (g / (1 + np.exp(-g)) * (h @ w[b + "ffn_up.weight"].T)) @ w[b + "ffn_down.weight"].T
    x = rmsnorm(x, w["output_norm.weight"], eps)
    return x @ w.get("output.weight", w["token_embd.weight"]).T


def main():
    command, model, ids = sys.argv[1], sys.argv[2], [int(i) for i in sys.argv[3].split(",")]
    meta, weights = load(model)
    rows = forward(meta, weights, ids)
    if command == "logits":
        print(json.dumps({"logits": rows.tolist()}))
    else:
        with open(sys.argv[4], "w", encoding="ascii") as f:
            f.write(f"# last row of logits, float64 reference; {len(ids)} ids, {rows.shape[1]} logits\n")
            f.write(f"{len(ids)} {rows.shape[1]}\n" + " ".join(map(str, ids)) + "\n")
            f.write("\n".join(f"{v:.12g}" for v in rows[-1]) + "\n")


if __name__ == "__main__":
    main()
