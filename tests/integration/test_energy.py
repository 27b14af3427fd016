#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The energy of answers with real daemons, and meters in files that the test writes."""
import math
import os
import signal
import threading
import time

from harness import SANITIZED, Site, complete, expect, main, request, run, binary, wait_until
from test_assist import ask, asked, status

BAND = 0.04  # share of a budget that may be spent at once


def write(path, text):
    with open(path + ".new", "w", encoding="ascii") as f:
        f.write(text)
    os.rename(path + ".new", path)


def metrics(url):
    lines = request(url, "GET", "/metrics")[2].decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("shoal_energy"))}


def draw(cloud, edge, meter, joules, prompt, slack=1e-5):
    """One answer during which the meter's counter grows by so much: the cloud stands still meanwhile."""
    before = status(edge.address)["energy"]["used_j"]
    cloud.freeze()
    try:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(ask(edge.address, prompt, "cloud", n=4)))
        asking.start()
        wait_until(lambda: status(edge.address)["requests"]["active"] == 1, what="a request under way")
        with open(meter, encoding="ascii") as f:
            counter = int(f.read())
        write(meter, f"{counter + round(joules * 1e6)}\n")
    finally:
        cloud.process.send_signal(signal.SIGCONT)
    asking.join()
    expect(answers, "the answer under which the meter grew")
    used = status(edge.address)["energy"]["used_j"]
    expect(abs(used - before - joules) < slack, f"{used} J are charged after {before} J and {joules} J")


def test_answers_are_charged_and_an_idle_device_is_not():
    """A file with watts; one that is lost, and comes back."""
    with Site(41) as site:
        _, edge_model = site.models()
        meter = site.file("watts")
        write(meter, "5\n")
        edge = site.edge(edge_model, energy__meter="power_w", energy__path=meter).start()
        prompts = [p for p, _ in asked(6, 41)]
        first = status(edge.address)["energy"]
        expect(first["meter"] == "power_w" and first["up"] and first["used_j"] == 0 and first["trouble"] is None, f"{first}")
        took = 0.0
        for prompt in prompts[:4]:
            started = time.monotonic()
            ask(edge.address, prompt, "local")
            took += time.monotonic() - started
        now = status(edge.address)["energy"]
        expect(0 < now["used_j"] <= 5 * took, f"{now} in {took} s of 5 W")
        expect(now["cloud_only_j"] == now["used_j"] and now["saved_j"] == 0, f"nothing is known of a cloud: {now}")
        expect(status(edge.address)["energy"]["used_j"] == now["used_j"], "an idle device is charged")
        told = metrics(edge.address)
        expect(abs(told["shoal_energy_joules_total"] - now["used_j"]) < 1e-5 and told["shoal_energy_meter_up"] == 1, f"{told}")
        os.unlink(meter)
        ask(edge.address, prompts[4], "local")
        lost = status(edge.address)["energy"]
        expect(not lost["up"] and meter in lost["trouble"] and lost["used_j"] > now["used_j"], f"{lost}")
        expect(metrics(edge.address)["shoal_energy_meter_up"] == 0, "the meter is up though it is gone")
        write(meter, "five\n")
        ask(edge.address, prompts[4], "local")
        lost = status(edge.address)["energy"]
        expect(not lost["up"] and "five" in lost["trouble"], f"{lost}")
        write(meter, "6\n")
        ask(edge.address, prompts[5], "local")
        expect(status(edge.address)["energy"]["up"], "the meter is back")
        plain = site.edge(edge_model).start()
        expect("energy" not in status(plain.address) and not metrics(plain.address), "energy without a meter")


def test_meter_that_is_none_stops_the_start():
    with Site(42) as site:
        _, edge_model = site.models()
        garbage = site.file("garbage")
        write(garbage, "much\n")
        for settings, words in (({"energy.meter": "power_w", "energy.path": site.file("none")}, ("energy.meter", "none", "No such file")),
                                ({"energy.meter": "energy_uj", "energy.path": garbage}, ("energy.meter", garbage, "much")),
                                ({"energy.meter": "power_uw"}, ("energy.meter", "a file is needed")),
                                ({"energy.meter": "rapl", "energy.path": site.path}, ("energy.meter", "no RAPL")),
                                ({"budget.energy_j_per_day": "5"}, ("budget.energy_j_per_day", "set energy.meter"))):
            chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
            ended = run(binary("shoal-edge"), "--set", f"model.path={edge_model}", "--set", "listen.address=127.0.0.1:0", *chosen, check=False)
            expect(ended.returncode != 0 and all(word in ended.stderr for word in words), f"{settings}: {ended.stderr}")


