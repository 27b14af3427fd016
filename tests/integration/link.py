# SPDX-License-Identifier: Apache-2.0
"""A link with a round trip, loss and bandwidth of its own, between this network namespace and another.

A TUN device at each end and a relay in user space between them, since netem may be missing from the kernel. Everything
above it is the kernel's own TCP. `enter` puts a program into a namespace; `Link` makes the far one, where `place` starts
a daemon. Each direction has half the round trip, loses each packet with the given probability (a seeded generator
of its own, so the n-th packet has the same fate in every run) and sends so many bits a second behind a queue of
QUEUE_S seconds that drops what does not fit. Packets keep their order. A way can be cut by itself (`block`), packets can
lose bits (`damage`), and some can lose one in a way that TCP does not see (`forge`); `counts` says what came of it.
"""
import array
import collections
import ctypes
import fcntl
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

NEAR, FAR = "10.77.0.1", "10.77.0.2"
MTU = 1500
QUEUE_S = 0.2
QUEUE_MIN_BYTES = 32 * MTU
INSIDE = "SHOAL_TEST_LINK_INSIDE"
SKIPPED = 77
CLONE_NEWNET = 0x40000000
WAYS = ("up", "down")  # from here to the far end, and back
FLIPS_MAX = 3  # bits of one damaged packet
TCP = 6


def interface(name, address=None):
    """Brings an interface of this namespace up, with an address in a network of 24 bits."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        if address:
            for request, value in ((0x8916, address), (0x891C, "255.255.255.0")):  # SIOCSIFADDR, SIOCSIFNETMASK
                inet = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(s, request, struct.pack("16s16s", name.encode(), inet))
            fcntl.ioctl(s, 0x8922, struct.pack("16si12x", name.encode(), MTU))  # SIOCSIFMTU
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", name.encode(), 0x41))  # SIOCSIFFLAGS: up, running


def tun(name, address):
    """A new TUN device of this namespace; its file descriptor gives and takes IP packets."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sh22x", name.encode(), 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
    interface(name, address)
    return fd


def tcp_count(name):
    """A counter of this namespace's TCP, by its name in /proc/net/snmp."""
    with open("/proc/self/net/snmp", encoding="ascii") as f:
        names, values = (line.split() for line in f if line.startswith("Tcp:"))
    return int(values[names.index(name)])


def connections(port):
    """Local ports of the connections that stand to that port of the far end."""
    far = f"{struct.unpack('=I', socket.inet_aton(FAR))[0]:08X}:{port:04X}"
    rows = []
    for name in ("tcp", "tcp6"):  # a socket of IPv6 may hold one of IPv4
        with open(f"/proc/self/net/{name}", encoding="ascii") as f:
            rows += [line.split() for line in f][1:]
    return {int(row[1].split(":")[1], 16) for row in rows if row[2].endswith(far) and row[3] == "01"}  # ESTABLISHED


def enter(skip_status=SKIPPED):
    """Runs this program again in a network namespace of its own, with loopback; returns inside of it only."""
    if INSIDE in os.environ:
        interface("lo")
        return
    probe = "import sys; sys.path.insert(0, sys.argv[1]); import link; link.tun('probe', link.NEAR)"
    command = ["unshare", "--net", "--map-root-user", sys.executable]
    try:
        done = subprocess.run([*command, "-c", probe, os.path.dirname(os.path.abspath(__file__))], capture_output=True,
                              text=True, check=False)
        trouble = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except OSError as error:
        trouble = [str(error)]
    if trouble is not None:
        print(f"skipped: this needs network namespaces and /dev/net/tun: {''.join(trouble)}")
        sys.exit(skip_status)
    sys.exit(subprocess.run([*command, *sys.argv], env={**os.environ, INSIDE: "1"}, check=False).returncode)


