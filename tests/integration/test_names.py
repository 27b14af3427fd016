#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One name, several nodes: an edge that is told a host name shares its sessions out over all addresses that DNS gives,
and finds the new ones when those go. Runs in namespaces of its own, with a DNS server of its own on port 53."""
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading

import link
from harness import SANITIZED, SKIPPED, Site, complete, expect, main, parallel, prompts, questions, wait_until

INSIDE = "SHOAL_TEST_NAMES_INSIDE"
NAME = "nodes.shoal.test"
PORT = 7443
SEED = 20261128


class Names(threading.Thread):
    """Answers every question for NAME with the A records of `addresses`, and nothing else."""

    def __init__(self, addresses):
        super().__init__(daemon=True)
        self.addresses, self.asked = addresses, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))

    def run(self):
        while True:
            question, peer = self.socket.recvfrom(512)
            labels, at = [], 12
            while question[at]:
                labels.append(question[at + 1:at + 1 + question[at]].decode())
                at += 1 + question[at]
            kind = struct.unpack(">H", question[at + 1:at + 3])[0]
            known = ".".join(labels).lower() == NAME
            records = self.addresses if known and kind == 1 else []
            self.asked += bool(records)
            head = question[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, len(records), 0, 0)
            body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(a) for a in records)
            self.socket.sendto(head + question[12:at + 5] + body, peer)


def sessions(node):
    with open(node.log, encoding="utf-8") as f:
        return sum(" session " in line for line in f)


def ask_all(edge, texts, mode):
    return parallel([lambda t=t: complete(edge.address, t, mode, n=24, chat=not SANITIZED, temperature=0) for t in texts], 4)


def test_records_of_a_name_share_the_sessions():
    texts = (prompts if SANITIZED else questions)(16, SEED)
    names = Names(["127.0.0.1", "127.0.0.2"])
    names.start()
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        nodes = [site.cloud(full, listen__address=f"127.0.0.{i}:{PORT}") for i in (1, 2, 3)]
        for node in nodes[:2]:
            node.start()
        edge = site.edge(edge_model, f"{NAME}:{PORT}", coop__reconnect_ms=60000).start()
        first = ask_all(edge, texts, "cloud")
        expect(all(a.error is None for a in first), f"{[a.error for a in first]}")
        wait_until(lambda: sum(map(sessions, nodes[:2])) >= len(texts), what="a line for each session")
        shares = [sessions(node) for node in nodes[:2]]
        expect(min(shares) >= len(texts) // 4, f"the two nodes had {shares} of {len(texts)} sessions")
        # Both go; the name has moved to a third.
        nodes[2].start()
        names.addresses = ["127.0.0.3"]
        for node in nodes[:2]:
            node.stop()
        asked = names.asked
        moved = ask_all(edge, texts, "exact")
        for a, b in zip(first, moved):
            expect(b.error is None and a.ids == b.ids, f"{b.error}: {a.ids} became {b.ids}")
        expect(names.asked > asked, "the name was not asked for again")
        expect(sessions(nodes[2]) > 0, "the third node had no session")
        return f"{shares[0]} and {shares[1]} of {len(texts)} sessions, then {sessions(nodes[2])} on the node the name moved to"


def enter():
    """Runs this file again in namespaces of its own, where resolv.conf names our server."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        conf.write("nameserver 127.0.0.1\noptions timeout:1\n")
        conf.flush()
        script = f'mount --bind "{conf.name}" /etc/resolv.conf && exec "$0" "$@"'
        command = ["unshare", "--mount", "--net", "--map-root-user", "sh", "-c", script, sys.executable, *sys.argv]
        probe = subprocess.run(command[:6] + [script.split(" && ")[0]], capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            print(f"skipped: no namespaces here: {probe.stderr.strip()}")
            sys.exit(SKIPPED)
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)


if __name__ == "__main__":
    if INSIDE not in os.environ:
        enter()
    link.interface("lo")
    main([test_records_of_a_name_share_the_sessions])
