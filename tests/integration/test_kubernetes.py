#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cluster files of deploy/k8s: that every name one file takes from another is there, that the numbers of the
pods agree with the daemons' configuration, and that the daemons serve what probes and scalers ask them for.

No cluster is needed. What kubectl alone can do (rendering the overlays) is left out where there is none."""
import copy
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile

import yaml

from harness import SOURCE, Site, binary, complete, expect, main, request, run, wait_until

FOLDER = os.path.join(SOURCE, "deploy/k8s")
OURS = {"shoal-cloud", "shoal-edge", "shoal-redis"}
IMAGE_MODELS = "/usr/share/shoal/models/"
SETTINGS = {"shoal-cloud": "cloud.yaml", "shoal-edge": "edge.yaml"}
REDIS = "/usr/bin/redis-check-rdb"  # the server, by another name (redis-tools)


def files(name):
    for folder, _, names in os.walk(FOLDER):
        if name in names:
            yield os.path.join(folder, name)


def documents(path):
    with open(path, encoding="utf-8") as f:
        return [d for d in yaml.safe_load_all(f) if d]


def kubectl(*arguments, text=None):
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False,
                              env={"PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": "/dev/null"})
    expect(done.returncode == 0, f"kubectl {arguments}: {done.stderr.strip()}")
    return done.stdout


def can_render():
    """Kustomize reads folders as resources from its version 2.1 on, kubectl from 1.21."""
    if not shutil.which("kubectl"):
        return False
    version = re.search(r"v1\.(\d+)", subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True,
                                                     timeout=60, check=False).stdout)
    return version is not None and int(version[1]) >= 21


@functools.cache
def rendered():
    """{name: objects} of every overlay, and of production with the other scaler."""
    found = {}
    for name in sorted(os.listdir(os.path.join(FOLDER, "overlays"))):
        found[name] = list(yaml.safe_load_all(kubectl("kustomize", os.path.join(FOLDER, "overlays", name))))
    with tempfile.TemporaryDirectory() as folder:
        tree = shutil.copytree(FOLDER, os.path.join(folder, "k8s"))
        path = os.path.join(tree, "overlays/production/kustomization.yaml")
        with open(path, encoding="utf-8") as f:
            text = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(text.replace("components/keda", "components/hpa", 1))
        found["production with hpa"] = list(yaml.safe_load_all(kubectl("kustomize", os.path.dirname(path))))
    return found


# --- what one overlay must be ------------------------------------------------------------------------------------------


class Overlay:
    """The objects of one overlay; every check adds what is wrong to `wrong`."""

    def __init__(self, objects):
        self.objects, self.wrong = objects, []
        with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as f:
            self.readme = f.read()

    def of(self, kind):
        return [o for o in self.objects if o["kind"] == kind]

    def named(self, kind, name):
        return next((o for o in self.of(kind) if o["metadata"]["name"] == name), None)

    def fail_unless(self, good, what):
        if not good:
            self.wrong.append(what)

    def pods(self, selector):
        want = selector.get("matchLabels", selector)
        return [d for d in self.of("Deployment")
                if want.items() <= d["spec"]["template"]["metadata"]["labels"].items()]

    def has_port(self, deployments, port):
        return all(any(port in (p["name"], p["containerPort"]) for c in containers(d) for p in c.get("ports", []))
                   for d in deployments)

    def check_selectors(self):
        for d in self.of("Deployment"):
            labels = d["spec"]["template"]["metadata"]["labels"]
            self.fail_unless(d["spec"]["selector"]["matchLabels"].items() <= labels.items(),
                             f"{name_of(d)}: its selector is not among its pods' labels")
        for o in self.of("PodDisruptionBudget") + self.of("PodMonitor"):
            self.fail_unless(self.pods(o["spec"]["selector"]), f"{name_of(o)} selects nothing")
        for o in self.of("PodMonitor"):
            for endpoint in o["spec"]["podMetricsEndpoints"]:
                self.fail_unless(self.has_port(self.pods(o["spec"]["selector"]), endpoint["port"]), f"{name_of(o)}: no port")
        for s in self.of("Service"):
            pods = self.pods(s["spec"]["selector"])
            self.fail_unless(pods, f"{name_of(s)} selects nothing")
            for port in s["spec"]["ports"]:
                self.fail_unless(self.has_port(pods, port["targetPort"]), f"{name_of(s)}: no port {port['targetPort']}")

    def check_network(self):
        for n in self.of("NetworkPolicy"):
            chosen = self.pods(n["spec"]["podSelector"])
            self.fail_unless(chosen, f"{name_of(n)} selects nothing")
            for rule in n["spec"].get("ingress", []):
                for port in rule["ports"]:
                    self.fail_unless(self.has_port(chosen, port["port"]), f"{name_of(n)}: no port {port['port']} to let in")
            for rule in n["spec"].get("egress", []):
                for peer in (p for p in rule["to"] if "namespaceSelector" not in p):
                    there = self.pods(peer["podSelector"])
                    self.fail_unless(there, f"{name_of(n)} lets out to nobody")
                    for port in rule["ports"]:
                        self.fail_unless(self.has_port(there, port["port"]), f"{name_of(n)}: no port {port['port']} there")

    def reaches(self, deployment, address):
        """That pods of the deployment may reach host:port: a Service, its port, and the policy on the way."""
        host, port = address.removeprefix("http://").rsplit(":", 1)
        service = self.named("Service", host)
        if service is None or int(port) not in [p["port"] for p in service["spec"]["ports"]]:
            return False
        there = self.pods(service["spec"]["selector"])
        mine = [n for n in self.of("NetworkPolicy") if deployment in self.pods(n["spec"]["podSelector"])]
        return all(any(there == self.pods(peer["podSelector"]) for rule in n["spec"].get("egress", [])
                       for peer in rule["to"] if "namespaceSelector" not in peer) for n in mine)

    def keys_of_secret(self, name):
        """What a secret holds: cert-manager's three files, or what README.md has people put there; None: it is nowhere."""
        if any(c["spec"]["secretName"] == name for c in self.of("Certificate")):
            return {"tls.crt", "tls.key", "ca.crt"}
        namespace = self.of("Namespace")[0]["metadata"]["name"]
        line = re.search(rf"kubectl -n {namespace} create secret generic {name} (.*)", self.readme)
        return set(re.findall(r"--from-literal=(\w+)=", line[1])) if line else None

    def files_of(self, deployment, volume):
        """Names of the files in a volume, None: not known (a disk)."""
        if "configMap" in volume:
            found = self.named("ConfigMap", volume["configMap"]["name"])
            self.fail_unless(found, f"{name_of(deployment)}: no ConfigMap {volume['configMap']['name']}")
            return set(found["data"]) if found else set()
        if "secret" in volume:
            keys = self.keys_of_secret(volume["secret"]["secretName"])
            self.fail_unless(keys is not None, f"{name_of(deployment)}: nobody makes secret {volume['secret']['secretName']}")
            for item in volume["secret"].get("items", []):
                self.fail_unless(item["key"] in (keys or ()), f"{name_of(deployment)}: no key {item['key']}")
            return keys or set()
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            self.fail_unless(self.named("PersistentVolumeClaim", claim), f"{name_of(deployment)}: no claim {claim}")
        return None

    def check_pods(self):
        for d in self.of("Deployment"):
            spec = d["spec"]["template"]["spec"]
            account = spec.get("serviceAccountName")
            self.fail_unless(account is None or self.named("ServiceAccount", account), f"{name_of(d)}: no account {account}")
            volumes = {v["name"]: self.files_of(d, v) for v in spec.get("volumes", [])}
            used = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
            self.fail_unless(used == set(volumes), f"{name_of(d)}: volumes {sorted(volumes)}, mounted {sorted(used)}")
            for c in spec["containers"]:
                self.check_container(d, c, volumes)

    def check_container(self, deployment, container, volumes):
        mounts = {m["mountPath"]: volumes.get(m["name"]) for m in container.get("volumeMounts", [])}
        ports = {p["name"] for p in container.get("ports", [])}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind, {})
            asked = probe.get("httpGet", probe.get("tcpSocket"))
            self.fail_unless(asked is None or asked["port"] in ports, f"{name_of(deployment)}: no port of {kind}")
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {}).get("secretKeyRef")
            self.fail_unless(not source or source["key"] in (self.keys_of_secret(source["name"]) or ()),
                             f"{name_of(deployment)}: {variable['name']}: nobody makes {source}")
        for requests in ("requests", "limits"):
            self.fail_unless("memory" in container["resources"][requests], f"{name_of(deployment)}: no memory {requests}")
        if name_of(deployment) in OURS:
            self.check_closed(deployment, container)
        if container["name"] in SETTINGS:
            self.check_settings(deployment, container, mounts)

    def check_closed(self, deployment, container):
        pod, own = deployment["spec"]["template"]["spec"], container["securityContext"]
        self.fail_unless(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0 and
                         pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault" and
                         pod["automountServiceAccountToken"] is False and own["readOnlyRootFilesystem"] is True and
                         own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]},
                         f"{name_of(deployment)}, container {container['name']}: may do more than it needs")

    def check_settings(self, deployment, container, mounts):
        program = container["name"]
        path = container["args"][container["args"].index("--config") + 1]
        self.fail_unless(in_mounts(path, mounts), f"{program}: {path} is not mounted")
        volume = next(v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "config")
        text = self.named("ConfigMap", volume["configMap"]["name"])["data"][SETTINGS[program]]
        settings = flat(yaml.safe_load(text))
        for key, value in settings.items():
            if isinstance(value, str) and value.startswith("/"):
                self.fail_unless(in_mounts(value, mounts) or value.startswith(IMAGE_MODELS), f"{program}: {key}: {value}?")
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        for key, port in (("listen.address", "grpc" if program == "shoal-cloud" else "http"), ("http.address", "ops")):
            if key in settings:
                self.fail_unless(settings[key].endswith(f":{ports[port]}"), f"{program}: {key} is not port {port}")
        for key in ("upstream.url", "store.address", "cloud.target"):
            if key in settings:
                self.fail_unless(self.reaches(deployment, settings[key]), f"{program}: {key} {settings[key]} is out of reach")
        if "cloud.name_override" in settings:
            names = self.named("Certificate", "shoal-cloud")["spec"]["dnsNames"]
            self.fail_unless(settings["cloud.name_override"] in names, f"{program}: the cloud's certificate has {names}")
        self.check_numbers(deployment, container, settings)

    def check_numbers(self, deployment, container, settings):
        program, resources = container["name"], container["resources"]
        grace_ms = 1000 * deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        self.fail_unless(grace_ms >= settings["drain.grace_ms"] + 10000, f"{program}: killed before it has drained")
        startup = container["startupProbe"]
        window_ms = 1000 * startup["periodSeconds"] * startup["failureThreshold"]
        self.fail_unless(window_ms > settings.get("upstream.start_ms", 0) + 10000, f"{program}: killed while it waits")
        cpus = cpu(resources["requests"]["cpu"])
        self.fail_unless(settings.get("model.threads", 0) <= cpus, f"{program}: more threads than {cpus} CPUs")
        memory = mib(resources["limits"]["memory"])
        self.fail_unless(settings.get("kv.max_mib", 64) <= 0.6 * memory, f"{program}: kv.max_mib fills {memory} MiB")

    def check_certificates(self):
        for c in self.of("Certificate"):
            self.fail_unless(self.named("Issuer", c["spec"]["issuerRef"]["name"]), f"{name_of(c)}: no issuer")
        made = {c["spec"]["secretName"] for c in self.of("Certificate")}
        for i in self.of("Issuer"):
            authority = i["spec"].get("ca", {}).get("secretName")
            self.fail_unless(authority is None or authority in made, f"{name_of(i)}: nobody makes {authority}")

    def check_scalers(self):
        for s in self.of("HorizontalPodAutoscaler") + self.of("ScaledObject"):
            target = self.named("Deployment", s["spec"]["scaleTargetRef"]["name"])
            self.fail_unless(target is not None, f"{name_of(s)} scales nothing")
            self.fail_unless(target is None or "replicas" not in target["spec"], "a scaler, and a number beside it")
        self.fail_unless(len(self.of("HorizontalPodAutoscaler") + self.of("ScaledObject")) <= 1, "two scalers")

    def check(self):
        for part in (self.check_selectors, self.check_network, self.check_pods, self.check_certificates, self.check_scalers):
            part()
        return self.wrong


