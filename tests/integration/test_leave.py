#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Early exits in the daemon: chosen by request and by configuration, told token by token, and without a trace in
what `exact` says."""
import json
import re

from harness import SANITIZED, Site, complete, expect, main, parallel, prompts, questions, request

N = 4 if SANITIZED else 24
ALWAYS = {"policy": "fixed", "threshold": 0}


def model_of(site):
    return site.tiny_model(8, variant="exits") if SANITIZED else site.models()[1]


def texts():
    return prompts(N, 5) if SANITIZED else questions(N, 5)


def ask(url, text, mode="local", **shoal):
    return complete(url, text, mode, n=24, chat=not SANITIZED, temperature=0, shoal={"mode": mode, **shoal})


def own(answer):
    return answer.usage["shoal"]


def test_policies_by_request():
    with Site() as site:
        layers = 4 if SANITIZED else 3
        edge = site.edge(model_of(site)).start()
        for text in texts():
            deep, never, always = (ask(edge.address, text), ask(edge.address, text, exit={"policy": "margin", "threshold": 2}),
                                   ask(edge.address, text, exit=ALWAYS))
            expect(set(deep.tiers) == {"edge"} and own(deep)["edge_layers"] == layers * own(deep)["edge_steps"], deep.usage)
            expect(never.ids == deep.ids and own(never)["tiers"]["exit"] == 0, "a threshold that nothing reaches")
            expect(always.tiers.count("exit") == own(always)["tiers"]["exit"] > 0, always.tiers)
            expect(own(always)["layers_per_token"] < layers, always.usage)
            expect(own(always)["exit_agreed"] <= own(always)["exit_checked"] < own(always)["tiers"]["exit"], always.usage)
            again = ask(edge.address, text, exit="fixed:threshold=0")
            expect(again.ids == always.ids and again.tiers == always.tiers, "the same policy in words")
        totals = json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])["totals"]
        metrics = request(edge.address, "GET", "/metrics")[2].decode()
        told = int(float(re.search(r"^shoal_edge_layers_total (\S+)$", metrics, re.M).group(1)))
        expect(totals["tokens"]["exit"] > 0 and totals["edge_layers"] == told, f"{totals} {told}")


def test_refusals_name_the_field():
    with Site() as site:
        edge = site.edge(model_of(site)).start()
        for exit, word in (("sometimes", "known are"), ({"policy": "fixed", "threshold": 3}, "threshold"), (7, "policy"),
                           ({"policy": "fixed", "threshold": 1, "x": 1}, "known keys"), ("", "policy"),
                           ("fixed:" + "9" * 200, "policy")):
            error = ask(edge.address, "x", exit=exit).error
            expect(error and word in error["message"] and error["param"].startswith("shoal"), f"{exit}: {error}")
        without = site.edge(site.tiny_model(3)).start()
        expect("no exits" in ask(without.address, "x", exit="risk").error["message"], "a model without exits")
        expect(ask(without.address, "x", exit="off").error is None, "off is always there")


def test_configured_policy_and_many_at_once():
    with Site() as site:
        edge = site.edge(model_of(site), exit__policy="fixed:threshold=0.5", exit__waiting_max=3, kv__type="q8").start()
        alone = [ask(edge.address, text) for text in texts()]
        together = parallel([lambda t=t: ask(edge.address, t) for t in texts()], 8)
        for a, b in zip(alone, together):
            expect(a.ids == b.ids and a.tiers == b.tiers, "what others ask changes nothing")
        if not SANITIZED:  # a random model is sure of nothing
            expect(sum(a.tiers.count("exit") for a in alone) > 0, "some left")


def test_exact_says_what_the_cloud_says():
    with Site() as site:
        full, edge_model = site.models()
        if SANITIZED:
            full = edge_model = model_of(site)
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address, exit__policy="fixed:threshold=0", coop__draft_tokens=4).start()
        n_left = 0
        for text in texts():
            exact, relayed = ask(edge.address, text, "exact"), ask(edge.address, text, "cloud")
            expect(exact.error is None and exact.ids == relayed.ids, f"{text}: {exact.ids} {relayed.ids}")
            expect("exit" not in relayed.tiers, relayed.tiers)
            n_left += exact.tiers.count("exit")
            assist = ask(edge.address, text, "assist")
            expect(assist.error is None and len(assist.ids) == sum(own(assist)["tiers"].values()), assist.usage)
        expect(n_left > 0 or SANITIZED, "accepted drafts that left early")


if __name__ == "__main__":
    main([test_policies_by_request, test_refusals_name_the_field, test_configured_policy_and_many_at_once,
          test_exact_says_what_the_cloud_says])
