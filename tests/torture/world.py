"""One Sluice under load, with the sink and the ledger that stand outside of it. Every blow is noted with its place, so that what
is found wrong at the end can be laid at its door."""
import bisect
import contextlib
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import crash  # noqa: E402
import harness  # noqa: E402
import ledger  # noqa: E402
import claims  # noqa: E402

SCRIPT = crash.SCRIPT
NEAR_S = 3  # between a blow and the taking whose answer it took away, at most

# Virtual MTA v, of two source IPs, meets 421 now and then; what comes of that depends on the domain. w meets none.
VMTAS = """virtual-mtas = (
  { name = "v"; smtp-source-hosts = ( { ip = "127.0.0.2"; name = "v2.example"; }, { ip = "127.0.0.4"; name = "v4.example"; } ); },
  { name = "w"; smtp-source-hosts = ( { ip = "127.0.0.3"; name = "w.example"; } ); },
  { name = "a"; smtp-source-hosts = ( { ip = "127.0.0.5"; name = "a.example"; } );
    domains = ( { name = "*"; backoff-reroute-to-virtual-mta = "b"; } ); },
  { name = "b"; smtp-source-hosts = ( { ip = "127.0.0.6"; name = "b.example"; } );
    domains = ( { name = "*"; backoff-reroute-to-virtual-mta = "a"; } ); } );"""
FLIPS = """smtp-pattern-lists = (
  { name = "at-once"; rules = ( { reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=1s" ]; } ); },
  { name = "counted"; rules = ( { reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=1s" ]; after = "3/1m"; } ); },
  { name = "wide"; rules = ( { reply = "/too many/"; scope = "virtual-mta"; after = "2/1m";
                              actions = [ "mode=backoff", "backoff-to-normal-after=1s" ]; } ); },
  { name = "source"; rules = ( { reply = "/too many/"; actions = [ "disable-source-ip", "reenable-after=1s" ]; } ); } );
"""
FLIPPED = (  # by domain, in turn
    'smtp-pattern-list = "at-once"; backoff-reroute-to-virtual-mta = "w";',
    'smtp-pattern-list = "counted"; backoff-max-msg-rate = "100/s";',
    'smtp-pattern-list = "at-once"; max-msg-rate = "5000/s"; recover = "20%%,60%% every 1s";',
    'smtp-pattern-list = "source"; backoff-upon-all-sources-disabled = true; backoff-to-normal-after = "1s";',
    'smtp-pattern-list = "at-once"; recover = "auto";',
    'smtp-pattern-list = "wide"; backoff-reroute-to-virtual-mta = "w";')


def backoff(percent, domains=20):
    """Options of a World in which back-off is mixed into the traffic: so many of the MAILs of v are answered 421."""
    angry = '{ stage = "mail"; client = "127.0.0.[24]"; percent = %.1f; reply = "421 4.7.0 too many messages"; },' % percent if percent else ""
    rows = ",\n  ".join('{ name = "d%d.example"; %s }' % (i, FLIPPED[i % len(FLIPPED)]) for i in range(domains))
    usual = ('{ name = "*"; retry-after = "1s,2s"; backoff-retry-after = "1s,2s"; retry-recipients-after = "1s"; '
             'backoff-to-normal-after = "1h"; smtp-hosts = "[127.0.0.1]:%d"; }')
    return {"script": SCRIPT.replace("rules = (", "rules = ( " + angry), "vmtas": VMTAS, "conf": FLIPS,
            "domains": f"domains = ( {rows},\n  {usual} );", "load": ("--vmta", "v,w")}


class Blow:
    def __init__(self, place):
        self.place = place
        self.at = 0.0          # wall clock
        self.dead_at = 0.0     # what was struck has surely gone; 0: at once
        self.bound = 0         # duplicates that it may bring
        self.new_life = False  # everything restarts: the first message taken afterwards tells how long that took
        self.restart_ms = None
        self.missed = False    # nothing was struck


