#!/usr/bin/python3
"""late: how soon after a 421 no message leaves at the old limits any more, of a queue under load.

One queue over 60 connections to a sluice-sink whose answers take a while, sluice-load beside it. Each 220th MAIL is answered by 421, which
a rule takes for back-off; backoff-max-msg-rate is one an hour, so that every MAIL behind it is one at the old limits. When the queue has been
in back-off for a while a command ends that, and the next flip is prepared. Only flips count before which there were 500 MAIL a second over
50 connections. Times are the sink's: from when it wrote the 421, a little before the worker could read it, to when it read the last MAIL.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import rig
from rig import Failure

RATE, CONNECTIONS = 500, 50  # a flip counts from so much on
EVERY, ANSWER_MS, OUT = 220, 85, 60
MEDIAN_MS, MOST_MS, SINK_MS = 10.0, 50.0, 100.0
WAITING = 80000
CALM_S = 0.16  # so long after a flip it is watched for late ones
QUEUE = "flips.example/{default}"
CONF = rig.begin("flips") + """
smtp-pattern-lists = ( { name = "flip"; rules = ( { reply = "/^421 .*too many/"; actions = [ "mode=backoff" ]; } ); } );
domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:@PORT@"; smtp-pattern-list = "flip"; max-smtp-out = @OUT@;
  backoff-max-smtp-out = @OUT@; backoff-max-msg-rate = "1/h"; retry-after = "1s"; retry-recipients-after = "1s"; } );
acct-files = ( { path = "@WORK@/acct.csv"; records = "b"; } );
"""
SCRIPT = """
providers = ( { name = "flips"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ]; delay-ms = { dot = %d; };
  rules = ( { stage = "mail"; every = %d; reply = "421 4.7.0 too many messages from you"; action = "close"; } ); } );
