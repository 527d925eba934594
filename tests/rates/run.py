#!/usr/bin/python3
"""run: the cells of cells.txt live, judged by stamps; `make bench-rates`.

    run.py [--only NUMBERS|kills|flips] [--windows N] [--variant V]

Each cell is an instance of its own with a sink of its own. Its queues are paused until all mail is there, so that
there is mail enough from the first grant on. Those at 1/s and 100/m run side by side, the others one by one.
More than a limit allows is a fault whenever it is seen. Less than 98 % of it may be this machine's, which stands still
at times: such a cell is run twice more, and it is a fault when it is less in two of the three; each is printed.
`kills`: a rate of 100/m while the scheduler is killed every five seconds.
`flips`: queues that the sink's replies send into back-off, and that come back, all the time: the rate, and in back-off its twin.
"""
import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
sys.path.insert(0, HERE)
import cells  # noqa: E402
import check  # noqa: E402
import harness  # noqa: E402

SINK_SHORTER_US = 50000
MEMORY = "/dev/shm"
WIDER = 1.5           # other limits of a cell, over what the narrowest lets through
MOST_MESSAGES = 1000  # a second, of one cell: more is no matter of limits
MOST_RCPTS = 5000
SLOW = ("1/s", "100/m")
UNITS = {"s": 1, "m": 60}
PROVIDER = "prov"
DIRECTIVES = {  # by scope and measure; None: there is none
    "queue": {"msg": "max-msg-rate", "connect": "max-connect-rate", "volume": "max-data-volume-rate"},
    "source": {"msg": "max-msg-rate", "connect": "max-connect-rate", "volume": None},
    "vmta": {"msg": "max-smtp-msg-rate", "connect": None, "volume": "max-smtp-data-volume-rate"},
    "provider": {"msg": "max-msg-rate", "connect": "max-connect-rate", "volume": "max-data-volume-rate"},
}
SIZES = {"1000k/s": 2048, "40k/2s": 50000}  # of messages, by volume rate: the last are larger than N


def parse_rate(text):
    """(N, window in seconds)"""
    n, unit = text.split("/")
    factor = 1024 if n.endswith("k") else 1
    return int(n.rstrip("k")) * factor, UNITS[unit[-1]] * int(unit[:-1] or 1)


