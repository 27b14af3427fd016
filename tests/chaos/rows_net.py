# SPDX-License-Identifier: Apache-2.0
"""Rows of the fault table whose fault is bytes: HTTP at the edge, HTTP/2 and gRPC at the node."""
import gzip
import json
import os
import socket
import ssl
import struct
import time

from bed import Bed, cpu_seconds
from h2 import (CONTINUATION, DATA, DESCRIBE, END_HEADERS, END_STREAM, GENERATE, HEADERS, PING, RST, SETTINGS, Peer, call,
                frame, literal, message)
from harness import expect, request

BODY = b'{"prompt":"Once","max_tokens":1}'
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def place(url):
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


def say(url, data, seconds=5):
    """All bytes that come back until the end or silence, and whether the connection was ended."""
    with socket.create_connection(place(url), 10) as s:
        s.settimeout(seconds)
        reply = b""
        try:
            s.sendall(data)
            while part := s.recv(65536):
                reply += part
        except socket.timeout:
            return reply, False
        except OSError:
            pass
        return reply, True


def heads_that_smuggle():
    """(name, head lines) of one request that two parsers could cut at different places."""
    n = str(len(BODY)).encode()
    length, chunked = b"Content-Length: " + n + b"\r\n", b"Transfer-Encoding: chunked\r\n"
    yield "CL then TE", length + chunked
    yield "TE then CL", chunked + length
    yield "CL twice, different", length + b"Content-Length: 0\r\n"
    yield "CL list", b"Content-Length: " + n + b", 0\r\n"
    yield "CL signed", b"Content-Length: +" + n + b"\r\n"
    yield "CL negative", b"Content-Length: -1\r\n"
    yield "CL hex", b"Content-Length: 0x10\r\n"
    yield "CL too long", b"Content-Length: 18446744073709551648\r\n"
    yield "CL empty", b"Content-Length: \r\n"
    yield "CL before colon", b"Content-Length : " + n + b"\r\n"
    yield "CL folded", b"Content-Length:\r\n " + n + b"\r\n"
    yield "CL ended by LF", b"Content-Length: " + n + b"\n"
    for name, value in (("identity", b"identity"), ("xchunked", b"xchunked"), ("chunked, identity", b"chunked, identity"),
                        ("chunked quoted", b'"chunked"'), ("chunked twice", b"chunked\r\nTransfer-Encoding: identity"),
                        ("vertical tab", b"\x0bchunked"), ("null", b"chunked\x00")):
        yield "TE " + name, b"Transfer-Encoding: " + value + b"\r\n" + length


