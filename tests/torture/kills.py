"""kill -9 of every kind of process under load, of all at once, and of the master alone."""
import os
import random
import re
import signal
import time

import crash
import harness
import world

KINDS = (*crash.KINDS, "all")


def plan(kills, rng):
    """Each kind in turn, as often as the others, in a random order."""
    kinds = [KINDS[i % len(KINDS)] for i in range(kills)]
    rng.shuffle(kinds)
    return kinds


def slot_of(pid):
    """The number of a worker, from the name it gives itself (sl-worker3)."""
    found = re.search(r"(\d+)$", harness.comm_of(pid))
    return int(found.group(1)) if found else None


def restart(w):
    w.sluice.start(wait=False)


def strike_master(w, blow):
    pids = list(w.sluice.pids())
    crash.strike(w.sluice, "master", w.rng)
    crash.children_left(w.sluice, pids)
    blow.dead_at = time.time()
    blow.bound = world.dots_out(w.sluice)
    restart(w)


def strike_all(w, blow):
    w.sluice.kill()
    blow.dead_at = time.time()
    blow.bound = world.dots_out(w.sluice)
    restart(w)


def strike_child(w, kind, blow):
    def alive():
        "one of that kind lives"
        return w.sluice.pids(kind)
    pids = harness.wait_for(alive, 10)
    victim = w.rng.choice(pids)
    if kind == "worker":
        # With the master asleep nobody hears of the death, and the dead worker's table stays as it was.
        slot = slot_of(victim)
        master = w.sluice.master_pid()
        os.kill(master, signal.SIGSTOP)
        blow.at = time.time()
        os.kill(victim, signal.SIGKILL)
        harness.wait_for(lambda: not harness.lives(victim), 5, 0.002)
        blow.bound = world.dots_out(w.sluice, slot)
        os.kill(master, signal.SIGCONT)
    else:
        blow.at = time.time()
        os.kill(victim, signal.SIGKILL)
        harness.wait_for(lambda: not harness.lives(victim), 5, 0.002)
        blow.dead_at = time.time()
    w.wait_child(kind, victim, len(pids), blow)


def strike(w, kind):
    with w.blow("kill " + kind, new_life=kind in ("master", "scheduler", "all")) as blow:
        if kind == "master":
            strike_master(w, blow)
        elif kind == "all":
            strike_all(w, blow)
        else:
            strike_child(w, kind, blow)
        if blow.new_life:
            blow.restart_ms = None  # the sink tells it better


def kills(seed, count, out):
    """Random kills by kind of process."""
    rng = random.Random(seed)
    result = {"rows": [], "bad": {}, "rate": 0, "flips": 0}
    acked = seconds = 0
    for n in world.lives_of(count):
        with world.World(out.sub(), rng.randrange(1 << 30), **world.backoff(0.3)) as w:
            w.begin()
            began, before = time.time(), w.acknowledged()
            for kind in plan(n, w.rng):
                time.sleep(w.rng.uniform(0.1, 0.7))
                strike(w, kind)
                w.wait_acknowledged(50)
            acked += w.acknowledged() - before
            seconds += time.time() - began
            done = w.finish()
            result["flips"] += w.flips()
        world.add_rows(result["rows"], done["rows"])
        result["bad"].update(done["bad"])
        if done["bad"]:
            out(f"examples: {done['report']['examples']}")
            break
    result["bad"].update(world.above_bound(result["rows"]))
    if result["flips"] < count:
        result["bad"]["flips"] = result["flips"]
    result["rate"] = round(acked / seconds)
    return result


STAGES = [("kills", kills, 30, 250)]
