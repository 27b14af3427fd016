#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions of the edge: what was computed for a text is kept and not computed again, and no answer is changed by it."""
import os
import random

from harness import FAMILY_EOS, SANITIZED, Site, complete, expect, main, parallel, request

SEED = int(os.environ.get("SHOAL_TEST_SEED", "20261129"))
N_FIRST = 70  # two blocks and a part of a third
N_MORE = 9
N_ANSWER = 20


def ids(n, seed):
    rng = random.Random(seed)
    return [rng.randint(200, 255) if SANITIZED else rng.randint(300, 1400) for _ in range(n)]


def ask(edge, prompt, name=None, mode="local", n=N_ANSWER, **fields):
    """A greedy answer; of the family one that does not end by itself."""
    bias = {} if SANITIZED else {"logit_bias": {str(FAMILY_EOS): -100}}
    shoal = {"mode": mode, **({"session": name} if name else {})}
    answer = complete(edge.address, prompt, mode, n=n, temperature=0, shoal=shoal, **bias, **fields)
    expect(answer.error is None, f"{answer.error}")
    return answer


def check_reuse(answer, n_kept, n_prompt, what):
    usage = answer.usage
    expect(usage["shoal"]["kept_tokens"] == n_kept, f"{what}: {n_kept} tokens should have been kept, {usage}")
    expect(usage["shoal"]["prefilled_tokens"] == n_prompt - n_kept, f"{what}: more was computed than had to be, {usage}")
    expect(usage["prompt_tokens_details"]["cached_tokens"] >= n_kept, f"{what}: {usage}")


def same(answer, right, what):
    expect(answer.ids == right.ids and answer.text == right.text, f"{what}: {answer.ids}, right is {right.ids}")


def metric(edge, name):
    for line in request(edge.address, "GET", "/metrics")[2].decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    raise AssertionError(f"there is no {name}")


def converse(edge, alone, name, first, mode="local"):
    """Two requests of a session; the second goes on behind the first's answer. Its prompt is returned."""
    answer = ask(edge, first, name, mode)
    check_reuse(answer, 0, len(first), "the first request")
    same(answer, ask(alone, first), "the first request")
    more = first + answer.ids + ids(N_MORE, 3)
    second = ask(edge, more, name, mode)
    check_reuse(second, len(first) + len(answer.ids) - 1, len(more), "the second request")
    same(second, ask(alone, more), "the second request")
    return more


def test_kept_tokens_are_not_computed_again_in_any_kv():
    with Site(SEED) as site:
        _, model = site.models()
        first = ids(N_FIRST, SEED)
        for kv in ("f16", "q8", "q4"):
            edge = site.edge(model, kv__type=kv).start()
            alone = site.edge(model, kv__type=kv, session__max="0").start()
            more = converse(edge, alone, "pump-7", first)
            # Another end: what both have in common is kept. Where that ends inside of a sealed block, its start.
            other = more[:N_FIRST + 3] + ids(N_MORE, 5)
            answer = ask(edge, other, "pump-7")
            kept = answer.usage["shoal"]["kept_tokens"]
            expect(kept == N_FIRST + 3 or (kv != "f16" and kept == N_FIRST // 32 * 32), f"{kv}: {kept} tokens were kept")
            check_reuse(answer, kept, len(other), f"{kv}: another end")
            same(answer, ask(alone, other), f"{kv}: another end")
            # The same again: the last token is computed, or there were nothing to sample from.
            again = ask(edge, other, "pump-7")
            same(again, answer, f"{kv}: the same again")
            expect(again.usage["shoal"]["prefilled_tokens"] in (1, len(other) % 32 or 32), f"{kv}: {again.usage}")
            expect(metric(edge, "shoal_sessions_kept") == 1, "one session should be kept")
            expect(metric(edge, "shoal_session_reused_tokens_total") > 2 * kept, "reuse is not counted")
            edge.stop()
            alone.stop()


def test_verified_answers_do_not_change():
    with Site(SEED) as site:
        full, model = site.models()
        cloud = site.cloud(full).start()
        edge = site.edge(model, cloud.address, kv__type="q8", coop__draft_tokens="4").start()
        prompt = ids(N_FIRST, SEED)
        kept = []
        for turn in range(3):
            right = ask(edge, prompt, mode="cloud")
            answer = ask(edge, prompt, "s", mode="exact")
            same(answer, right, f"turn {turn}")
            kept.append(answer.usage["shoal"]["kept_tokens"])
            expect(answer.usage["shoal"]["prefilled_tokens"] <= len(prompt) - kept[-1], f"turn {turn}: {answer.usage}")
            prompt = prompt + answer.ids + ids(N_MORE, turn)
        # What the cloud made last may not have come to the edge's model.
        expect(kept[0] == 0 and kept[1] >= N_FIRST and kept[2] >= kept[1] + N_MORE, f"{kept}")
        return f"kept {kept}"


def test_kept_sessions_are_few_and_give_way():
    with Site(SEED) as site:
        _, model = site.models()
        edge = site.edge(model, session__max="2").start()
        texts = [ids(N_FIRST, s) for s in range(3)]
        for i, text in enumerate(texts):
            ask(edge, text, f"s{i}")
        expect(metric(edge, "shoal_sessions_kept") == 2, "two sessions should be kept")
        check_reuse(ask(edge, texts[2] + [201], "s2"), N_FIRST, N_FIRST + 1, "the newest")
        check_reuse(ask(edge, texts[0] + [201], "s0"), 0, N_FIRST + 1, "the oldest")
        # Eight at once, each under a name and without one: whoever is under way comes first.
        small = site.edge(model, kv__max_mib="1", session__kv_percent="100").start()
        right = [ask(edge, t) for t in texts]
        jobs = [lambda i=i: ask(small, texts[i % 3], f"s{i % 5}" if i % 4 else None) for i in range(24)]
        for i, answer in enumerate(parallel(jobs, 8)):
            same(answer, right[i % 3], f"request {i} of many")
            usage = answer.usage["shoal"]
            expect(usage["kept_tokens"] + usage["prefilled_tokens"] == N_FIRST, f"{usage}")
        expect(metric(small, "shoal_requests_running") == 0, "something still runs")


def test_what_a_session_cannot_be_is_refused():
    with Site(SEED) as site:
        _, model = site.models()
        edge, none = site.edge(model).start(), site.edge(model, session__max="0").start()
        for shoal, where, edge_asked in (
                ({"session": "a b"}, "shoal.session", edge), ({"session": "x" * 65}, "shoal.session", edge),
                ({"session": ""}, "shoal.session", edge), ({"session": 7}, "shoal.session", edge),
                ({"session": "a", "mode": "cloud"}, "shoal.session", edge), ({"session": "a"}, "shoal.session", none)):
            answer = complete(edge_asked.address, [201, 202], "local", n=2, shoal=shoal)
            expect(answer.status == 400 and answer.error["param"] == where, f"{shoal}: {answer.status} {answer.error}")
        expect(len(ask(edge, [201, 202], "x" * 64, n=2).ids) > 0, "a name of 64 bytes is one")


if __name__ == "__main__":
    main([test_kept_tokens_are_not_computed_again_in_any_kv, test_verified_answers_do_not_change,
          test_kept_sessions_are_few_and_give_way, test_what_a_session_cannot_be_is_refused])
