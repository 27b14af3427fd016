#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The published block definitions of the quantised tensor types, element by element, in plain python.

Shares no code with the engine. Every product below is exact in binary64, and so is every difference of
two of them, so rounding the result once to binary32 gives the bits a binary32 decoder must give.

  blocks.py vectors FOLDER [SEED]    writes codec-<TYPE>.txt: random blocks and the floats they stand for

A line of a file: the block's bytes in hex, a space, the bits of its floats in hex, eight digits each.
"""
import random
import statistics
import struct
import sys

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def half(raw, at):
    return struct.unpack_from("<e", raw, at)[0]


def nibble(raw, at, i):
    """Code i of 32: byte i % 16 holds elements i % 16 (low nibble) and i % 16 + 16 (high)."""
    return raw[at + i % 16] >> (4 if i >= 16 else 0) & 15


def q4_0(raw):
    return [half(raw, 0) * (nibble(raw, 2, i) - 8) for i in range(32)]


def q4_1(raw):
    return [half(raw, 0) * nibble(raw, 4, i) + half(raw, 2) for i in range(32)]


def q5_0(raw):
    high = struct.unpack_from("<I", raw, 2)[0]
    return [half(raw, 0) * ((nibble(raw, 6, i) | (high >> i & 1) << 4) - 16) for i in range(32)]


def q5_1(raw):
    high = struct.unpack_from("<I", raw, 4)[0]
    return [half(raw, 0) * (nibble(raw, 8, i) | (high >> i & 1) << 4) + half(raw, 2) for i in range(32)]


def q8_0(raw):
    return [half(raw, 0) * q for q in struct.unpack_from("<32b", raw, 2)]


def iq4_nl(raw):
    return [half(raw, 0) * IQ4[nibble(raw, 2, i)] for i in range(32)]


def crumb(raw, at, e):
    """Two bits of element e of 256: each half of 128 has 32 bytes, its quarters are bit pairs."""
    return raw[at + e // 128 * 32 + e % 32] >> e % 128 // 32 * 2 & 3


def q2_k(raw):
    d, dmin = half(raw, 80), half(raw, 82)
    return [d * (raw[e // 16] & 15) * crumb(raw, 16, e) - dmin * (raw[e // 16] >> 4) for e in range(256)]


def q3_k(raw):
    d, out = half(raw, 108), []
    for e in range(256):
        s = e // 16
        low = raw[96 + s] & 15 if s < 8 else raw[96 + s - 8] >> 4
        scale = (low | (raw[104 + s % 4] >> s // 4 * 2 & 3) << 4) - 32
        q = crumb(raw, 32, e) - (0 if raw[e % 32] >> e // 32 & 1 else 4)
        out.append(d * scale * q)
    return out


def six_bits(raw, at, s):
    """Scale and minimum s of 8, six bits each, twelve bytes together."""
    p = raw[at:at + 12]
    if s < 4:
        return p[s] & 63, p[s + 4] & 63
    return p[s + 4] & 15 | p[s - 4] >> 6 << 4, p[s + 4] >> 4 | p[s] >> 6 << 4


def nibble_64(raw, at, e):
    """Code of element e: 32 bytes for every 64 elements, the first 32 of them in the low nibbles."""
    return raw[at + e // 64 * 32 + e % 32] >> (4 if e % 64 >= 32 else 0) & 15


def q4_k(raw):
    d, dmin, out = half(raw, 0), half(raw, 2), []
    for e in range(256):
        scale, low = six_bits(raw, 4, e // 32)
        out.append(d * scale * nibble_64(raw, 16, e) - dmin * low)
    return out


def q5_k(raw):
    d, dmin, out = half(raw, 0), half(raw, 2), []
    for e in range(256):
        scale, low = six_bits(raw, 4, e // 32)
        q = nibble_64(raw, 48, e) | (raw[16 + e % 32] >> e // 32 & 1) << 4
        out.append(d * scale * q - dmin * low)
    return out


def q6_k(raw):
    d, scales, out = half(raw, 208), struct.unpack_from("<16b", raw, 192), []
    for e in range(256):
        low = raw[e // 128 * 64 + e % 64] >> (4 if e % 128 >= 64 else 0) & 15
        high = raw[128 + e // 128 * 32 + e % 32] >> e % 128 // 32 * 2 & 3
        out.append(d * scales[e // 16] * ((low | high << 4) - 32))
    return out


def e4m3(code):
    """FP8 with four exponent bits and three of mantissa: no infinity, one NaN of either sign."""
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa * 2.0 ** -9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


# GGUF number: name, elements and bytes of a block, where its half-precision numbers lie, decoder
TYPES = {
    2: ("Q4_0", 32, 18, (0,), q4_0), 3: ("Q4_1", 32, 20, (0, 2), q4_1),
    6: ("Q5_0", 32, 22, (0,), q5_0), 7: ("Q5_1", 32, 24, (0, 2), q5_1),
    8: ("Q8_0", 32, 34, (0,), q8_0), 10: ("Q2_K", 256, 84, (80, 82), q2_k),
    11: ("Q3_K", 256, 110, (108,), q3_k), 12: ("Q4_K", 256, 144, (0, 2), q4_k),
    13: ("Q5_K", 256, 176, (0, 2), q5_k), 14: ("Q6_K", 256, 210, (208,), q6_k),
    20: ("IQ4_NL", 32, 18, (0,), iq4_nl),
}


def decode(kind, raw, n):
    """n elements of a known type as a list of floats."""
    _, block, size, _, function = TYPES[kind]
    out = []
    for b in range(n // block):
        out += function(raw[b * size:(b + 1) * size])
    return out


def size_of(kind, n):
    _, block, size, _, _ = TYPES[kind]
    return n // block * size


def vectors(folder, seed):
    for name, block, size, halves, function in TYPES.values():
        rng = random.Random(f"{name} {seed}")
        with open(f"{folder}/codec-{name}.txt", "w", encoding="ascii") as f:
            for i in range(1024 // block):
                raw = bytearray(rng.randrange(256) for _ in range(size))
                if i == 0:
                    raw = bytearray(b"\xff" * size)
                for at in halves:
                    # Finite, of either sign, subnormals among them; the second block is all subnormal.
                    bits = rng.randrange(0x7C00 if i != 1 else 0x400) | rng.randrange(2) << 15
                    struct.pack_into("<H", raw, at, bits)
                floats = struct.pack(f"<{block}f", *function(bytes(raw)))
                words = struct.unpack(f"<{block}I", floats)
                f.write(raw.hex() + " " + "".join(f"{w:08x}" for w in words) + "\n")
    with open(f"{folder}/codec-E4M3.txt", "w", encoding="ascii") as f:
        for code in range(256):
            f.write(f"{code:02x} {struct.unpack('<I', struct.pack('<f', e4m3(code)))[0]:08x}\n")


# Types of our own, which a file holds as I8 (common/weight/codes.h): name -> (words of 32 elements, group).
OWN = {f"{kind}_{group}": (words, group)
       for kind, words in (("C2", 2), ("C3", 3), ("C4", 4), ("S4", 3), ("N3", 3), ("N4", 4), ("S8", 5),
                           ("B16", 3), ("B8", 2))
       for group in (32, 64, 128) if (kind, group) != ("C4", 32)}


def own_fields(words):
    """32 fields of words of four bytes, as common/kernels/panel.h draws `two`, `tri` and `nib`."""
    fields = [0] * 32
    for j in range(4):
        column = [word[j] for word in words]
        for g in range(4):
            low, high = 4 * g + j, 16 + 4 * g + j
            if len(words) == 2:
                fields[low], fields[high] = column[0] >> 2 * g & 3, column[1] >> 2 * g & 3
            elif len(words) == 4:
                fields[low], fields[high] = column[g] & 15, column[g] >> 4
            elif g < 3:
                fields[low], fields[high] = column[g] & 7, column[g] >> 3 & 7
            else:
                fields[low] = column[0] >> 6 | (column[1] >> 6 & 1) << 2
                fields[high] = column[2] >> 6 | (column[1] >> 7) << 2
    return fields


def normal_levels(bits):
    """NF4 (QLoRA, 2305.14314; the map of its authors' library), and the same for other bits, as whole 127ths."""
    n, half = 2 << bits, 1 << bits - 1
    top = 1 - (1 / n + 1 / (n - 2)) / 2
    quantile = statistics.NormalDist().inv_cdf

    def side(count):
        return [quantile(top + (0.5 - top) * i / count) for i in range(count)]
    levels = sorted(side(half) + [0.0] + [-q for q in side(half - 1)])
    return [round(127 * level / levels[-1]) for level in levels]


def wide_pairs(words):
    """Two of four with eight bits: sixteen values, then a word with two bits of place for each."""
    codes = [0] * 32
    for i in range(16):
        value = words[i // 4][i % 4]
        codes[i // 2 * 4 + (words[4][i % 4] >> i // 4 * 2 & 3)] += value - 256 * (value > 127)
    return codes


def bitmap(words):
    """A bit for each element; what is there takes the nibbles in order, four low ones and four high ones of each word."""
    values = [b >> shift & 15 for word in words[1:] for shift in (0, 4) for b in word]
    codes = []
    for i in range(32):
        codes.append(values.pop(0) - 8 if words[0][i // 8] >> i % 8 & 1 else 0)
    return codes


def own_codes(name, words):
    if name.startswith("S8"):
        return wide_pairs(words)
    if name.startswith("B"):
        return bitmap(words)
    fields = own_fields(words)
    if name[0] == "N":
        levels = normal_levels(int(name[1]))
        return [levels[f] for f in fields]
    if name[0] == "C":
        return [f - (1 << int(name[1]) - 1) for f in fields]
    codes = [0] * 32
    for i in range(16):
        place = fields[16 + i]
        codes[i // 2 * 4 + (place & 3)] += -fields[i] if place & 4 else fields[i]
    return codes


def decode_own(name, raw, n):
    n_words, group = OWN[name]
    values, at = [], 0
    while len(values) < n:
        (scale,) = struct.unpack_from("<e", raw, at)
        at += 2
        for _ in range(group // 32):
            words = [raw[at + 4 * w:at + 4 * w + 4] for w in range(n_words)]
            values += [scale * code for code in own_codes(name, words)]
            at += 4 * n_words
    return values


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "vectors":
        sys.exit(__doc__)
    vectors(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "1")