def name_of(o):
    return o["metadata"]["name"]


def containers(deployment):
    return deployment["spec"]["template"]["spec"]["containers"]


def flat(settings, prefix=""):
    found = {}
    for key, value in settings.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return found


def in_mounts(path, mounts):
    folder, name = os.path.split(path)
    return folder in mounts and (mounts[folder] is None or name in mounts[folder])


def cpu(text):
    return int(text[:-1]) / 1000 if str(text).endswith("m") else float(text)


def mib(text):
    return int(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]


# --- tests -------------------------------------------------------------------------------------------------------------


def test_every_file_is_named_by_its_kustomization():
    n = 0
    for path in files("kustomization.yaml"):
        folder = os.path.dirname(path)
        k = documents(path)[0]
        named = set(k.get("resources", []) + k.get("components", []))
        named |= {p["path"] for p in k.get("patches", []) if "path" in p}
        named |= {f.split("=")[-1] for g in k.get("configMapGenerator", []) for f in g["files"]}
        for name in named:
            there = os.path.join(folder, name)
            expect(os.path.isfile(there) or os.path.isfile(os.path.join(there, "kustomization.yaml")), f"{path}: no {name}")
        lost = set(os.listdir(folder)) - named - {"kustomization.yaml"}
        expect(not lost, f"{folder}: {sorted(lost)} in no kustomization")
        for name in named:
            if name.endswith(".yaml"):
                documents(os.path.join(folder, name))
                n += 1
    expect(n >= 20, f"only {n} files were found")
    return f"{n} files"


