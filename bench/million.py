#!/usr/bin/python3
"""million: a queue of a million messages, and what it costs: memory, restarts, listing, deletion, expiry.

sluice-load injects, sluice-sink defers everything; then the scheduler is killed, entries are listed,
deleted, expired, delivered. Each figure is printed beside its goal. The exit status is 1 for what does
not depend on the machine's mood (lost mail, memory per entry, counts) and for times ten times off.
"""
import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import ledger
import rig
from rig import Failure

SLACK = 10         # a goal in time is missed for good when it is this many times off
SINK, ALIVE = "127.0.0.11", "127.0.0.12"
PROBE_QUEUE = "probe.example/{default}"

CONF = """
host-name = "mta.million.example";
postmaster = "postmaster@million.example";
spool = "@WORK@/spool";
run = "@WORK@/run";
log-file = "@WORK@/sluice.log";
workers = 2;
total-max-smtp-out = 2000;
receivers = 1;
allow-destinations = [ "127.0.0.0/8" ];
smtp-listeners = ( { address = "127.0.0.1:@LISTEN@"; } );
sources = ( { match = "127.0.0.0/8"; always-allow-relaying = true; process-x-job = true; } );
domains = (
  { name = "alive.example"; smtp-hosts = "[@ALIVE@]:@PORT@"; },
  { name = "*.expire.example"; bounce-after = "@EXPIRE@"; },
  { name = "*"; smtp-hosts = "[@SINK@]:@PORT@"; retry-after = "@RETRY@"; retry-recipients-after = "@RETRY@";
    connection-idle-timeout = "1s"; } );
acct-files = ( { path = "@WORK@/acct.csv"; records = "d,b"; } );
"""

SCRIPT = """
providers = (
  { name = "later"; listen = [ "%s:%d" ]; %s },
  { name = "alive"; listen = [ "%s:%d" ]; } );
"""
DEFERS = 'rules = ( { stage = "rcpt"; reply = "450 4.2.1 try again later"; } );'


def megabytes(kb):
    return "%.1f MB" % (kb / 1024)


class Report:
    def __init__(self, counts):
        self.bad, self.counts = [], counts

    def line(self, what, value, goal="", ok=True):
        print("%-46s %-28s %-30s %s" % (what, value, goal, "" if ok else "FAILED"), flush=True)
        if not ok:
            self.bad.append(what)

    def figure(self, what, value, unit, goal, least=False, always=False):
        """A time or rate against its goal; fails only when it is SLACK times off, and not with --counts."""
        good = value >= goal if least else value <= goal
        ok = value * SLACK >= goal if least else value <= goal * SLACK
        ok = ok or (self.counts and not always)
        self.line(what, "%.4g %s" % (value, unit),
                  "goal %s %g%s" % (">=" if least else "<=", goal, "" if good else " (missed)"), ok)

    def must(self, what, condition, value=""):
        self.line(what, value, "must hold", bool(condition))


