#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mode assist with real daemons: the edge while it is sure, the cloud where it is not, and an edge that
goes on whatever becomes of the link."""
import json
import os
import random
import signal
import threading
import time

from harness import (SANITIZED, Judge, Site, binary, complete, expect, free_port, main, prompts, questions, request, run,
                     wait_until)

N_TOKENS = 24
SEED = int(os.environ.get("SHOAL_TEST_SEED", "20261129"))
N_KILLS = int(os.environ.get("SHOAL_TEST_KILLS", "2" if SANITIZED else "4"))


def asked(n, seed):
    """(prompt, answer) of questions; under sanitizers, whose models know nothing, prompts without answers."""
    if SANITIZED:
        return [(p, None) for p in prompts(n, seed)]
    lines = run(binary("shoal-forge"), "make-data", "--seed", "1", "--split", "test", "--exponent", "0.75", "-n", str(2 * n + 20))
    made = [(d["prompt"], d["answer"]) for d in map(json.loads, lines.stdout.splitlines())]
    return random.Random(seed).sample(made, n)


def ask(url, prompt, mode, n=N_TOKENS, **fields):
    """prompt: a question, or token ids to be continued."""
    chat = isinstance(prompt, str) and not SANITIZED
    answer = complete(url, prompt, mode, n=n, chat=chat, temperature=0, **fields)
    expect(answer.error is None, f"{mode}: {prompt!r}: {answer.error}")
    tiers = answer.usage["shoal"]["tiers"]
    expect(sum(tiers.values()) == answer.usage["completion_tokens"] == len(answer.ids) == len(answer.tiers),
           f"what was shown does not add up: {answer.usage} {answer.ids}")
    alone = [tier for tier, why in zip(answer.tiers, answer.unassisted) if why]
    expect(answer.usage["shoal"]["unassisted"] == len(alone) and "cloud" not in alone, f"{answer.usage} {answer.unassisted}")
    expect(mode == "assist" or not alone, f"{mode}: {answer.unassisted}")
    return answer


def status(url):
    return json.loads(request(url, "GET", "/v1/shoal/status")[2])


def test_assist_beats_local_with_few_tokens_of_the_cloud():
    some = asked(12 if SANITIZED else 300, 3)
    with Site(3) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        url = site.edge(edge_model, cloud.address).start().address
        right = {}
        share = 0.0
        for mode in ("local", "assist", "cloud"):
            answers = [ask(url, prompt, mode) for prompt, _ in some]
            right[mode] = sum(a.text == answer for a, (_, answer) in zip(answers, some))
            if mode == "assist":
                made = sum(a.usage["shoal"]["tiers"]["cloud"] for a in answers)
                share = made / sum(len(a.ids) for a in answers)
                expect(0 < made and (SANITIZED or share < 0.25), f"{share:.3f} of tokens from the cloud")
                expect(not any(any(a.unassisted) for a in answers), "tokens for want of a cloud that was there")
                expect(all(t["rounds"] > 0 for t in (a.usage["shoal"] for a in answers if "cloud" in a.tiers)), "rounds")
        now = status(url)
        expect(now["totals"]["saved"] > 0 and not now["cloud"]["given_up"] and now["cloud"]["trouble"] is None, now)
        if not SANITIZED:
            expect(right["local"] + 20 < right["assist"], f"{right}")
            expect(right["assist"] >= right["cloud"] - 6, f"{right}")
        return f"right of {len(some)}: {right}, {100 * share:.1f} % of tokens from the cloud"


def test_link_cut_at_every_message_loses_and_repeats_nothing():
    """All modes: what `exact` and `cloud` say does not change; each token of `assist` is what the tier it
    is marked with says there."""
    prompt = (prompts(1, 4) if SANITIZED else questions(1, 4))[0]
    with Site(4) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        judge = Judge(site, full, edge_model)
        ids = judge.ids(prompt)
        whole = None
        cuts = {"exact": 0, "cloud": 0, "assist": 0}
        for at in range(0, 400):
            edge = site.edge(edge_model, cloud.address, fault__cut_at=at, assist__rate=0.7,
                             assist__span_tokens=2).start()
            cut_any = False
            for mode in cuts:
                answer = ask(edge.address, ids, mode, n=6 if SANITIZED else N_TOKENS)
                if mode == "assist":
                    judge.check(ids, answer, f"cut at {at}")
                else:
                    whole = whole or answer
                    expect((answer.ids, answer.text, answer.finish) == (whole.ids, whole.text, whole.finish),
                           f"{mode} cut at {at}: {answer.ids}, whole {whole.ids}")
                cut = answer.usage["shoal"]["reconnects"]
                cuts[mode] += cut
                cut_any = cut_any or cut > 0
            edge.stop()
            site.daemons.remove(edge)
            if at > 0 and not cut_any:
                break
        expect(all(n > 1 for n in cuts.values()), f"cuts: {cuts}")
        return f"streams cut at each message in turn: {cuts}"


def test_node_killed_under_assist_loses_and_repeats_nothing():
    """kill -9 of the cloud at N_KILLS random moments of answers. Which tokens are the cloud's follows from when it dies;
    each has to be what its tier says after exactly the tokens before it, and the last one has to end the answer."""
    rng = random.Random(SEED)
    some = [p for p, _ in asked(2 if SANITIZED else 3, 21)]
    n = 8 if SANITIZED else N_TOKENS
    seen = {}
    n_answers = n_cut = kills = 0
    with Site(8) as site:
        full, edge_model = site.models()
        judge = Judge(site, full, edge_model)
        ids = {prompt: judge.ids(prompt) for prompt in some}
        nodes = [site.cloud(full, free_port()).start() for _ in range(2)]
        edge = site.edge(edge_model, ",".join(node.address for node in nodes), assist__rate=0.7, assist__span_tokens=2).start()
        answers, failures = [], []

        def ask_on(stop):
            try:
                while not stop.is_set():
                    prompt = some[len(answers) % len(some)]
                    answers.append((prompt, ask(edge.address, ids[prompt], "assist", n=n)))
            except BaseException as error:  # noqa: BLE001 - told by the test
                failures.append(error)

        stop = threading.Event()
        asking = threading.Thread(target=ask_on, args=(stop,))
        asking.start()
        try:
            while kills < N_KILLS and asking.is_alive():
                time.sleep(rng.uniform(0.01, 0.3))
                node = nodes[kills % 2]
                node.kill()
                kills += 1
                node.start()
        finally:
            stop.set()
            asking.join()
        expect(answers and not failures, f"after {kills} kills (seed {SEED}): {failures}")
        for prompt, answer in answers:
            n_answers += 1
            n_cut += answer.usage["shoal"]["reconnects"]
            seen[prompt, tuple(answer.ids), tuple(answer.tiers)] = answer
            expect(answer.finish in ("stop", "length") and (answer.finish == "stop" or len(answer.ids) == n), f"{answer.ids}")
        for (prompt, _, _), answer in seen.items():
            judge.check(ids[prompt], answer, f"killed under it (seed {SEED})")
        expect(SANITIZED or any("cloud" in tiers for _, _, tiers in seen), "the cloud never spoke")
        return f"{kills} kills, {n_cut} streams cut, {n_answers} answers, {len(seen)} different ones: nothing lost or repeated"


def test_unreachable_cloud_is_not_waited_for_twice():
    """Answers come from the edge, marked so; the cloud is asked again when it is back."""
    some = [p for p, _ in asked(20 if not SANITIZED else 4, 5)]
    with Site(5) as site:
        full, edge_model = site.models()
        port = free_port()
        edge = site.edge(edge_model, f"127.0.0.1:{port}", assist__rate=0.5).start()
        started = time.monotonic()
        alone = []
        for prompt in some:
            answer = ask(edge.address, prompt, "assist")
            expect(set(answer.tiers) == {"edge"}, f"{answer.tiers}")
            alone += answer.unassisted
        took = time.monotonic() - started
        expect("away" in alone and set(alone) <= {"away", None} and (SANITIZED or None in alone), f"{alone}")
        n_alone = len(alone) - alone.count(None)
        expect(status(edge.address)["totals"]["unassisted"] == n_alone, f"{n_alone} tokens for want of the cloud")
        metrics = request(edge.address, "GET", "/metrics")[2].decode()
        expect(f'shoal_unassisted_tokens_total{{reason="away"}} {n_alone}\n' in metrics, f"{n_alone}: {metrics}")
        expect(took < (60 if SANITIZED else 6), f"{len(some)} answers took {took:.1f} s")
        now = status(edge.address)
        expect(now["cloud"]["given_up"] and now["cloud"]["trouble"], now["cloud"])
        cloud = site.cloud(full, port).start()
        wait_until(lambda: "cloud" in ask(edge.address, some[0], "assist").tiers, 40, "the cloud's return")
        expect(not status(edge.address)["cloud"]["given_up"], "given up though it answers")
        cloud.stop()
        answer = ask(edge.address, some[0], "assist")
        expect(set(answer.tiers) == {"edge"}, f"{answer.tiers}")


def test_limits_of_request_and_budget_are_kept():
    with Site(6) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address, assist__rate=0.5).start()
        prompt = asked(1, 6)[0][0]
        for most in (0, 1, 3):
            answer = ask(edge.address, prompt, "assist", shoal={"mode": "assist", "max_cloud_tokens": most})
            expect(answer.usage["shoal"]["tiers"]["cloud"] <= most, f"{answer.usage} of {most}")
            expect(most > 0 or answer.usage["shoal"]["bytes_up"] == 0, f"{answer.usage}")
            expect(most > 0 or set(answer.unassisted) - {None} == {"budget"}, f"{answer.unassisted}")
        for fields, word in (({"mode": "exact", "risk": 0.1}, "shoal.risk"), ({"mode": "cloud", "max_cloud_tokens": 1}, "max_cloud_tokens"),
                             ({"mode": "assist", "risk": 0.0001}, "risk"), ({"mode": "assist", "max_cloud_tokens": -1}, "max_cloud_tokens")):
            bad = complete(edge.address, prompt, "assist", shoal=fields)
            expect(bad.status == 400 and word in bad.error["message"], f"{fields}: {bad.status} {bad.error}")
        if not SANITIZED:
            ask(edge.address, prompt, "assist", shoal={"mode": "assist", "risk": 0.01})
        # A request's own deadline, while the cloud stands still.
        cloud.freeze()
        late = complete(edge.address, prompt, "cloud", n=4, shoal={"mode": "cloud", "deadline_ms": 200})
        cloud.process.send_signal(signal.SIGCONT)
        expect(late.status == 504 and late.error["code"] == "deadline_exceeded", f"{late.status} {late.error}")
        # 4 % of 300 tokens may be spent at once.
        poor = site.edge(edge_model, cloud.address, assist__rate=0.5, budget__cloud_tokens_per_hour=300).start()
        answers = [ask(poor.address, p, "assist") for p, _ in asked(12, 7)]
        made = sum(a.usage["shoal"]["tiers"]["cloud"] for a in answers)
        expect("budget" in sum((a.unassisted for a in answers), []), "no token for want of a budget")
        budget = status(poor.address)["assist"]["budgets"][0]
        expect(0 < made <= 13 and budget["used"] == made and budget["limit"] == 300, f"{made} {budget}")
        metrics = request(poor.address, "GET", "/metrics")[2].decode()
        expect('shoal_budget_used_ratio{what="cloud_tokens",per="hour"}' in metrics and "shoal_saved_tokens_total" in metrics, metrics)
        # A mode that leaves no choice is refused when all is spent.
        spent = site.edge(edge_model, cloud.address, budget__cloud_tokens_per_day=1).start()
        ask(spent.address, prompt, "cloud")
        refused = complete(spent.address, prompt, "cloud", n=4)
        expect(refused.error and "budget.cloud_tokens_per_day" in refused.error["message"], f"{refused.error}")
        expect(set(ask(spent.address, prompt, "assist").tiers) == {"edge"}, "assist after the budget")
        # A restart gives it again where nobody keeps what was used, and else does not.
        path = site.file("budgets")
        for file, refuses in ((None, False), (path, False), (path, True)):
            again = site.edge(edge_model, cloud.address, budget__cloud_tokens_per_day=1, **({"budget__file": file} if file else {})).start()
            expect((complete(again.address, prompt, "cloud", n=4).error is not None) == refuses, f"{file}: refused is not {refuses}")
            again.stop()
        with open(path, "r+b") as f:
            f.write(b"x")
        again = site.edge(edge_model, cloud.address, budget__cloud_tokens_per_day=1, budget__file=path).start()
        expect(complete(again.address, prompt, "cloud", n=4).error is None, "a file that cannot be read")
        again.stop()


def test_hard_prompt_is_the_clouds_as_a_whole():
    with Site(7) as site:
        full, edge_model = site.models()
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address, assist__prompt_entropy=0.0001).start()
        prompt = asked(1, 8)[0][0]
        answer = ask(edge.address, prompt, "assist")
        expect(set(answer.tiers) == {"cloud"} and answer.usage["shoal"]["rounds"] == 1, f"{answer.tiers} {answer.usage}")
        expect(answer.ids == ask(edge.address, prompt, "cloud").ids, "not the cloud's answer")
        if SANITIZED:
            return  # a random model is sure of nothing
        easy = site.edge(edge_model, cloud.address, assist__prompt_entropy=25, assist__rate=0.001).start()
        expect("edge" in ask(easy.address, prompt, "assist").tiers, "an easy prompt")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
