#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The alerts and the dashboard of deploy/monitoring: they ask for metrics that the daemons tell, alerts fire when they
should, and every panel of the dashboard has something to show."""
import functools
import json
import os
import re
import shutil

from harness import SOURCE, Site, expect, main, request, run

FOLDER = os.path.join(SOURCE, "deploy/monitoring")
WITHOUT = "skipped: promtool is not installed (deploy/deps unpacks it)"


def named(text):
    return set(re.findall(r"\b(?:shoal|process)_[a-z_]+", text))


@functools.cache
def told():
    """{program: text of /metrics}, of daemons with everything on that tells a metric."""
    with Site() as site:
        full, draft = site.models()
        os.mkdir(site.file("bundles"))
        with open(site.file("bundles/rollout"), "w", encoding="ascii") as f:
            f.write("# none yet\n")
        run("openssl", "genpkey", "-algorithm", "ed25519", "-out", site.file("maker.key"))
        run("openssl", "pkey", "-in", site.file("maker.key"), "-pubout", "-out", site.file("maker.pem"))
        cloud = site.cloud(full, http__address="127.0.0.1:0", store__kind="memory", edge_model__path=draft,
                           fleet__folder=site.file("bundles")).start()
        url = cloud.process.stdout.readline()[len("http: "):].strip()
        with open(site.file("watts"), "w", encoding="ascii") as f:
            f.write("5")
        edge = site.edge(draft, cloud.address, budget__cloud_tokens_per_hour=1000, energy__meter="power_w",
                         energy__path=site.file("watts"), bundle__folder=site.file("state"),
                         bundle__trust=site.file("maker.pem")).start()
        return {name: request(address, "GET", "/metrics")[2].decode()
                for name, address in (("cloud", url), ("edge", edge.address))}


def metrics_told():
    return set(re.findall(r"^# TYPE (\w+) ", "\n".join(told().values()), re.M))


@functools.cache
def dashboard():
    with open(os.path.join(FOLDER, "dashboard.json"), encoding="utf-8") as f:
        return json.load(f)


def queries():
    """[(panel's title, PromQL)], with Grafana's variables as they might stand."""
    found = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "10m")
            found.append((panel["title"], text.replace("$cloud", "(cloud:9443)").replace("$edge", "(edge:8088)")))
    return found


def test_alerts_name_metrics_there_are():
    with open(os.path.join(FOLDER, "alerts.yaml"), encoding="utf-8") as f:
        wanted = named("\n".join(re.findall(r"expr: (.*)", f.read())))
    expect(len(wanted) >= 4, f"only {wanted} found in the alerts")
    expect(wanted <= metrics_told(), f"alerts name {sorted(wanted - metrics_told())}: no daemon tells that")


def test_dashboard_imports_without_edits():
    """A data source to choose, every panel with its own id, place, title, text and unit."""
    board = dashboard()
    variables = {v["name"]: v["type"] for v in board["templating"]["list"]}
    expect(variables == {"datasource": "datasource", "cloud": "query", "edge": "query"}, f"variables {variables}")
    panels = board["panels"]
    expect(len({p["id"] for p in panels}) == len(panels), "two panels of one id")
    taken = set()
    for p in panels:
        place = p["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        expect(not cells & taken and place["x"] + place["w"] <= 24, f"{p['title']} lies on another panel")
        taken |= cells
        if p["type"] == "row":
            continue
        expect(p["description"] and p["fieldConfig"]["defaults"]["unit"], f"{p['title']}: without text or unit")
        for part in [p, *p["targets"]]:
            expect(part["datasource"]["uid"] == "${datasource}", f"{p['title']}: not the chosen data source")
    return f"{len(panels)} panels"


def test_dashboard_names_metrics_there_are():
    wanted = set()
    for title, text in queries():
        names = {re.sub(r"_(bucket|sum|count)$", "", n) if n not in metrics_told() else n for n in named(text)}
        expect(names and names <= metrics_told(), f"{title}: {sorted(names - metrics_told())}: no daemon tells that")
        wanted |= names
    for v in dashboard()["templating"]["list"][1:]:
        expect(named(v["query"]["query"]) <= metrics_told(), f"variable {v['name']} asks for what is not told")
    return f"{len(wanted)} of {len(metrics_told())} metrics"


def test_dashboard_has_something_to_show():
    """Series of the daemons' own names and labels, growing; every query must answer with at least one of them."""
    if not shutil.which("promtool"):
        return WITHOUT
    series = []
    for program, address in (("cloud", "cloud:9443"), ("edge", "edge:8088")):
        for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", told()[program], re.M):
            labels = f'{labels},instance="{address}"' if labels else f'instance="{address}"'
            values = "1x20" if name == "shoal_build_info" else "1+1x20"
            series.append(f"      - series: {json.dumps(f'{name}{{{labels}}}')}\n        values: {json.dumps(values)}\n")
    expect(len(series) > 100, f"{len(series)} series were told")
    with Site() as site:
        checks = "".join(f"      - expr: {json.dumps(f'count({text}) > bool 0')}\n        eval_time: 15m\n"
                         "        exp_samples: [{value: 1}]\n" for _, text in queries())

        def judge(checks, check):
            with open(site.file("board.yaml"), "w", encoding="utf-8") as f:
                f.write("tests:\n  - interval: 1m\n    input_series:\n" + "".join(series) +
                        "    promql_expr_test:\n" + checks)
            return run("promtool", "test", "rules", site.file("board.yaml"), check=check)
        judge(checks, True)
        lost = checks.replace('place=\\"cloud\\"', 'place=\\"clouds\\"', 1)
        expect(lost != checks and judge(lost, False).returncode != 0, "a query without an answer is not seen")
    return f"{len(queries())} queries"


def test_alerts_fire_when_they_should():
    if not shutil.which("promtool"):
        return WITHOUT
    run("promtool", "check", "rules", "--lint-fatal", os.path.join(FOLDER, "alerts.yaml"))
    run("promtool", "test", "rules", os.path.join(FOLDER, "alerts_test.yaml"))


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