class Instance:
    """A Sluice in a folder of its own, and what was injected into it."""
    def __init__(self, work, port):
        self.work, self.listen, self.port = work, rig.free_port(), port
        self.daemon, self.loads = None, []
        os.makedirs(work, exist_ok=True)

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self, retry, expire="never"):
        template = self.path("conf.in")
        with open(template, "w") as f:
            f.write(CONF)
        conf = rig.fill(template, self.path("sluice.conf"), WORK=self.work, LISTEN=self.listen, SINK=SINK,
                        ALIVE=ALIVE, PORT=self.port, EXPIRE=expire, RETRY=retry)
        self.daemon = rig.Daemon(conf, self.path("run"), "127.0.0.1", self.listen, self.path("sluiced.out"))

    def close(self):
        if self.daemon:
            self.daemon.close()

    def sluice(self, *words, ok=(0,), seconds=600):
        done = subprocess.run([rig.program("sluice"), "-c", self.path("sluice.conf"), *words, "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=seconds)
        if done.returncode not in ok:
            raise Failure("sluice %s: %d %s" % (" ".join(words), done.returncode, done.stderr.strip()))
        return json.loads(done.stdout)["data"] if done.stdout else {}

    def load_args(self, **options):
        path = self.path("load-%d" % len(self.loads))
        self.loads.append(path)
        return "127.0.0.1:%d" % self.listen, path, dict(size="2k", pipelining=True, **options)

    def inject(self, messages, **options):
        """Messages a second."""
        target, path, options = self.load_args(messages=messages, sessions=20, insist=True, **options)
        load = subprocess.Popen(rig.load_args(target, path, **options), stdout=subprocess.PIPE, text=True)
        try:
            summary = json.loads(load.communicate()[0].splitlines()[-1])
        finally:
            load.terminate()
        if summary["acknowledged"] != messages:
            raise Failure("acknowledged %d of %d" % (summary["acknowledged"], messages))
        return messages * 1000 / summary["elapsed_ms"]

    def probe(self, messages):
        """The same into a paused queue; they are deleted then."""
        self.sluice("pause", "queue", PROBE_QUEUE)
        rate = self.inject(messages, domains="probe.example")
        self.sluice("delete", "--queue=" + PROBE_QUEUE)
        return rate


class Million(Instance):
    def __init__(self, work, options):
        Instance.__init__(self, work, rig.free_port())
        self.o, self.report = options, Report(options.counts)
        self.n, self.queues = options.messages, options.queues
        self.sink = None
        self.peer = Instance(self.path("peer"), self.port)  # stays empty

    # The daemon -----------------------------------------------------------------------------------
    def start(self, expire="never"):
        if self.sink is None:
            self.write_script(DEFERS)
            self.sink = rig.Sink(self.path("sink.ledger"), script=self.path("sink.conf"))
        Instance.start(self, self.o.retry, expire)

    def write_script(self, rules):
        with open(self.path("sink.conf"), "w") as f:
            f.write(SCRIPT % (SINK, self.port, rules, ALIVE, self.port))

    def totals(self):
        stat = self.daemon.stat()
        return stat["totals"] if stat else {}

    def scheduler(self):
        found = [p for p, (name, _) in rig.processes_below(self.daemon.process.pid).items() if "sched" in name]
        return found[0] if len(found) == 1 else None

    def memory(self):
        """{RssAnon, RssFile, RssShmem, VmHWM} of the scheduler, KB."""
        with open("/proc/%d/status" % self.scheduler()) as f:
            rows = dict(line.split(":", 1) for line in f if ":" in line)
        return {k: int(rows[k].split()[0]) for k in ("RssAnon", "RssFile", "RssShmem")}

    def wait_queued(self, count, seconds):
        rig.wait_for("%d queued (now %s)" % (count, self.totals().get("queued_rcpt")),
                     lambda: self.totals().get("queued_rcpt") == count, seconds, 0.2)

    # Mail -----------------------------------------------------------------------------------------
    def injection_rate(self, name):
        """Into this queue and into an empty one in turn: what else the machine does meets both."""
        pairs = [(self.probe(self.o.probe), self.peer.probe(self.o.probe)) for _ in range(self.o.probes)]
        self.report.line("injection rate, " + name, "%.0f/s" % statistics.median(p[0] for p in pairs),
                         "of %s" % " ".join("%.0f" % p[0] for p in pairs))
        self.report.line("  an empty one beside it", "%.0f/s" % statistics.median(p[1] for p in pairs),
                         "of %s" % " ".join("%.0f" % p[1] for p in pairs))
        return statistics.median(p[0] / p[1] for p in pairs)

    @contextlib.contextmanager
    def watched(self, what, rivals=False):
        """Meanwhile mail to another domain goes on, 20 a second: how long it takes from 250 to 250.
        With `rivals` all other queues want a connection as well: that wait is total-max-smtp-out's."""
        target, path, options = self.load_args(duration=3600, rate=20, sessions=4, domains="alive.example")
        options["from"] = "watch@%s.example" % what.split()[0]
        load = subprocess.Popen(rig.load_args(target, path, **options), stdout=subprocess.DEVNULL)
        turns = []
        time.sleep(self.o.settle)
        try:
            yield turns
            turns.append(self.turn())
            time.sleep(self.o.settle)
        finally:
            load.terminate()
            load.wait(60)
        self.wait_probes(path)
        sent, taken = ledger.Load(path).acked, ledger.Sink(self.sink.ledger).taken
        ms = sorted((taken[r][0].time_us - s.time_us) / 1e3 for r, s in sent.items() if r in taken)
        if not ms:
            raise Failure("nothing was delivered during: " + what)
        if rivals:
            self.report.line("  mail meanwhile, %d" % len(ms), "%.4g ms, slowest %.4g" % (statistics.median(ms), ms[-1]))
        else:
            self.report.figure("  mail meanwhile, median of %d" % len(ms), statistics.median(ms), "ms", 50)
            self.report.figure("  mail meanwhile, slowest", ms[-1], "ms", 200)
        self.report.figure("  longest turn of the scheduler", max(t[0] for t in turns) / 1e3, "ms", 50)
        self.report.figure("  the same in CPU time", max(t[1] for t in turns) / 1e3, "ms", 50, always=True)

    def turn(self):
        t = self.totals()
        return t.get("loop_turn_us_max", 0), t.get("loop_cpu_us_max", 0)

    def wait_probes(self, path):
        """The last of them is at the sink."""
        def all_there():
            taken = ledger.Sink(self.sink.ledger).taken
            return all(r in taken for r in ledger.Load(path).acked)
        rig.wait_for("delivery of the watched mail", all_there, 60, 0.5)

    # Stages ---------------------------------------------------------------------------------------
    def fill(self):
        half = self.n // 2
        began = time.monotonic()
        for count, job, form in ((half, "first", "d%d.million.example"), (self.n // 4, "second", "d%d.million.example"),
                                 (self.n - half - self.n // 4, "third", "x%d.expire.example")):
            self.inject(count, job=job, domain_count=self.queues // 2, domain_format=form)
        self.report.line("fill", "%.0f/s" % (self.n / (time.monotonic() - began)), "%d messages" % self.n)
        self.wait_queued(self.n, 10)

    def weigh(self, before):
        m = self.memory()
        self.report.line("memory of the scheduler", "RssAnon " + megabytes(m["RssAnon"]), "map %s, shm %s" % (
            megabytes(m["RssFile"]), megabytes(m["RssShmem"])))
        # 90 MB at 1,000,000 entries in 50,000 queues; a fixed part for what a small run needs as well.
        bound = 25 * 1024 + (self.n * 48 + self.queues * 700) / 1024
        if self.n >= 1000000:
            bound = 90 * 1024
        self.report.line("  against", megabytes(m["RssAnon"]), "<= %s, %s at start" % (
            megabytes(bound), megabytes(before["RssAnon"])), m["RssAnon"] <= bound)

    def mails(self):
        return self.sink.stats()["total"]["mails"]

    def mail_rate(self, seconds):
        before, at = self.mails(), time.monotonic()
        time.sleep(seconds)
        return (self.mails() - before) / (time.monotonic() - at)

    def restart_once(self):
        # The deferred come due in waves, from 2,000 to 15,000 a second: a short look says nothing.
        seconds = 10 if self.n >= 1000000 else 2
        before = self.mail_rate(seconds)
        if before < 100:  # the first of the deferred are not due again yet
            rig.wait_for("mail to be tried again", lambda: self.mail_rate(1) >= 100, 700, 0.5)
            before = self.mail_rate(seconds)
        pid = self.scheduler()
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        # What was granted before is still sent: the first MAIL behind a pause is of the new one.
        for _ in range(40):
            count = self.mails()
            time.sleep(0.05)
            if self.mails() == count:
                break
        self.sink.stats(reset=True)
        first = rig.wait_for("MAIL after a restart", lambda: self.sink.stats()["total"]["first_mail_us"], 60, 0.02)
        time.sleep(max(0, killed + 3 - time.time()))
        after = self.mail_rate(seconds)
        return first / 1e6 - killed, after / before if before else 0

    def restarts(self):
        runs = [self.restart_once() for _ in range(self.o.restarts)]
        self.report.line("restarts", " ".join("%.2f s" % r[0] for r in runs), " ".join("%.0f %%" % (100 * r[1]) for r in runs))
        self.report.figure("kill -9 to first MAIL, median", statistics.median(r[0] for r in runs), "s", 2)
        self.report.figure("rate from 3 s later on, of before", statistics.median(r[1] for r in runs), "", 0.5, least=True)
        self.report.must("all still queued", self.totals()["queued_rcpt"] == self.n, self.totals()["queued_rcpt"])

    def lists(self):
        addresses = list(ledger.Load(self.loads[self.first_load]).acked)
        took = []
        with self.watched("listing"):
            for _ in range(3):
                rcpt = random.choice(addresses)
                began = time.monotonic()
                found = self.sluice("list", "--rcpt=" + rcpt)["message"]
                took.append(time.monotonic() - began)
                self.report.must("  found by its recipient", [m["rcpt"] for m in found] == [rcpt])
        self.report.figure("list --rcpt=, median", statistics.median(took), "s", 2)

    def release(self):
        """All of them due at once."""
        with self.watched("release", rivals=True):
            began = time.monotonic()
            matched = self.sluice("schedule", "*/*", "--retry-recipients")["matched"]
            self.report.line("schedule */* --retry-recipients", "%.2f s" % (time.monotonic() - began), "%d queues" % matched)
            time.sleep(3)

    def delete(self):
        left = self.n - self.n // 2
        with self.watched("deletion") as turns:
            began = time.monotonic()
            deleted = self.sluice("delete", "--jobId=first")["matched"]
            took = time.monotonic() - began
            queued = self.totals()
            turns.append((queued["loop_turn_us_max"], queued["loop_cpu_us_max"]))
        self.report.line("delete --jobId=, %d" % deleted, "%.2f s" % took, "%.0f/s" % (deleted / took))
        self.report.must("  as many as it should be", deleted == self.n // 2, deleted)
        self.others_stayed(left)
        self.n = left

    def expire(self):
        gone = self.n - self.n // 2
        self.daemon.close()
        began = time.monotonic()
        self.start(expire="1s")
        self.report.line("stop and start", "%.2f s" % (time.monotonic() - began))
        with self.watched("expiry", rivals=True):
            self.wait_queued_below(self.n - gone)
        self.report.line("expiry of %d" % gone, "%.2f s" % (time.monotonic() - began))
        self.n -= gone
        self.others_stayed(self.n)

    def others_stayed(self, count):
        """The last of the watched mail may be under way."""
        with contextlib.suppress(Failure):
            self.wait_queued(count, 10)
        queued = self.totals()["queued_rcpt"]
        self.report.must("  the others stayed", queued == count, queued)

    def wait_queued_below(self, count):
        rig.wait_for("%d queued" % count, lambda: self.totals().get("queued_rcpt", 1 << 40) <= count + 2,
                     60 + self.n / 500, 0.2)

    def drain(self):
        began = time.monotonic()
        self.write_script("")
        self.sink.reload()
        self.sluice("schedule", "*/*", "--retry-recipients")
        rig.wait_for("empty queue", lambda: self.totals().get("queued_rcpt") == 0, 120 + self.n / 200, 0.2)
        self.report.line("drain of %d" % self.n, "%.0f/s" % (self.n / (time.monotonic() - began)))
        time.sleep(2)
        m = self.memory()
        self.report.line("memory after draining", "RssAnon " + megabytes(m["RssAnon"]))
        return m

    def check_ledger(self):
        self.daemon.close()
        acct = ledger.Acct(ledger.expand([self.path("acct*.csv")]))
        report = ledger.check(ledger.Load(self.loads), ledger.Sink(self.sink.ledger), acct)
        bad = {k: report[k] for k in ledger.VERDICT if report.get(k)}
        self.report.must("ledger", report["ok"], "acknowledged %d" % report["acknowledged"] if report["ok"] else bad)

    def run(self):
        self.start()
        start = self.memory()
        self.peer.start(self.o.retry)
        self.inject(2000, domains="alive.example")  # caches, files, connections
        self.wait_queued(0, 60)
        self.peer.probe(2000)
        self.report.line("  of the empty one", "%.4g" % self.injection_rate("empty"), "what chance does to it")
        self.first_load = len(self.loads)
        self.fill()
        self.weigh(start)
        self.restarts()
        self.release()
        self.sluice("pause", "queue", "*.example/*")
        self.sluice("resume", "queue", "alive.example/*")
        time.sleep(1)
        self.report.figure("  of the empty one", self.injection_rate("at %d" % self.n), "", 0.8, least=True)
        self.weigh(start)
        self.lists()
        self.delete()
        self.sluice("resume", "queue", "*/*")
        self.expire()
        self.drain()
        self.report.figure("  of the empty one", self.injection_rate("after draining"), "", 0.8, least=True)
        self.check_ledger()

    def close(self):
        Instance.close(self)
        self.peer.close()
        if self.sink:
            self.sink.close()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--messages", type=int, default=1000000)
    p.add_argument("--queues", type=int, default=50000)
    p.add_argument("--restarts", type=int, default=5)
    p.add_argument("--probe", type=int, default=20000, help="messages of one probe of the injection rate")
    p.add_argument("--probes", type=int, default=5)
    p.add_argument("--retry", default="5m", help="after which deferred mail is tried again")
    p.add_argument("--settle", type=float, default=2, help="seconds of watched mail before and after a stage")
    p.add_argument("--counts", action="store_true", help="do not judge times by the clock: others use the machine")
    p.add_argument("--keep", action="store_true", help="leave the files for a look")
    o = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what runs below ends with us
    work = rig.work_dir("million")
    run = Million(work, o)
    print("million: %d messages in %d queues, below %s" % (o.messages, o.queues, work), flush=True)
    began = time.monotonic()
    try:
        run.run()
    except (Failure, subprocess.TimeoutExpired) as e:
        print("million: %s" % e)
        return 1
    finally:
        run.close()
    print("%.0f s; %s" % (time.monotonic() - began, "FAILED: " + ", ".join(run.report.bad) if run.report.bad else "all held"))
    if not run.report.bad and not o.keep:
        import shutil
        shutil.rmtree(work, ignore_errors=True)
    return 1 if run.report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
