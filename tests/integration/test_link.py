#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Edge and cloud with a bad link between them: 50 ms, every twentieth packet lost, in network namespaces of their own.
Facts only: what is said and in what order, never how soon."""
import re
import sys
import time

import link
from harness import SANITIZED, Site, complete, examples, expect, main, prompts, questions, request, wait_until
from test_assist import status

SEED = 20261129
RTT_MS = 50
LOSS = 0.05
N_TEXTS = 3 if SANITIZED else 4
N_TOKENS = 8 if SANITIZED else 24
CLOUD = f"{link.FAR}:7443"


def ask(url, text, mode, **fields):
    answer = complete(url, text, mode, n=N_TOKENS, chat=not SANITIZED, temperature=0, **fields)
    expect(answer.error is None, f"{mode}: {text!r}: {answer.error}")
    counted = sum(answer.usage["shoal"]["tiers"].values())
    expect(counted == answer.usage["completion_tokens"] == len(answer.ids), f"{mode}: {answer.usage} {answer.ids}")
    return answer


def test_a_bad_link_changes_no_token():
    texts = (prompts if SANITIZED else questions)(N_TEXTS, SEED)
    with link.Link() as between, Site(SEED) as site:
        between.set(RTT_MS, LOSS, seed=SEED)
        full, edge_model = site.models()
        between.place(site.cloud(full, listen__address=CLOUD)).start()
        url = site.edge(edge_model, CLOUD).start().address
        there = site.edge(full).start().address  # what the cloud's model says where no link is
        whole = [ask(there, text, "local") for text in texts]
        up, down = between.bytes()
        started = time.monotonic()
        for mode in ("cloud", "exact"):
            for text, a in zip(texts, whole):
                b = ask(url, text, mode)
                expect((a.ids, a.text, a.finish) == (b.ids, b.text, b.finish), f"{mode}: {text!r}: {b.ids}, not {a.ids}")
        waited = time.monotonic() - started
        expect(waited >= 2 * len(texts) * RTT_MS / 1e3, f"{2 * len(texts)} answers in {waited:.3f} s: the link has no delay")
        for text in texts:
            a = ask(url, text, "assist")
            expect(a.ids and a.finish in ("stop", "length"), f"assist: {a.ids}, {a.finish}")
        up, down = (now - before for now, before in zip(between.bytes(), (up, down)))
        expect(up > 0 and down > 0, f"{up} bytes up, {down} down")
        expect(between.sent_again() > 0, "no segment was sent again: the link loses nothing")
        return f"{2 * len(texts)} answers as the cloud's model gives them; {up} bytes up, {down} down with TCP and TLS"


def test_a_far_cloud_judges_the_beginning_of_an_answer():
    """Where the cloud decodes faster than drafts come and go, it judges what the edge foretells of an answer all the same."""
    texts = prompts(N_TEXTS, SEED + 2) if SANITIZED else [question for question, _ in examples(24)]
    with link.Link() as between, Site(SEED) as site:
        between.set(RTT_MS, seed=SEED)
        full, edge_model = site.models()
        node = between.place(site.cloud(full, listen__address=CLOUD)).start()
        url = site.edge(edge_model, CLOUD, coop__spare_share=1).start().address
        whole = [ask(url, text, "cloud") for text in texts]
        share = 0.0
        for _ in range(3):  # with coop.spare_share 0 it is none, quiet 0.67: fewer where other programs keep the edge waiting
            answers = [ask(url, text, "exact") for text in texts]
            expect([a.ids for a in whole] == [a.ids for a in answers], "exact and cloud differ")
            share = max(share, sum(a.usage["shoal"]["accepted"] for a in answers) / sum(len(a.ids) for a in answers))
            if SANITIZED or share > 0.4:
                break
        expect(SANITIZED or share > 0.4, f"{share:.2f} of tokens were drafts that stood")
        # What was drafted behind a draft that fell is of use to the cloud still.
        with open(node.log, encoding="utf-8") as log:
            guessed = sum(map(int, re.findall(r" guessed_right=(\d+) ", log.read())))
        expect(SANITIZED or guessed > 0, "no draft behind a refused one stood as a token of the cloud")
        return f"{share:.2f} of tokens were drafts that stood, {guessed} more tokens were guessed from those that fell"


def test_what_the_link_carries_is_told_and_charged():
    """Against a count of the packets themselves: answers, connecting, and pings while nothing is asked."""
    with link.Link() as between, Site(SEED) as site:
        between.set(RTT_MS, seed=SEED)
        full, edge_model = site.models()
        between.place(site.cloud(full, listen__address=CLOUD)).start()
        edge = site.edge(edge_model, CLOUD, cloud__keepalive_ms=1000, budget__uplink_kib_per_day=100000)

        def told():
            status(edge.address)  # what it says is of the turn before
            time.sleep(0.2)
            now = status(edge.address)
            return [now["totals"][f"packet_bytes_{way}"] for way in link.WAYS], now["assist"]["budgets"][0]["used"]

        before = between.bytes()
        url = edge.start().address
        wait_until(lambda: told()[0][0] > 2000, what="a handshake to be told")
        texts = prompts(2, SEED) if SANITIZED else [question for question, _ in examples(4)]
        answers = [ask(url, text, mode) for mode in ("cloud", "exact", "assist") for text in texts]
        time.sleep(0.5)
        answered, _ = told()
        time.sleep(5)
        idle, used = told()
        carried = [now - then for now, then in zip(between.bytes(), before)]
        # Both ends' kernels say a word of their own about neighbours now and then, in some 50 to 100 bytes.
        expect(all(0 <= c - t <= 0.02 * c + 500 for c, t in zip(carried, idle)), f"{idle} told, {carried} carried")
        expect(all(300 <= now - then <= 3000 for now, then in zip(idle, answered)), f"{answered}, {idle}: not of pings")
        expect(used == idle[0], f"{used} charged of {idle[0]}")
        messages = sum(a.usage["shoal"]["bytes_up"] for a in answers)
        expect(idle[0] > 2 * messages, f"{idle[0]} bytes of packets for {messages} of messages")
        metric = f'shoal_link_packet_bytes_total{{dir="up"}} '
        expect(metric in request(url, "GET", "/metrics")[2].decode(), "no metric tells of packets")
        return f"{idle} bytes told, {list(carried)} carried, {messages} of messages up"


def test_a_link_that_is_cut_and_comes_back_loses_nothing():
    texts = (prompts if SANITIZED else questions)(N_TEXTS, SEED + 1)
    with link.Link() as between, Site(SEED) as site:
        between.set(RTT_MS, seed=SEED)
        full, edge_model = site.models()
        between.place(site.cloud(full, listen__address=CLOUD)).start()
        url = site.edge(edge_model, CLOUD, coop__reconnect_ms=60000).start().address
        whole = [ask(url, text, "cloud") for text in texts]
        carried = between.bytes()[1]
        cuts = 0

        def blink(answer):
            nonlocal cuts
            if len(answer.ids) == 1:
                between.cut()
                time.sleep(0.1)  # how long it is away, not something to wait for
                between.set(RTT_MS, LOSS, seed=SEED + cuts)
                cuts += 1

        for text, a in zip(texts, whole):
            b = ask(url, text, "exact", on_event=blink)
            expect((a.ids, a.text, a.finish) == (b.ids, b.text, b.finish), f"{text!r}: {b.ids}, not {a.ids}")
        expect(cuts > 0, "the link was never cut in an answer")
        wait_until(lambda: between.bytes()[1] > carried, what="traffic after the cut")
        return f"{cuts} cuts in {len(texts)} answers"


if __name__ == "__main__":
    link.enter()
    main([test_a_bad_link_changes_no_token, test_a_far_cloud_judges_the_beginning_of_an_answer,
          test_what_the_link_carries_is_told_and_charged, test_a_link_that_is_cut_and_comes_back_loses_nothing])