def test_budget_that_is_spent_makes_requests_wait_and_says_so():
    """Every mode, local too: what comes in time is waited for, what does not is refused."""
    with Site(43) as site:
        full, edge_model = site.models()
        meter = site.file("uj")
        write(meter, "123\n")
        cloud = site.cloud(full).start()
        prompt = asked(1, 43)[0][0]
        per_s = 1  # joules that are released
        started = time.monotonic()
        edge = site.edge(edge_model, cloud.address, energy__meter="energy_uj", energy__path=meter,
                         budget__energy_j_per_hour=3600 * per_s).start()
        ask(edge.address, prompt, "cloud")
        expect(status(edge.address)["energy"]["budget_level"] == 1, f"{status(edge.address)['energy']}")
        joules = 3600 * per_s * BAND + (time.monotonic() - started) * per_s + 4
        draw(cloud, edge, meter, joules, prompt)
        asked_at = time.monotonic()
        for mode in ("local", "assist", "exact", "cloud"):
            refused = complete(edge.address, prompt, mode, n=4, shoal={"mode": mode, "deadline_ms": 200})
            expect(refused.status == 429 and "budget.energy_j_per_hour" in refused.error["message"], f"{mode}: {refused.status} {refused.error}")
        now = status(edge.address)
        budget = now["assist"]["budgets"][0]
        expect(budget["what"] == "energy_uj" and budget["limit"] == 3600 * per_s * 10**6 and now["energy"]["budget_level"] == 0, f"{now}")
        expect(abs(budget["used"] - joules * 1e6) < 10, f"{budget} of {joules} J")
        answer = ask(edge.address, prompt, "local")
        waited = time.monotonic() - asked_at
        expect(answer.ids and waited > 2, f"the next answer began after {waited:.1f} s though nothing was left for 4 s")
        ratio = 'shoal_budget_used_ratio{what="energy_uj",per="hour"}'
        expect(ratio in request(edge.address, "GET", "/metrics")[2].decode(), "the budget is no metric")


def test_cloud_that_costs_more_is_asked_less_when_energy_is_short():
    with Site(44) as site:
        full, edge_model = site.models()
        meter = site.file("uj")
        write(meter, "0\n")
        cloud = site.cloud(full).start()
        budget = 100000
        # Nothing but the radio draws power here.
        edge = site.edge(edge_model, cloud.address, assist__rate=0.7, energy__meter="energy_uj", energy__path=meter,
                         energy__radio_nj_per_byte=1e6, budget__energy_j_per_hour=budget).start()
        some = [p for p, _ in asked(8, 44)]
        free = [ask(edge.address, p, mode) for mode in ("assist", "cloud") for p in some]
        expect(any("cloud" in a.tiers for a in free[:len(some)]), "the cloud was never asked")
        now = status(edge.address)["energy"]
        sent = sum(a.usage["shoal"]["bytes_up"] + a.usage["shoal"]["bytes_down"] for a in free)
        totals = status(edge.address)["totals"]
        ways = totals["packet_bytes_up"], totals["packet_bytes_down"]  # connecting too, which is no answer's
        expect(2 * sent < 1000 * now["used_j"] < sum(ways), f"{now} for {sent} bytes of messages and {ways} of packets, of 1 mJ")
        expect(SANITIZED or max(ways) < 1000 * now["used_j"], f"{now}: one way alone is charged of {ways}")
        expect(now["cloud_token_mj"] and not now["edge_token_mj"] and now["budget_level"] == 1, f"{now}")
        draw(cloud, edge, meter, budget * BAND * 0.95, some[0], slack=10)  # its own bytes are charged too
        scarce = [ask(edge.address, p, "assist") for p in some]
        expect(all(set(a.tiers) <= {"edge", "exit"} for a in scarce), f"{[a.tiers for a in scarce]}")
        now = status(edge.address)["energy"]
        expect(0 <= now["budget_level"] < 1 and now["saved_j"] > -budget, f"{now}")


def test_cloud_that_costs_less_takes_whole_answers_when_energy_is_short():
    """A device that computes slowly beside a cloud that does not, both at 5 W: what takes less time costs less."""
    if SANITIZED:
        return "not for models that know nothing"
    with Site(45) as site:
        full, edge_model = site.models()
        meter = site.file("watts")
        write(meter, "5.0\n")
        cloud = site.cloud(edge_model).start()
        some = [p for p, _ in asked(60, 45)]

        def device(**budget):
            return site.edge(full, cloud.address, assist__rate=0.4, cpu__mask="scalar", model__threads=1, energy__meter="power_w",
                             energy__path=meter, **budget).start()

        free = device()
        ask(free.address, some[0], "cloud")
        answers = [ask(free.address, p, "assist") for p in some[:6]]
        expect(not any(set(a.tiers) == {"cloud"} for a in answers), f"{[a.tiers for a in answers]}")
        now = status(free.address)["energy"]
        expect(now["edge_token_mj"] > now["cloud_token_mj"] > 0 and now["saved_j"] < 0, f"the cloud costs less: {now}")
        short = device(budget__energy_j_per_hour=math.ceil(now["used_j"] / 7 * 20 / BAND))
        ask(short.address, some[0], "cloud")
        whole, n = 0, 0
        while whole < 3 and n < len(some):
            answer = complete(short.address, some[n], "assist", chat=True, temperature=0, shoal={"mode": "assist", "deadline_ms": 5000})
            expect(answer.error is None or answer.status == 429, f"{answer.error}")
            if answer.error is None and set(answer.tiers) == {"cloud"}:
                whole += 1
                expect(answer.ids == ask(free.address, some[n], "cloud").ids, "not the cloud's answer")
            n += 1
        expect(whole == 3, f"{whole} of {n} answers were the cloud's: {status(short.address)['energy']}")
        return f"{whole} of {n} answers were the cloud's as a whole"


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_") and value.__module__ == "__main__"])
