#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions of the edge: what was computed for a text is kept and not computed again, and no answer is changed by it."""
import json
import os
import random

from harness import FAMILY_EOS, SANITIZED, Site, binary, complete, expect, main, parallel, request, run

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


def save(edge, name):
    status, headers, blob = request(edge.address, "GET", f"/v1/shoal/sessions/{name}")
    expect(status == 200 and headers["Content-Type"] == "application/octet-stream", f"{status} {blob[:300]}")
    return blob


def load(edge, name, blob):
    return request(edge.address, "PUT", f"/v1/shoal/sessions/{name}", blob)


def refused(answer, status, code, *words):
    error = json.loads(answer[2])["error"]
    expect(answer[0] == status and error["code"] == code, f"{answer[0]} {error}, not {status} {code}")
    for word in words:
        expect(word in error["message"], f"{word!r} is not in {error['message']!r}")


def sessions(edge):
    return json.loads(request(edge.address, "GET", "/v1/shoal/sessions")[2])["sessions"]


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


def test_early_exits_do_not_see_what_was_kept():
    """Whether a token may leave early must not follow from how many others are fed with it."""
    with Site(SEED) as site:
        model = site.tiny_model(8, variant="exits") if SANITIZED else site.models()[1]
        settings = {"exit__policy": "fixed:threshold=0", "kv__type": "q8"}
        edge, alone = site.edge(model, **settings).start(), site.edge(model, session__max="0", **settings).start()
        prompt = ids(N_FIRST, SEED)
        n_left = 0
        for turn in range(4):
            answer, right = ask(edge, prompt, "s"), ask(alone, prompt)
            same(answer, right, f"turn {turn}")
            expect(answer.tiers == right.tiers and answer.tiers[0] == "edge", f"turn {turn}: {answer.tiers} {right.tiers}")
            # A token that left at the end is not kept: it lacks layers.
            expect((turn > 0) == (answer.usage["shoal"]["kept_tokens"] > N_FIRST - 1), f"turn {turn}: {answer.usage}")
            n_left += answer.tiers.count("exit")
            prompt = prompt + answer.ids + ids(1 + turn, turn)
        expect(n_left > 0, "nothing left early")


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


def test_session_survives_a_restart_and_roams():
    """What an edge saved, itself after a restart and another edge go on with: the same text, nothing computed again."""
    with Site(SEED) as site:
        _, model = site.models()
        for kv in ("f16", "q8", "k8v4", "q4*1,q8", "h-k4v3", "q4"):
            form = {"kv__levels" if "," in kv else "kv__type": kv.removeprefix("h-")}
            form |= {"kv__hadamard": "true"} if kv.startswith("h-") else {}
            alone = site.edge(model, session__max="0", **form).start()
            edge = site.edge(model, **form).start()
            other = site.edge(model, model__threads="1", cpu__mask="avx2", **form).start()
            first = ids(N_FIRST, SEED)
            prompt = first + ask(edge, first, "pump-7").ids + ids(N_MORE, 3)
            n_kept = N_FIRST + N_ANSWER - 1
            [told] = sessions(edge)
            expect(told["name"] == "pump-7" and told["tokens"] == n_kept and told["kv_bytes"] > 0, f"{told}")
            blob = save(edge, "pump-7")
            right = ask(edge, prompt, "pump-7")
            same(right, ask(alone, prompt), f"{kv}: the uninterrupted session")
            edge.stop()
            edge.start()
            expect(sessions(edge) == [], "a new edge keeps nothing")
            for where in (edge, other):
                status, _, body = load(where, "pump-7", blob)
                expect(status == 200 and json.loads(body)["tokens"] == n_kept, f"{kv}: {status} {body}")
                expect(save(where, "pump-7") == blob, f"{kv}: what was loaded is not what was saved")
                answer = ask(where, prompt, "pump-7")
                check_reuse(answer, n_kept, len(prompt), f"{kv}: after the load")
                same(answer, right, f"{kv}: after the load")
            # All of a text was kept: of the same prompt again one token is computed, to have something to sample from.
            expect(load(other, "again", save(other, "pump-7"))[0] == 200, "a copy under another name")
            expect(request(other.address, "DELETE", "/v1/shoal/sessions/pump-7")[0] == 200, "dropped")
            expect([s["name"] for s in sessions(other)] == ["again"], f"{sessions(other)}")
            for daemon in (alone, edge, other):
                daemon.stop()
        return f"{len(blob)} bytes of q4"