def test_configurations_are_valid():
    paths = [("shoal-cloud", p) for p in files("cloud.yaml")] + [("shoal-edge", p) for p in files("config.yaml")]
    expect(len(paths) == 4, f"{len(paths)} configurations were found")
    for program, path in paths:
        run(binary(program), "--check-config", "--config", path, "--set", *(
            ["api.key=k"] if program == "shoal-edge" else ["log.level=info"]))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("kv:\n  max_mb: 1\n")
        f.flush()
        expect(run(binary("shoal-cloud"), "--check-config", "--config", f.name, check=False).returncode != 0, "nothing is checked")


def test_every_reference_resolves():
    if not can_render():
        return "skipped: no kubectl from 1.21 on"
    for name, objects in rendered().items():
        wrong = Overlay(objects).check()
        expect(not wrong, f"overlay {name}: " + "; ".join(wrong))
    # And that it can fail: a Service gone, a grace that is too short, a policy that forgets the store.
    objects = copy.deepcopy(rendered()["production"])
    overlay = Overlay([o for o in objects if (o["kind"], name_of(o)) != ("Service", "shoal-redis")])
    node = overlay.named("Deployment", "shoal-cloud")["spec"]["template"]
    node["spec"]["terminationGracePeriodSeconds"] = 60
    node["metadata"]["labels"]["app.kubernetes.io/name"] = "other"
    wrong = overlay.check()
    for part in ("out of reach", "before it has drained", "selects nothing"):
        expect(any(part in w for w in wrong), f"not seen: {part}")
    return f"{len(rendered())} overlays"