class Plan:
    """What a cell is made of: configuration, limits to judge, mail."""

    def __init__(self, number, cell, windows):
        self.number, self.cell, self.windows = number, cell, windows
        self.measure, self.rcpts = cell["measure"], int(cell["rcpts"])
        self.n, self.window = parse_rate(cell["rate"])
        self.together = cell["company"] == "together"
        n_ips = int(cell["sources"])
        wide = self.together or cell["scope"] == "provider"
        self.vmtas = ["v0", "v1"] if wide and n_ips > 1 else ["v0"]
        self.ips = {v: [] for v in self.vmtas}
        for i in range(n_ips):
            v = self.vmtas[i % len(self.vmtas)]
            self.ips[v].append("127.%d.%d.%d" % (40 + number, int(v[1:]), 1 + i))
        fast = self.n / self.window * (1 if self.measure != "volume" else 0) >= MOST_RCPTS
        # Three, so that domains and virtual MTAs, each by turns, meet in all ways.
        domains = 3 if wide or cell["scope"] == "vmta" else 1 if fast or self.measure != "msg" else 2
        self.domains = ["d%d.example" % i for i in range(domains)]
        self.queues = ["%s/%s" % (d, v) for d in self.domains for v in self.vmtas]
        self.size = SIZES.get(cell["rate"], 1024)
        self.limits = []
        self.more, self.sink_rules = ("", ""), ""  # of the domain and of all; of the sink
        self._numbers()
        self._mail()

    def objects(self, scope):
        return {"queue": self.queues, "vmta": self.vmtas, "provider": [PROVIDER],
                "source": [ip for v in self.vmtas for ip in self.ips[v]]}[scope]

    def _numbers(self):
        """N of each scope: the cell's for its own, as far as this machine can send so much."""
        scope, count = self.cell["scope"], len(self.objects(self.cell["scope"]))
        if self.measure == "msg":
            most = min(MOST_RCPTS, MOST_MESSAGES * self.rcpts)
            self.n = min(self.n, max(1, int(most * self.window / count)))
        self.of = {scope: self.n}
        flow = self.flow = self.n * count
        if self.together:
            # The most that one object of another scope may get when this scope is full.
            widest = max(len(v) for v in self.ips.values())
            by_vmta = {"queue": len(self.domains) * self.n, "source": widest * self.n, "vmta": self.n, "provider": flow}[scope]
            other = {"queue": by_vmta if scope == "provider" else by_vmta / len(self.domains), "vmta": by_vmta,
                     "provider": flow, "source": by_vmta}
            for name, most in other.items():
                if name != scope:
                    self.of[name] = max(2, int(WIDER * most + 0.999))
        for name, n in self.of.items():
            if DIRECTIVES[name][self.measure] is None:
                continue
            use = check.USE_PERCENT if self.measure != "volume" or self.size <= n else 0
            use = use if name == scope else 0
            for key in self.objects(name):
                self.limits.append(check.Limit(name, key, self.measure, n, self.window * 1000000, use))

    def _mail(self):
        per_message = {"msg": self.rcpts, "connect": 1, "volume": self.size}[self.measure]
        flow = self.flow
        if self.cell["scope"] == "source":  # mail is spread evenly, and one virtual MTA may have more of them
            flow = self.n * max(len(v) for v in self.ips.values()) * len(self.vmtas)
        total = flow / per_message * (self.windows + 1) * 1.15
        turns = len(self.domains) * len(self.vmtas)
        self.messages = (int(total / turns) + 2) * turns

    def line(self, scope):
        directive = DIRECTIVES[scope][self.measure]
        if scope not in self.of or directive is None:
            return ""
        unit = {1: "s", 2: "2s", 60: "m"}[self.window]
        return '%s = "%d/%s"; ' % (directive, self.of[scope], unit)

    def conf(self, port):
        vmtas = []
        for v in self.vmtas:
            hosts = ", ".join('{ ip = "%s"; name = "out.example"; %s}' % (ip, self.line("source")) for ip in self.ips[v])
            vmtas.append('{ name = "%s"; %ssmtp-source-hosts = ( %s ); }' % (v, self.line("vmta"), hosts))
        once = "max-msg-per-connection = 1; " if self.measure == "connect" else ""
        domains = ('domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%s"; max-smtp-out = 60; retry-after = "1s"; '
                   'retry-recipients-after = "1s"; %s%s%s} );' % (port, once, self.line("queue"), self.more[0]))
        provider = ""
        if self.line("provider"):
            provider = 'providers = ( { name = "%s"; mx = "*"; %s} );' % (PROVIDER, self.line("provider"))
        return {"domains": domains, "vmtas": "virtual-mtas = ( %s );" % ", ".join(vmtas), "conf": provider + self.more[1]}

    def vmta_of(self):
        return {ip: v for v, ips in self.ips.items() for ip in ips}

    def __str__(self):
        return " ".join(self.cell.values())


def sink_script(pipelining, rules=""):
    features = [f for f in ("PIPELINING", "8BITMIME", "SIZE 52428800") if pipelining or f != "PIPELINING"]
    return ('providers = ( { name = "sink"; listen = [ "127.0.0.1:0" ]; banner = "220 sink ESMTP"; features = [ %s ]; '
            'rules = ( %s ); } );' % (", ".join('"%s"' % f for f in features), rules))


