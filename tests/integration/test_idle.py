#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An edge that nobody asks: nothing wakes it, it holds little beside model and KV, and it is ready soon."""
import os
import time

from harness import Site, expect, main, request

SECONDS = 3
# gRPC's own threads look after an open connection now and then; without a cloud there is nothing to look after.
SWITCHES = {"alone": 2, "linked": 10 * SECONDS}
READY_S = 3  # the aim is 1 on a machine of its own
BESIDE_KIB = 40 << 10


def switches(pid):
    n = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as f:
            n += sum(int(line.split()[1]) for line in f if "voluntary_ctxt_switches" in line)
    return n


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))


def look(name, daemon, model):
    started = time.monotonic()
    url = daemon.start().address
    ready_s = time.monotonic() - started
    body = '{"prompt": "What does H40 mean?", "max_tokens": 4, "temperature": 0}'
    expect(request(url, "POST", "/v1/completions", body)[0] == 200, "no answer")
    time.sleep(1)  # what an answer leaves to be done
    pid = daemon.process.pid
    before = switches(pid)
    time.sleep(SECONDS)
    n = switches(pid) - before
    kib = resident_kib(pid)
    print(f"{name}: ready after {ready_s:.2f} s, {kib} KiB resident, {n} context switches in {SECONDS} s")
    expect(n <= SWITCHES[name], f"{name}: {n} context switches in {SECONDS} s, at most {SWITCHES[name]} are allowed")
    expect(ready_s < READY_S, f"{name}: ready after {ready_s:.2f} s")
    beside = kib - os.path.getsize(model) // 1024
    expect(beside <= BESIDE_KIB, f"{name}: {beside} KiB beside the model, at most {BESIDE_KIB} are allowed")


def test_idle_edge_sleeps_and_is_small():
    with Site() as site:
        _, edge = site.models()
        look("alone", site.edge(edge, mode__default="local"), edge)


def test_idle_edge_with_a_cloud_hardly_wakes():
    with Site() as site:
        full, edge = site.models()
        cloud = site.cloud(full).start()
        look("linked", site.edge(edge, cloud.address, mode__default="exact"), edge)


if __name__ == "__main__":
    main([test_idle_edge_sleeps_and_is_small, test_idle_edge_with_a_cloud_hardly_wakes])
