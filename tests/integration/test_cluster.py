#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two cloud nodes behind one target: `kill -9` of one of them, mid-stream at random moments, changes no
token of any answer. SHOAL_TEST_KILLS and SHOAL_TEST_SEED say how often and when."""
import os
import random
import threading
import time

from harness import FAMILY_EOS, SANITIZED, Site, complete, expect, free_port, main, parallel, prompts, questions

SEED = int(os.environ.get("SHOAL_TEST_SEED", "20261128"))
N_KILLS = int(os.environ.get("SHOAL_TEST_KILLS", "4" if SANITIZED else "20"))
N_CASES = 8
N_TOKENS = 96
WIDTH = 4


def cases():
    texts = (prompts if SANITIZED else questions)(N_CASES, SEED)
    rng = random.Random(SEED)
    return [(text, (0.0, 0.8)[i % 2], rng.getrandbits(48)) for i, text in enumerate(texts)]


def ask(url, mode, case):
    """Answers of the family are short: their end is made unlikely, so that streams last."""
    prompt, temperature, seed = case
    bias = {} if SANITIZED else {"logit_bias": {str(FAMILY_EOS): -100}}
    return complete(url, prompt, mode, n=N_TOKENS, chat=not SANITIZED, temperature=temperature, seed=seed, **bias)


def ask_all(url, mode, some):
    return parallel([lambda c=c: ask(url, mode, c) for c in some], WIDTH)


def check_same(some, reference, answers, when):
    for case, right, answer in zip(some, reference, answers):
        expect(answer.error is None, f"{case} failed {when} (seed {SEED}): {answer.error}")
        expect(answer.ids == right.ids, f"{case} differs {when} (seed {SEED}):\n  {right.ids}\n  {answer.ids}")
        expect(answer.text == right.text and answer.finish == right.finish, f"{case}: another text {when}")


class Killer(threading.Thread):
    """Kills one node of the two, lets it come back, and never both at once."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes, self.kills, self.failure = nodes, 0, None
        self.over = threading.Event()

    def run(self):
        rng = random.Random(SEED + 1)
        try:
            while self.kills < N_KILLS and not self.over.is_set():
                time.sleep(rng.uniform(0.01, 0.3))
                node = rng.choice(self.nodes)
                node.kill()
                self.kills += 1
                time.sleep(rng.uniform(0, 0.1))
                node.start()
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error


def test_node_killed_under_streams_changes_no_token():
    some = cases()
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        nodes = [site.cloud(full, free_port()).start() for _ in range(2)]
        target = ",".join(node.address for node in nodes)
        edge = site.edge(edge_model, target, coop__reconnect_ms=120000).start()
        reference = ask_all(edge.address, "cloud", some)
        killer = Killer(nodes)
        killer.start()
        n_answers = n_cut = 0
        try:
            while killer.kills < N_KILLS and not killer.failure:
                for mode in ("exact", "cloud"):
                    answers = ask_all(edge.address, mode, some)
                    check_same(some, reference, answers, f"after {killer.kills} kills in {mode}")
                    n_answers += len(answers)
                    n_cut += sum(a.usage["shoal"]["reconnects"] for a in answers)
        finally:
            killer.over.set()
            killer.join()
        expect(killer.failure is None, f"a node did not come back: {killer.failure}")
        expect(n_cut > 0, f"no stream was ever cut: the kills missed (seed {SEED})")
        return f"{killer.kills} kills, {n_cut} streams cut and resumed, {n_answers} answers, 0 differ"


def test_draining_node_hands_its_edges_over():
    some = cases()
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        nodes = [site.cloud(full, free_port()).start() for _ in range(2)]
        edge = site.edge(edge_model, ",".join(node.address for node in nodes), coop__reconnect_ms=120000).start()
        reference = ask_all(edge.address, "cloud", some)
        answers = []
        asking = threading.Thread(target=lambda: answers.extend(ask_all(edge.address, "exact", some)))
        asking.start()
        nodes[0].stop()
        asking.join()
        expect(len(answers) == len(some), "a request failed while a node drained")
        check_same(some, reference, answers, "while a node drained")
        check_same(some, reference, ask_all(edge.address, "exact", some), "after a node is gone")


if __name__ == "__main__":
    main([test_node_killed_under_streams_changes_no_token, test_draining_node_hands_its_edges_over])
