#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The container file: what it copies is there, the libraries it installs are those that the programs link, and the
daemons run as it says, as a user without a name or rights on a root that cannot be written to."""
import os
import re
import shutil

from harness import SOURCE, Site, binary, complete, expect, main, request, run

PATH = os.path.join(SOURCE, "deploy/container/Containerfile")
PROGRAMS = ("shoal-cloud", "shoal-edge", "shoal")
UID = "10001"


def text_of():
    with open(PATH, encoding="utf-8") as f:
        return re.sub(r" *\\\n *", " ", "".join(line for line in f if not line.startswith("#")))


def stages():
    """{name: (image or stage that it begins from, its instructions)}"""
    found = {}
    for part in re.split(r"^FROM ", text_of(), flags=re.M)[1:]:
        head, *lines = part.strip().splitlines()
        origin, name = head.split(" AS ")
        found[name] = (origin, [line for line in lines if line])
    return found


def test_stages_copy_what_there_is():
    all_stages = stages()
    expect(set(all_stages) == {"build", "base", "cloud", "edge"}, f"stages {sorted(all_stages)}")
    with open(PATH + ".dockerignore", encoding="utf-8") as f:
        left_out = [line.strip() for line in f if "*" not in line]
    n = 0
    for name, (origin, lines) in all_stages.items():
        expect(origin in all_stages or origin == "docker.io/library/debian:12-slim", f"{name} begins from {origin}")
        for line in (line for line in lines if line.startswith("COPY")):
            words = [w for w in line.split()[1:] if not w.startswith("--chmod")]
            built = words[0] == "--from=build"
            for source in words[1 if built else 0:-1]:
                there = os.path.join(SOURCE, source)
                if built:
                    there = binary(source.removeprefix("/src/build/release/bin/"))
                expect(os.path.exists(there), f"stage {name} copies {source}: not there")
                expect(built or source.split("/")[0] not in left_out, f"stage {name} copies {source}: left out")
                n += 1
    for program in PROGRAMS:
        expect(any(f"/bin/{program}" in line for _, lines in all_stages.values() for line in lines), f"no {program}")
    expect(f"USER {UID}:{UID}" in all_stages["base"][1], "no user without rights")
    for target, program in (("cloud", "shoal-cloud"), ("edge", "shoal-edge")):
        expect(f'ENTRYPOINT ["/usr/bin/{program}"]' in all_stages[target][1], f"{target} does not start {program}")
    return f"{n} sources"


def packages_of(libraries):
    """Debian's packages of shared libraries, by their sonames."""
    listed = run("/sbin/ldconfig", "-p").stdout
    paths = [os.path.realpath(re.search(rf"^\s*{re.escape(x)} .*=> (\S+)$", listed, re.M)[1]) for x in libraries]
    # On a merged /usr the index has the name that the package was made with.
    said = run("dpkg-query", "-S", *paths, *(p.removeprefix("/usr") for p in paths), check=False).stdout
    owner = {line.split(": ")[1].removeprefix("/usr"): line.split(":")[0] for line in said.splitlines()}
    return {owner[p.removeprefix("/usr")] for p in paths}


def test_libraries_are_those_that_programs_link():
    if not shutil.which("dpkg-query"):
        return "skipped: not Debian"
    installed = set(re.search(r"--no-install-recommends (.*?) &&", " ".join(stages()["base"][1]))[1].split())
    linked = {s for p in PROGRAMS for s in re.findall(r"NEEDED +(\S+)", run("objdump", "-p", binary(p)).stdout)}
    needed = packages_of({s for s in linked if not s.startswith("ld-linux")}) - {"libc6"}
    expect(len(needed) >= 8, f"only {needed} are linked")
    expect(installed - {"ca-certificates"} == needed, f"installed and not linked, or the other way: {installed ^ needed}")
    return f"{len(needed)} packages"


def test_daemons_run_without_rights_on_a_root_that_cannot_be_written():
    """As the image's user, without capabilities, in a mount namespace whose every disk is read-only."""
    inside = ["unshare", "--mount", "sh", "-c",
              "mount --make-rprivate / && "
              "for m in $(awk '$3 !~ /^(proc|sysfs|cgroup2?|devpts|mqueue|devtmpfs)$/ {print $2}' /proc/mounts); do "
              "mount -o remount,ro,bind \"$m\" 2>/dev/null; done; ! touch \"$0\" 2>/dev/null || exit 99; "
              f"exec setpriv --reuid={UID} --regid={UID} --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\""]
    if os.geteuid() != 0 or run(*inside[:4], "true", check=False).returncode != 0:
        return "skipped: needs root and a mount namespace"
    with Site() as site:
        full, draft = site.models()
        os.chmod(site.path, 0o755)
        for name in os.listdir(site.file("certs")):
            os.chown(site.file("certs/" + name), int(UID), int(UID))
        os.chmod(site.file("certs"), 0o755)
        if run("setpriv", f"--reuid={UID}", "--clear-groups", "test", "-r", full, check=False).returncode != 0:
            return "skipped: this checkout cannot be read by other users"
        cloud = site.cloud(full, http__address="127.0.0.1:0")
        cloud.prefix = [*inside, site.file("probe")]
        cloud.start()
        ops = cloud.process.stdout.readline()[len("http: "):].strip()
        edge = site.edge(draft, cloud.address)
        edge.prefix = cloud.prefix
        edge.start()
        with open(f"/proc/{edge.process.pid}/status", encoding="utf-8") as f:
            status = f.read()
        expect(re.search(rf"^Uid:\t{UID}\t", status, re.M) and re.search(r"^CapEff:\t0+$", status, re.M), "it has rights")
        expect(request(ops, "GET", "/readyz")[0] == 200, "the cloud is not ready")
        answer = complete(edge.address, "Once", "exact", n=8)
        expect(answer.error is None and len(answer.ids) > 0, f"no answer: {answer.error}")


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