def test_pods_have_no_field_that_kubernetes_does_not_know():
    """kubectl reads a Deployment into its own types and writes it again: what it does not know is gone."""
    if not can_render():
        return "skipped: no kubectl from 1.21 on"

    def lost(before, after, at=""):
        if isinstance(before, dict):
            for key, value in before.items():
                if not isinstance(after, dict) or key not in after:
                    if value not in ({}, [], None, "", 0, False):
                        yield f"{at}.{key}"
                else:
                    yield from lost(value, after[key], f"{at}.{key}")
        elif isinstance(before, list):
            for i, value in enumerate(before):
                yield from lost(value, after[i] if i < len(after) else None, f"{at}[{i}]")

    def unknown(deployments):
        text = kubectl("set", "env", "--local", "-f", "-", "CHECKED=yes", "-o", "json", text=yaml.safe_dump_all(deployments))
        decoder, at, read = json.JSONDecoder(), 0, []
        while at < len(text):
            o, at = decoder.raw_decode(text, at)
            read.append(o)
            at += len(text[at:]) - len(text[at:].lstrip())
        expect(len(read) == len(deployments), f"{len(read)} of {len(deployments)} deployments were read")
        return list(lost(deployments, read))
    all_of_them = [o for objects in rendered().values() for o in copy.deepcopy(objects) if o["kind"] == "Deployment"]
    found = unknown(all_of_them)
    expect(not found, f"unknown: {found}")
    containers(all_of_them[0])[0]["livenesProbe"] = {"periodSeconds": 3}
    expect(len(unknown(all_of_them[:1])) == 1, "a misspelt field is not seen")
    return f"{len(all_of_them)} deployments"


