#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A prompt's KV from the cloud: the same text as computed here, whatever happens on the way."""
import hashlib
import http.client
import json
import random
import select
import socket
import threading
import time

from harness import SANITIZED, Site, binary, complete, expect, main, request, run, wait_until

SEED = 23
N_PROMPT = 200  # six blocks and eight tokens, in two steps of the edge's model
N_VOCAB = 250
WHOLE = N_PROMPT // 32 * 32


def ids(n, seed):
    rng = random.Random(seed)
    return [rng.randrange(3, N_VOCAB) for _ in range(n)]


def metric(url, name, label=""):
    text = request(url, "GET", "/metrics")[2].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name) and label in line)


def results(edge):
    return {r: metric(edge.address, "shoal_kv_fetches_total", f'"{r}"') for r in ("taken", "late", "failed", "bad")}


def ask(edge, prompt, mode="assist", n=12, **fields):
    # In assist the edge says all of it itself: the text is its own model's, whose KV is fetched.
    shoal = {"mode": mode, **({"max_cloud_tokens": 0} if mode == "assist" else {}), **fields}
    answer = complete(edge.address, prompt, mode, n=n, temperature=0, shoal=shoal)
    expect(answer.error is None, answer.error)
    return answer


def used(answer):
    return answer.usage["shoal"]["fetched_tokens"]


def fed(answer):
    return answer.usage["shoal"]["prefilled_tokens"]


def status(edge):
    return json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])["fetch"]


def knows_cloud(edge):
    return "name" in json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])["cloud"]


def ready(edge):
    wait_until(lambda: knows_cloud(edge), what="the cloud's description")
    return edge


def fetching_edge(site, model, address, **settings):
    base = {"fetch__modes": "all", "fetch__always": "true"}
    return ready(site.edge(model, address, **{**base, **settings}).start())


def http_of(cloud):
    """The address that answers /metrics of a cloud."""
    line = cloud.process.stdout.readline()
    expect(line.startswith("http: "), line)
    return line[6:].strip()


class Relay(threading.Thread):
    """Bytes between an edge and a cloud, so many a second on the way down, cut behind so many of a connection."""

    def __init__(self, target, bytes_per_s):
        super().__init__(daemon=True)
        host, port = target.rsplit(":", 1)
        self.target, self.rate, self.down = (host, int(port)), bytes_per_s, 0
        self.cut_after, self.n_cuts = None, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self):
        while True:
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(self.target)
            except OSError:
                near.close()  # as of a cloud that is gone
                continue
            threading.Thread(target=self.carry, args=(near, far), daemon=True).start()

    def carry(self, near, far):
        down = 0
        try:
            while True:
                for ready_socket in select.select([near, far], [], [])[0]:
                    data = ready_socket.recv(4096)
                    if not data:
                        return
                    if ready_socket is far:
                        self.down += len(data)
                        down += len(data)
                        time.sleep(len(data) / self.rate)
                        if self.cut_after is not None and down > self.cut_after:
                            self.n_cuts += 1
                            return
                    (near if ready_socket is far else far).sendall(data)
        except OSError:
            pass
        finally:
            near.close()
            far.close()


