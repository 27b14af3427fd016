#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The alerts of deploy/monitoring: they fire when they should, on metrics that the daemons tell."""
import os
import re
import shutil
import sys

from harness import SOURCE, Site, expect, main, request, run

FOLDER = os.path.join(SOURCE, "deploy/monitoring")


def named(text):
    return set(re.findall(r"\b(?:shoal|process)_[a-z_]+", text))


def test_alerts_fire_when_they_should():
    if not shutil.which("promtool"):
        print("skipped: promtool is not installed (deploy/deps unpacks it)")
        sys.exit(77)
    run("promtool", "check", "rules", "--lint-fatal", os.path.join(FOLDER, "alerts.yaml"))
    run("promtool", "test", "rules", os.path.join(FOLDER, "alerts_test.yaml"))


def test_alerts_name_metrics_there_are():
    with open(os.path.join(FOLDER, "alerts.yaml"), encoding="utf-8") as f:
        wanted = named("\n".join(re.findall(r"expr: (.*)", f.read())))
    expect(len(wanted) >= 4, f"only {wanted} found in the alerts")
    with Site() as site:
        full, draft = site.models()
        cloud = site.cloud(full, http__address="127.0.0.1:0").start()
        url = cloud.process.stdout.readline()[len("http: "):].strip()
        edge = site.edge(draft, cloud.address).start()
        told = set()
        for address in (url, edge.address):
            told |= set(re.findall(r"^# TYPE (\w+) ", request(address, "GET", "/metrics")[2].decode(), re.M))
    expect(wanted <= told, f"alerts name {sorted(wanted - told)}: no daemon tells that")


if __name__ == "__main__":
    main([test_alerts_fire_when_they_should, test_alerts_name_metrics_there_are])
