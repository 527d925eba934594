#!/usr/bin/python3
"""ledger: the checker that stands outside of the system under test.

Three witnesses: what sluice-load saw acknowledged, what sluice-sink told a client that it took,
and what the accounting files say. Every recipient address is unique, so the address joins them.

    lost        acknowledged, and neither taken by a sink nor accounted as bounced nor still queued
    corrupt     taken with a body hash or message key other than the one that was sent
    duplicates  taken more than once; explained when the accounting says maybeDup
                (or the sink took it once without being able to answer)
    orphans     taken, but never acknowledged nor left unanswered at the injection
    missing     acknowledged, not queued, and without a d or b record
    doubled     with more than one d or b record
    contrary    bounced by the accounting, and taken by a sink
    unaccounted taken by a sink, but without a d record
    claimed     a d record without a sink having taken it
    repeated_ids  accounting records whose eventId came before

Importable (see check()), and a program that prints JSON: exit 0 when nothing above is wrong.
"""
import argparse
import csv
import glob
import json
import sys
from collections import Counter, defaultdict, namedtuple

Sent = namedtuple("Sent", "time_us id rcpt hash bytes")
Taken = namedtuple("Taken", "time_us provider client key rcpt hash bytes sender")

# What a checker run calls bad unless it is told to expect it.
VERDICT = ("lost", "corrupt", "unexplained_duplicates", "orphans", "missing", "doubled", "contrary",
           "unaccounted", "claimed", "repeated_ids")


def unescape(text):
    """The sink writes blanks and controls as \\xNN."""
    if "\\x" not in text:
        return text
    parts = text.split("\\x")
    return parts[0] + "".join(chr(int(p[:2], 16)) + p[2:] for p in parts[1:])


def lines_of(paths):
    """Whole lines only: the last one may be cut off by a kill."""
    for path in [paths] if isinstance(paths, str) else paths:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            for line in f:
                if line.endswith("\n"):
                    yield line[:-1]


class Load:
    """sluice-load's ledger: acked and unknown, each address -> Sent."""

    def __init__(self, paths):
        self.acked, self.unknown = {}, {}
        for line in lines_of(paths):
            fields = line.split(" ")
            to = self.acked
            if fields[0] == "unknown":
                to, fields = self.unknown, fields[1:]
            to[fields[2]] = Sent(int(fields[0]), fields[1], fields[2], fields[3], int(fields[4]))

    def sent(self, rcpt):
        return self.acked.get(rcpt) or self.unknown.get(rcpt)


class Sink:
    """sluice-sink's ledger: taken and unanswered, each address -> [Taken, ...]."""

    def __init__(self, paths):
        self.taken, self.unanswered = defaultdict(list), defaultdict(list)
        for line in lines_of(paths):
            f = line.split(" ")
            to = self.taken
            if f[0] == "unanswered":
                to, f = self.unanswered, f[1:]
            rcpt = unescape(f[4])
            to[rcpt].append(Taken(int(f[0]), f[1], f[2], f[3], rcpt, f[5], int(f[6]), f[7]))

    def by(self, field):
        """Counts of recipients taken, by `provider` or `client_ip`."""
        counts = Counter()
        for rows in self.taken.values():
            for row in rows:
                counts[row.client.rpartition(":")[0] if field == "client_ip" else
                       getattr(row, field)] += 1
        return counts


class Acct:
    """Accounting CSV files; columns by each file's header line."""

    def __init__(self, paths):
        self.types = Counter()
        self.terminal = defaultdict(list)  # address -> d and b rows
        self.maybe_dup = set()
        self.repeated_ids = []
        self.by_queue = defaultdict(Counter)   # queue -> records of each type
        self.by_source = defaultdict(Counter)  # the same by local address
        ids = set()
        for path in paths:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as f:
                for row in csv.DictReader(f):
                    self._add(row, ids)

    def _add(self, row, ids):
        kind, rcpt = row.get("type"), row.get("rcpt")
        if kind in (None, "", "type"):
            return
        self.types[kind] += 1
        self.by_queue[row.get("queue") or ""][kind] += 1
        self.by_source[row.get("dlvSourceIp") or ""][kind] += 1
        event_id = row.get("eventId")
        if event_id:
            if event_id in ids:
                self.repeated_ids.append(event_id)
            ids.add(event_id)
        if row.get("maybeDup") not in (None, "", "0", "no", "false"):
            self.maybe_dup.add(rcpt)
        if kind in ("d", "b"):
            self.terminal[rcpt].append(row)


def expand(patterns):
    return sorted(p for pattern in patterns for p in glob.glob(pattern))


