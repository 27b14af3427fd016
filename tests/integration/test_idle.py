#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An edge that nobody asks: nothing wakes it, it holds little beside model and KV, and it is ready soon."""
import json
import os
import time

from harness import Site, expect, main, request, wait_until

SECONDS = 3
# gRPC's own threads wake now and then, also without a connection; while the link rests they are gone.
SWITCHES = {"alone": 2, "linked": 10 * SECONDS, "at rest": 2}
READY_S = 3  # the aim is 1 on a machine of its own
BESIDE_KIB = 40 << 10


def switches(pid):
    n = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as f:
                n += sum(int(line.split()[1]) for line in f if "voluntary_ctxt_switches" in line)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    return n


def switches_idle(name, pid):
    before = switches(pid)
    time.sleep(SECONDS)
    n = switches(pid) - before
    expect(n <= SWITCHES[name], f"{name}: {n} context switches in {SECONDS} s, at most {SWITCHES[name]} are allowed")
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
    if name == "at rest":
        wait_until(lambda: json.loads(request(url, "GET", "/v1/shoal/status")[2])["cloud"]["link"] == "idle", what="the link at rest")
    time.sleep(1)  # what an answer leaves to be done
    pid = daemon.process.pid
    n = switches_idle(name, pid)
    kib = resident_kib(pid)
    print(f"{name}: ready after {ready_s:.2f} s, {kib} KiB resident, {n} context switches in {SECONDS} s")
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


def test_idle_edge_whose_link_rests_sleeps():
    with Site() as site:
        full, edge = site.models()
        cloud = site.cloud(full).start()
        look("at rest", site.edge(edge, cloud.address, mode__default="exact", cloud__rest_ms=500), edge)


if __name__ == "__main__":
    main([test_idle_edge_sleeps_and_is_small, test_idle_edge_with_a_cloud_hardly_wakes, test_idle_edge_whose_link_rests_sleeps])
