#!/usr/bin/python3
"""reroute: a long queue's mail becomes another's: how soon that holds, what others wait meanwhile, and what a kill half-way costs.

    reroute.py [--messages 1000000] [--kill] [--drain] [--slack 1]

Loads a queue, puts it into back-off that reroutes it, and sends mail of another queue while the rows follow. `--kill`: the scheduler dies half-way;
`--drain`: all is delivered, and the ledgers must agree. Prints its figures beside their goals; the exit status is 1 when one is missed.
"""
import argparse
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
for folder in (os.path.join(HERE, ".."), os.path.join(ROOT, "bench"), HERE):
    sys.path.insert(0, folder)
import harness  # noqa: E402
import ledger  # noqa: E402

EFFECTIVE_MS = 10
WAITS_MS = 50
GROWTH_PERCENT = 10  # of RssAnon: what is moved takes no more memory than before
RATE = 40            # a second, of the other queue's mail
FROM, TO, OTHER = "long.example/v", "long.example/x", "other.example/w"


class Report:
    def __init__(self):
        self.good = True

    def line(self, what, value, goal, ok):
        print("%-58s %-16s goal %s%s" % (what, value, goal, "" if ok else "   MISSED"), flush=True)
        self.good = self.good and ok


def start(folder, port):
    vmtas = ", ".join('{ name = "%s"; smtp-source-hosts = ( { ip = "127.0.0.1"; name = "%s.example"; } ); }' % (v, v) for v in "vwx")
    return harness.Sluice(
        os.path.join(folder, "mta"), acct="d,b", vmtas="virtual-mtas = ( %s );" % vmtas,
        domains=f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; retry-after = "1s"; connection-idle-timeout = "5s"; '
                f'retry-recipients-after = "1s"; backoff-reroute-to-virtual-mta = "x"; }} );')


def said(sluice, *words):
    done = sluice.sluice(*words, seconds=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


def rcp(sluice, name):
    return sluice.ask("show", "queue", name)["queue"][0]["rcp"]


def rss_kb(sluice):
    with open("/proc/%d/status" % sluice.pids("scheduler")[0]) as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1))


def load(folder, sluice, name, *args):
    return harness.Load(folder, sluice.target, "--size", 512, *args, name=name)


def follow(sluice, half, seconds):
    """True: the move has come half-way, or to its end."""
    harness.wait_for(lambda: rcp(sluice, FROM) <= half, seconds, 0.005)


def kill_scheduler(sluice):
    before = sluice.pids("scheduler")
    os.kill(before[0], signal.SIGKILL)
    harness.wait_for(lambda: sluice.pids("scheduler") not in ([], before), 30)
    sluice.wait_ready(120)


def waits_ms(mail, sink):
    """From the acknowledgement to the other side: reading, granting, a connection that is there, delivering."""
    acked, taken = mail.read().acked, sink.read().taken
    return sorted((taken[r][0].time_us - a.time_us) / 1000 for r, a in acked.items() if r in taken)


def measure(args, report, folder, sink, sluice):
    n = args.messages
    for q in FROM, TO:
        said(sluice, "pause", "queue", q)
    long = load(folder, sluice, "long", "-m", n, "-s", 20, "--pipelining", "--domains", "long.example", "--vmta", "v")
    assert long.wait(7200)["acknowledged"] == n
    assert rcp(sluice, FROM) == n
    before = rss_kb(sluice)
    other = load(folder, sluice, "other", "--duration", args.seconds, "--rate", RATE, "--domains", "other.example", "--vmta", "w")
    harness.wait_for(lambda: sink.taken() > 20, 20)
    began = time.monotonic()
    said(sluice, "set", "queue", FROM, "--mode=backoff")
    if args.kill:
        follow(sluice, n // 2, 600)
        moved = n - rcp(sluice, FROM)
        report.line("killed when so many were moved", moved, "> 0, < %d" % n, 0 < moved < n)
        kill_scheduler(sluice)
        report.line("after it the queue holds", rcp(sluice, FROM), 0, rcp(sluice, FROM) == 0)
        report.line("and the other", rcp(sluice, TO), n, rcp(sluice, TO) == n)
    else:
        follow(sluice, 0, 600)
        report.line("rows have followed after", "%.2f s" % (time.monotonic() - began), "-", True)
        report.line("the other queue holds", rcp(sluice, TO), n, rcp(sluice, TO) == n)
        report.line("RssAnon grew", "%+.1f %%" % (100 * rss_kb(sluice) / before - 100), "%d %%" % GROWTH_PERCENT,
                    rss_kb(sluice) < before * (1 + GROWTH_PERCENT / 100) + 4096)
    took = re.search(r"queue=%s number=\d+ redirected_to=.* took_us=(\d+)" % re.escape(FROM), sluice.log())
    effective = int(took.group(1)) / 1000
    report.line("the redirect took", "%.2f ms" % effective, "%d ms" % EFFECTIVE_MS, effective <= EFFECTIVE_MS * args.slack)
    other.wait(args.seconds + 120)
    if not args.kill:
        harness.wait_for(lambda: sink.taken() >= other.summary["acknowledged"], 30)
        waits = waits_ms(other, sink)
        report.line("another queue's mail, median", "%.1f ms" % statistics.median(waits), "-", True)
        report.line("another queue's mail waited at most", "%.1f ms" % waits[-1], "%d ms" % WAITS_MS, waits[-1] <= WAITS_MS * args.slack)
    return long, other


def drain(args, report, sink, sluice, long, other):
    said(sluice, "resume", "queue", TO)
    sluice.wait_drained(60 + args.messages // 500)
    harness.wait_for(lambda: len(sluice.acct().terminal) >= args.messages + other.summary["acknowledged"], 120, 0.5)
    found = ledger.check(ledger.Load([long.ledger_path, other.ledger_path]), sink.read(), sluice.acct())
    bad = {k: found[k] for k in ledger.VERDICT if found.get(k)}
    report.line("lost, doubled, unaccounted", bad or 0, 0, found["ok"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1000000)
    parser.add_argument("--seconds", type=int, default=60, help="of the other queue's mail")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--drain", action="store_true")
    parser.add_argument("--slack", type=float, default=1, help="goals in time are missed beyond so many times")
    args = parser.parse_args()
    folder, report = tempfile.mkdtemp(prefix="sluice-reroute-"), Report()
    sink = harness.Sink(folder, listen=("127.0.0.1:0",))
    try:
        with start(folder, sink.listening[0].rpartition(":")[2]) as sluice:
            long, other = measure(args, report, folder, sink, sluice)
            if args.drain:
                drain(args, report, sink, sluice, long, other)
    finally:
        sink.stop()
        if report.good:
            shutil.rmtree(folder, ignore_errors=True)
    print("all held" if report.good else "missed; left for a look: " + folder)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