def test_fetched_prompts_say_the_same_in_every_kv():
    with Site(SEED) as site:
        full, model = site.models()
        for kv in ("auto", "q8", "q4", "q8*1,k4v3", "h-q4"):
            form = {"kv_levels" if "," in kv else "kv_type": kv.removeprefix("h-"), "kv_hadamard": str(kv.startswith("h-")).lower()}
            cloud = site.cloud(full, edge_model__path=model, **{"edge_model__" + key: value for key, value in form.items()}).start()
            form = {key.replace("_", "__"): value for key, value in form.items()}
            edge = fetching_edge(site, model, cloud.address, **form)
            alone = site.edge(model, **form).start()
            for i in range(3):
                prompt = ids(N_PROMPT, i // 2)  # the second time its KV is in the cloud
                answer = ask(edge, prompt)
                expect(used(answer) == WHOLE, f"{kv}: {answer.usage}")
                expect(fed(answer) == N_PROMPT - WHOLE, f"{kv}: {answer.usage}")
                right = ask(alone, prompt, "local")
                expect(answer.ids == right.ids and answer.text == right.text, f"{kv}: {answer.text} is not {right.text}")
                expect(used(right) == 0 and fed(right) == N_PROMPT, right.usage)
            # What a session has kept is not fetched again.
            first = ask(edge, ids(100, 7), session="s")
            expect(used(first) == 96, first.usage)
            more = ids(100, 7) + first.ids + ids(60, 8)
            second = ask(edge, more, session="s")
            expect(used(second) + fed(second) + second.usage["shoal"]["kept_tokens"] >= len(more), second.usage)
            expect(0 < used(second) <= len(more) - 96, second.usage)
            expect(second.ids == ask(alone, more, "local").ids, f"{kv}: a session")
            expect(results(edge) == {"taken": 5, "late": 0, "failed": 0, "bad": 0}, results(edge))
            expect(metric(edge.address, "shoal_kv_fetched_tokens_total") == 3 * WHOLE + 96 + used(second), "tokens")
            expect(status(edge)["trouble"] is None and not status(edge)["quarantined"], status(edge))
            for daemon in (edge, alone, cloud):
                daemon.stop()


def test_exact_stays_exact_and_local_stays_here():
    with Site(SEED) as site:
        full, model = site.models()
        cloud = site.cloud(full, edge_model__path=model, http__address="127.0.0.1:0").start()
        ops = http_of(cloud)
        # Drafts of a fixed length: the edge's model is needed, and waits for its KV.
        edge = fetching_edge(site, model, cloud.address, fetch__modes="exact", coop__draft_tokens="4")
        for i in range(3):
            answer = ask(edge, ids(N_PROMPT, i), "exact")
            expect(answer.ids == ask(edge, ids(N_PROMPT, i), "cloud").ids, "exact is not what the cloud says")
            expect(used(answer) == WHOLE, answer.usage)
        shipped = metric("http://" + ops.removeprefix("http://"), "shoal_ship_requests_total")
        expect(shipped == 3, f"{shipped} shipments")
        for mode in ("local", "assist", "cloud"):
            expect(used(ask(edge, ids(N_PROMPT, 9), mode)) == 0, mode)
        expect(metric(ops, "shoal_ship_requests_total") == 3, "a mode fetched that may not")


def test_other_models_and_forms_are_not_asked_for():
    with Site(SEED) as site:
        full, model = site.models()
        for settings, kv in (({}, {}), ({"edge_model__path": full}, {}), ({"edge_model__path": model}, {"kv__type": "q8"}),
                             ({"edge_model__path": model, "edge_model__kv_levels": "q8,q4"}, {"kv__levels": "q4,q8"}),
                             ({"edge_model__path": model}, {"kv__hadamard": "true"})):
            cloud = site.cloud(full, **settings).start()
            edge = fetching_edge(site, model, cloud.address, **kv)
            alone = site.edge(model, **kv).start()
            answer = ask(edge, ids(N_PROMPT, 1))
            expect(used(answer) == 0 and fed(answer) == N_PROMPT, answer.usage)
            expect(answer.ids == ask(alone, ids(N_PROMPT, 1), "local").ids, settings)
            expect(sum(results(edge).values()) == 0, results(edge))
            for daemon in (edge, alone, cloud):
                daemon.stop()


def test_a_flipped_byte_changes_no_token_and_is_remembered():
    with Site(SEED) as site:
        full, model = site.models()
        alone = site.edge(model).start()
        right = ask(alone, ids(N_PROMPT, 1), "local").ids
        for at in (1, 20, 300, 3000, 30000):  # magic, a hash, a token, blocks
            cloud = site.cloud(full, edge_model__path=model, fault__ship_flip_at=str(at)).start()
            edge = fetching_edge(site, model, cloud.address)
            started = time.monotonic()
            for _ in range(2):
                answer = ask(edge, ids(N_PROMPT, 1))
                expect(answer.ids == right and used(answer) == 0 and fed(answer) == N_PROMPT, f"byte {at}: {answer.usage}")
            expect(SANITIZED or time.monotonic() - started < 4, "too long")
            expect(results(edge) == {"taken": 0, "late": 0, "failed": 0, "bad": 1}, f"byte {at}: {results(edge)}")
            expect(status(edge)["quarantined"] and "bad KV" in status(edge)["trouble"], status(edge))
            expect(metric(edge.address, "shoal_kv_fetch_quarantined") == 1, "metric")
            edge.stop()
            cloud.stop()


def pages_used(edge):
    return json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])["kv"]["pages_used"]


