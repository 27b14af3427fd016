#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters that requests choose by the model's name: several on one base, in one batch, each as if it were alone."""
import json

from harness import SANITIZED, Site, binary, complete, expect, main, parallel, request, run

SEED = 29
NAMES = (None, "one", "two", "half")
N_ANSWER = 16


def ids(n, seed):
    return [201 + (seed * 7919 + i * i * 31 + i * 17) % 50 for i in range(n)]


def ask(edge, prompt, adapter=None, mode="local", **fields):
    model = {"model": adapter} if adapter else {}
    answer = complete(edge.address, prompt, mode, n=N_ANSWER, temperature=0, **model, **fields)
    expect(answer.error is None, f"{answer.error}")
    return answer


def said(model, prompt, lora):
    adapter = ["--lora", lora] if lora else []
    done = run(binary("shoal-forge"), "generate", "-m", model, "-p", prompt, "-n", str(N_ANSWER), "--json", *adapter)
    return json.loads(done.stdout)["ids"]


def words(i):
    return " ".join("abcdefghij"[(i * 7 + k * k) % 10] * (1 + k % 3) for k in range(6 + 2 * i))


def adapters_of(site, model):
    one, two = site.tiny_lora(3, model, rank=2), site.tiny_lora(5, model, rank=7)
    return {"one": one, "two": two, "half": f"{two}=0.5"}


def test_each_in_a_batch_says_what_it_says_alone():
    with Site(SEED) as site:
        model = site.tiny_model(8, "Q8_0")
        files = adapters_of(site, model)
        edge = site.edge(model, model__name="base", model__adapters=", ".join(f"{n}={f}" for n, f in files.items())).start()
        listed = json.loads(request(edge.address, "GET", "/v1/models")[2])["data"]
        expect([m["id"] for m in listed] == ["base", "one", "two", "half"], f"{listed}")
        calls = [(name, words(i)) for i in range(4 if SANITIZED else 12) for name in NAMES]
        answers = parallel([lambda n=n, p=p: ask(edge, p, n) for n, p in calls], 8)
        right = [said(model, p, files.get(n)) for n, p in calls]
        for (name, prompt), answer, ids_right in zip(calls, answers, right):
            expect(answer.ids[:len(ids_right)] == ids_right, f"{name}, {prompt}: {answer.ids}, alone {ids_right}")
        for i, name in enumerate(NAMES[1:], 1):
            expect(right[i::4] != right[0::4], f"{name} changes nothing")
        return f"{len(calls)} answers"


def test_a_session_is_of_its_adapter():
    with Site(SEED) as site:
        model = site.tiny_model(8, "Q8_0")
        files = adapters_of(site, model)
        edge = site.edge(model, model__adapters=",".join(f"{n}={f}" for n, f in files.items())).start()
        prompt = ids(80, 1)
        shoal = {"shoal": {"mode": "local", "session": "s"}}
        first = ask(edge, prompt, "one", **shoal)
        more = prompt + first.ids + ids(8, 2)
        again = ask(edge, more, "one", **shoal)
        expect(again.usage["shoal"]["kept_tokens"] > len(prompt), f"{again.usage}")
        status, _, body = request(edge.address, "GET", "/v1/shoal/sessions/s")
        expect(status == 400 and b"adapter one" in body, f"{status} {body}")
        other = ask(edge, more, "two", **shoal)
        expect(other.usage["shoal"]["kept_tokens"] == 0, f"{other.usage}")
        expect(again.ids == ask(edge, more, "one").ids and other.ids == ask(edge, more, "two").ids, "another text")


def test_what_cannot_be_served_is_refused_at_the_start():
    with Site(SEED) as site:
        model = site.tiny_model(8, "Q8_0")
        files = adapters_of(site, model)
        for text, why in ((f"base={files['one']}", "model.name"), ("one", "NAME=FILE"), (f"one={model}", "adapter")):
            edge = site.edge(model, model__name="base", model__adapters=text)
            site.daemons.remove(edge)
            try:
                edge.start()
            except AssertionError as error:
                expect(why in str(error), f"{text}: {error}")
            else:
                raise AssertionError(f"an edge started with {text}")


if __name__ == "__main__":
    main([test_each_in_a_batch_says_what_it_says_alone, test_a_session_is_of_its_adapter,
          test_what_cannot_be_served_is_refused_at_the_start])