def test_a_session_is_archived_where_the_operator_says_so():
    if SANITIZED:
        return "skipped: units are judged by tests/unit/session, and a basis of the family takes long"
    with Site(SEED) as site:
        _, model = site.models()
        text, basis, other = site.file("text"), site.file("kv.basis"), site.file("other.basis")
        with open(text, "w", encoding="ascii") as f:
            f.write("\n".join(f"What does H{i % 90} mean on the Tapir {i % 30}? Look at step {i} first." for i in range(400)))
        for rate, file in (("2", basis), ("1", other)):
            run(binary("shoal-forge"), "kv-calibrate", "-m", model, "-f", text, "--tokens", "2048", "--bits", rate, "-o", file)
        exact = site.edge(model).start()
        edge = site.edge(model, kv__archive=basis, session__level="archive").start()
        takes = site.edge(model, kv__archive=basis).start()
        first = ids(600, SEED)
        prompt = first + ask(edge, first, "s").ids + ids(N_MORE, 3)
        same(ask(exact, first, "s"), ask(edge, first, "t"), "what is in memory is exact")
        plain, blob = save(exact, "s"), save(edge, "s")
        n_kept = 600 + N_ANSWER - 1
        expect(len(blob) < 0.5 * len(plain), f"{len(blob)} bytes archived, {len(plain)} exact")
        right = ask(exact, prompt, "s")
        edge.stop()
        edge.start()
        for where in (edge, takes):
            status, _, body = load(where, "s", blob)
            expect(status == 200 and json.loads(body)["tokens"] == n_kept, f"{status} {body}")
        answers = [ask(where, prompt, "s") for where in (edge, takes)]
        check_reuse(answers[0], n_kept, len(prompt), "after the load")
        same(answers[1], answers[0], "two edges that loaded the same")
        archived = [a.usage["shoal"]["archived_tokens"] for a in (right, answers[0], answers[1])]
        expect(archived == [0, n_kept, n_kept], f"{archived}")
        # What came archived is saved as such also where sessions are saved exact.
        again = save(takes, "s")
        expect(again[8:12] == blob[8:12] != plain[8:12], f"{again[8:12]}, {blob[8:12]}, {plain[8:12]}")
        refused(load(exact, "s", again), 409, "session_mismatch", "kv.archive")
        alike = sum(a == b for a, b in zip(answers[0].ids, right.ids))
        # Never silently: who was not told to take what is not exact refuses, and so does another basis.
        refused(load(exact, "s", blob), 409, "session_mismatch", "kv.archive", blob[136:168].hex())
        another = site.edge(model, kv__archive=other).start()
        refused(load(another, "s", blob), 409, "session_mismatch", "basis", blob[136:168].hex())
        expect(load(edge, "exact", plain)[0] == 200, "an exact session is taken by all")
        same(ask(edge, prompt, "exact"), right, "after an exact load")
        # A text of fewer than 160 tokens has nothing to archive.
        for where in (edge, exact):
            ask(where, first[:150], "short", n=2)
        expect(save(edge, "short") == save(exact, "short"), "a short session")
        for settings, why in (({"session__level": "archive"}, "kv.archive"), ({"kv__archive": text}, "not a GGUF file"),
                              ({"kv__archive": basis, "kv__type": "q8"}, "kv.type f16"),
                              ({"kv__archive": basis, "kv__evict": "h2o"}, "kv.evict none")):
            daemon = site.edge(model, **settings)
            site.daemons.remove(daemon)
            try:
                daemon.start()
            except AssertionError as error:
                expect(why in str(error), f"{settings}: {error}")
            else:
                raise AssertionError(f"an edge started with {settings}")
        return f"{len(blob)} bytes, exact {len(plain)}; {alike} of {N_ANSWER} tokens as exact"


