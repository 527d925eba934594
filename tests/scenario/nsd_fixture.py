"""nsd_fixture: a name server of a test's own on a high port of 127.0.0.1, no root needed; with a log of its queries."""
import contextlib
import os
import socket
import struct
import subprocess
import time

import harness
import pytest

from conftest import program

SOA = "$TTL 300\n@ SOA ns.{origin} hostmaster.{origin} 1 3600 600 86400 60\n@ NS ns.{origin}\n"


def free_port():
    """One that is free for UDP and TCP."""
    for _ in range(100):
        port = harness.free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no port is free for UDP and TCP")


class Nsd:
    """zone() and broken_zone() before start(). Addresses of hosts are the test's to choose (127.x.y.z)."""

    def __init__(self, folder):
        self.folder = os.path.join(folder, "nsd")
        os.makedirs(self.folder)
        self.port = free_port()
        self.zones = {}
        self.process = None

    @property
    def name_server(self):
        """For the directive name-server."""
        return f"127.0.0.1@{self.port}"

    def zone(self, origin, records):
        """Adds records (zone file lines, names relative to `origin`) to the zone."""
        self.zones[origin] = self.zones.get(origin, "") + records.rstrip("\n") + "\n"

    def broken_zone(self, origin):
        """All names below `origin` get SERVFAIL."""
        self.zones[origin] = None

    def write_zone(self, origin):
        text = self.zones[origin]
        if text is not None:
            with open(os.path.join(self.folder, origin + ".zone"), "w") as f:
                f.write(f"$ORIGIN {origin}.\n" + SOA.format(origin=origin + ".") + "ns A 127.0.0.1\n" + text)

    def start(self):
        conf = [
            "server:", f" port: {self.port}", " ip-address: 127.0.0.1", ' username: ""', ' chroot: ""',
            f' zonesdir: "{self.folder}"', f' pidfile: "{self.folder}/pid"', f' logfile: "{self.folder}/log"', ' database: ""',
            f' xfrdfile: "{self.folder}/xfrd"', f' zonelistfile: "{self.folder}/zonelist"', f' xfrdir: "{self.folder}"',
            " server-count: 1", " rrl-ratelimit: 0", "remote-control:", " control-enable: no"]
        for origin in self.zones:
            self.write_zone(origin)
            conf += ["zone:", f" name: {origin}", f" zonefile: {origin}.zone"]
        path = os.path.join(self.folder, "nsd.conf")
        with open(path, "w") as f:
            f.write("\n".join(conf) + "\n")
        self.process = subprocess.Popen([program("nsd"), "-d", "-c", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < end, open(os.path.join(self.folder, "log")).read()
            time.sleep(0.02)
        return self

    def answers(self):
        name = next(iter(self.zones), "")
        query = struct.pack(">6H", 1, 0, 1, 0, 0, 0)
        query += b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0" + struct.pack(">2H", 6, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.2)
            try:
                s.sendto(query, ("127.0.0.1", self.port))
                return len(s.recv(4096)) >= 12
            except OSError:
                return False

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.process = None


@pytest.fixture
def nsd(folder):
    """Not started yet: add zones, then start()."""
    server = Nsd(folder)
    yield server
    server.stop()