def test_any_fault_of_a_part_costs_no_token_and_leaves_nothing():
    with Site(SEED) as site:
        full, model = site.models()
        alone = site.edge(model).start()
        right = {n: ask(alone, ids(n, 1), "local").ids for n in (N_PROMPT, 40)}
        # The random models of sanitized runs have so few layers that a blob ends with part 3 by itself.
        for fault in ("drop", "repeat", "cut") if SANITIZED else ("drop", "repeat", "cut", "end"):
            for part in (3,) if SANITIZED else (1, 3):
                where = f"{fault} of part {part}"
                cloud = site.cloud(full, edge_model__path=model, fault__ship=fault, fault__ship_part=str(part),
                                   http__address="127.0.0.1:0").start()
                ops = http_of(cloud)
                edge = fetching_edge(site, model, cloud.address, fetch__quarantine_s="1" if part == 3 else "600")
                before = pages_used(edge)
                started = time.monotonic()
                answer = ask(edge, ids(N_PROMPT, 1))
                took = time.monotonic() - started
                expect(answer.ids == right[N_PROMPT] and used(answer) == 0 and fed(answer) == N_PROMPT,
                       f"{where}: {answer.usage}")
                expect(SANITIZED or took < 2, f"{where}: {took:.1f} s")
                expect(results(edge) == {"taken": 0, "late": 0, "failed": 0, "bad": 1}, f"{where}: {results(edge)}")
                expect(status(edge)["trouble"], f"{where}: {status(edge)}")
                expect(part == 3 or status(edge)["quarantined"], f"{where}: {status(edge)}")
                wait_until(lambda o=ops: metric(o, "shoal_ship_running") == 0, what=f"{where}: the end of the shipment")
                wait_until(lambda e=edge, b=before: pages_used(e) == b, what=f"{where}: the edge's pages")
                # A blob of two parts is whole: who was left alone is asked again, and believed.
                if part == 3:
                    wait_until(lambda e=edge: used(ask(e, ids(40, 1))) == 32, what=f"{where}: the next fetch")
                    expect(ask(edge, ids(40, 1)).ids == right[40], f"{where}: the next answer")
                    expect(not status(edge)["quarantined"], f"{where}: {status(edge)}")
                edge.stop()
                cloud.stop()


def resumed(edge):
    return metric(edge.address, "shoal_kv_fetches_resumed_total")


def test_a_call_that_is_lost_behind_any_part_goes_on():
    with Site(SEED) as site:
        full, model = site.models()
        alone = site.edge(model).start()
        right = ask(alone, ids(N_PROMPT, 1), "local").ids
        for part in (1, 2) if SANITIZED else (1, 2, 3):
            # Every call is lost behind that part, so a blob of more parts takes several.
            cloud = site.cloud(full, edge_model__path=model, fault__ship="lose", fault__ship_part=str(part),
                               http__address="127.0.0.1:0").start()
            ops = http_of(cloud)
            edge = fetching_edge(site, model, cloud.address)
            answer = ask(edge, ids(N_PROMPT, 1))
            expect(answer.ids == right and used(answer) == WHOLE and fed(answer) == N_PROMPT - WHOLE, f"{part}: {results(edge)}, {status(edge)}, {resumed(edge)}, {answer.usage}")
            expect(results(edge) == {"taken": 1, "late": 0, "failed": 0, "bad": 0}, f"{part}: {results(edge)}")
            expect(resumed(edge) >= 1 and not status(edge)["quarantined"], f"{part}: {status(edge)}")
            expect(metric(ops, "shoal_ship_resumed_total") == resumed(edge), f"{part}: {resumed(edge)}")
            wait_until(lambda o=ops: metric(o, "shoal_ship_running") == 0, what=f"{part}: the end of the shipment")
            edge.stop()
            cloud.stop()