def test_restored_session_drafts_for_a_cloud():
    with Site(SEED) as site:
        full, model = site.models()
        cloud = site.cloud(full).start()
        edges = [site.edge(model, cloud.address, coop__draft_tokens="4").start() for _ in range(2)]
        first = ids(N_FIRST, SEED)
        prompt = first + ask(edges[0], first, "s", mode="exact").ids + ids(N_MORE, 3)
        blob = save(edges[0], "s")
        right = ask(edges[0], prompt, "s", mode="exact")
        same(right, ask(edges[0], prompt, mode="cloud"), "exact and cloud")
        expect(load(edges[1], "s", blob)[0] == 200, "the load")
        answer = ask(edges[1], prompt, "s", mode="exact")
        same(answer, right, "on another edge")
        kept = answer.usage["shoal"]["kept_tokens"]
        expect(kept >= N_FIRST and answer.usage["shoal"]["prefilled_tokens"] <= len(prompt) - kept, f"{answer.usage}")


def test_command_line_saves_and_loads():
    """A person's way: ask under a name, save, start anew, load, ask on. The text is what it would have been."""
    with Site(SEED) as site:
        _, model = site.models()
        edge = site.edge(model).start()

        def shoal(*words, check=True):
            return run(binary("shoal"), "--url", edge.address, *words, check=check)

        def say(text):
            done = shoal("ask", "--raw", "--mode", "local", "--temp", "0", "--max-tokens", "12", "--session", "s", "--json", text)
            return json.loads(done.stdout)["text"]

        question = "What does H40 mean on the Tapir 10, and what should I look at first when it comes back?"
        text = question + say(question)
        file = site.file("s.shoal")
        shoal("session", "save", "s", file)
        expect("s   " in shoal("session", "list").stdout, "the list names it")
        right = say(text + " And then")
        edge.stop()
        edge.start()
        expect(shoal("session", "list").stdout == "", "nothing is kept")
        shoal("session", "load", "s", file)
        [told] = json.loads(shoal("session", "list", "--json").stdout)["sessions"]
        expect(told["name"] == "s", f"{told}")
        expect(say(text + " And then") == right, "the text after the load")
        expect(metric(edge, "shoal_session_reused_tokens_total") > 32, "nothing was reused")
        shoal("session", "rm", "s")
        gone = shoal("session", "save", "s", file + "2", check=False)
        expect(gone.returncode == 1 and "no session s" in gone.stderr and not os.path.exists(file + "2"), f"{gone}")