class Cell:
    """One plan in a folder of its own."""

    def __init__(self, plan, variant="release", environment=None):
        self.plan, self.variant, self.environment = plan, variant, environment
        self.folder = tempfile.mkdtemp(prefix="sluice-rates-")
        self.kept = {}  # file of the event log -> when it had been written
        # What a witness writes down does not wait for the disk that it watches others use.
        memory = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.notes = tempfile.mkdtemp(prefix="sluice-rates-sink-", dir=memory)
        self.trace = os.path.join(self.notes, "sink.trace")

    def start(self):
        plan = self.plan
        self.sink = harness.Sink(self.notes, script=sink_script(plan.cell["peer"] == "pipelining", plan.sink_rules), extra=("--trace", self.trace))
        with contextlib.suppress(PermissionError):  # it stamps what comes when it comes
            os.sched_setscheduler(self.sink.process.pid, os.SCHED_RR, os.sched_param(1))
        self.sluice = harness.Sluice(os.path.join(self.folder, "mta"), workers=int(plan.cell["workers"]), variant=self.variant,
                                     environment=self.environment, acct="d,b", **plan.conf(self.sink.listening[0].rpartition(":")[2]))
        self.sluice.start()
        for queue in plan.queues:
            done = self.sluice.sluice("pause", "queue", queue)
            assert done.returncode == 0, (queue, done.stdout, done.stderr)
        load = harness.Load(self.folder, self.sluice.target, "-s", 8, "-m", plan.messages, "--size", plan.size, "--rcpts", plan.rcpts,
                            "--domains", ",".join(plan.domains), "--vmta", ",".join(plan.vmtas), "--pipelining")
        summary = load.wait(600)
        assert load.process.returncode == 0, summary

    def go(self, meanwhile=None):
        """Mail may leave; until the windows that are looked at are over."""
        done = self.sluice.sluice("resume", "queue", "*/*")
        assert done.returncode == 0, (done.stdout, done.stderr)
        end = time.monotonic() + self.plan.window * self.plan.windows + 1.5
        next_time = time.monotonic() + 5
        while time.monotonic() < end:
            time.sleep(min(1, max(0, end - time.monotonic())))
            self.keep_log()
            if meanwhile and time.monotonic() >= next_time:
                next_time += 5
                meanwhile(self)

    def keep_log(self):
        """Copies files of the event log before they are used again: each that was written before the newest one."""
        folder = os.path.join(self.sluice.spool, "events")
        changed = {}
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                changed[name] = os.stat(os.path.join(folder, name)).st_mtime_ns
        newest = max(changed, key=changed.get, default="")
        for name in changed:
            if name < newest and self.kept.get(name) != changed[name]:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(os.path.join(folder, name), os.path.join(self.folder, name))
                    self.kept[name] = changed[name]

    def give_back_log(self):
        folder = os.path.join(self.sluice.spool, "events")
        for name in self.kept:
            if not os.path.exists(os.path.join(folder, name)):
                shutil.copy(os.path.join(self.folder, name), folder)

    def judge(self):
        self.sluice.stop()
        self.sink.stop()
        self.give_back_log()
        plan = self.plan
        tool = os.path.join(harness.ROOT, "build", self.variant, "tools/eventlog")
        log = check.event_log(tool, self.sluice.spool)
        only = plan.queues[0] if len(plan.queues) == 1 else ""
        heard = check.sink_trace(self.trace, self.sink.ledger_path, plan.vmta_of(), PROVIDER, only)
        self.by_log = check.judge(plan.limits, log, windows=plan.windows)
        self.by_sink = check.judge(plan.limits, heard, SINK_SHORTER_US)
        # A limit that sees nothing proves nothing; who wrote the stamps must have counted what was heard.
        own = [v for v in self.by_log if v.limit.scope == plan.cell["scope"]]
        self.faults = ["%s %s: nothing was sent" % (v.limit.scope, v.limit.key) for v in own if v.sent == 0]
        kinds = [sum(e.kind == "msg" for e in events) for events in (log, heard)]
        if kinds[0] != kinds[1]:
            self.faults.append("%d recipients in the log, %d at the sink" % tuple(kinds))
        self.faults += [str(v) for v in self.by_log if v.faults] + ["at the sink: " + str(v) for v in self.by_sink if v.faults]
        self.is_short = [str(v) for v in self.by_log if v.is_short]
        return not self.faults and not self.is_short

    def end(self, good):
        for part in ("sluice", "sink"):
            if hasattr(self, part):
                try:
                    getattr(self, part).stop()
                except Exception as why:  # the verdict stands already
                    print("cell %d: %s" % (self.plan.number, why), flush=True)
        if good:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.notes, ignore_errors=True)
        else:
            shutil.move(self.notes, os.path.join(self.folder, "sink"))

    def report(self):
        own = [v for v in self.by_log if v.limit.scope == self.plan.cell["scope"]]
        worst = max(self.by_log, key=lambda v: (v.most / v.limit.n, v.sent))
        sink = max(self.by_sink, key=lambda v: v.most / v.limit.n)
        tenth = max(self.by_log, key=lambda v: v.tenth / check.share(v.limit.n))
        return ("sent %d, most %d of %d (%s), a tenth %d of %d, use %.1f %%, at the sink %d of %d; %d limits"
                % (sum(v.sent for v in own), worst.most, worst.limit.n, worst.limit.scope, tenth.tenth, check.share(tenth.limit.n),
                   min(v.percent for v in own), sink.most, sink.limit.n, len(self.by_log)))


