#!/usr/bin/python3
"""recover: how much of what a provider allows a policy uses, with real processes: the long form is tests/tools/recover_sim.

For each policy (a configuration, bench/recover/) a sluiced with a backlog in one queue and a sluice-sink that takes r messages in any
second and answers the rest with 421 and the end of the connection. r is drawn from 5 to 500/s (each order of magnitude as likely) and
becomes another one in the middle of the run, by at most a factor of three; the normal limit is ten times the higher one. All run at the
same time, in the same world. Exit status 1 unless the first policy delivers 85 % of what r allows with 2 % of its attempts refused.
"""
import argparse
import os
import random
import sys
import time

import rig
from rig import Failure

SHARE, REFUSED = 85.0, 2.0
ROUND_TRIP_MS = 10  # of each reply
CONF = rig.begin("recover") + """
acct-files = ( { path = "@WORK@/acct.csv"; records = "d,b"; } );
include = "@WORK@/policy.conf";
"""
SCRIPT = """
providers = ( { name = "hidden"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ];
  delay-ms = { connect = %d; ehlo = %d; mail = %d; dot = %d; };
  rules = ( %s, %s ); } );
"""
RULE = ('{ stage = "mail"; %s; limit = %d; window-ms = 1000; reply = "421 4.7.0 too many messages from you, try again later"; '
        'action = "close"; }')
QUEUE = "hidden.example/{default}"


class World:
    """What the seed says: r, and what it becomes."""

    def __init__(self, seed, seconds):
        draw = random.Random(seed)
        self.r = [round(5 * 100 ** draw.random())]
        self.r.append(min(500, max(5, round(self.r[0] * 3 ** draw.uniform(-1, 1)))))
        self.change = seconds * draw.uniform(0.4, 0.6)
        self.seconds = seconds
        self.normal = 10 * max(self.r)

    def allowed(self):
        return self.r[0] * self.change + self.r[1] * (self.seconds - self.change)


class Run:
    def __init__(self, policy, world):
        self.policy, self.world = policy, world
        self.name = os.path.splitext(os.path.basename(policy))[0]
        self.work = rig.work_dir("recover-" + self.name)
        self.port, self.listen = rig.free_port(), rig.free_port()
        self.sink = self.daemon = self.load = None

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self):
        w, at = self.world, round(self.world.change * 1000)
        with open(self.path("sink.conf"), "w") as f:
            f.write(SCRIPT % (self.port, *[ROUND_TRIP_MS] * 4, RULE % ("until-ms = %d" % at, w.r[0]), RULE % ("from-ms = %d" % at, w.r[1])))
        self.sink = rig.Sink(self.path("sink.ledger"), script=self.path("sink.conf"))
        with open(self.path("base.conf"), "w") as f:
            f.write(CONF)
        rig.fill(self.policy, self.path("policy.conf"), NORMAL=self.world.normal, PORT=self.port)
        conf = rig.fill(self.path("base.conf"), self.path("sluice.conf"), WORK=self.work, LISTEN=self.listen)
        self.daemon = rig.Daemon(conf, self.path("run"), "127.0.0.1", self.listen, self.path("sluiced.out"))
        self.say("pause", "queue", QUEUE)

    def say(self, *words):
        return rig.say(self.path("sluice.conf"), *words)

    def inject(self, messages):
        summary = rig.load("127.0.0.1:%d" % self.listen, self.path("load.ledger"), sessions=20, messages=messages, domains="hidden.example",
                           pipelining=True)
        if summary.get("acknowledged", messages) < messages:
            raise Failure("%s: only %s of %d messages were taken" % (self.name, summary.get("acknowledged"), messages))

    def go(self):
        self.sink.stats(reset=True)
        self.sink.reload()  # its time begins
        self.say("resume", "queue", QUEUE)

    def result(self):
        s = self.sink.stats()["total"]
        refused, taken = s["mail_4xx"], s["messages"]
        return 100 * taken / self.world.allowed(), 100 * refused / max(1, refused + taken), refused + taken

    def close(self):
        if self.daemon:
            rig.stop(self.daemon.process, 30)
        if self.sink:
            self.sink.close()


def sleep_until(at, runs):
    while time.monotonic() < at:
        for run in runs:
            if run.daemon.process.poll() is not None:
                raise Failure("sluiced ended, see %s" % run.path("sluice.log"))
        time.sleep(min(0.5, max(0, at - time.monotonic())))


def measure(runs, world):
    for run in runs:
        run.start()
        run.inject(int(world.allowed() * 1.1) + 500)
    for run in runs:
        run.go()
    sleep_until(time.monotonic() + world.seconds, runs)
    return [run.result() for run in runs]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 24))
    p.add_argument("--seconds", type=float, default=120)
    p.add_argument("policy", nargs="+")
    a = p.parse_args()
    world = World(a.seed, a.seconds)
    print("real processes, seed %d: r %d/s, %d/s from %.0f s; %.0f s; normal limit %d/s; load average %.1f" %
          (a.seed, *world.r, world.change, world.seconds, world.normal, os.getloadavg()[0]), flush=True)
    runs = [Run(policy, world) for policy in a.policy]
    try:
        results = measure(runs, world)
    except Failure as e:
        print("recover: %s" % e, file=sys.stderr)
        return 1
    finally:
        for run in runs:
            run.close()
    for run, (share, refused, attempts) in zip(runs, results):
        print("%-34s delivered %5.1f %% of what r allows, refused %6.2f %% of %d attempts" % (run.policy, share, refused, attempts))
    return 0 if results[0][0] >= SHARE and results[0][1] <= REFUSED else 1


if __name__ == "__main__":
    sys.exit(main())
