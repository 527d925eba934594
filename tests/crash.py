"""Blows and what they must not cost: shared by the torture stages."""
import os
import signal
import time

import harness

KINDS = ("scheduler", "worker", "receiver", "resolver", "recorder", "master")
SCRIPT = """providers = ( { name = "provider"; listen = [ "127.0.0.1:%d" ];
  features = [ "PIPELINING", "8BITMIME", "SIZE 52428800" ]; delay-ms = { dot = 3; };
  rules = ( { stage = "rcpt"; percent = 1.0; sticky = true; reply = "550 5.1.1 no such user"; },
            { stage = "rcpt"; percent = 2.0; first-attempts = 1; reply = "450 4.2.1 try later"; } ); } );
"""


def strike(sluice, kind, rng):
    """Kills one process of that kind; the moment, or None when none lived."""
    if kind == "master":
        os.kill(sluice.master_pid(), signal.SIGKILL)
        at = time.time()
        sluice.process.wait(20)
        return at
    pids = sluice.pids(kind)
    if not pids:
        return None
    os.kill(rng.choice(pids), signal.SIGKILL)
    return time.time()


def children_left(sluice, pids):
    def gone():
        "the children of a dead master leave"
        return not any(harness.lives(p) for p in pids)
    began = time.monotonic()
    harness.wait_for(gone, 10)
    return time.monotonic() - began


def restart_times(sink, moments):
    """Kill to the first message taken (250 to its dot) over a connection opened after the kill: no earlier than the first MAIL
    of the new life, and no transaction that outlived the kill counts."""
    opened = {}
    with open(sink.connections_path) as f:
        for line in f:
            fields = line.split()
            if len(fields) >= 2:
                opened.setdefault(next(x for x in fields[1:] if ":" in x), []).append(int(fields[0]))
    taken = sorted((row.time_us, row.client) for rows in sink.read().taken.values() for row in rows)
    restarts = {}
    for kind, at in moments:
        first = next((t for t, client in taken if t > at * 1e6 and any(at * 1e6 < o <= t for o in opened.get(client, ()))), None)
        if first is not None:
            restarts.setdefault(kind, []).append(first / 1e6 - at)
    return restarts


# Duplicates must each be flagged: sent again because a dot was out without a synced event.
FAULTS = ("lost", "corrupt", "missing", "unexplained_duplicates", "orphans", "doubled", "contrary", "unaccounted", "repeated_ids")


def faults(report):
    return {k: report[k] for k in FAULTS if report[k]}
