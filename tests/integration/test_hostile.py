#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hostile model files through a whole program: each is refused within its time and memory, with one
line of words, and none is loaded."""
import os
import resource
import subprocess
import sys

from harness import SANITIZED, SOURCE, Site, binary, expect, main

sys.path.insert(0, os.path.join(SOURCE, "tests/golden"))
import hostile_models  # noqa: E402
import make_hostile_gguf  # noqa: E402
import micro_models  # noqa: E402

SECONDS = 60
MEMORY = 1 << 30
# Instrumented programs start ten times slower and see the parsers through the fuzz corpus too.
STRIDE = 12 if SANITIZED else 1


def limits():
    if not SANITIZED:  # shadow memory is address space
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forge(*args):
    return subprocess.run([binary("shoal-forge"), *args], capture_output=True, text=True, errors="replace",
                          timeout=SECONDS, check=False, preexec_fn=limits)


def load(path, turn):
    if turn % 4 == 0:
        return forge("inspect", "-m", path)
    return forge("logits", "-m", path, "--tokens", "1,2,1", "--json")


def refuse(site, files, load_one=load):
    wrong, n = [], 0
    path = site.file("bad.gguf")
    for i, (name, raw) in enumerate(files):
        if i % STRIDE != 0:
            continue
        with open(path, "wb") as f:
            f.write(raw)
        n += 1
        try:
            done = load_one(path, i // STRIDE)
        except subprocess.TimeoutExpired:
            wrong.append(f"{name}: hangs")
            continue
        if done.returncode != 1 or done.stderr.count("\n") != 1 or not done.stderr.startswith("shoal-forge: "):
            wrong.append(f"{name}: status {done.returncode}, {(done.stderr or done.stdout)[:200]!r}")
    expect(not wrong, f"{len(wrong)} of {n}: " + "; ".join(wrong[:8]))
    return f"{n} files refused"


def goods():
    for name in micro_models.ARCHS:
        yield name, micro_models.micro(name)
    for kind in micro_models.TYPES:
        yield kind, micro_models.micro("llama", kind, 256)
    for fused in (False, True):
        yield f"sides, fused {fused}", micro_models.micro_sides(fused)


def test_what_the_attacks_spoil_is_sound():
    """Else a refusal would prove nothing."""
    with Site() as site:
        path = site.file("good.gguf")
        for name, raw in goods():
            with open(path, "wb") as f:
                f.write(raw)
            for turn in (0, 1):
                done = load(path, turn)
                expect(done.returncode == 0, f"{name}: {done.stderr}")


def test_broken_containers_are_refused():
    with Site() as site:
        return refuse(site, make_hostile_gguf.attacks(micro_models.micro("llama")))


def test_containers_that_are_no_models_are_refused():
    with Site() as site:
        return refuse(site, hostile_models.attacks())


def test_packed_files_that_lie_are_refused():
    with Site() as site:
        n = 0
        for kind, name in (("F32", "mixtral"), ("I8", "llama"), ("Q4_K", "llama")):
            plain, packed = site.file("plain.gguf"), site.file("packed.gguf")
            with open(plain, "wb") as f:
                f.write(micro_models.micro(name, kind, 256 if kind == "Q4_K" else 4))
            done = forge("pack", "-m", plain, "-o", packed)
            expect(done.returncode == 0, done.stderr)
            with open(packed, "rb") as f:
                raw = f.read()
            expect(load(packed, 1).returncode == 0, f"{kind}: packed as it is")
            said = refuse(site, hostile_models.packed_attacks(raw))
            n += int(said.split()[0])
        return f"{n} files refused"


def test_adapters_that_lie_are_refused():
    with Site() as site:
        base, good = site.file("base.gguf"), site.file("good.gguf")
        with open(base, "wb") as f:
            f.write(micro_models.micro("llama"))
        with open(good, "wb") as f:
            f.write(micro_models.micro_lora("llama", [("blk.0.attn_q.weight", 4, 4)]))

        def adapted(path, turn):
            if turn % 2:
                return forge("merge-lora", "-m", base, "--lora", path, "-o", site.file("merged.gguf"))
            return forge("logits", "-m", base, "--lora", path, "--tokens", "1,2,1", "--json")

        for turn in (0, 1):
            done = adapted(good, turn)
            expect(done.returncode == 0, f"as it is: {done.stderr}")
        containers = make_hostile_gguf.attacks(open(good, "rb").read())
        n = int(refuse(site, containers, adapted).split()[0])
        for turn in (0, 1):  # both ways to use it see them all
            said = refuse(site, hostile_models.lora_attacks(), lambda path, _, turn=turn: adapted(path, turn))
            n += int(said.split()[0])
        return f"{n} files refused"


if __name__ == "__main__":
    main([test_what_the_attacks_spoil_is_sound, test_broken_containers_are_refused,
          test_containers_that_are_no_models_are_refused, test_packed_files_that_lie_are_refused,
          test_adapters_that_lie_are_refused])
