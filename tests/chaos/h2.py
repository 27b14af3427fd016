# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames by hand over mutual TLS: what no well-behaved client can be made to send to a cloud node."""
import socket
import ssl
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
GENERATE, DESCRIBE = "/shoal.v1.Cloud/Generate", "/shoal.v1.Cloud/Describe"


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(n, prefix):
    """An HPACK integer below a first byte of zeros."""
    most = (1 << prefix) - 1
    if n < most:
        return bytes([n])
    out, n = [most], n - most
    while n >= 128:
        out.append(n % 128 + 128)
        n //= 128
    return bytes(out + [n])


def literal(name, value):
    """A header as HPACK takes it without a table and without Huffman."""
    name, value = name.encode(), value.encode() if isinstance(value, str) else value
    return b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value


def call(path, extra=()):
    head = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost"),
            ("content-type", "application/grpc"), ("te", "trailers"), *extra]
    return b"".join(literal(name, value) for name, value in head)


def message(body, compressed=0):
    return bytes([compressed]) + struct.pack(">I", len(body)) + body


class Peer:
    """One connection to a node; frames read are (kind, flags, stream, payload)."""

    def __init__(self, site, address, alpn=("h2",), cert="edge", start=True):
        host, port = address.rsplit(":", 1)
        context = ssl.create_default_context(cafile=site.file("certs/ca.pem"))
        if cert:
            context.load_cert_chain(site.file(f"certs/{cert}.pem"), site.file(f"certs/{cert}.key"))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        self.socket = context.wrap_socket(socket.create_connection((host, int(port)), 10), server_hostname="localhost")
        self.socket.settimeout(10)
        self.bytes = b""
        if start:
            self.send(PREFACE + frame(SETTINGS))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """False when the peer has ended the connection."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def more(self):
        part = self.socket.recv(65536)
        self.bytes += part
        return bool(part)

    def frames(self, seconds=10):
        """What comes until the connection ends or the time is over; acknowledges settings and pings."""
        end = time.monotonic() + seconds
        while True:
            while len(self.bytes) >= 9 and len(self.bytes) >= 9 + int.from_bytes(self.bytes[:3], "big"):
                n = int.from_bytes(self.bytes[:3], "big")
                one = (self.bytes[3], self.bytes[4], struct.unpack(">I", self.bytes[5:9])[0], self.bytes[9:9 + n])
                self.bytes = self.bytes[9 + n:]
                if one[0] in (SETTINGS, PING) and not one[1] & ACK:
                    self.send(frame(one[0], ACK, 0, one[3] if one[0] == PING else b""))
                yield one
            left = end - time.monotonic()
            if left <= 0:
                return
            self.socket.settimeout(left)
            try:
                if not self.more():
                    return
            except (socket.timeout, ssl.SSLWantReadError):
                return
            except OSError:
                return

    def ended(self, stream, seconds=10):
        """The frame that ends this stream or the connection: "rst", "goaway", "trailers", or None for silence."""
        for kind, flags, of, _ in self.frames(seconds):
            if kind == GOAWAY:
                return "goaway"
            if of == stream and kind == RST:
                return "rst"
            if of == stream and kind == HEADERS and flags & END_STREAM:
                return "trailers"
        return None