def run_cell(plan, variant="release", meanwhile=None, also=None, environment=None):
    """(good, lines)"""
    lines, seen = [], {True: 0, False: 0}
    while True:
        good, is_short, more = run_once(plan, variant, meanwhile, also, environment)
        lines += more
        seen[good] += 1
        if not good and (not is_short or seen[False] == 2):
            return False, lines
        if good and (not seen[False] or seen[True] == 2):
            return True, lines


def run_once(plan, variant, meanwhile, also, environment):
    """(good, nothing is wrong but that too little came, lines)"""
    cell, good, is_short = Cell(plan, variant, environment), False, False
    try:
        cell.start()
        cell.go(meanwhile)
        good = cell.judge()
        is_short = bool(cell.is_short) and not cell.faults
        lines = ["cell %d: %s: %s: %s" % (plan.number, plan, cell.report(), "ok" if good else "short" if is_short else "FAULT")]
        lines += ["    " + f for f in (cell.faults + cell.is_short)[:10]]
        if also:
            faults = also(cell)
            good, is_short = good and not faults, is_short and not faults
            lines += ["    " + f for f in faults]
    except Exception as why:
        good, is_short, lines = False, False, ["cell %d: %s: %s: %s" % (plan.number, plan, type(why).__name__, why)]
    finally:
        cell.end(good)
    if not good:
        lines.append("    left for a look: " + cell.folder)
    return good, is_short, lines


class Killer:
    """kill -9 of the scheduler, every five seconds."""

    def __init__(self):
        self.kills = 0

    def __call__(self, cell):
        pids = cell.sluice.pids("scheduler")
        if pids:
            os.kill(pids[0], signal.SIGKILL)
            self.kills += 1

    def full_minutes(self, cell):
        """At least 90 in each."""
        faults = []
        for v in cell.by_log:
            print("    %d kills; %s" % (self.kills, v))
        tool = os.path.join(harness.ROOT, "build", cell.variant, "tools/eventlog")
        stamps = sorted(e.stamp for e in check.event_log(tool, cell.sluice.spool) if e.kind == "msg")
        for minute in range(int(cell.plan.windows)):
            low = stamps[0] + minute * 60000000
            n = sum(low <= s < low + 60000000 for s in stamps)
            print("    minute %d: %d" % (minute + 1, n))
            if n < 90:
                faults.append("only %d in minute %d" % (n, minute + 1))
        return faults


KILLS = {"measure": "msg", "rate": "100/m", "rcpts": "1", "workers": "2", "sources": "3", "peer": "pipelining", "scope": "queue",
         "company": "alone"}


def kills(variant, windows):
    plan = Plan(0, KILLS, windows)
    plan.domains, plan.queues = plan.domains[:1], plan.queues[:1]
    # What 36 restarts leave undone is not the limit's matter; the minutes are looked at below.
    plan.limits = [l._replace(use=0) for l in plan.limits if l.key in plan.queues]
    killer = Killer()
    good, lines = run_cell(plan, variant, killer, killer.full_minutes)
    print("\n".join(lines), flush=True)
    return good