def check(load, sink, acct=None, queued=(), whole=False):
    """Load, Sink, Acct or None, addresses still queued -> dict of counts, examples and `ok`; with `whole` all addresses."""
    queued = set(queued)
    bounced = {r for r, rows in acct.terminal.items() if any(x["type"] == "b" for x in rows)} \
        if acct else set()
    out = {"lost": [r for r in load.acked
                    if r not in sink.taken and r not in bounced and r not in queued],
           "corrupt": [], "duplicates": [], "unexplained_duplicates": [], "orphans": []}
    for rcpt, rows in sink.taken.items():
        sent = load.sent(rcpt)
        if sent is None:
            out["orphans"].append(rcpt)
        elif any(row.hash != sent.hash or row.key != sent.id for row in rows):
            out["corrupt"].append(rcpt)
        if len(rows) > 1:
            out["duplicates"].append(rcpt)
            if not (acct and rcpt in acct.maybe_dup):
                out["unexplained_duplicates"].append(rcpt)
    if acct:
        delivered = {r for r, rows in acct.terminal.items() if any(x["type"] == "d" for x in rows)}
        out["missing"] = [r for r in load.acked if r not in acct.terminal and r not in queued]
        out["doubled"] = [r for r, rows in acct.terminal.items() if len(rows) > 1]
        out["contrary"] = [r for r in bounced if r in sink.taken and r not in sink.unanswered]
        out["unaccounted"] = [r for r in sink.taken if r not in delivered and r not in queued]
        out["claimed"] = [r for r in delivered if r not in sink.taken]
        out["repeated_ids"] = acct.repeated_ids
    report = {k: len(v) for k, v in out.items()}
    if whole:
        report["all"] = out
    report["examples"] = {k: v[:5] for k, v in out.items() if v}
    report["acknowledged"] = len(load.acked)
    report["unknown"] = len(load.unknown)
    report["taken"] = sum(len(rows) for rows in sink.taken.values())
    report["unanswered"] = sum(len(rows) for rows in sink.unanswered.values())
    report["bounced"] = len(bounced)
    report["queued"] = len(queued)
    if acct:
        report["types"] = dict(acct.types)
    report["ok"] = not any(report.get(k, 0) for k in VERDICT)
    return report


MASK = (1 << 64) - 1
P1, P2, P3, P4, P5 = (11400714785074694791, 14029467366897019727, 1609587929392839161,
                      9650029242287828579, 2870177450012600261)


def xxh64(data, seed=0):
    """XXH64 as both programs use it, for tests that send or receive by themselves. Slow."""
    def rotl(x, r):
        return ((x << r) | (x >> (64 - r))) & MASK

    def lane(acc, word):
        return rotl((acc + word * P2) & MASK, 31) * P1 & MASK

    n, i = len(data), 0
    if n >= 32:
        v = [(seed + P1 + P2) & MASK, (seed + P2) & MASK, seed, (seed - P1) & MASK]
        while i + 32 <= n:
            for k in range(4):
                v[k] = lane(v[k], int.from_bytes(data[i + 8 * k:i + 8 * k + 8], "little"))
            i += 32
        h = (rotl(v[0], 1) + rotl(v[1], 7) + rotl(v[2], 12) + rotl(v[3], 18)) & MASK
        for k in range(4):
            h = ((h ^ lane(0, v[k])) * P1 + P4) & MASK
    else:
        h = (seed + P5) & MASK
    h = (h + n) & MASK
    while i + 8 <= n:
        h = (rotl(h ^ lane(0, int.from_bytes(data[i:i + 8], "little")), 27) * P1 + P4) & MASK
        i += 8
    if i + 4 <= n:
        h = (rotl(h ^ int.from_bytes(data[i:i + 4], "little") * P1 & MASK, 23) * P2 + P3) & MASK
        i += 4
    for byte in data[i:]:
        h = rotl(h ^ byte * P5 & MASK, 11) * P1 & MASK
    h = (h ^ h >> 33) * P2 & MASK
    h = (h ^ h >> 29) * P3 & MASK
    return "%016x" % (h ^ h >> 32)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--load", nargs="+", required=True, metavar="FILE")
    p.add_argument("--sink", nargs="+", required=True, metavar="FILE")
    p.add_argument("--acct", nargs="+", metavar="GLOB", help="accounting files")
    p.add_argument("--queued", metavar="FILE", help="addresses still queued, one a line")
    p.add_argument("--expect", nargs="+", default=[], choices=VERDICT, metavar="WORD",
                   help="a finding that is no fault in this run")
    a = p.parse_args()
    report = check(Load(expand(a.load)), Sink(expand(a.sink)),
                   Acct(expand(a.acct)) if a.acct else None,
                   lines_of(a.queued) if a.queued else ())
    report["ok"] = not any(report.get(k, 0) for k in VERDICT if k not in a.expect)
    print(json.dumps(report, indent=1, sort_keys=True))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
