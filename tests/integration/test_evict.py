#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An edge whose KV is evicted: long texts in the memory of short ones, the same answer however it is computed, and
nothing of it in what a cloud has verified."""
import json

from harness import FAMILY_EOS, SANITIZED, Site, binary, complete, expect, main, parallel, request, run

BUDGET = 32
N_ANSWER = 24
ALWAYS = "fixed:threshold=0"


def ids(n, seed):
    return [201 + (seed * 7919 + i * i * 31 + i * 17) % 50 for i in range(n)]


def ask(edge, prompt, mode="local", **shoal):
    bias = {} if SANITIZED else {"logit_bias": {str(FAMILY_EOS): -100}}
    answer = complete(edge.address, prompt, mode, n=N_ANSWER, temperature=0, shoal={"mode": mode, **shoal}, **bias)
    expect(answer.error is None, f"{answer.error}")
    return answer


def model_of(site):
    return site.tiny_model(8, variant="exits") if SANITIZED else site.models()[1]


def test_answers_do_not_follow_from_how_they_are_computed():
    with Site() as site:
        model = model_of(site)
        texts = [ids(n, n) for n in (5, BUDGET - 1, BUDGET, BUDGET + 1, 90)]
        plain = site.edge(model, kv__type="f16").start()
        whole = [ask(plain, t).ids for t in texts]
        for policy in ("window", "h2o", "diverse", "a2sf"):
            for leave in ("off", ALWAYS) if policy in ("window", "h2o") else ("off",):
                settings = {"kv__type": "f16", "kv__evict": policy, "exit__policy": leave}
                edge = site.edge(model, kv__budget=BUDGET, **settings).start()
                other = site.edge(model, kv__budget=BUDGET, model__threads="1", cpu__mask="scalar", **settings).start()
                alone = [ask(edge, t) for t in texts]
                together = parallel([lambda t=t: ask(edge, t) for t in texts], len(texts))
                for text, a, b in zip(texts, alone, together):
                    expect(a.ids == b.ids and a.tiers == b.tiers, f"{policy} {leave}: others change an answer")
                    c = ask(other, text)
                    expect(a.ids == c.ids and a.tiers == c.tiers, f"{policy} {leave}: another tier changes an answer")
                if leave == "off":
                    expect(any(a.ids != w for a, w in zip(alone, whole)), f"{policy}: nothing was evicted")
                else:
                    expect(any("exit" in a.tiers for a in alone), f"{policy}: nothing left early")
                edge.stop()
                other.stop()
            # Where all is held, nothing is changed.
            roomy = site.edge(model, kv__type="f16", kv__evict=policy, kv__budget="128").start()
            expect([ask(roomy, t).ids for t in texts] == whole, f"{policy}: a budget for all changes an answer")
            roomy.stop()


def test_a_long_text_takes_the_memory_of_a_short_one():
    with Site() as site:
        model = model_of(site)
        pages = {}
        for evict in ("none", "window", "h2o", "diverse", "a2sf"):
            edge = site.edge(model, kv__type="f16", kv__evict=evict, kv__budget=BUDGET).start()
            for n in (BUDGET // 2, 4 * BUDGET - N_ANSWER):
                ask(edge, ids(n, n), session=f"s{n}")
                listed = json.loads(request(edge.address, "GET", "/v1/shoal/sessions")[2])["sessions"]
                pages[evict, n] = next(s["kv_bytes"] for s in listed if s["name"] == f"s{n}")
            edge.stop()
        short, long = (BUDGET // 2, 4 * BUDGET - N_ANSWER)
        # Of 16 + 24 tokens the last block is begun, of 128 all four are full.
        expect(pages["none", long] == 2 * pages["none", short], f"{pages}")
        for evict in ("window", "h2o", "diverse", "a2sf"):
            expect(pages[evict, long] == pages[evict, short] == pages["none", short] // 2, f"{pages}")


def test_sessions_go_on_in_memory_alone():
    with Site() as site:
        model = model_of(site)
        for policy in ("window", "h2o"):
            settings = {"kv__type": "f16", "kv__evict": policy, "kv__budget": BUDGET}
            edge, alone = site.edge(model, **settings).start(), site.edge(model, session__max="0", **settings).start()
            prompt = ids(50, 1)
            for turn in range(3):
                answer = ask(edge, prompt, session="s")
                expect(answer.ids == ask(alone, prompt).ids, f"{policy}, turn {turn}: a session changes an answer")
                kept = answer.usage["shoal"]["kept_tokens"]
                expect(kept == (len(prompt) - 6 if turn else 0), f"{policy}, turn {turn}: {kept} of {len(prompt)} kept")
                prompt = prompt + answer.ids + ids(5, turn)
            # Another end: what was evicted for the first one cannot come back, so all is read again.
            other = prompt[:60] + ids(9, 9)
            answer = ask(edge, other, session="s")
            expect(answer.usage["shoal"]["kept_tokens"] == 0, f"{policy}: {answer.usage}")
            expect(answer.ids == ask(alone, other).ids, f"{policy}: another end")
            status, _, told = request(edge.address, "GET", "/v1/shoal/sessions/s")
            error = json.loads(told)["error"]
            expect(status == 400 and error["code"] == "session_unsupported" and f"kv.evict {policy}" in error["message"],
                   f"{status} {error}")
            edge.stop()
            alone.stop()


def test_verified_answers_are_the_cloud_s():
    with Site() as site:
        full, model = site.models()
        cloud = site.cloud(full).start()
        for policy in ("window", "h2o"):
            edge = site.edge(model, cloud.address, kv__type="f16", kv__evict=policy, kv__budget=BUDGET).start()
            for draft in (1, 4):
                prompt = ids(40 + draft, draft)
                expect(ask(edge, prompt, "exact").ids == ask(edge, prompt, "cloud").ids, f"{policy}: exact is not")
            edge.stop()


def test_what_cannot_be_is_refused():
    with Site() as site:
        model = model_of(site)
        for settings, *words in (({"kv__type": "q4", "kv__evict": "h2o"}, "cannot be evicted (h2o) from q4"),
                                 ({"kv__type": "f16", "kv__evict": "h2o", "kv__budget": "40"}, "a multiple of 32"),
                                 ({"kv__type": "f16", "kv__evict": "lru"}, "kv.evict", "none, window, h2o, diverse, a2sf")):
            options = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
            done = run(binary("shoal-edge"), *(x for o in (f"model.path={model}", "listen.address=127.0.0.1:0", *options)
                                               for x in ("--set", o)), check=False)
            expect(done.returncode == 1, f"{settings}: {done}")
            for word in words:
                expect(word in done.stderr, f"{settings}: {done.stderr}")


if __name__ == "__main__":
    main([test_answers_do_not_follow_from_how_they_are_computed, test_a_long_text_takes_the_memory_of_a_short_one,
          test_sessions_go_on_in_memory_alone, test_verified_answers_are_the_cloud_s, test_what_cannot_be_is_refused])