def smuggling(rng):
    """Each pair is refused as a whole and the connection ends: what follows is never taken for a request."""
    with Bed(alone=True) as bed:
        n = 0
        for name, lines in heads_that_smuggle():
            data = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + lines + b"\r\n"
            reply, ended = say(bed.edge.address, data + BODY + SMUGGLED)
            status = reply.split(b" ", 2)[1:2]
            expect(status and status[0] in (b"400", b"411", b"413", b"501"), f"{name}: {reply[:120]!r}")
            expect(ended and reply.count(b"HTTP/1.1 ") == 1, f"{name}: {reply.count(b'HTTP/1.1 ')} answers, ended {ended}")
            n += 1
        bad = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        for chunk in (b"-1\r\n", b"ffffffffffffffffff\r\nx", b"1;\x01\r\nx\r\n0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b"1\nx\n0\n\n", b"g\r\n"):
            reply, ended = say(bed.edge.address, bad + chunk + SMUGGLED)
            expect(ended and b"HTTP/1.1 404" not in reply and b" 200 " not in reply, f"chunk {chunk!r}: {reply[:200]!r}")
            n += 1
        bed.check()
    return f"{n} pairs"


def never_followed(rng):
    """Who asks for 100-continue and sends no body is ended when its time is over."""
    with Bed(alone=True, edge={"http__body_ms": 1500}) as bed:
        head = (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
        many = [socket.create_connection(place(bed.edge.address), 10) for _ in range(100)]
        for s in many:
            s.sendall(head)
        bed.answer()
        for s in many:
            s.settimeout(10)
            reply = b""
            try:
                while part := s.recv(4096):
                    reply += part
            except socket.timeout:
                raise AssertionError("a connection whose body never came was not ended") from None
            except OSError:
                pass
            s.close()
            expect(reply.startswith(b"HTTP/1.1 100 "), reply[:60])
        bed.check()
    return f"{len(many)} connections"


def descriptors_run_out(rng):
    """More clients than descriptors: no spinning, and service as soon as they leave."""
    with Bed(alone=True) as bed:
        pid = str(bed.edge.process.pid)
        os.system(f"prlimit --pid {pid} --nofile=48:48")
        crowd = []
        for _ in range(150):
            s = socket.socket()
            s.settimeout(2)
            try:
                s.connect(place(bed.edge.address))
                crowd.append(s)
            except OSError:
                s.close()
        used = cpu_seconds(bed.edge)
        time.sleep(3)
        used = cpu_seconds(bed.edge) - used
        for s in crowd:
            s.close()
        expect(len(crowd) > 60, f"only {len(crowd)} connections")
        expect(used < 1, f"{used:.1f} s of CPU in 3 s with nothing to do")
        bed.check()
    return f"{len(crowd)} clients at 48 descriptors, {used:.2f} s of CPU in 3 s"


def numbers(rng):
    """Every number of a request at values that no number should have: an answer or a 400 that names the field."""
    values = ["-1", "2147483648", "-2147483649", "9007199254740993", "9223372036854775808", "1e999", "-1e999", "NaN", '"NaN"',
              "1.5", "[]", "{}", '""', "true", "1e-400"]
    fields = ["max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "logprobs", "frequency_penalty",
              "presence_penalty"]
    with Bed(alone=True, edge={"context__max": 256}) as bed:
        taken = refused = 0
        for field in fields:
            for value in values:
                body = '{"prompt":"Once","max_tokens":1,"%s":%s}' % (field, value)
                if field == "max_tokens":
                    body = '{"prompt":"Once","max_tokens":%s}' % value
                status, _, reply = request(bed.edge.address, "POST", "/v1/completions", body,
                                           {"Content-Type": "application/json"})
                expect(status in (200, 400), f"{field}: {value}: {status} {reply[:200]}")
                if status == 400:
                    expect(json.loads(reply)["error"]["message"], f"{field}: {value}: no reason")
                taken, refused = taken + (status == 200), refused + (status == 400)
        expect(refused > taken, f"{taken} of {taken + refused} strange numbers were taken")
        bed.check()
    return f"{refused} refused by name, {taken} served"


# --- the node ---

def strange_protocols(rng):
    """HTTP/1 under TLS, no ALPN, a wrong one, plain HTTP, bytes one by one: others are served."""
    with Bed() as bed:
        for alpn in ((), ("http/1.1",), ("spdy/3", "h3")):
            try:
                with Peer(bed.site, bed.cloud.address, alpn=alpn, start=False) as peer:
                    peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    for kind, _, _, _ in peer.frames(5):
                        expect(kind in (SETTINGS, 7, 72), f"HTTP/1 under ALPN {alpn} got frame {kind}")
            except (ssl.SSLError, OSError):
                pass  # refused in the handshake
        host, port = bed.cloud.address.rsplit(":", 1)
        for junk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", rng.randbytes(4096),
                     b"\x16\x03\x01\xff\xff" + bytes(60000)):
            with socket.create_connection((host, int(port)), 5) as s:
                s.sendall(junk)
        with Peer(bed.site, bed.cloud.address) as peer:  # a TLS record for each byte of a good call
            for byte in frame(HEADERS, END_HEADERS, 1, call(DESCRIBE)) + frame(DATA, END_STREAM, 1, message(b"")):
                peer.send(bytes([byte]))
            expect(peer.ended(1) == "trailers", "a call in records of one byte got no answer")
        bed.check()
    return "9 ways to begin"


def streams_that_stay_silent(rng):
    """Opened and never written, half-closed at once: all end by themselves. With no window to answer in: others are served."""
    with Bed(cloud={"sessions__idle_ms": 1500}) as bed:
        with Peer(bed.site, bed.cloud.address) as peer:
            n = 40
            for i in range(n):
                peer.send(frame(HEADERS, END_HEADERS, 2 * i + 1, call(GENERATE)))
            ended = set()
            for kind, flags, stream, _ in peer.frames(40):
                if kind == RST or (kind == HEADERS and flags & END_STREAM):
                    ended.add(stream)
                if len(ended) == n:
                    break
            expect(len(ended) == n, f"{n - len(ended)} of {n} streams that say nothing were kept")
            peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, call(GENERATE)))
            expect(peer.ended(2 * n + 1) in ("trailers", "rst"), "half-closed at once: no end")
        shut = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE 0
        with Peer(bed.site, bed.cloud.address) as peer:
            peer.send(frame(SETTINGS, 0, 0, shut))
            for i in range(20):
                peer.send(frame(HEADERS, END_HEADERS, 2 * i + 1, call(DESCRIBE)) +
                          frame(DATA, END_STREAM, 2 * i + 1, message(b"")))
            bed.answer()
        bed.check()
    return f"{n} silent, 20 with no window"