def test_blobs_that_are_not_right_are_refused():
    with Site(SEED) as site:
        _, model = site.models()
        edge = site.edge(model).start()
        ask(edge, ids(40, SEED), "s", n=4)
        blob = save(edge, "s")
        rng = random.Random(SEED)
        places = [*range(0, 200, 7), *(rng.randrange(len(blob)) for _ in range(150)), len(blob) - 1]
        for at in places:
            broken = bytearray(blob)
            broken[at] ^= 1 << rng.randrange(8)
            status, _, body = load(edge, "t", bytes(broken))
            code = json.loads(body)["error"]["code"]
            expect(status in (400, 409) and code.startswith("session_"), f"byte {at} (seed {SEED}): {status} {body}")
        for n in (0, 1, 159, 160, len(blob) // 2, len(blob) - 1):
            refused(load(edge, "t", blob[:n]), 400, "session_invalid")
        refused(load(edge, "t", blob + b"x"), 400, "session_invalid", "follow")
        expect([s["name"] for s in sessions(edge)] == ["s"], "a broken session was kept")
        # Of another model, another form, another secret: both hashes are told.
        other = site.edge(model, kv__type="q8").start()
        refused(load(other, "s", blob), 409, "session_mismatch", "KV form", "kv.type")
        turned = site.edge(model, kv__hadamard="true").start()
        ask(turned, ids(40, SEED), "s", n=4)
        other_blob = save(turned, "s")
        forms = [b[80:112].hex() for b in (blob, other_blob)]  # KVWIRE.md
        refused(load(turned, "s", blob), 409, "session_mismatch", "KV form", "kv.hadamard", *forms)
        refused(load(edge, "s", other_blob), 409, "session_mismatch", "KV form", "kv.hadamard", *forms)
        another = site.edge(site.tiny_model(7)).start()
        refused(load(another, "s", blob), 409, "session_mismatch", "model", blob[16:48].hex())
        with open(site.file("secret"), "w", encoding="ascii") as f:
            f.write("of-a-fleet\n")
        fleet = [site.edge(model, session__secret_file=site.file("secret")).start() for _ in range(2)]
        expect(load(fleet[0], "s", blob)[0] == 409, "a session without the secret was taken")
        ask(fleet[0], ids(40, SEED), "s", n=4)
        expect(load(fleet[1], "s", save(fleet[0], "s"))[0] == 200, "a session of the fleet was refused")
        expect(load(edge, "t", save(fleet[0], "s"))[0] == 409, "a session of the fleet was taken")
        return f"{len(places)} broken bytes"


def test_sessions_are_bounded_over_http():
    with Site(SEED) as site:
        _, model = site.models()
        edge = site.edge(model, session__max="2").start()
        tight = site.edge(model, session__body_max_kib="1", session__kv_percent="1").start()
        none = site.edge(model, session__max="0").start()
        for name in ("a", "b"):
            ask(edge, ids(N_FIRST, 1), name, n=4)
        blob = save(edge, "a")
        refused(load(tight, "a", blob), 413, "body_too_large", "session.body_max_kib")
        tight.stop()
        tight.settings["session.body_max_kib"] = "4096"
        tight.settings["kv.max_mib"] = "2"
        tight.start()
        refused(load(tight, "a", blob), 409, "session_too_long", "session.kv_percent")
        # Loaded ones are kept like others: the longest unused goes.
        expect(load(edge, "c", blob)[0] == 200 and [s["name"] for s in sessions(edge)] == ["c", "a"], f"{sessions(edge)}")
        refused(request(edge.address, "GET", "/v1/shoal/sessions/b"), 404, "session_not_found")
        refused(request(edge.address, "DELETE", "/v1/shoal/sessions/b"), 404, "session_not_found")
        refused(request(edge.address, "GET", "/v1/shoal/sessions/b%20"), 400, "session_invalid")
        refused(load(edge, "x" * 65, blob), 400, "session_invalid")
        refused(request(none.address, "GET", "/v1/shoal/sessions"), 400, "session_unsupported", "session.max")
        expect(request(edge.address, "POST", "/v1/shoal/sessions/b", b"")[0] == 405, "POST")
        key = site.edge(model, api__key="k").start()
        expect(load(key, "a", blob)[0] == 401, "without the key")


def test_session_past_a_window_is_not_saved():
    with Site(SEED) as site:
        edge = site.edge(site.tiny_model(3, "F32", "gemma3")).start()
        ask(edge, [3 + i % 250 for i in range(700)], "s", n=2)
        refused(request(edge.address, "GET", "/v1/shoal/sessions/s"), 409, "session_too_long", "windowed")
        ask(edge, [3 + i % 250 for i in range(300)], "t", n=2)
        expect(len(save(edge, "t")) > 1000, "a text within the ring is saved")


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
          test_early_exits_do_not_see_what_was_kept, test_kept_sessions_are_few_and_give_way, test_session_survives_a_restart_and_roams,
          test_a_session_is_archived_where_the_operator_says_so, test_restored_session_drafts_for_a_cloud,
          test_command_line_saves_and_loads, test_blobs_that_are_not_right_are_refused,
          test_sessions_are_bounded_over_http, test_session_past_a_window_is_not_saved, test_what_a_session_cannot_be_is_refused])
