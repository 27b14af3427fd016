#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The systemd units, settings, manuals and tables of the packages, judged where they lie: nothing is installed."""
import os
import re
import shutil
import subprocess
import sys

from harness import SOURCE, Site, binary, expect, main, run

DEBIAN = os.path.join(SOURCE, "deploy/debian")
DAEMONS = ("edge", "cloud")
EXPOSURE_MAX = 2.0


def unit(name):
    with open(os.path.join(DEBIAN, f"shoal-{name}.service"), encoding="utf-8") as f:
        return f.read()


def analyze(*command):
    """systemd-analyze and what it said, both streams together."""
    if not shutil.which("systemd-analyze"):
        print("skipped: systemd-analyze is not installed (deploy/deps installs it)")
        sys.exit(77)
    done = subprocess.run(["systemd-analyze", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "SYSTEMD_COLORS": "0"}, timeout=60, check=False)
    return done.returncode, done.stdout


def root_with(site, name, text):
    """A root that holds one unit and what it starts."""
    root = site.file(f"root-{name}")
    for path in ("etc", "usr/bin", "usr/lib/systemd/system", "bin"):
        os.makedirs(os.path.join(root, path), exist_ok=True)
    shutil.copy(binary(f"shoal-{name}"), os.path.join(root, "usr/bin"))
    shutil.copy("/bin/kill", os.path.join(root, "bin"))
    system = "/usr/lib/systemd/system"
    for target in os.listdir(system) if os.path.isdir(system) else ():
        if target.endswith((".target", ".slice")):
            shutil.copy(os.path.join(system, target), root + system)
    path = os.path.join(root, "usr/lib/systemd/system", f"shoal-{name}.service")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return root, path


def test_units_are_what_systemd_takes():
    with Site() as site:
        for name in DAEMONS:
            root, _ = root_with(site, name, unit(name))
            status, said = analyze("verify", "--man=no", "--recursive-errors=no", f"--root={root}", f"shoal-{name}.service")
            expect(status == 0 and not said.strip(), f"shoal-{name}.service: {said}")
            root, _ = root_with(site, name, unit(name).replace("RestartSec=", "RestartSecs="))
            said = analyze("verify", "--man=no", "--recursive-errors=no", f"--root={root}", f"shoal-{name}.service")[1]
            expect("RestartSecs" in said, f"a wrong key is not seen, so nothing is judged: {said!r}")


def test_units_expose_little():
    told = []
    for name in DAEMONS:
        path = os.path.join(DEBIAN, f"shoal-{name}.service")
        status, said = analyze("security", "--offline=true", f"--threshold={int(10 * EXPOSURE_MAX)}", path)
        level = re.search(r"exposure level for .*?: ([0-9.]+)", said)
        expect(level, f"no level in {said[-300:]!r}")
        expect(status == 0 and float(level[1]) <= EXPOSURE_MAX, f"shoal-{name}.service: {level[0]}")
        told.append(f"shoal-{name} {level[1]}")
    return ", ".join(told)


def test_settings_and_units_name_what_there_is():
    with Site() as site:
        for name in DAEMONS:
            program = binary(f"shoal-{name}")
            path = os.path.join(DEBIAN, f"{name}.yaml")
            run(program, "--config", path, "--check-config")
            # What is commented out is what an operator will switch on.
            with open(path, encoding="utf-8") as f:
                lines = f.read().splitlines()
            on = site.file(f"{name}.yaml")
            with open(on, "w", encoding="utf-8") as f:
                f.write("\n".join(re.sub(r"^#(?=[a-z]|  [a-z])", "", line) for line in lines) + "\n")
            switched = run(program, "--config", on, "--dump-config").stdout
            for value in ("7443", f"/etc/shoal/{name}/ca.pem"):
                expect(value in switched, f"{value} of {name}.yaml was not switched on")
            grace = int(re.search(r"grace_ms: (\d+)", switched)[1])
            stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit(name), re.M)[1])
            expect(1000 * stop >= grace + 5000, f"shoal-{name}: {stop} s to stop, {grace} ms to drain")


def test_tables_are_those_of_the_tree():
    with open(os.path.join(SOURCE, "CMakeLists.txt"), encoding="utf-8") as f:
        version = re.search(r"^project\(shoal VERSION ([0-9.]+)", f.read(), re.M)[1]
    with open(os.path.join(DEBIAN, "changelog"), encoding="utf-8") as f:
        first = f.readline()
    expect(first.startswith(f"shoal ({version}) "), f"deploy/debian/changelog begins {first!r}, the tree is {version}")
    with open(os.path.join(SOURCE, "edge/client/libshoal.map"), encoding="utf-8") as f:
        nodes = re.findall(r"^(SHOAL_\d+\.\d+) \{(.*?)^\}", f.read(), re.M | re.S)
    exported = {f"{name}@{node}" for node, body in nodes for name in [node, *re.findall(r"\bshoal_\w+", body)]}
    with open(os.path.join(DEBIAN, "libshoal1.symbols"), encoding="utf-8") as f:
        listed = set(re.findall(r"^ (\w[\w.]*@SHOAL_\d+\.\d+) ", f.read(), re.M))
    expect(len(exported) > 10 and exported == listed, f"libshoal1.symbols and libshoal.map differ in {exported ^ listed}")


def test_manuals_are_sound_and_explain_every_option():
    for name in ("shoal-edge", "shoal-cloud", "shoal-forge"):
        path = os.path.join(DEBIAN, f"{name}.1")
        with open(path, encoding="utf-8") as f:
            manual = f.read()
        for option in re.findall(r"--([a-z-]+)", run(binary(name), "--help").stdout.split("\n\n")[0]):
            expect(f"Fl \\-{option}" in manual, f"{path} does not explain --{option}")
        if shutil.which("mandoc"):
            said = run("mandoc", "-T", "lint", "-W", "warning", path, check=False).stdout
            expect(not said, said)


if __name__ == "__main__":
    main([test_tables_are_those_of_the_tree, test_manuals_are_sound_and_explain_every_option,
          test_settings_and_units_name_what_there_is, test_units_are_what_systemd_takes, test_units_expose_little])