def floods(rng):
    """Rapid reset, CONTINUATION without end, PING and SETTINGS floods, ten thousand streams: others are served."""
    with Bed() as bed:
        def flood(what, one, times):
            with Peer(bed.site, bed.cloud.address) as peer:
                for _ in range(times):
                    if not peer.send(one()):
                        break
                expect(bed.answer() == bed.right, f"another answer under {what}")

        stream = iter(range(1, 1 << 30, 2))

        def reset():
            out = b""
            for _ in range(100):
                i = next(stream)
                out += frame(HEADERS, END_HEADERS, i, call(GENERATE)) + frame(RST, 0, i, struct.pack(">I", 8))
            return out

        flood("rapid reset", reset, 500)
        first = [True]

        def more():
            kind = HEADERS if first[0] else CONTINUATION
            first[0] = False
            return frame(kind, 0, 1, literal("x-" + "a" * 50, "b" * 8000))

        flood("CONTINUATION without end", more, 2000)
        flood("pings", lambda: frame(PING, 0, 0, b"12345678") * 100, 1000)
        flood("settings", lambda: frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 100, 500)
        stream = iter(range(1, 1 << 30, 2))
        flood("ten thousand streams", lambda: frame(HEADERS, END_HEADERS, next(stream), call(GENERATE)), 10000)
        bed.check()
    return "50000 resets, 16 MB of CONTINUATION, 100000 pings, 50000 settings, 10000 streams"


def metadata(rng):
    """1 MiB of metadata, deadlines that are none or without end, codings nobody knows."""
    with Bed() as bed:
        with Peer(bed.site, bed.cloud.address) as peer:
            block = call(DESCRIBE) + b"".join(literal(f"x-{i}", "v" * 16000) for i in range(64))
            pieces = [block[i:i + 16000] for i in range(0, len(block), 16000)]
            for i, piece in enumerate(pieces):
                flags = END_HEADERS if i == len(pieces) - 1 else 0
                if not peer.send(frame(CONTINUATION if i else HEADERS, flags, 1, piece)):
                    break
            peer.send(frame(DATA, END_STREAM, 1, message(b"")))
            expect(peer.ended(1, 5) is not None or not peer.send(b""), "1 MiB of metadata: neither refused nor ended")
        for timeout in ("0S", "0n", "-1S", "99999999H", "999999999999S", "S", "1", "1X", "\x00", "1e3S"):
            with Peer(bed.site, bed.cloud.address) as peer:
                peer.send(frame(HEADERS, END_HEADERS, 1, call(DESCRIBE, [("grpc-timeout", timeout)])) +
                          frame(DATA, END_STREAM, 1, message(b"")))
                expect(peer.ended(1, 5) is not None, f"grpc-timeout {timeout!r}: no end")
        bed.check()
    return "1 MiB and 10 deadlines: every call ended"


def messages(rng):
    """Bombs, lengths that lie, nested groups, fields at their limits: the call ends, nothing grows."""
    deep = b"\xfb\x01" * 100000
    bodies = [("gzip bomb", message(gzip.compress(bytes(64 << 20)), 1), [("grpc-encoding", "gzip")]),
              ("compressed without a coding", message(b"xxxx", 1), []),
              ("unknown coding", message(b"xxxx", 1), [("grpc-encoding", "lzma")]),
              ("length 2^31-1", bytes([0]) + struct.pack(">I", 0x7FFFFFFF) + bytes(100), []),
              ("length 2^32-1", bytes([0]) + struct.pack(">I", 0xFFFFFFFF) + bytes(100), []),
              ("flag 255", b"\xff" + struct.pack(">I", 4) + b"abcd", []),
              ("nested groups", message(deep), []),
              ("packed list of 2^31-1", message(b"\x12\x0a\x22\xff\xff\xff\xff\x07abcd"), []),
              ("varint without end", message(b"\x08" + b"\xff" * 100), []),
              ("field 0", message(b"\x00\x00"), []),
              ("nothing", message(b""), [])]
    for i in range(200):
        bodies.append((f"random {i}", message(rng.randbytes(rng.randrange(1, 2000))), []))
    with Bed(cloud={"sessions__idle_ms": 2000}) as bed:
        for name, data, extra in bodies:
            with Peer(bed.site, bed.cloud.address) as peer:
                peer.send(frame(HEADERS, END_HEADERS, 1, call(GENERATE, extra)))
                sent = 0
                while sent < len(data) and peer.send(frame(DATA, 0, 1, data[sent:sent + 16000])) and sent < 60000:
                    sent += 16000
                peer.send(frame(DATA, END_STREAM, 1))
                expect(peer.ended(1, 6) is not None, f"{name}: the call did not end")
        bed.check()
    return f"{len(bodies)} messages"