# The sink refuses some at the dot; the queue is in back-off for three seconds, or longer when that is refused too.
FLIPS = {"measure": "msg", "rate": "100/s", "rcpts": "1", "workers": "2", "sources": "3", "peer": "pipelining", "scope": "queue",
         "company": "alone"}
TWIN = 20


def flips(variant, windows, kill=False, percent=1.0):
    plan = Plan(199, FLIPS, windows)
    plan.limits = [l._replace(use=0) for l in plan.limits]
    plan.sink_rules = '{ stage = "dot"; percent = %.1f; reply = "451 4.7.1 too many messages"; }' % percent
    plan.more = ('backoff-max-msg-rate = "%d/s"; backoff-max-smtp-out = 60; backoff-retry-after = "1s"; smtp-pattern-list = "l"; ' % TWIN,
                 'smtp-pattern-lists = ( { name = "l"; rules = ( { reply = "/too many/"; '
                 'actions = [ "mode=backoff", "backoff-to-normal-after=3s" ]; } ); } );')

    def twins(cell):
        """In back-off no window holds more than the twin allows; and there was back-off, and mail in it and beside it."""
        tool = os.path.join(harness.ROOT, "build", cell.variant, "tools/eventlog")
        shift = time.time_ns() // 1000 - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        faults, changes = [], check.modes(tool, cell.sluice.spool)
        events = [e for e in check.event_log(tool, cell.sluice.spool) if e.kind == "msg"]
        for queue in plan.queues:
            charges = [e for e in events if e.queue + "/" + e.vmta == queue or e.queue == queue]
            boot = [(at - shift, on) for at, on in changes[queue]]
            found, looked = check.above_twin(charges, boot, TWIN, plan.window * 1000000)
            print("    %s: %d flips; %d of %d recipients in back-off" % (queue, sum(on for _, on in boot), looked, len(charges)))
            faults += found[:3]
            if not any(on for _, on in boot) or looked < 10 or looked == len(charges):
                faults.append("%s: %d changes, %d of %d in back-off" % (queue, len(boot), looked, len(charges)))
        return faults
    good, lines = run_cell(plan, variant, Killer() if kill else None, twins)
    print("\n".join(lines), flush=True)
    return good


def run_all(plans, variant):
    """Slow ones beside each other, then the others one by one while those that take minutes go on."""
    results, lock = {}, threading.Lock()

    def one(plan):
        good, lines = run_cell(plan, variant)
        with lock:
            results[plan.number] = good
            print("\n".join(lines), flush=True)

    threads = {}
    for plan in plans:
        if plan.cell["rate"] in SLOW:
            threads[plan.number] = threading.Thread(target=one, args=(plan,))
            threads[plan.number].start()
    for plan in plans:
        if plan.cell["rate"] == "1/s":
            threads[plan.number].join()
    for plan in plans:
        if plan.number not in threads:
            one(plan)
    for thread in threads.values():
        thread.join()
    return all(results.get(p.number) for p in plans)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", default="", help="numbers of cells, or kills, or flips")
    p.add_argument("--windows", type=int, default=check.WINDOWS)
    p.add_argument("--variant", default="release")
    a = p.parse_args()
    seed, listed = cells.read()
    began = time.monotonic()
    if a.only == "kills":
        good = kills(a.variant, min(a.windows, 3))
    elif a.only == "flips":
        good = flips(a.variant, a.windows)
    else:
        wanted = {int(x) for x in a.only.split(",")} if a.only else set(range(1, len(listed) + 1))
        plans = [Plan(i, c, a.windows) for i, c in enumerate(listed, 1) if i in wanted]
        wrong = check.selftest(random.SystemRandom().randrange(1 << 32))
        print("\n".join(wrong + ["%d cells, %d windows each" % (len(plans), a.windows)]), flush=True)
        good = run_all(plans, a.variant) and not wrong and bool(plans)
        if not a.only:
            good = flips(a.variant, a.windows) and flips(a.variant, a.windows, kill=True) and good
    print("bench-rates: seed %d, %.0f s: %s" % (seed, time.monotonic() - began, "PASSED" if good else "FAILED"))
    return not good


if __name__ == "__main__":
    sys.exit(main())