class Link:
    """Both ends and what relays between them; `set` says how good it is from now on."""

    def __init__(self):
        here, there = socket.socketpair()
        self.holder = os.fork()  # keeps the far namespace
        if self.holder == 0:
            try:
                here.close()
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.unshare(CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "unshare")
                interface("lo")
                socket.send_fds(there, [b"ready"], [tun("far0", FAR)])
                there.recv(1)  # until the other side goes
            finally:
                os._exit(0)
        there.close()
        self.control = here
        _, fds, _, _ = socket.recv_fds(here, 16, 1)
        if not fds:
            raise AssertionError("the far namespace could not be made")
        self.ends = [tun("near0", NEAR), fds[0]]
        self.relay = None
        self.lock = threading.Lock()  # of what is told to the relay

    def set(self, rtt_ms, loss=0.0, mbit=0.0, seed=1):
        """loss: probability of each packet in each direction. mbit: megabits a second each way, 0 for no limit."""
        self.cut()
        self.relay = subprocess.Popen([sys.executable, os.path.abspath(__file__), *map(str, self.ends), str(rtt_ms), str(loss),
                                       str(mbit), str(seed)], pass_fds=self.ends, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)

    def cut(self):
        """Nothing passes until the next `set`."""
        if self.relay:
            self.relay.send_signal(signal.SIGTERM)
            self.relay.wait()
            self.relay.stdin.close()
            self.relay.stdout.close()
            self.relay = None

    def tell(self, **fields):
        """Holds when it returns: fields of every way, or of the one that `way` names."""
        with self.lock:
            self.relay.stdin.write(json.dumps(fields) + "\n")
            self.relay.stdin.flush()
            return json.loads(self.relay.stdout.readline())

    def block(self, *ways):
        """Nothing passes on these ways, everything on the others; without a name both are open again. What connects the
        two is not told: a packet that comes to a way that is cut is lost."""
        for way in WAYS:
            self.tell(way=way, blocked=way in ways)

    def damage(self, share):
        """So large a share of the packets has one to FLIPS_MAX bits flipped, anywhere in it."""
        self.tell(damage=share)

    def forge(self, way, n=1):
        """The next n segments with data on this way have a bit of their data flipped, and a checksum that is right."""
        self.tell(way=way, to_forge=n)

    def counts(self):
        """{way: {"passed", "blocked", "damaged", "forged": packets since the last `set`}}."""
        return self.tell()

    def place(self, daemon):
        """A daemon of the harness that has not started will start at the far end."""
        daemon.prefix = ["nsenter", f"--net=/proc/{self.holder}/ns/net", "--"]
        return daemon

    def bytes(self):
        """(up, down): bytes of IP packets that entered the link here and that left it here."""
        with open("/proc/self/net/dev", encoding="ascii") as f:
            row = next(line for line in f if line.strip().startswith("near0:")).split(":")[1].split()
        return int(row[8]), int(row[0])

    @staticmethod
    def sent_again():
        """TCP segments this end has sent again."""
        return tcp_count("RetransSegs")

    def close(self):
        self.cut()
        self.control.close()
        os.waitpid(self.holder, 0)
        for fd in self.ends:
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def flip(packet, at, bit):
    packet[at] ^= 1 << bit


def checksum(data):
    """Of the Internet (RFC 1071)."""
    words = array.array("H", bytes(data) + b"\0" * (len(data) % 2))
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("=H", total ^ 0xFFFF)  # its order of bytes is that of the words