"""


class Bench:
    def __init__(self, work):
        self.work = work
        self.port, self.listen = rig.free_port(), rig.free_port()
        self.sink = self.daemon = self.load = None
        self.ended = []  # wall µs: (before the command that ended a back-off, behind it)

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self):
        with open(self.path("sink.conf"), "w") as f:
            f.write(SCRIPT % (self.port, ANSWER_MS, EVERY))
        with open(self.path("base.conf"), "w") as f:
            f.write(CONF)
        self.sink = rig.Sink(self.path("sink.ledger"), script=self.path("sink.conf"), more=("--trace", self.path("trace")))
        conf = rig.fill(self.path("base.conf"), self.path("sluice.conf"), WORK=self.work, LISTEN=self.listen, PORT=self.port, OUT=OUT)
        self.daemon = rig.Daemon(conf, self.path("run"), "127.0.0.1", self.listen, self.path("sluiced.out"))

    def say(self, *words):
        return rig.say(self.path("sluice.conf"), *words)

    def inject(self, messages):
        """What waits at the end of back-off leaves within a minute: so many that this is more than RATE."""
        self.say("pause", "queue", QUEUE)
        self.load = subprocess.Popen(
            rig.load_args("127.0.0.1:%d" % self.listen, self.path("load.ledger"), sessions=10, messages=messages, domains="flips.example",
                          pipelining=True), stdout=subprocess.DEVNULL)
        rig.wait_for("mail", lambda: self.load.poll() is not None or self.queued() >= WAITING, 120, 0.2)
        self.say("resume", "queue", QUEUE)

    def queued(self):
        return json.loads(self.say("--json", "show", "queue", QUEUE))["data"]["queue"][0]["rcp"]

    def flip(self, patience):
        """Waits for the next one, watches it for a while, and ends it."""
        rig.wait_for("back-off (see %s)" % self.path("sluice.log"), lambda: QUEUE in self.say("show", "queues", "--mode=backoff"), patience, 0.02)
        time.sleep(CALM_S)
        before = time.time()
        self.say("set", "queue", QUEUE, "--mode=normal")
        self.ended.append((int(before * 1e6), int(time.time() * 1e6)))

    def close(self):
        if self.load:
            rig.stop(self.load)
        if self.daemon:
            rig.stop(self.daemon.process, 30)
        if self.sink:
            self.sink.close()


def read_trace(path):
    """Of each MAIL: when, on which connection, and whether it was the one."""
    mails = []
    with open(path, errors="replace") as f:
        for line in f:
            words = line.split()
            if len(words) >= 6 and words[4] == "mail":
                mails.append((int(words[0]), words[2], " 421 " in line))
    mails.sort()
    return mails


class Flip:
    """One 421, what was before it, and what came behind it until it was ended."""

    def __init__(self, mails, at, until_us):
        self.when = mails[at][0]
        before = []
        for i in range(at, -1, -1):
            if self.when - mails[i][0] > 300000:
                break
            before.append(mails[i])
        self.rate = len(before) / 0.3
        self.connections = len({m[1] for m in before})
        self.late_ms, self.late = 0.0, 0
        for i in range(at + 1, len(mails)):
            if mails[i][0] >= until_us:
                break
            self.late_ms, self.late = (mails[i][0] - self.when) / 1e3, self.late + 1

    def counts(self):
        return self.rate >= RATE and self.connections >= CONNECTIONS


def flips_of(mails, ended):
    """Each back-off by its first 421."""
    found, at = [], 0
    for before_us, behind_us in ended:
        while at < len(mails) and not (mails[at][2] and mails[at][0] < before_us):
            if mails[at][0] >= before_us:
                break
            at += 1
        if at < len(mails) and mails[at][2] and mails[at][0] < before_us:
            found.append(Flip(mails, at, before_us))
        while at < len(mails) and mails[at][0] < behind_us:
            at += 1
    return found


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


def report(flips, wanted, slack):
    counted = [f for f in flips if f.counts()]
    print("%d flips, %d of them under at least %d MAIL/s over %d connections" % (len(flips), len(counted), RATE, CONNECTIONS))
    if len(counted) < wanted:
        print("that is too few: the machine has no time for it")
        return False
    late = [f.late_ms for f in counted]
    median, most = statistics.median(late), percentile(late, 99)
    within = 100 * sum(x <= SINK_MS for x in late) / len(late)
    print("MAIL/s in the 0.3 s before: median %.0f; connections: median %.0f" %
          (statistics.median(f.rate for f in counted), statistics.median(f.connections for f in counted)))
    print("last MAIL at the old limits, from the writing of the 421: median %.2f ms (%.0f), 90 %% %.2f, 99 %% %.2f (%.0f), longest %.2f" %
          (median, MEDIAN_MS, percentile(late, 90), most, MOST_MS, max(late)))
    print("so many of them: median %.0f, most %d; none later than %.0f ms in %.1f %% of the flips (99)" %
          (statistics.median(f.late for f in counted), max(f.late for f in counted), SINK_MS, within))
    within = 100 * sum(x <= SINK_MS * slack for x in late) / len(late)
    return median <= MEDIAN_MS * slack and most <= MOST_MS * slack and within >= 99


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--flips", type=int, default=200)
    p.add_argument("--seconds", type=float, default=300, help="give up after so long")
    p.add_argument("--slack", type=float, default=1, help="times may be so many times longer")
    a = p.parse_args()
    bench = Bench(rig.work_dir("flips"))
    end, flips = time.monotonic() + a.seconds, []
    print("%d flips; load average %.1f; files: %s" % (a.flips, os.getloadavg()[0], bench.work), flush=True)
    try:
        bench.start()
        bench.inject(a.flips * EVERY * 3 + WAITING + 20000)
        bench.flip(60)
        while sum(f.counts() for f in flips) < a.flips and time.monotonic() < end:
            for _ in range(a.flips - sum(f.counts() for f in flips)):
                bench.flip(30)
            bench.sink.stats()  # its trace is written before it answers
            flips = flips_of(read_trace(bench.path("trace")), bench.ended)[1:]  # the first one is from a standing start
    except Failure as e:
        print("flips: %s" % e, file=sys.stderr)
        return 1
    finally:
        bench.close()
    return 0 if report(flips, a.flips, a.slack) else 1


if __name__ == "__main__":
    sys.exit(main())
