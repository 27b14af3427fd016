#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shoal and libshoal over https: an edge with a certificate, right and wrong ones, and a wire that dribbles and is cut."""
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading

from harness import SOURCE, Site, binary, expect, main, run, wait_until

QUESTION = "What does H40 mean on the Tapir 10?"
OPENSSL_CA = """[ca]
default_ca=d
[d]
database={folder}/index
new_certs_dir={folder}
rand_serial=yes
default_md=sha256
policy=p
[p]
commonName=supplied
[e]
basicConstraints=critical,CA:FALSE
subjectAltName={names}
"""


def make_cert(site, name, names, *days):
    """A certificate of the site's authority for the key of its cloud; days: from and to, as 20200101000000Z."""
    folder = site.file(f"ca-{name}")
    os.mkdir(folder)
    for file, text in (("index", ""), ("conf", OPENSSL_CA.format(folder=folder, names=names))):
        with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
            f.write(text)
    run("openssl", "req", "-new", "-key", site.file("certs/cloud.key"), "-subj", f"/CN={name}", "-out", f"{folder}/csr")
    dates = ["-startdate", days[0], "-enddate", days[1]] if days else ["-days", "10"]
    path = site.file(f"{name}.pem")
    run("openssl", "ca", "-batch", "-notext", "-config", f"{folder}/conf", "-extensions", "e", "-cert",
        site.file("certs/ca.pem"), "-keyfile", site.file("certs/ca.key"), *dates, "-in", f"{folder}/csr", "-out", path)
    return path


def shoal(url, *arguments, ca=None, text=None, env=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_") and k != "SSL_CERT_FILE"}
    return subprocess.run([binary("shoal"), *arguments, "--url", url, *(["--ca-file", ca] if ca else [])], input=text or "",
                          capture_output=True, text=True, timeout=120, check=False, env={**environment, **(env or {})})


def secure_edge(site, **settings):
    for kind in ("pem", "key"):
        shutil.copy(site.file(f"certs/cloud.{kind}"), site.file(f"api.{kind}"))
    _, model = site.models()
    edge = site.edge(model, mode__default="local", api__tls_cert=site.file("api.pem"), api__tls_key=site.file("api.key"),
                     **settings).start()
    return edge, int(edge.address.rsplit(":", 1)[1])


class Relay:
    """Carries bytes to a port, the server's one at a time if asked, and drops its first connections after cuts[i] of them."""

    def __init__(self, port, cuts=(), dribble=False):
        self.port, self.cuts, self.dribble = port, list(cuts), dribble
        self.n_bytes = 0  # of the server, over the last connection
        self.n_connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.n_connections += 1
            cut = self.cuts.pop(0) if self.cuts else None
            server = socket.create_connection(("127.0.0.1", self.port))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.up, args=(client, server), daemon=True).start()
            self.down(client, server, cut)

    def up(self, client, server):
        try:
            while data := client.recv(4096):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def down(self, client, server, cut):
        n = 0
        try:
            while cut is None or n < cut:
                data = server.recv(4096 if cut is None else min(4096, cut - n))
                if not data:
                    break
                n += len(data)
                for i in range(0, len(data), 1 if self.dribble else len(data)):
                    client.sendall(data[i:i + (1 if self.dribble else len(data))])
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.n_bytes = n
        client.close()
        server.close()

    def close(self):
        self.listener.close()


def test_everything_shoal_does_works_over_https():
    with Site() as site:
        edge, port = secure_edge(site, listen__unix=site.file("s"), session__body_max_kib="1024")
        ca, url = site.file("certs/ca.pem"), f"https://localhost:{port}"
        plain = shoal(f"unix:{site.file('s')}", "ask", "--temp", "0", QUESTION)
        expect(plain.returncode == 0 and len(plain.stdout) > 4, f"{plain}")
        for address in (url, f"https://127.0.0.1:{port}"):
            done = shoal(address, "ask", "--temp", "0", QUESTION, ca=ca)
            expect((done.returncode, done.stdout) == (0, plain.stdout), f"{done}")
        done = shoal(url, "status", env={"SHOAL_CA_FILE": ca})
        expect(done.returncode == 0 and "ready" in done.stdout, f"{done}")
        done = shoal(url, "bench", "--requests", "6", "--concurrency", "3", "--max-tokens", "4", ca=ca)
        expect(done.returncode == 0, f"{done}")
        done = shoal(url, "chat", ca=ca, text=QUESTION + "\n/quit\n")
        expect(done.returncode == 0 and len(done.stdout) > 4, f"{done}")
        # A large body, up and down; then one that is refused before all of it was sent.
        done = shoal(url, "ask", "--session", "one", " ".join([QUESTION] * 4), ca=ca)
        expect(done.returncode == 0, f"{done}")
        for order in (["save", "one", site.file("one")], ["load", "two", site.file("one")], ["rm", "two"]):
            done = shoal(url, "session", *order, ca=ca)
            expect(done.returncode == 0, f"{order}: {done}")
        expect(os.path.getsize(site.file("one")) > 2 * 16384, "the session fits into one record")
        with open(site.file("large"), "wb") as f:
            f.truncate(16 << 20)
        done = shoal(url, "session", "load", "large", site.file("large"), ca=ca)
        expect(done.returncode == 1 and "1048576" in done.stderr, f"{done}")
        edge.stop()
        done = shoal(url, "status", ca=ca)
        expect(done.returncode == 1 and "is shoal-edge running there" in done.stderr, f"{done}")