def forged(packet, rng):
    """The packet with a bit of its segment's data flipped, in the second half, and a right checksum; None: it has none."""
    packet = bytearray(packet)
    at = 4 * (packet[0] & 15)
    if packet[0] >> 4 != 4 or packet[9] != TCP or len(packet) < at + 20:
        return None
    begin = at + 4 * (packet[at + 12] >> 4)
    n = len(packet) - begin
    if n < 32:
        return None
    flip(packet, begin + rng.randrange(n // 2, n), rng.randrange(8))
    packet[at + 16:at + 18] = b"\0\0"
    packet[at + 16:at + 18] = checksum(packet[12:20] + struct.pack("!BBH", 0, TCP, len(packet) - at) + packet[at:])
    return bytes(packet)


class Direction:
    """Packets from one end to the other."""

    def __init__(self, source, sink, delay_s, loss, bits_per_s, seed):
        self.source, self.sink, self.delay_s, self.loss = source, sink, delay_s, loss
        self.bytes_per_s = bits_per_s / 8
        self.queue_s = max(QUEUE_S, QUEUE_MIN_BYTES / self.bytes_per_s) if bits_per_s else 0
        self.rng = random.Random(seed)
        self.harm = random.Random(f"{seed} harm")  # of its own, so that who is lost does not depend on who is harmed
        self.blocked, self.damage, self.to_forge = False, 0.0, 0
        self.counts = {"passed": 0, "blocked": 0, "damaged": 0, "forged": 0}
        self.idle_at = 0.0  # when all that was accepted has been sent
        self.waiting = collections.deque()  # (when it arrives, packet)

    def harmed(self, packet):
        """What becomes of a packet's bytes on the way."""
        if self.to_forge > 0 and (other := forged(packet, self.harm)):
            self.to_forge -= 1
            self.counts["forged"] += 1
            return other
        if self.damage > 0 and self.harm.random() < self.damage:
            packet = bytearray(packet)
            for _ in range(self.harm.randint(1, FLIPS_MAX)):
                flip(packet, self.harm.randrange(len(packet)), self.harm.randrange(8))
            self.counts["damaged"] += 1
        return bytes(packet)

    def take(self):
        """Reads what entered; decides the fate of each packet."""
        while True:
            try:
                packet = os.read(self.source, MTU + 64)
            except BlockingIOError:
                return
            now = time.monotonic()
            lost = self.rng.random() < self.loss
            if self.blocked:
                self.counts["blocked"] += 1
                continue
            sent = max(now, self.idle_at)
            if lost or (self.bytes_per_s and sent - now > self.queue_s):
                continue
            if self.bytes_per_s:
                sent += len(packet) / self.bytes_per_s
                self.idle_at = sent
            self.counts["passed"] += 1
            self.waiting.append((sent + self.delay_s, self.harmed(packet)))

    def give(self):
        """Writes what has arrived; seconds until the next does, or None."""
        while self.waiting:
            rest = self.waiting[0][0] - time.monotonic()
            if rest > 0:
                return rest
            try:
                os.write(self.sink, self.waiting.popleft()[1])
            except OSError:
                pass  # the far end is full or down, or no IP packet is left of it: a lost packet
        return None


def drain(fd):
    """Packets that entered while nothing relayed are lost."""
    while True:
        try:
            os.read(fd, MTU + 64)
        except BlockingIOError:
            return


def obey(ways, line):
    """One line of `Link.tell`; what is on its way already arrives."""
    fields = json.loads(line)
    for way in [fields.pop("way")] if "way" in fields else WAYS:
        for key, value in fields.items():
            setattr(ways[way], key, value)
    print(json.dumps({name: way.counts for name, way in ways.items()}), flush=True)


def relay_main(near, far, rtt_ms, loss, mbit, seed):
    for fd in (near, far):
        drain(fd)
    ways = {name: Direction(source, sink, rtt_ms / 2e3, loss, mbit * 1e6, f"{seed} {name}")
            for source, sink, name in ((near, far, "up"), (far, near, "down"))}
    told = b""
    while True:
        rests = [rest for rest in (way.give() for way in ways.values()) if rest is not None]
        ready = select.select([near, far, 0], [], [], min(rests) if rests else None)[0]
        if 0 in ready:
            part = os.read(0, 4096)
            if not part:
                return  # who made the link is gone
            told += part
            *lines, told = told.split(b"\n")
            for line in lines:
                obey(ways, line)
        for way in ways.values():
            way.take()


if __name__ == "__main__":
    relay_main(int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:6]), sys.argv[6])
