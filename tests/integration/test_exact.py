#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""R1: `exact` equals `cloud`, token for token, whatever the drafts say, however the batch is
composed, and across `kill -9` of the cloud. Real daemons, real gRPC over mTLS."""
import os
import random
import threading
import time

from harness import FAMILY_EOS, SANITIZED, Site, binary, complete, expect, free_port, main, parallel, prompts, questions, run

SEED = int(os.environ.get("SHOAL_TEST_SEED", "20261123"))
N_PROMPTS = int(os.environ.get("SHOAL_TEST_PROMPTS", "8" if SANITIZED else "200"))
N_KILLS = int(os.environ.get("SHOAL_TEST_KILLS", "3" if SANITIZED else "50"))
TEMPERATURES = (0.0, 0.8, 1.2)
WIDTH = 6  # requests at once, so that sessions share batches


def cases():
    rng = random.Random(SEED)
    texts = prompts(N_PROMPTS, SEED) if SANITIZED else questions(N_PROMPTS, SEED)
    return [(p, t, rng.getrandbits(48)) for t in TEMPERATURES for p in texts]


def ask(url, mode, case, n=24, on_event=None):
    """Answers of the family are short: where a test wants many tokens, their end is made unlikely."""
    prompt, temperature, seed = case
    bias = {"logit_bias": {str(FAMILY_EOS): -100}} if n > 24 and not SANITIZED else {}
    return complete(url, prompt, mode, n=n, on_event=on_event, chat=not SANITIZED, temperature=temperature, seed=seed, **bias)


def ask_all(url, mode, some, n=24, width=WIDTH):
    return parallel([lambda c=c: ask(url, mode, c, n) for c in some], width)


def differing(some, left, right):
    for case, a, b in zip(some, left, right):
        expect(a.error is None and b.error is None, f"{case}: {a.error or b.error}")
        if a.ids != b.ids or a.text != b.text or a.finish != b.finish:
            yield case, a, b


def check_round_bytes(answers):
    worst_up = max(a.usage["shoal"]["round_up_max"] for a in answers)
    worst_down = max(a.usage["shoal"]["round_down_max"] for a in answers)
    expect(0 < worst_up <= 200 and 0 < worst_down <= 200, f"a round cost {worst_up} up, {worst_down} down")
    return worst_up, worst_down


def test_exact_batched_and_corrupted_equals_cloud():
    some = cases()
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        cloud = site.cloud(full).start()
        # A fixed length: a cloud as near as here may be left to decode all the time, and no draft be judged.
        plain = site.edge(edge_model, cloud.address, coop__draft_tokens=6).start()
        corrupt = site.edge(edge_model, cloud.address, coop__draft_tokens=6, fault__flip_ratio=0.3).start()
        reference = ask_all(plain.address, "cloud", some)
        drafted = ask_all(plain.address, "exact", some)
        corrupted = ask_all(corrupt.address, "exact", some)
        wrong = list(differing(some, reference, drafted)) + list(differing(some, reference, corrupted))
        for case, a, b in wrong[:3]:
            print(f"differs: {case}\n  cloud {a.ids}\n  exact {b.ids}")
        expect(not wrong, f"{len(wrong)} of {2 * len(some)} generations differ (seed {SEED})")
        up, down = check_round_bytes(drafted + corrupted)
        judged = sum(a.usage["shoal"]["drafted"] for a in drafted)
        accepted = sum(a.usage["shoal"]["accepted"] for a in drafted)
        bad = sum(a.usage["shoal"]["accepted"] for a in corrupted) / max(1, sum(a.usage["shoal"]["drafted"] for a in corrupted))
        return (f"{len(some)} generations twice, 0 differ; {accepted / max(1, judged):.2f} of drafts accepted "
                f"({bad:.2f} corrupted); a round at most {up} bytes up, {down} down")


def test_exact_of_any_draft_length_equals_cloud():
    """Fixed lengths, and lengths chosen on the way: where drafts are mostly wrong, or the cloud is as near and as fast
    as here, the edge leaves the text to the cloud in the middle of it, and looks or tries again. tests/sim changes
    them far more often."""
    some = cases()[:: max(1, len(cases()) // 12)]
    n = 64 if SANITIZED else 160
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        cloud = site.cloud(full).start()
        kinds = {"1": {"coop__draft_tokens": 1, "coop__window_tokens": 1}, "32": {"coop__draft_tokens": 32},
                 "chosen": {}, "chosen, most wrong": {"fault__flip_ratio": 0.9}}
        edges = {name: site.edge(edge_model, cloud.address, **settings).start() for name, settings in kinds.items()}
        reference = ask_all(edges["1"].address, "cloud", some, n)
        share = {}
        for name, edge in edges.items():
            answers = ask_all(edge.address, "exact", some, n)
            wrong = list(differing(some, reference, answers))
            expect(not wrong, f"drafts {name}: {len(wrong)} of {len(some)} generations differ (seed {SEED})")
            tokens = sum(len(a.ids) for a in answers)
            share[name] = sum(a.usage["shoal"]["drafted"] for a in answers) / tokens
        expect(share["1"] > 0.4 and share["32"] > 0.8, f"fixed lengths draft all along: {share}")
        expect(share["chosen, most wrong"] < 0.5, f"the edge goes on with drafts that fall: {share}")
        return ", ".join(f"{name}: {value:.2f} drafts judged a token" for name, value in share.items())


def test_a_cloud_is_spared():
    """Where it is to be spared, most tokens of an answer that is easy to foretell are drafts, judged in few steps."""
    some = [(p, 0.0, 1) for p in (prompts if SANITIZED else questions)(8 if SANITIZED else 40, SEED)]
    with Site(SEED) as site:
        full, edge_model = site.models("Q8_0")
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address, coop__plain_gain=20).start()
        reference = ask_all(edge.address, "cloud", some, width=1)
        answers = ask_all(edge.address, "exact", some, width=1)
        expect(not list(differing(some, reference, answers)), f"generations differ (seed {SEED})")
        share = sum(a.usage["shoal"]["accepted"] for a in answers) / sum(len(a.ids) for a in answers)
        expect(SANITIZED or share > 0.4, f"the cloud decodes what it could judge: {share:.2f} of tokens were drafts that stood")
        return f"{share:.2f} of tokens were drafts that stood"


def test_exact_equals_cloud_over_sealed_kv():
    """Whatever form the cloud keeps its KV in, `exact` says what the cloud says over that form; the edge has its own."""
    some = cases()[:: max(1, len(cases()) // 12)]
    n = 64 if SANITIZED else 160
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        said = {}
        for kv, edge_kv in (("f16", "f16"), ("q8", "q4"), ("q4", "q8")):
            cloud = site.cloud(full, kv__type=kv).start()
            edge = site.edge(edge_model, cloud.address, kv__type=edge_kv, coop__draft_tokens=7).start()
            said[kv] = ask_all(edge.address, "cloud", some, n)
            wrong = list(differing(some, said[kv], ask_all(edge.address, "exact", some, n)))
            expect(not wrong, f"{kv}: {len(wrong)} of {len(some)} generations differ (seed {SEED})")
            edge.stop()
            cloud.stop()
        others = sum(a.ids != b.ids for a, b in zip(said["f16"], said["q4"]))
        expect(SANITIZED or others > 0, "q4 changes no text at all: is it used?")
        return f"{len(some)} generations over f16, q8 and q4, 0 differ; {others} are others over q4 than over f16"


def test_exact_one_at_a_time_equals_batched():
    some = cases()[:: max(1, len(cases()) // 24)]
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        cloud = site.cloud(full).start()
        edge = site.edge(edge_model, cloud.address).start()
        together = ask_all(edge.address, "exact", some)
        alone = [ask(edge.address, "cloud", case) for case in some]
        wrong = list(differing(some, alone, together))
        expect(not wrong, f"{len(wrong)} of {len(some)} differ (seed {SEED})")


def test_cloud_killed_at_random_moments_changes_nothing():
    rng = random.Random(SEED + 1)
    some = [c for c in cases() if c[1] != 1.2][: 4 * WIDTH]
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        port = free_port()
        cloud = site.cloud(full, port).start()
        edge = site.edge(edge_model, cloud.address, coop__reconnect_ms=60000).start()
        n = 160
        reference = ask_all(edge.address, "cloud", some, n)
        kills = 0
        lost_streams = 0
        stop = threading.Event()
        failure = []

        def killer():
            nonlocal kills
            try:
                while not stop.is_set() and kills < N_KILLS:
                    time.sleep(rng.uniform(0.02, 0.35))
                    cloud.kill()
                    kills += 1
                    time.sleep(rng.uniform(0, 0.05))
                    cloud.start()
            except BaseException as error:  # noqa: BLE001
                failure.append(error)

        thread = threading.Thread(target=killer)
        thread.start()
        try:
            rounds = 0
            while kills < N_KILLS and not failure:
                for mode in ("exact", "cloud"):
                    answers = ask_all(edge.address, mode, some, n)
                    wrong = list(differing(some, reference, answers))
                    for case, a, b in wrong[:3]:
                        print(f"differs: {case}\n  cloud {a.ids}\n  {mode} {b.ids}")
                    expect(not wrong, f"{len(wrong)} of {len(some)} differ after {kills} kills (seed {SEED})")
                    lost_streams += sum(a.usage["shoal"]["reconnects"] for a in answers)
                    rounds += 1
        finally:
            stop.set()
            thread.join()
        expect(not failure, f"the cloud did not come back: {failure}")
        expect(lost_streams > 0, "no stream was ever cut: the kills missed")
        return f"{kills} kills, {lost_streams} streams cut and resumed, {rounds * len(some)} answers, 0 differ"


def test_a_cloud_that_becomes_another_mixes_no_answer():
    """Another model of the family comes up where the first was killed: no text is begun by one and ended by the other, and
    what had not begun is the new one's."""
    some = [c for c in cases() if c[1] == 0.0][:WIDTH + 2]
    n = 160
    with Site(SEED) as site:
        full, edge_model = site.models("Q4_0")
        other = site.file("other.gguf")
        run(binary("shoal-forge"), "convert", "-m", full, "--type", "Q4_0", "-o", other)
        cloud = site.cloud(full, free_port()).start()
        edge = site.edge(edge_model, cloud.address, coop__reconnect_ms=60000).start()

        def become(model):
            cloud.kill()
            cloud.settings["model.path"] = model
            cloud.start()

        of = {full: ask_all(edge.address, "cloud", some, n, len(some))}
        become(other)
        of[other] = ask_all(edge.address, "exact", some, n, len(some))
        right = {model: [answer.ids for answer in answers] for model, answers in of.items()}
        expect(all(a.error is None for a in of[other]), f"a new model is not asked: {[a.error for a in of[other]]}")
        expect(right[full] != right[other], "the two models say the same")
        n_cut = 0
        for model, mode in ((full, "exact"), (other, "cloud"), (full, "cloud"), (other, "exact")):
            begun = threading.Semaphore(0)
            calls = [lambda c=c: ask(edge.address, mode, c, n, lambda a: begun.release() if a.ids else None) for c in some]
            answers = []
            thread = threading.Thread(target=lambda calls=calls, answers=answers: answers.extend(parallel(calls, len(calls))))
            thread.start()
            for _ in range(2 * len(some)):
                expect(begun.acquire(timeout=60), "no answer begins")
            become(model)
            thread.join()
            for case, answer, *whole in zip(some, answers, right[full], right[other]):
                expect(answer.error or answer.ids in whole, f"{mode}: {case}: {answer.ids}, neither of {whole}")
                n_cut += answer.error is not None
        expect(n_cut > 0, "no answer was cut in its middle")
        return f"{n_cut} of {4 * len(some)} answers cut, the others whole"


if __name__ == "__main__":
    main([test_exact_batched_and_corrupted_equals_cloud, test_exact_of_any_draft_length_equals_cloud, test_a_cloud_is_spared,
          test_exact_equals_cloud_over_sealed_kv, test_exact_one_at_a_time_equals_batched,
          test_cloud_killed_at_random_moments_changes_nothing, test_a_cloud_that_becomes_another_mixes_no_answer])
