"""SIGSTOP: processes that hang. A short one goes on where it stood and costs nothing. A worker that hangs with final dots outstanding
is killed by the master (after 5 s in the torture build, a minute as shipped); only then are its claims given again, and what it
had sent may come twice, flagged."""
import os
import random
import signal
import time

import harness
import kills
import world

HUNG = "hung worker"
PLACES = (HUNG, "worker", "scheduler", "receiver", "recorder", "resolver")


def stop_with_dots(w, victim):
    """Stops the worker while a dot of it is out: how many are."""
    slot = kills.slot_of(victim)
    for _ in range(500):
        os.kill(victim, signal.SIGSTOP)
        time.sleep(0.002)
        dots = world.dots_out(w.sluice, slot)
        if dots:
            return dots
        os.kill(victim, signal.SIGCONT)
        time.sleep(0.005)
    raise AssertionError("no worker ever had a dot outstanding")


def stall(w, place):
    kind = "worker" if place == HUNG else place
    victim = w.rng.choice(w.sluice.pids(kind))
    n = len(w.sluice.pids(kind))
    with w.blow("stop of " + place) as blow:
        if kind == "worker":
            dots = stop_with_dots(w, victim)
        else:
            os.kill(victim, signal.SIGSTOP)
        blow.at = time.time()
        if place == HUNG:
            blow.bound = dots
            harness.wait_for(lambda: not harness.lives(victim), 30, 0.01)
            w.wait_child(kind, victim, n, blow)
        else:
            time.sleep(w.rng.uniform(0.3, 1.5))
            os.kill(victim, signal.SIGCONT)


def stalls(seed, count, out):
    """SIGSTOP of every kind of process, and of a worker with dots outstanding until it is killed."""
    rng = random.Random(seed)
    places = [PLACES[i % len(PLACES)] for i in range(count)]
    rng.shuffle(places)
    with world.World(out, seed, variant="torture", **world.backoff(0.3)) as w:
        w.begin()
        for place in places:
            time.sleep(w.rng.uniform(0.1, 0.4))
            stall(w, place)
            w.wait_acknowledged(50)
        done = w.finish()
        flips = w.flips()
    if not flips:
        done["bad"]["flips"] = 0
    return {"rows": done["rows"], "flips": flips, "bad": {**done["bad"], **world.above_bound(done["rows"])}}


STAGES = [("stalls", stalls, 6, 30)]
