#!/usr/bin/python3
"""Reloads, graceful restarts and deaths of the master under load. The oracle stands outside: what sluice-load saw acknowledged
against what sluice-sink took and what the accounting says.
usage: reloads.py kills|restarts|reloads [-n N] [--seed S] [--keep]"""
import argparse
import os
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import crash  # noqa: E402
import harness  # noqa: E402
import ledger  # noqa: E402

SCRIPT = """providers = ( { name = "provider"; listen = [ "127.0.0.1:%d" ];
  features = [ "PIPELINING", "8BITMIME", "SIZE 52428800" ]; delay-ms = { dot = 3; };
  rules = ( { stage = "rcpt"; percent = 1.0; sticky = true; reply = "550 5.1.1 no such user"; },
            { stage = "rcpt"; percent = 2.0; first-attempts = 1; reply = "450 4.2.1 try later"; } ); } );
"""


class Scene:
    """A sluice between a load and a sink; `with` ends what was started, whatever happened."""

    def __init__(self, folder, seed, sessions=60, variant="release", script=SCRIPT, load=("--reconnect", "--insist"), **more):
        self.folder, self.seed, self.sessions, self.variant = folder, seed, sessions, variant
        self.sink_port = harness.free_port()
        self.sink = harness.Sink(folder, script=script % self.sink_port, variant=variant)
        self.sluice = harness.Sluice(folder, **{"sink_port": self.sink_port, "workers": 2, "receivers": 2, "variant": variant, **more})
        self.load_args, self.load = load, None

    def __enter__(self):
        self.sluice.start()
        return self

    def begin(self, *args):
        self.load = harness.Load(self.folder, self.sluice.target, "-s", self.sessions, "--duration", 100000, "--size", "2k",
                                 "--domain-count", 20, "--seed", self.seed, *self.load_args, *args, variant=self.variant)
        harness.wait_for(lambda: self.load.acknowledged() > 200, 30)

    def more(self, messages=50, seconds=60):
        """Waits until so many more are acknowledged."""
        before = self.load.acknowledged()

        def flows():
            "mail is taken again"
            assert self.sluice.process.poll() is None, "sluiced ended:\n" + self.sluice.complaints()
            return self.load.acknowledged() >= before + messages
        harness.wait_for(flows, seconds)

    def finish(self):
        """Ends the load, lets the queue drain, stops all; the checker's report."""
        self.load.stop()
        summary = self.load.wait(120)
        self.sluice.wait_drained(120)
        sent = self.load.read()
        self.sluice.wait_recorded(sent.acked, 60)
        status = self.sluice.stop()
        assert status == 0, f"sluiced stopped with {status}"
        counters = self.sink.stop()
        report = ledger.check(sent, self.sink.read(), self.sluice.acct())
        report.update(seed=self.seed, load=summary, sink=counters)
        return report

    def __exit__(self, kind, error, trace):
        if self.load is not None:
            self.load.stop()
        self.sink.stop()
        self.sluice.kill()
        if error is not None:
            print(f"left for a look: {self.folder}\n{self.sluice.complaints()[-4000:]}")


class Stuck:
    """A client that stays in the middle of a body."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.settimeout(10)
        for line in (b"", b"EHLO stuck.example\r\n", b"MAIL FROM:<a@stuck.example>\r\n", b"RCPT TO:<b@stuck.example>\r\n", b"DATA\r\n"):
            self.socket.sendall(line)
            reply = self.socket.recv(4096)
            assert reply[:1] in (b"2", b"3"), reply
        self.socket.sendall(b"Subject: half\r\n\r\nhalf a bo")

    def close(self):
        self.socket.close()


def master_kills(seed, n, folder, out=print, **scene):
    """kill -9 of the master, started again at once: how long until the first message of the next life is taken."""
    rng, moments, leave_s = random.Random(seed), [], []
    with Scene(folder, seed, **scene) as s:
        s.begin()
        for _ in range(n):
            time.sleep(rng.uniform(0.3, 1.0))
            stuck = Stuck(s.sluice.port)  # would keep its receiver for long
            pids = list(s.sluice.pids())
            moments.append(("master", crash.strike(s.sluice, "master", rng)))
            s.sluice.start(wait=False)
            leave_s.append(crash.children_left(s.sluice, pids))
            stuck.close()
            s.more()
        report = s.finish()
    report["leave_ms"] = [round(x * 1000) for x in leave_s]
    report["restart_ms"] = [round(x * 1000) for x in crash.restart_times(s.sink, moments).get("master", [])]
    return report


def show(report, out=print):
    for key in ("seed", "acknowledged", "taken", "bounced", "unknown", "lost", "corrupt", "missing", "duplicates",
                "unexplained_duplicates", "orphans", "doubled", "contrary", "unaccounted", "claimed", "repeated_ids"):
        out(f"  {key:24} {report[key]}")
    for key in ("leave_ms", "restart_ms", "stop_ms"):
        if report.get(key):
            out(f"  {key:24} median {statistics.median(report[key]):.0f}, most {max(report[key])} of {len(report[key])}")
    if report["examples"]:
        out(f"examples: {report['examples']}")


def faults(report):
    return {k: report[k] for k in crash.FAULTS if report[k]}


def main():
    what = {"kills": master_kills}
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=sorted(what))
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="sluice-reloads-")
    print(f"again: tests/torture/reloads.py {options.what} -n {options.n} --seed {options.seed}", flush=True)
    report = what[options.what](options.seed, options.n, folder)
    show(report)
    bad = faults(report)
    print(f"{options.what}: " + ("passed" if not bad else f"FAILED {bad}"))
    if not bad and not options.keep:
        shutil.rmtree(folder)
    else:
        print("left in " + folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
