#!/usr/bin/python3
"""demo: mail through sluiced with two virtual MTAs to three simulated mailbox providers, and to one that loses its patience.

Loopback only, no root, no outside service. sluice-load injects, sluice-sink receives; the verdict
comes from their two ledgers and the accounting file, not from what sluiced says of itself.
Exit 0 only if each acknowledged recipient was delivered once or has a `b` record.
"""
import argparse
import os
import subprocess
import sys
import time

import ledger
import rig
from rig import Failure
from story import Story

TEMPLATES = os.path.join(rig.ROOT, "etc/demo")
DOMAINS = "slow.example,busy.example,strict.example"
SENDER = "newsletter@sender.example"


class Demo:
    def __init__(self, work, messages, leave_up):
        self.work, self.messages, self.leave_up = work, messages, leave_up
        self.run_dir = os.path.join(work, "run")
        self.sink = self.daemon = self.load = self.story = None
        self.meter = rig.Meter("sluice-demo", try_cgroup=not leave_up)  # nobody would remove it

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self):
        self.listen, port = rig.free_port(), rig.free_port()
        names = {"WORK": self.work, "RUN": self.run_dir, "LISTEN": self.listen, "PORT": port}
        script = rig.fill(os.path.join(TEMPLATES, "sink.conf.in"), self.path("sink.conf"), **names)
        conf = rig.fill(os.path.join(TEMPLATES, "sluice.conf.in"), self.path("sluice.conf"), **names)
        self.sink = rig.Sink(self.path("sink.ledger"), script=script)
        self.daemon = rig.Daemon(conf, self.run_dir, "127.0.0.1", self.listen,
                                 self.path("sluiced.out"), self.meter, self.leave_up)
        self.meter.root = self.daemon.process.pid

    def inject(self):
        with open(self.path("load.json"), "w") as out:
            self.load = subprocess.Popen(
                rig.load_args("127.0.0.1:%d" % self.listen, self.path("load.ledger"),
                              sessions=20, messages=self.messages, size="mix", domains=DOMAINS,
                              vmta="mta1,mta2", job="demo", pipelining=True, **{"from": SENDER}),
                stdout=out)

    def totals(self):
        stat = self.daemon.stat()
        return stat["totals"] if stat else None

    def follow(self, patience):
        """Progress until the load is in and the queue is empty, or nothing has moved for long."""
        start = moved = at = time.monotonic()
        last, live, taken = None, sys.stdout.isatty(), 0
        print("\n%7s %9s %10s %9s %8s %8s %6s %10s" % (
            "time", "accepted", "delivered", "deferred", "bounced", "queued", "conn", "messages/s"))
        while True:
            if self.daemon.process.poll() is not None:
                raise Failure("sluiced ended, see %s" % self.path("sluice.log"))
            t = self.totals() or {}
            now = time.monotonic()
            mark = tuple(t.get(k) for k in ("received", "attempted", "delivered", "bounced"))
            moved = now if mark != last else moved
            if mark != last or live:
                speed = (t.get("delivered", 0) - taken) / (now - at) if now > at else 0
                at, taken = now, t.get("delivered", 0)
                print("%5.1f s %9d %10d %9d %8d %8d %6d %10.0f" % (now - start, *(t.get(k, 0) for k in (
                    "received", "delivered", "transient", "bounced", "queued_rcpt",
                    "connections")), speed), end="\r" if live else "\n", flush=True)
            last = mark
            if self.load.poll() is not None and t and t.get("queued_rcpt") == 0:
                break
            if now - moved > patience:
                print("\nnothing has moved for %d s" % patience)
                break
            time.sleep(0.25 if live else 1)
        if live:
            print()

    def settled(self):
        """Waits until the accounting file covers what was accepted; then all evidence."""
        sent = ledger.Load([self.path("load.ledger")] + ([self.path("story.ledger")] if self.story else []))

        def evidence():
            acct = ledger.Acct(ledger.expand([self.path("acct*.csv")]))
            return acct if all(r in acct.terminal for r in sent.acked) else None

        try:
            acct = rig.wait_for("complete accounting", evidence, 10, 0.3)
        except Failure:
            acct = ledger.Acct(ledger.expand([self.path("acct*.csv")]))
        self.sink.stats()  # its ledger is flushed before it answers
        return sent, ledger.Sink(self.path("sink.ledger")), acct

    def tell(self):
        self.story = Story(self)
        self.story.run()

    def wanted(self):
        return self.messages + (self.story.messages if self.story else 0)

    def close(self):
        if self.story:
            self.story.close()
        for process in (self.load, self.daemon and self.daemon.process):
            if process:
                rig.stop(process, 30)
        if self.sink:
            self.sink.close()
        self.meter.close()


def without(addresses, sink, acct):
    """Bounce messages to the sender are mail of their own: not part of the ledgers."""
    for rcpt in addresses:
        sink.taken.pop(rcpt, None)
        acct.terminal.pop(rcpt, None)


def table(rows, head=()):
    lines = ([list(head)] if head else []) + rows
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(lines[0]))]
    for row in lines:
        print("  " + "  ".join(str(v).ljust(w) if i == 0 else str(v).rjust(w)
                               for i, (v, w) in enumerate(zip(row, widths))))


