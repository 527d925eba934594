"""Negative controls: Sluice broken on purpose. They must turn red; a control that stays green means that the suite is blind."""
import glob
import os
import random
import time

import disk
import powercut
import world

BLIND = "stayed green"


def what_is_wrong(w, seconds=6):
    """The ledger after the last start, whether or not the queue gets empty; what it finds, in words."""
    try:
        w.load_down(20)
        w.sluice.wait_drained(seconds)
        time.sleep(1)
    except (AssertionError, OSError):
        pass
    found = w.judge()["bad"]
    found.pop("unexplained_duplicates", None)
    return {k: v for k, v in found.items() if k in ("lost", "corrupt", "missing")}


def start_again(w):
    """False when it does not come up any more: red as well."""
    w.sluice.start(wait=False)
    try:
        w.sluice.wait_ready(15)
    except AssertionError as error:
        return str(error).splitlines()[0]
    return None


def verdict(cases):
    """{case: what turned red} -> a stage's result."""
    result = {"bad": {name: BLIND for name, red in cases.items() if not red}}
    for name, red in cases.items():
        result[name] = ",".join(f"{k}:{v}" for k, v in red.items()) or BLIND
    return result


def cut_once(out, seed, variant="release", environment=None, seconds=1.0):
    """Load, a cut that keeps nothing unflushed, a new start."""
    with powercut.Cuts(out, seed, variant=variant, environment=environment) as c:
        c.begin(0)
        time.sleep(seconds)
        c.tables = powercut.claims.Tables(c.world.sluice.spool)
        c.disk.off_now()
        c.fall("cut")
        c.disk.detach()
        c.disk.attach(0, 1)
        refused = start_again(c.world)
        if refused:
            return {"refused": refused}
        return what_is_wrong(c.world)


def eatmydata():
    for pattern in ("/usr/lib/*/libeatmydata.so*", "/usr/lib/libeatmydata.so*"):
        for path in sorted(glob.glob(pattern)):
            return path
    raise AssertionError("libeatmydata is not installed")


def until_red(count, seed, attempt):
    """Tries `count` times; the first finding."""
    rng = random.Random(seed)
    for _ in range(count):
        red = attempt(rng.randrange(1 << 30))
        if red:
            return red
    return {}


def controls_cut(seed, count, out):
    """Power cuts under eatmydata, without the segment's fdatasync, and with an early 250: each must lose mail."""
    why = disk.why_not()
    if why:
        return {"skipped": why}
    return verdict({
        "eatmydata": until_red(count, seed, lambda s: cut_once(out.sub(), s, environment={"LD_PRELOAD": eatmydata()})),
        "nosync": until_red(count, seed, lambda s: cut_once(out.sub(), s, variant="nosync")),
        "earlyack": until_red(count, seed, lambda s: cut_once(out.sub(), s, variant="earlyack")),
    })


def kill_all(out, seed, kills=8):
    """Everything dies at once, a few times, in the build that acknowledges early."""
    with world.World(out, seed, variant="earlyack", sessions=100, rate=5000) as w:
        w.begin(200)
        for _ in range(kills):
            time.sleep(w.rng.uniform(0.1, 0.3))
            with w.blow("kill all"):
                w.sluice.kill()
            w.sluice.start(wait=False)
            w.wait_acknowledged(50)
        return what_is_wrong(w)


def controls_kill(seed, count, out):
    """kill -9 of everything in the build that acknowledges early: must lose mail."""
    return verdict({"earlyack": until_red(count, seed, lambda s: kill_all(out.sub(), s))})


STAGES = [("controls_kill", controls_kill, 3, 5), ("controls_cut", controls_cut, 3, 5)]