class World:
    def __init__(self, out, seed, variant="release", workers=3, receivers=2, sessions=60, rate=1500, size="2k", script=SCRIPT, port=None, load=(), domains=None, **options):
        self.out, self.seed, self.variant = out, seed, variant
        self.rng = random.Random(seed)
        self.blows = []
        self.load_options = ("-s", sessions, "--rate", rate, "--size", size, *load)
        port = port or harness.free_port()
        if domains is not None and "%d" in domains:
            options["domains"] = domains % port
        elif domains is not None:
            options["domains"] = domains
        self.folder = out.folder
        self.sink = harness.Sink(self.folder, script=script % port if script else None,
                                 listen=() if script else [f"127.0.0.1:{port}"])
        options.setdefault("top", 'compact-after = "0";')  # moving is under way when the blow comes
        self.sluice = harness.Sluice(self.folder, sink_port=port, workers=workers, receivers=receivers, variant=variant, **options)
        self.loads = []
        self.complaints = []  # of queue-check

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for load in self.loads:
            load.stop()
        self.sink.stop()
        with contextlib.suppress(OSError):
            os.kill(self.sluice.process.pid, signal.SIGCONT)
        self.sluice.kill()

    def begin(self, messages=500):
        """Sluice and load run, so many are acknowledged."""
        self.sluice.start()
        self.load_up()
        self.wait_acknowledged(messages)
        return self

    def load_up(self, *more, name=None):
        load = harness.Load(self.folder, self.sluice.target, *self.load_options, "--duration", 100000, "--reconnect", "--insist",
                            "--domain-count", 20, "--seed", self.rng.randrange(1 << 30), *more, name=name or f"load{len(self.loads)}")
        self.loads.append(load)
        return load

    def load_down(self, seconds=120):
        for load in self.loads:
            load.stop()
        for load in self.loads:
            load.wait(seconds)

    def acknowledged(self):
        return sum(load.acknowledged() for load in self.loads)

    def wait_acknowledged(self, more, seconds=60):
        """It takes mail (again): a queue that never recovers is no pass."""
        before = self.acknowledged()

        def taken():
            "mail is acknowledged"
            if self.sluice.process.poll() is not None:
                raise AssertionError("sluiced ended:\n" + self.sluice.complaints())
            return self.acknowledged() >= before + more
        harness.wait_for(taken, seconds)

    @contextlib.contextmanager
    def blow(self, place, new_life=False):
        """The blow falls inside; `at` is set to the moment before, unless the body knows better."""
        blow = Blow(place)
        blow.new_life = new_life
        blow.at = time.time()
        yield blow
        if not blow.missed:
            self.blows.append(blow)

    def wait_child(self, role, dead, n, blow, seconds=20):
        """Until `n` of that kind of process live again without the dead one."""
        def back():
            "the master starts what died"
            return len([p for p in self.sluice.pids(role) if p != dead]) >= n
        harness.wait_for(back, seconds, 0.005)
        blow.restart_ms = (time.time() - blow.at) * 1000

    def queue_check(self, *options):
        """`sluice queue-check`: what it complains of is a fault of its own."""
        done = self.sluice.sluice("queue-check", *options, seconds=120)
        if done.returncode != 0:
            self.complaints.append((done.stdout + done.stderr).strip()[-600:])

    def flips(self):
        """How often something went into back-off."""
        with open(self.sluice.log_path, errors="replace") as f:
            return sum(" mode=backoff rule=" in line for line in f)

    def finish(self, drain_s=180):
        """Ends the load, drains, stops; the report with the rows of the ledger."""
        self.load_down()
        self.queue_check("--live")
        self.sluice.wait_drained(drain_s)
        sent = ledger.Load([load.ledger_path for load in self.loads])
        self.sluice.wait_recorded(sent.acked, 60)
        status = self.sluice.stop()
        assert status == 0, f"sluiced stopped with {status}"
        self.sink.stop()
        self.queue_check()
        done = self.judge(sent)
        if self.complaints:
            done["bad"]["queue_check"] = self.complaints[:3]
        return done

    def judge(self, sent=None):
        sent = sent or ledger.Load([load.ledger_path for load in self.loads])
        taken, acct = self.sink.read(), self.sluice.acct()
        report = ledger.check(sent, taken, acct, whole=True)
        self._restarts(taken)
        return {"report": report, "rows": self._rows(report, sent, taken, acct), "bad": crash.faults(report)}

    def _restarts(self, taken):
        """Blow to the first message taken (250 to its dot) over a connection opened after it: no earlier than the first MAIL of
        the new life, and no transaction that outlived the blow counts."""
        opened = {}
        with open(self.sink.connections_path) as f:
            for line in f:
                fields = line.split()
                if len(fields) >= 2:
                    opened.setdefault(next(x for x in fields[1:] if ":" in x), []).append(int(fields[0]))
        takings = sorted((row.time_us, row.client) for rows in taken.taken.values() for row in rows)
        times = [t for t, _ in takings]
        for blow in self.blows:
            if not blow.new_life or blow.restart_ms is not None:
                continue
            dead = max(blow.at, blow.dead_at) * 1e6
            for t, client in takings[bisect.bisect(times, dead):]:
                if any(dead < o <= t for o in opened.get(client, ())):
                    blow.restart_ms = t / 1000 - blow.at * 1000
                    break

    def _rows(self, report, sent, taken, acct):
        rows = {}
        for blow in self.blows:
            row = rows.setdefault(blow.place, dict.fromkeys(("n", "acknowledged", "lost", "corrupt", "missing", "doubled", "duplicates",
                                                             "flagged", "bound"), 0) | {"place": blow.place, "restart_ms": []})
            row["n"] += 1
            row["bound"] += blow.bound
            if blow.restart_ms is not None:
                row["restart_ms"].append(blow.restart_ms)
        moments = [blow.at for blow in self.blows]

        def row_of(time_us):
            """Of the first blow after that moment; what comes after the last one is the last one's."""
            i = min(bisect.bisect(moments, time_us / 1e6), len(moments) - 1)
            return rows[self.blows[i].place]
        if not rows:
            return []
        for one in sent.acked.values():
            row_of(one.time_us)["acknowledged"] += 1
        for kind in ("lost", "missing", "doubled", "corrupt"):
            for rcpt in report["all"][kind]:
                one = sent.sent(rcpt)
                row_of(one.time_us if one else 0)[kind] += 1
        left = [blow.bound for blow in self.blows]
        for rcpt in report["all"]["duplicates"]:
            for one in sorted(taken.taken[rcpt], key=lambda t: t.time_us)[:-1]:
                near = sorted(range(len(moments)), key=lambda i: abs(moments[i] - one.time_us / 1e6))[:4]
                i = next((i for i in near if left[i] > 0 and abs(moments[i] - one.time_us / 1e6) < NEAR_S), near[0])
                left[i] -= 1
                rows[self.blows[i].place]["duplicates"] += 1
                rows[self.blows[i].place]["flagged"] += rcpt in acct.maybe_dup
        return list(rows.values())


def add_rows(rows, more):
    """Joins the rows of several worlds by place."""
    by_place = {row["place"]: row for row in rows}
    for row in more:
        into = by_place.setdefault(row["place"], None)
        if into is None:
            by_place[row["place"]] = row
            rows.append(row)
            continue
        for key, value in row.items():
            if key != "place":
                into[key] = into[key] + value
    return rows


def above_bound(rows):
    """Places that brought more duplicates than dots were out when they struck."""
    return {"above_bound": over} if (over := {r["place"]: (r["duplicates"], r["bound"]) for r in rows if r["duplicates"] > r["bound"]}) else {}


def lives_of(kills, most=60):
    """A world grows with its ledger: a long run takes several."""
    worlds = max(1, -(-kills // most))
    return [kills // worlds + (i < kills % worlds) for i in range(worlds)]


def dots_out(sluice, worker=None):
    return claims.count(sluice.spool, (claims.DOT_SENT,), worker)