def probes():
    """{program: paths} that probes and monitors ask for, from the sources."""
    asked = {name: set() for name in SETTINGS}
    for path in (os.path.join(FOLDER, "base/deployment.yaml"), os.path.join(FOLDER, "components/edge/edge.yaml")):
        for d in (o for o in documents(path) if o["kind"] == "Deployment"):
            for c in (c for c in containers(d) if c["name"] in SETTINGS):
                asked[c["name"]] |= {p["httpGet"]["path"] for k, p in c.items() if k.endswith("Probe")}
            notes = d["spec"]["template"]["metadata"].get("annotations", {})
            asked[name_of(d)] |= {v for k, v in notes.items() if k == "prometheus.io/path"}
    return asked


def scaled_on():
    found = set()
    for path in files("scaler.yaml"):
        with open(path, encoding="utf-8") as f:
            found |= set(re.findall(r"(?:query: .*?|^ +name: )\b(shoal_\w+)", f.read(), re.M))
    return found


def test_daemons_serve_what_pods_are_asked_for():
    """The nodes of the base, with its own configuration but for paths and ports: probes, metrics, renewal, drain."""
    asked = probes()
    expect(len(asked["shoal-cloud"]) == 3 and len(asked["shoal-edge"]) == 2, f"found {asked}")
    with Site() as site:
        full, draft = site.models()
        os.makedirs(site.file("tls"))
        for theirs, ours in (("ca.pem", "ca.crt"), ("cloud.pem", "tls.crt"), ("cloud.key", "tls.key")):
            shutil.copy(site.file("certs/" + theirs), site.file("tls/" + ours))
        cloud = site.cloud(full, http__address="0.0.0.0:0", tls__ca=site.file("tls/ca.crt"), tls__cert=site.file("tls/tls.crt"),
                           tls__key=site.file("tls/tls.key"))
        cloud.arguments = ["--config", os.path.join(FOLDER, "base/cloud.yaml")]
        cloud.name = site.file(f"node-{os.getpid()}")  # the helper must not find other nodes of this machine
        os.symlink(binary("shoal-cloud"), cloud.name)
        cloud.start()
        ops = cloud.process.stdout.readline()[len("http: "):].strip().replace("0.0.0.0", "127.0.0.1")
        edge = site.edge(draft, cloud.address, api__key="of-a-secret")
        edge.arguments = ["--config", os.path.join(FOLDER, "components/edge/config.yaml")]
        edge.start()
        host = {"Host": "10.20.30.40:9443"}  # a pod's address, as the kubelet and Prometheus say it
        for path in asked["shoal-cloud"]:
            expect(request(ops, "GET", path, headers=host)[0] == 200, f"shoal-cloud does not serve {path}")
        for path in asked["shoal-edge"]:
            expect(request(edge.address, "GET", path)[0] == 200, f"shoal-edge does not serve {path}")
        expect(request(ops, "GET", "/ready", headers=host)[0] == 404, "every path is served")
        told = set(re.findall(r"^# TYPE (\w+) ", request(ops, "GET", "/metrics")[2].decode(), re.M))
        wanted = scaled_on()
        expect(len(wanted) == 2 and wanted <= told, f"scalers ask for {sorted(wanted)}, not told: {sorted(wanted - told)}")
        renew(site, cloud, ops)
        cloud.process.send_signal(signal.SIGTERM)
        expect(cloud.process.wait(30) == 0, f"exit {cloud.process.returncode} after TERM")


