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


def adapters_of(site, model, seed=3):
    one, two = site.tiny_lora(seed, model, rank=2), site.tiny_lora(seed + 2, model, rank=7)
    return {"one": one, "two": two, "half": f"{two}=0.5"}


def listed_as(files):
    return ", ".join(f"{name}={file}" for name, file in files.items())


def test_each_in_a_batch_says_what_it_says_alone():
    with Site(SEED) as site:
        model = site.tiny_model(8, "Q8_0")
        files = adapters_of(site, model)
        edge = site.edge(model, model__name="base", model__adapters=listed_as(files)).start()
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
        edge = site.edge(model, model__adapters=listed_as(files)).start()
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


def test_the_cloud_answers_with_its_own_of_that_name():
    """Both sides have another model and other files; the cloud's text is that of its model with its file, alone and in batches."""
    with Site(SEED) as site:
        full, small = site.tiny_model(8, "Q8_0"), site.tiny_model(9, "Q8_0")
        ours, theirs = adapters_of(site, small, 13), adapters_of(site, full)
        cloud = site.cloud(full, model__adapters=listed_as(theirs)).start()
        edge = site.edge(small, cloud.address, model__adapters=listed_as(ours), coop__draft_tokens=3).start()
        calls = [(name, words(i)) for i in range(3 if SANITIZED else 8) for name in NAMES]
        right = [said(full, p, theirs.get(n)) for n, p in calls]
        for mode in ("cloud", "exact"):
            answers = parallel([lambda n=n, p=p: ask(edge, p, n, mode) for n, p in calls], 8)
            for (name, prompt), answer, ids_right in zip(calls, answers, right):
                expect(answer.ids[:len(ids_right)] == ids_right, f"{mode} {name}, {prompt}: {answer.ids}, alone {ids_right}")
        for i, name in enumerate(NAMES[1:], 1):
            expect(right[i::4] != right[0::4], f"{name} changes nothing")
        status = json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])
        expect(status["cloud"]["adapters"] == list(theirs), f"{status['cloud']}")
        return f"{2 * len(calls)} answers"


def test_kv_of_one_is_of_no_use_to_another():
    with Site(SEED) as site:
        full, small = site.tiny_model(8, "Q8_0"), site.tiny_model(9, "Q8_0")
        files = adapters_of(site, full)
        text = site.file("public.txt")
        with open(text, "w", encoding="ascii") as f:
            f.write(words(20) * 3)
        cloud = site.cloud(full, model__adapters=listed_as(files), prefix__public=text).start()
        edge = site.edge(small, cloud.address, model__adapters=listed_as(adapters_of(site, small, 13))).start()
        prompt = words(20) * 3 + words(5)
        cached = {}
        for name in (*NAMES, *NAMES):
            answer = ask(edge, prompt, name, "cloud")
            ids_right = said(full, prompt, files.get(name))
            expect(answer.ids[:len(ids_right)] == ids_right, f"{name}: {answer.ids}, alone {ids_right}")
            cached.setdefault(name, []).append(answer.usage["prompt_tokens_details"]["cached_tokens"])
        for name, (first, again) in cached.items():
            expect(first == 0 and again >= 32, f"{name} found {first} tokens of others, {again} of its own: {cached}")
        return f"{cached}"


def test_what_the_cloud_lacks_it_does_not_write():
    with Site(SEED) as site:
        full, small = site.tiny_model(8, "Q8_0"), site.tiny_model(9, "Q8_0")
        ours, theirs = adapters_of(site, small, 13), adapters_of(site, full)
        del theirs["two"]
        cloud = site.cloud(full, model__adapters=listed_as(theirs)).start()
        edge = site.edge(small, cloud.address, model__adapters=listed_as(ours), assist__rate=0.7).start()
        for mode in ("cloud", "exact"):
            answer = complete(edge.address, words(1), mode, n=N_ANSWER, model="two")
            expect(answer.error and '"two"' in answer.error["message"] and "model.adapters" in answer.error["message"],
                   f"{mode}: {answer.error} {answer.ids}")
        alone = ask(edge, words(1), "two", "assist")
        expect(set(alone.tiers) == {"edge"} and alone.ids == ask(edge, words(1), "two").ids, f"{alone.ids} {alone.tiers}")
        expect("cloud" in ask(edge, words(1), "one", "assist").tiers, "assist never asks this cloud")


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
          test_the_cloud_answers_with_its_own_of_that_name, test_kv_of_one_is_of_no_use_to_another,
          test_what_the_cloud_lacks_it_does_not_write,
          test_what_cannot_be_served_is_refused_at_the_start])