def test_a_link_that_is_cut_again_and_again_brings_each_block_once():
    with Site(SEED) as site:
        full, model = site.models()
        alone, cloud = site.edge(model).start(), site.cloud(full, edge_model__path=model).start()
        n = 900
        right = ask(alone, ids(n, 1), "local").ids
        plain = fetching_edge(site, model, cloud.address)
        expect(used(ask(plain, ids(n, 1))) == n // 32 * 32, "a link that holds")
        blob = metric(plain.address, "shoal_kv_fetched_bytes_total")
        relay = Relay(cloud.address, 2e6)
        edge = fetching_edge(site, model, relay.address)
        # The handshake's, and some: of a small model a part of the blob at least.
        relay.cut_after = 12000 + max(blob / 4, 90000)
        answer = ask(edge, ids(n, 1))
        got = metric(edge.address, "shoal_kv_fetched_bytes_total")
        expect(answer.ids == right and used(answer) == n // 32 * 32, answer.usage)
        expect(relay.n_cuts >= 2 and resumed(edge) >= 2, f"{relay.n_cuts} cuts, {resumed(edge)} calls more")
        expect(results(edge) == {"taken": 1, "late": 0, "failed": 0, "bad": 0}, results(edge))
        expect(got < 1.5 * blob, f"{got} bytes of a blob of {blob}")
        return f"{relay.n_cuts} cuts, {got} bytes of a blob of {blob}"


def test_another_cloud_goes_on_where_one_was_killed_or_says_why_not():
    with Site(SEED) as site:
        full, model = site.models()
        alone = site.edge(model).start()
        n = 900
        right = ask(alone, ids(n, 1), "local").ids
        for other in (model, full):  # one that has never seen the text; and one that ships another model's KV
            cloud = site.cloud(full, edge_model__path=model).start()
            again = site.cloud(full, edge_model__path=other, http__address="127.0.0.1:0").start()
            ops = http_of(again)
            relay = Relay(cloud.address, 40000)
            edge = fetching_edge(site, model, relay.address)
            got = []
            start = relay.down
            asking = threading.Thread(target=lambda e=edge, g=got: g.append(ask(e, ids(n, 1))))
            asking.start()
            wait_until(lambda s=start, r=relay: r.down > s + 60000 or got, what="bytes of the blob")
            expect(not got, "the answer came before the cloud was killed")
            host, port = again.address.rsplit(":", 1)
            relay.target = (host, int(port))
            cloud.kill()
            site.daemons.remove(cloud)  # its end is no clean one
            relay.rate = 1e9
            asking.join()
            expect(got[0].ids == right, got[0].usage)
            if other == model:
                expect(used(got[0]) == n // 32 * 32 and results(edge)["taken"] == 1, f"{results(edge)}, {got[0].usage}")
                expect(metric(ops, "shoal_ship_resumed_total", '"again"') == 1, "the cloud's count")
            else:
                expect(used(got[0]) == 0 and fed(got[0]) == n and results(edge)["failed"] == 1, f"{got[0].usage}, {results(edge)}")
                expect("KV of model" in status(edge)["trouble"], status(edge))
            expect(not status(edge)["quarantined"], status(edge))
            edge.stop()
            again.stop()


def test_an_edge_killed_while_it_fetches_leaves_the_cloud_free():
    with Site(SEED) as site:
        full, model = site.models()
        cloud = site.cloud(full, edge_model__path=model, edge_model__shipments_max="1", http__address="127.0.0.1:0").start()
        ops = http_of(cloud)
        relay = Relay(cloud.address, 40000)
        edge = fetching_edge(site, model, relay.address)
        host, port = edge.address.removeprefix("http://").rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        body = {"prompt": ids(900, 1), "max_tokens": 8, "shoal": {"mode": "assist", "max_cloud_tokens": 0}}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        wait_until(lambda: metric(ops, "shoal_ship_running") == 1, what="the shipment")
        edge.kill()
        site.daemons.remove(edge)  # its end is no clean one
        killed = time.monotonic()
        connection.close()
        relay.rate = 1e9
        wait_until(lambda: metric(ops, "shoal_ship_running") == 0, what="the end of the shipment")
        expect(SANITIZED or time.monotonic() - killed < 2, f"{time.monotonic() - killed:.1f} s after the kill")
        # There is one place for a shipment: it is free again.
        other, alone = fetching_edge(site, model, cloud.address), site.edge(model).start()
        answer = ask(other, ids(N_PROMPT, 2))
        expect(used(answer) == WHOLE and answer.ids == ask(alone, ids(N_PROMPT, 2), "local").ids, answer.usage)


def test_a_cloud_killed_while_it_ships_costs_no_token():
    with Site(SEED) as site:
        full, model = site.models()
        alone = site.edge(model).start()
        right = ask(alone, ids(900, 1), "local").ids
        for after in (8000, 60000):  # bytes: of the handshake and Describe alone, and of blocks
            cloud = site.cloud(full, edge_model__path=model).start()
            relay = Relay(cloud.address, 40000)
            edge = fetching_edge(site, model, relay.address)
            got = []
            start = relay.down
            asking = threading.Thread(target=lambda e=edge, g=got: g.append(ask(e, ids(900, 1))))
            asking.start()
            wait_until(lambda s=start, r=relay, n=after: r.down > s + n or got, what="bytes of the blob")
            expect(not got, "the answer came before the cloud was killed")
            cloud.kill()
            relay.rate = 1e9  # what is on the link comes, then its end
            site.daemons.remove(cloud)  # its end is no clean one
            killed = time.monotonic()
            asking.join()
            expect(SANITIZED or time.monotonic() - killed < 2, f"{time.monotonic() - killed:.1f} s after the kill")
            expect(got[0].ids == right and used(got[0]) == 0, got[0].usage)
            expect(results(edge)["failed"] == 1, results(edge))
            expect(status(edge)["trouble"] is not None and not status(edge)["quarantined"], status(edge))
            edge.stop()


def test_a_cancelled_answer_frees_both_sides():
    with Site(SEED) as site:
        full, model = site.models()
        cloud = site.cloud(full, edge_model__path=model, http__address="127.0.0.1:0").start()
        ops = http_of(cloud)
        relay = Relay(cloud.address, 40000)
        edge = fetching_edge(site, model, relay.address, api__on_disconnect="cancel")
        before = json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])["kv"]["pages_used"]
        host, port = edge.address.removeprefix("http://").rsplit(":", 1)
        for i in range(3):
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            # A megabyte: more than lies on the way, so the shipment is seen.
            body = {"prompt": ids(900, i), "max_tokens": 8, "stream": True, "shoal": {"mode": "assist"}}
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            wait_until(lambda: metric(ops, "shoal_ship_running") == 1, what="the shipment")
            connection.close()
            wait_until(lambda: metric(ops, "shoal_ship_running") == 0, what="the end of the shipment")
        wait_until(lambda: json.loads(request(edge.address, "GET", "/v1/shoal/status")[2])["kv"]["pages_used"] == before,
                   what="the edge's pages")
        relay.rate = 1e9
        alone = site.edge(model).start()
        answer = ask(edge, ids(N_PROMPT, 1))
        expect(used(answer) == WHOLE and answer.ids == ask(alone, ids(N_PROMPT, 1), "local").ids, answer.usage)


NO_BASIS = "skipped: tests/unit/ship judges it, and a basis of the family takes long under sanitizers"
N_LONG = 600
LONG_WHOLE = N_LONG // 32 * 32


def make_bases(site, model, **rates):
    """Bases of so many bits, as files by their names, and what a log says of each: its hash."""
    text = site.file("text")
    with open(text, "w", encoding="ascii") as f:
        f.write("\n".join(f"What does H{i % 90} mean on the Tapir {i % 30}? Look at step {i} first." for i in range(400)))
    for name, bits in rates.items():
        run(binary("shoal-forge"), "kv-calibrate", "-m", model, "-f", text, "--tokens", "1024", "--bits", bits,
            "-o", site.file(name))
    return [site.file(name) for name in rates]


def hash_of(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()[:12]


def archived(edge):
    return metric(edge.address, "shoal_kv_fetched_archived_tokens_total")


def fetched_bytes(edge):
    return metric(edge.address, "shoal_kv_fetched_bytes_total")


def test_archived_kv_changes_no_answer_that_the_cloud_judges():
    if SANITIZED:
        return NO_BASIS
    with Site(SEED) as site:
        full, model = site.models()
        [basis] = make_bases(site, model, basis="2")
        cloud = site.cloud(full, edge_model__path=model, edge_model__archive=basis).start()
        # Drafts of a fixed length: the edge's model is needed, and waits for its KV.
        drafting = {"coop__draft_tokens": "4"}
        edge = fetching_edge(site, model, cloud.address, kv__archive=basis, fetch__archive="exact", **drafting)
        plain = fetching_edge(site, model, cloud.address, **drafting)
        alone = site.edge(model).start()
        prompt = ids(N_LONG, 1)
        right = ask(plain, prompt, "cloud").ids
        answer, exact = ask(edge, prompt, "exact"), ask(plain, prompt, "exact")
        expect(answer.ids == right and exact.ids == right, f"{answer.ids} and {exact.ids} are not {right}")
        expect(used(answer) == LONG_WHOLE and fed(answer) == N_LONG - LONG_WHOLE, answer.usage)
        expect(archived(edge) == LONG_WHOLE and archived(plain) == 0, f"{archived(edge)}, {archived(plain)}")
        sizes = fetched_bytes(edge), fetched_bytes(plain)
        expect(sizes[0] < 0.5 * sizes[1], f"{sizes} bytes")
        # What the edge says itself is not touched; and nobody finds what came archived in a session.
        answer = ask(edge, ids(N_LONG, 2))
        expect(used(answer) == LONG_WHOLE and answer.ids == ask(alone, ids(N_LONG, 2), "local").ids, answer.usage)
        expect(archived(edge) == LONG_WHOLE, "mode assist took what is archived")
        for mode, kept in (("exact", False), ("assist", True)):
            first = ask(edge, ids(N_LONG, 3), mode, session=mode)
            more = ids(N_LONG, 3) + first.ids + ids(10, 4)
            second = ask(edge, more, mode, session=mode)
            expect((second.usage["shoal"]["kept_tokens"] > 0) == kept, f"{mode}: {second.usage}")
            own = ask(plain, more, "cloud") if mode == "exact" else ask(alone, more, "local")
            expect(second.ids == own.ids, f"{mode}: a session: {second.usage}")
        # Of fewer than 160 tokens nothing is archived.
        before = archived(edge)
        expect(used(ask(edge, ids(150, 5), "exact")) == 128 and archived(edge) == before, "a short text")
        expect(results(edge)["bad"] == 0 and results(edge)["failed"] == 0, results(edge))
        return f"{sizes[0]:.0f} bytes archived, {sizes[1]:.0f} exact"


def test_archived_kv_is_the_same_over_any_link_and_on_any_processor():
    if SANITIZED:
        return NO_BASIS
    with Site(SEED) as site:
        full, model = site.models()
        [basis] = make_bases(site, model, basis="2")
        cloud = site.cloud(full, edge_model__path=model, edge_model__archive=basis).start()
        relay = Relay(cloud.address, 2e6)
        edges = [fetching_edge(site, model, address, kv__archive=basis, fetch__archive="all", **more)
                 for address, more in ((cloud.address, {}), (cloud.address, {"cpu__mask": "scalar"}), (relay.address, {}))]
        prompt = ids(900, 1)
        answers = [ask(edge, prompt) for edge in edges[:2]]
        blob = fetched_bytes(edges[0])
        relay.cut_after = 12000 + max(blob / 4, 60000)
        answers.append(ask(edges[2], prompt))
        for edge, answer in zip(edges, answers):
            expect(answer.ids == answers[0].ids and used(answer) == 896, f"{answer.usage}, {status(edge)}")
            expect(archived(edge) == 896 and results(edge)["taken"] == 1, f"{archived(edge)}, {results(edge)}")
        got = fetched_bytes(edges[2])
        expect(relay.n_cuts >= 1 and resumed(edges[2]) >= 1 and got < 1.7 * blob, f"{relay.n_cuts} cuts, {got} of {blob}")
        alike = sum(a == b for a, b in zip(answers[0].ids, ask(edges[0], prompt, "local").ids))
        return f"{relay.n_cuts} cuts, {got:.0f} bytes of {blob:.0f}; {alike} of 12 tokens as computed"


def test_another_basis_is_refused_with_both_hashes():
    if SANITIZED:
        return NO_BASIS
    with Site(SEED) as site:
        full, model = site.models()
        basis, other = make_bases(site, model, basis="2", other="1")
        alone = site.edge(model).start()
        n = 900
        right = ask(alone, ids(n, 1), "local").ids
        # Known beforehand: nothing archived is asked for.
        cloud = site.cloud(full, edge_model__path=model, edge_model__archive=basis).start()
        edge = fetching_edge(site, model, cloud.address, kv__archive=other, fetch__archive="all")
        answer = ask(edge, ids(n, 1))
        expect(answer.ids == right and used(answer) == n // 32 * 32 and archived(edge) == 0, answer.usage)
        expect(hash_of(basis) in status(edge)["trouble"] and hash_of(other) in status(edge)["trouble"], status(edge))
        # Not known: the node that goes on has another one.
        again = site.cloud(full, edge_model__path=model, edge_model__archive=other).start()
        relay = Relay(cloud.address, 40000)
        edge = fetching_edge(site, model, relay.address, kv__archive=basis, fetch__archive="all")
        got = []
        start = relay.down
        asking = threading.Thread(target=lambda: got.append(ask(edge, ids(n, 1))))
        asking.start()
        wait_until(lambda: relay.down > start + 40000 or got, what="bytes of the blob")
        expect(not got, "the answer came before the cloud was killed")
        host, port = again.address.rsplit(":", 1)
        relay.target = (host, int(port))
        cloud.kill()
        site.daemons.remove(cloud)  # its end is no clean one
        relay.rate = 1e9
        asking.join()
        expect(got[0].ids == right and used(got[0]) == 0 and fed(got[0]) == n, f"{got[0].usage}, {status(edge)}")
        trouble = status(edge)["trouble"]
        expect("archive basis" in trouble and hash_of(basis) in trouble and hash_of(other) in trouble, trouble)
        expect(not status(edge)["quarantined"] and archived(edge) == 0, status(edge))
        daemon = site.edge(model, again.address, fetch__archive="all")
        site.daemons.remove(daemon)
        try:
            daemon.start()
        except AssertionError as error:
            expect("fetch.archive needs a basis" in str(error), error)
        else:
            raise AssertionError("an edge started that could read nothing archived")


def test_a_flipped_byte_of_archived_kv_changes_no_token():
    if SANITIZED:
        return NO_BASIS
    with Site(SEED) as site:
        full, model = site.models()
        [basis] = make_bases(site, model, basis="2")
        alone = site.edge(model).start()
        right = ask(alone, ids(N_LONG, 1), "local").ids
        # In the head its basis, and how many blocks are archived; of the first archived block, and of a later one.
        for at in (133, 140, 2600, 20000):
            cloud = site.cloud(full, edge_model__path=model, edge_model__archive=basis, fault__ship_flip_at=str(at)).start()
            edge = fetching_edge(site, model, cloud.address, kv__archive=basis, fetch__archive="all")
            answer = ask(edge, ids(N_LONG, 1))
            expect(answer.ids == right and used(answer) == 0 and fed(answer) == N_LONG, f"byte {at}: {answer.usage}")
            expect(results(edge) == {"taken": 0, "late": 0, "failed": 0, "bad": 1}, f"byte {at}: {results(edge)}")
            expect(status(edge)["quarantined"] and archived(edge) == 0, status(edge))
            edge.stop()
            cloud.stop()


def test_measured_links_decide():
    if SANITIZED:
        return "skipped: a sanitizer's speeds are not those of a device"
    with Site(SEED) as site:
        full, model = site.models()
        cloud = site.cloud(full, edge_model__path=model).start()
        slow = Relay(cloud.address, 30000)
        edge = fetching_edge(site, model, slow.address, fetch__always="false")
        for i in range(4):
            answer = ask(edge, ids(900, i))
            expect(used(answer) == 0, answer.usage)  # 1 MB at 30 kB/s: computing is first, and the second time it is known
        expect(results(edge)["late"] <= 1 and results(edge)["failed"] == 0, results(edge))
        # A device of a twentieth of the cloud's speed on a good link: what is measured first decides from then on.
        slow = fetching_edge(site, model, cloud.address, fetch__always="false", cpu__mask="scalar", model__threads="1")
        fetched = [used(ask(slow, ids(900, i), n=2)) for i in range(6)]
        expect(fetched[-1] > 0 and fetched[-2] > 0, f"{fetched}, {status(slow)}")
        # Of a link that it does not know such a device asks for the fewest bytes, where both have the basis.
        [basis] = make_bases(site, model, basis="2")
        archives = site.cloud(full, edge_model__path=model, edge_model__archive=basis, http__address="127.0.0.1:0").start()
        shipped = http_of(archives)
        for allowed, archived_too in (("off", False), ("all", True)):
            first = fetching_edge(site, model, archives.address, fetch__always="false", cpu__mask="scalar", model__threads="1",
                                  kv__archive=basis, fetch__archive=allowed)
            before = metric(shipped, "shoal_ship_requests_total"), metric(shipped, "shoal_ship_archived_tokens_total")
            ask(first, ids(900, 10 + archived_too), n=2)
            wait_until(lambda: metric(shipped, "shoal_ship_requests_total") > before[0], what=f"{allowed}: a fetch")
            n = metric(shipped, "shoal_ship_archived_tokens_total") - before[1]
            expect((n > 0) == archived_too, f"{allowed}: {n} tokens were shipped archived")
        return f"{fetched}, {status(slow)}"


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