def test_certificates_that_are_not_right_are_told_with_the_remedy():
    with Site() as site:
        edge, port = secure_edge(site)
        ca, url = site.file("certs/ca.pem"), f"https://localhost:{port}"
        run(os.path.join(SOURCE, "deploy/certs/make-dev-certs"), site.file("other"))
        for authority in (site.file("other/ca.pem"), None):
            done = shoal(url, "ask", QUESTION, ca=authority)
            expect(done.returncode == 1 and "/CN=Shoal development authority" in done.stderr and "--ca-file" in done.stderr
                   or authority and "signature" in done.stderr, f"{done}")
            expect(done.stdout == "", done.stdout)
        serving = site.file("certs/cloud.pem")

        def serve(pem):
            nonlocal serving
            shutil.copy(pem, site.file("api.pem"))
            with open(pem, encoding="ascii") as f:
                wanted = ssl.PEM_cert_to_DER_cert(f.read())
            edge.process.send_signal(signal.SIGHUP)
            wait_until(lambda: ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port))) == wanted,
                       what=f"{pem} to be served")

        for pem, said in ((make_cert(site, "elsewhere", "DNS:elsewhere.example,IP:192.0.2.1"),
                           "not for localhost but for elsewhere.example, 192.0.2.1"),
                          (make_cert(site, "old", "DNS:localhost", "20200101000000Z", "20210203000000Z"),
                           "ended on 2021-02-03; the edge needs a new one (api.tls_cert)"),
                          (make_cert(site, "young", "DNS:localhost", "20980101000000Z", "20990101000000Z"),
                           "begins on 2098-01-01 only; this machine's clock may be wrong")):
            serve(pem)
            done = shoal(url, "ask", QUESTION, ca=ca)
            expect(done.returncode == 1 and said in done.stderr and url in done.stderr, f"{done}")
        serve(make_cert(site, "right", "DNS:localhost"))
        expect(shoal(url, "status", ca=ca).returncode == 0, "the right one is refused")
        expect(shoal(url, "status", ca=site.file("right.pem")).returncode == 0, "its own file is no authority for it")
        # The other two ways to hold it wrong.
        done = shoal(f"http://localhost:{port}", "ask", QUESTION)
        expect(done.returncode == 1 and "https" in done.stderr, f"{done}")
        done = shoal(f"http://localhost:{port}", "ask", QUESTION, ca=ca)
        expect(done.returncode == 2 and "is not https" in done.stderr, f"{done}")
        done = shoal(url, "ask", QUESTION, ca=site.file("none.pem"))
        expect(done.returncode == 2 and "none.pem: it cannot be read" in done.stderr, f"{done}")


def test_plain_http_behind_https_is_told():
    with Site() as site:
        _, model = site.models()
        edge = site.edge(model, mode__default="local").start()
        done = shoal(edge.address.replace("http://", "https://"), "ask", QUESTION, ca=site.file("certs/ca.pem"))
        expect(done.returncode == 1 and ("speaks no TLS" in done.stderr or "in the TLS handshake" in done.stderr), f"{done}")


def test_a_wire_that_dribbles_and_is_cut():
    with Site() as site:
        _, port = secure_edge(site)
        ca = site.file("certs/ca.pem")
        whole = shoal(f"https://localhost:{port}", "ask", "--temp", "0", QUESTION, ca=ca)
        expect(whole.returncode == 0, f"{whole}")
        relay = Relay(port, dribble=True)
        done = shoal(relay.url, "ask", "--temp", "0", QUESTION, ca=ca)
        expect((done.returncode, done.stdout) == (0, whole.stdout), f"{done}")
        wait_until(lambda: relay.n_bytes > 0, what="the relay's count")
        total = relay.n_bytes
        relay.close()
        n_told = n_mended = 0
        for cut in (0, 1, 6, 500, 1400, *range(2000, total, max(1, total // 9))):
            relay = Relay(port, cuts=[cut])
            done = shoal(relay.url, "ask", "--temp", "0", QUESTION, ca=ca)
            if done.returncode == 0:  # the stream had begun: over a second connection it goes on where it broke
                expect(done.stdout == whole.stdout, f"cut at {cut}: {done}")
                n_mended += relay.n_connections > 1
            else:
                expect("in the TLS handshake" in done.stderr or "was cut" in done.stderr, f"cut at {cut}: {done}")
                expect(whole.stdout.startswith(done.stdout.rstrip("\n")), f"cut at {cut}: {done}")
                n_told += 1
            relay.close()
        expect(n_told >= 3 and n_mended >= 3, f"{n_told} told, {n_mended} mended, of {total} bytes")
        return f"{n_told} told, {n_mended} mended"


if __name__ == "__main__":
    main([test_everything_shoal_does_works_over_https, test_certificates_that_are_not_right_are_told_with_the_remedy,
          test_plain_http_behind_https_is_told, test_a_wire_that_dribbles_and_is_cut])