def renew(site, cloud, ops):
    """cert-manager's part: a new authority, certificate and key appear in the folder."""
    def reloads():
        return float(re.search(r"^shoal_config_reloads_total (\S+)", request(ops, "GET", "/metrics")[2].decode(), re.M)[1])
    helper = subprocess.Popen([os.path.join(SOURCE, "deploy/container/reload-on-change"), site.file("tls"), os.path.basename(cloud.name), "0.2"],
                              stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    try:
        run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), site.file("next"))
        for theirs, ours in (("ca.pem", "ca.crt"), ("cloud.pem", "tls.crt"), ("cloud.key", "tls.key")):
            shutil.copy(site.file("next/" + theirs), site.file("tls/" + ours))
        wait_until(lambda: reloads() >= 1, 20, "the reload")
        line = helper.stdout.readline()
        expect(f"SIGHUP to {os.path.basename(cloud.name)}" in line, f"the helper said {line!r}")
        edge = site.edge(site.models()[1], cloud.address, cloud__ca=site.file("next/ca.pem"),
                         cloud__cert=site.file("next/edge.pem"), cloud__key=site.file("next/edge.key")).start()
        answer = complete(edge.address, "Once", "cloud", n=2)
        expect(answer.error is None, f"the new certificate is not served: {answer.error}")
    finally:
        helper.terminate()
        expect(helper.wait(10) == 0, "the helper does not end on TERM")
        helper.stdout.close()


def test_the_store_starts_from_its_command():
    """The pod's own shell script with a server of this machine: the password is asked for, the limits are set."""
    if not os.path.exists(REDIS):
        return "skipped: no redis-tools"
    d = next(o for o in documents(os.path.join(FOLDER, "components/redis/redis.yaml")) if o["kind"] == "Deployment")
    shell, flag, script = containers(d)[0]["command"]
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(FOLDER, "components/redis/redis.conf"), encoding="utf-8") as f:
            text = f.read()
        socket_path = os.path.join(folder, "socket")
        for name, content in (("redis.conf", text.replace("port 6379", f"port 0\nunixsocket {socket_path}")),
                              ("password", "of-a-secret")):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                f.write(content)
        os.symlink(REDIS, os.path.join(folder, "redis-server"))
        script = script.replace("valkey-server", os.path.join(folder, "redis-server"))
        script = script.replace("/etc/redis/", folder + "/").replace("/etc/shoal/store/", folder + "/")
        server = subprocess.Popen([shell, flag, script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder)

        def ask(*words):
            return run("redis-cli", "-s", socket_path, *words, check=False).stdout
        try:
            wait_until(lambda: os.path.exists(socket_path), what="the store")
            expect("NOAUTH" in ask("ping"), f"no password is asked for: {ask('ping')}")
            auth = ("--no-auth-warning", "-a", "of-a-secret")
            expect("PONG" in ask(*auth, "ping"), "the password is not taken")
            expect("allkeys-lru" in ask(*auth, "config", "get", "maxmemory-policy"), "the limits are not set")
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main([value for name, value in list(globals().items()) if name.startswith("test_")])
