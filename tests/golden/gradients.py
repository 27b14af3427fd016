#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden gradients: central differences of the float64 reference along random directions.

  gradients.py MODEL OUT

The loss is a sum of random slopes times the logits of the targets of three packed segments, at an
exit after layer 1 (its norm starts as the output's) and at the output. For every tensor the file
has its derivative along two directions within it. tests/unit/train makes the same numbers from the
same generator: ids, slopes, directions.
"""
import sys

import numpy as np

import reference

SEGMENTS = [(0, 37), (37, 38), (38, 47)]
N_TARGETS = 20
EXIT = 1
EXIT_NORM = f"shoal.exit.{EXIT}.norm"
STEP = 1e-5
MASK = (1 << 64) - 1


def splitmix(state, n):
    """n numbers of SplitMix64, as shoal_rng_next gives them."""
    out = np.empty(n, np.uint64)
    for i in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out[i] = z ^ (z >> 31)
    return out


def centred(state, n):
    """Uniform in [-1/2, 1/2), exact in binary32."""
    return (splitmix(state, n) >> np.uint64(40)).astype(np.float64) / 2 ** 24 - 0.5


def fnv(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def targets():
    return [i for i in range(1, SEGMENTS[-1][1]) if i % 3 == 1 or i > 40][:N_TARGETS]


class Loss:
    def __init__(self, model):
        self.model = model
        n_vocab = len(model.w["token_embd.weight"])
        self.ids = (splitmix(11, SEGMENTS[-1][1]) % np.uint64(n_vocab)).astype(int)
        self.slopes = centred(5, 2 * N_TARGETS * n_vocab).reshape(2, N_TARGETS, n_vocab)
        model.w[EXIT_NORM] = model.w["output_norm.weight"].copy()

    def value(self):
        m, rows = self.model, [[], []]
        for begin, end in SEGMENTS:
            x = m.embed(self.ids[begin:end])
            for i in range(m.n_layers):
                if i == EXIT:
                    rows[0].append(m.logits(x, EXIT_NORM))
                x = m.block(x, i)
            rows[1].append(m.logits(x))
        return sum((np.concatenate(r)[targets()] * s).sum() for r, s in zip(rows, self.slopes))

    def along(self, name, number):
        """Derivative in direction `number` of a tensor."""
        at = self.model.w[name]
        direction = centred(fnv(name) + number, at.size).reshape(at.shape)
        saved, sides = at.copy(), []
        for step in (STEP, -STEP):
            self.model.w[name] = saved + step * direction
            sides.append(self.value())
        self.model.w[name] = saved
        return (sides[0] - sides[1]) / (2 * STEP)


def main():
    meta, weights = reference.load(sys.argv[1])
    loss = Loss(reference.Model(meta, weights))
    constant = ("rope_f", )
    with open(sys.argv[2], "w", encoding="ascii") as f:
        f.write(f"# loss, then derivatives along two directions of each tensor; exit after layer {EXIT}\n")
        f.write(f"{loss.value():.12g}\n")
        for name in sorted(loss.model.w):
            if not name.startswith(constant) and not name.endswith("exp_probs_b.bias"):
                f.write(f"{name} {loss.along(name, 0):.12g} {loss.along(name, 1):.12g}\n")


if __name__ == "__main__":
    main()
