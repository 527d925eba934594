"""ports: ports of a loopback address that nobody listens at.

They are below those that the kernel gives to outgoing connections (ip_local_port_range), so that none of these takes one before its owner
has bound it; and tests that run side by side have ranges of their own (SLUICE_TEST_LANE=k/n)."""
import os
import random
import socket

FIRST, LAST = 12000, 32000
_chance = random.SystemRandom()  # no seed of a test's own makes two take the same
_given = set()  # here; those that have asked may not have bound them yet


def _is_free(address, port, kinds):
    for kind in kinds:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as s:
            try:
                s.bind((address, port))
            except OSError:
                return False
    return True


def free_port(address="127.0.0.1", udp=False):
    """One that is free for TCP, and for UDP too."""
    lane, lanes = map(int, os.environ.get("SLUICE_TEST_LANE", "0/1").split("/"))
    width = (LAST - FIRST) // lanes
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM) if udp else (socket.SOCK_STREAM,)
    if len(_given) > width // 2:
        _given.clear()
    for _ in range(1000):
        port = FIRST + lane * width + _chance.randrange(width)
        if port not in _given and _is_free(address, port, kinds):
            _given.add(port)
            return port
    raise AssertionError("no port is free at " + address)