def report(demo, sent, sink, acct, cpu_s):
    bounces = len(sink.taken.get(SENDER, ()))
    without([SENDER], sink, acct)
    verdict = ledger.check(sent, sink, acct)
    # Speed is of the first part: the second one's flow is a slow one.
    times = [row.time_us for rows in sink.taken.values() for row in rows if row.provider != "moody"]
    first = min(x.time_us for x in sent.acked.values()) if sent.acked else 0
    seconds = (max(times) - first) / 1e6 if times else 0
    deferred = acct.types["t"]

    print("\nPer queue")
    table([[q, n["d"] + n["b"], n["d"], n["t"], n["b"]] for q, n in sorted(acct.by_queue.items())
           if not q.startswith("sender.example/")],
          ["queue", "accepted", "delivered", "deferred", "bounced"])
    print("\nPer source IP (of the accounting; beside it what the sink took from there)")
    seen = sink.by("client_ip")
    table([[ip or "-", n["d"], n["t"], n["b"], seen[ip]]
           for ip, n in ((ip, acct.by_source[ip]) for ip in sorted(set(acct.by_source) | set(seen)))],
          ["source", "delivered", "deferred", "bounced", "taken"])
    print("\nIn all")
    table([["accepted", len(sent.acked)], ["delivered", verdict["taken"]],
           ["deferred (and tried again)", deferred], ["bounced", verdict["bounced"]],
           *([["bounce messages to the sender", bounces]] if bounces else []),
           ["seconds of the first part", "%.1f" % seconds],
           ["messages/s of it", "%.0f" % (len(times) / seconds if seconds else 0)],
           ["CPU us a message (%s)" % demo.meter.how(),
            "%.0f" % (cpu_s * 1e6 / demo.messages)]])

    complete = len(sent.acked) == demo.wanted()
    print("\nVerdict, from %d acknowledgements, %d deliveries and %d accounting records:" %
          (len(sent.acked), verdict["taken"], sum(acct.types.values())))
    for word in ledger.VERDICT:
        if verdict.get(word):
            print("  %s: %d, such as %s" % (word, verdict[word], verdict["examples"][word][0]))
    if not complete:
        print("  only %d of %d messages were acknowledged" % (len(sent.acked), demo.wanted()))
    ok = verdict["ok"] and complete and (demo.story is None or demo.story.verdict())
    print("  PASSED: each acknowledged recipient was delivered once or has a b record" if ok
          else "  FAILED")
    return ok


def leave(demo):
    def there(path):
        near = os.path.relpath(path)
        return path if near.startswith("..") else near

    sluice = "%s -c %s" % (there(os.path.join(rig.BIN, "sluice")), there(demo.path("sluice.conf")))
    print("\nsluiced stays up (pid %d), the providers too (sluice-sink, pid %d). More mail, and what to look at:" %
          (demo.daemon.process.pid, demo.sink.process.pid))
    print("  %s -t 127.0.0.1:%d -s 10 -m 5000 --domains %s --vmta mta1,mta2" %
          (there(os.path.join(rig.BIN, "sluice-load")), demo.listen, DOMAINS))
    print("  swaks --server 127.0.0.1:%d --to you@slow.example -h-X-Virtual-MTA mta2" % demo.listen)
    print("  %s -r %s -w 1" % (there(os.path.join(rig.BIN, "sluice-stat")), there(demo.run_dir)))
    for words in ("show topqueues", "pause queue 'slow.example/*'", "list --maxitems=5", "show settings slow.example/mta1"):
        print("  %s %s" % (sluice, words))
    print("  %s, %s" % (there(demo.path("sluice.log")), there(demo.path("acct-*.csv"))))
    print("To end it:\n  %s stop; kill %d" % (sluice, demo.sink.process.pid))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--leave-up", action="store_true", help="leave sluiced and the sink running")
    p.add_argument("--messages", type=int, default=20000)
    p.add_argument("--no-story", action="store_true", help="without the provider that loses its patience")
    p.add_argument("--patience", type=int, default=60, metavar="S",
                   help="give up when nothing moves for so long")
    a = p.parse_args()
    demo = Demo(rig.work_dir("demo"), a.messages, a.leave_up)
    up = False
    try:
        print("%d messages of mixed size over 20 sessions, by two virtual MTAs (sources 127.0.0.21, 127.0.0.22)\n"
              "to three providers on 127.0.0.11-13: slow.example takes its time, busy.example defers 5 %%,\n"
              "strict.example rejects 1 %%. Files: %s" % (a.messages, demo.work))
        demo.start()
        cpu = demo.meter.seconds()
        demo.inject()
        demo.follow(a.patience)
        cpu = demo.meter.seconds() - cpu
        rig.stop(demo.load)
        if not a.no_story:
            demo.tell()
        ok = report(demo, *demo.settled(), cpu)
        if a.leave_up and demo.daemon.process.poll() is None:
            up = True
            leave(demo)
        return 0 if ok else 1
    except Failure as e:
        print("demo: %s" % e, file=sys.stderr)
        return 1
    finally:
        if not up:
            demo.close()


if __name__ == "__main__":
    sys.exit(main())
