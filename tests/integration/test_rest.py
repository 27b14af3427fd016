#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The link to the cloud is let go when nothing has wanted it for cloud.rest_ms, and made again for what does."""
import json
import os
import shutil
import signal
import time

from harness import Site, complete, expect, main, request, wait_until

REST_MS = 500
PROMPT = "What does H40 mean?"


def link(daemon):
    return json.loads(request(daemon.address, "GET", "/v1/shoal/status")[2])["cloud"]["link"]


def link_up(daemon):
    lines = request(daemon.address, "GET", "/metrics")[2].decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("shoal_link_up ")))


def at_rest(daemon, what):
    wait_until(lambda: link(daemon) == "idle", what=f"{what}: the link at rest")


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def threads(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/task"))


def test_a_link_that_nobody_wants_rests():
    """Descriptors and threads are those of an edge without a cloud; each answer is what it was before, and a cloud that has gone
    meanwhile is said to be gone."""
    with Site() as site:
        full, small = site.models()
        cloud = site.cloud(full).start()
        alone = site.edge(small, mode__default="local").start()
        edge = site.edge(small, cloud.address, mode__default="exact", cloud__rest_ms=REST_MS, coop__reconnect_ms=300).start()
        said = complete(edge.address, PROMPT, "exact", 12, temperature=0)
        expect(said.ids and not said.error, f"{said.error}")
        at_rest(edge, "after an answer")
        complete(alone.address, PROMPT, "local", 12)
        expect(link_up(edge) == 1, "a link at rest is called lost")
        wait_until(lambda: threads(edge) == threads(alone),
                   what=f"no thread more than without a cloud, {threads(edge)} and {threads(alone)}")
        time.sleep(0.5)  # the connection of the last question
        held = descriptors(edge)
        for i in range(4):
            for mode in ("local", ("exact", "cloud", "assist")[i % 3]):
                again = complete(edge.address, PROMPT, mode, 12, temperature=0)
                expect(not again.error, f"{mode}: {again.error}")
                expect(mode in ("local", "assist") or again.ids == said.ids, f"{mode}: {again.ids}, before {said.ids}")
                expect(mode != "local" or link(edge) == "idle", "an answer of the edge's alone connects")
            at_rest(edge, f"after {i + 2} answers")
        wait_until(lambda: descriptors(edge) <= held, what=f"no more descriptors than the first time, {held}")
        cloud.stop()
        lost = complete(edge.address, PROMPT, "cloud", 12)
        expect(lost.error and link(edge) != "ready", f"answered without a cloud: {lost.ids}")
        expect(link_up(edge) == 0, "a link that cannot be made is called up")
        time.sleep(3 * REST_MS / 1000)
        expect(link(edge) == "down" and link_up(edge) == 0, f"let go, a link that did not stand is {link(edge)}")


def test_certificates_are_read_when_a_link_at_rest_is_made_again():
    with Site() as site:
        full, small = site.models()
        cloud = site.cloud(full).start()
        files = {kind: site.file(f"link.{kind}") for kind in ("pem", "key")}
        for kind, path in files.items():
            shutil.copy(site.file(f"certs/edge.{kind}"), path)
        edge = site.edge(small, cloud.address, mode__default="exact", cloud__rest_ms=REST_MS, coop__reconnect_ms=300,
                         cloud__cert=files["pem"], cloud__key=files["key"]).start()
        said = complete(edge.address, PROMPT, "exact", 12, temperature=0)
        at_rest(edge, "after an answer")
        shutil.copy(site.file("certs/cloud.key"), files["key"])
        edge.process.send_signal(signal.SIGHUP)
        edge.says("is not the key of the certificate")
        lost = complete(edge.address, PROMPT, "exact", 12, temperature=0)
        expect(lost.error and "is not the key" in json.dumps(lost.error), f"{lost.error}")
        expect(link(edge) == "down" and link_up(edge) == 0, f"a link without a key is {link(edge)}")
        shutil.copy(site.file("certs/edge.key"), files["key"])

        def answered():
            return complete(edge.address, PROMPT, "exact", 12, temperature=0).ids == said.ids
        wait_until(answered, what="an answer with the right key")


if __name__ == "__main__":
    main([test_a_link_that_nobody_wants_rests, test_certificates_are_read_when_a_link_at_rest_is_made_again])
