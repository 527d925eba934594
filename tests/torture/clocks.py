"""Steps of the wall clock under load, by libfaketime: five days on, an hour back, over the end of 2038's 32 bits, home again.
Nothing expires for it, nothing stalls; time that passes is measured by a clock that nobody sets."""
import calendar
import glob
import os
import random
import re
import signal
import time

import harness
import world

# The offset in force, as libfaketime reads it from its file. "2038": ten seconds before 2^31.
STEPS = ("+5d", "-1h", "2038", "+0")

# Every message is deferred twice, so that there is always something that waits for its time.
SCRIPT = """providers = ( { name = "provider"; listen = [ "127.0.0.1:%d" ];
  features = [ "PIPELINING", "8BITMIME", "SIZE 52428800" ];
  rules = ( { stage = "rcpt"; percent = 30.0; first-attempts = 2; reply = "450 4.2.1 try later"; } ); } );
"""


def offset_of(step):
    return f"{2 ** 31 - int(time.time()) - 1:+}" if step == "2038" else step


def library():
    for path in sorted(glob.glob("/usr/lib/*/faketime/libfaketime.so.1") + glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"),
                       key=lambda p: "MT" not in p):
        return path
    raise AssertionError("libfaketime is not installed")


class Clock:
    """The file that says how far the clock of sluiced is off."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "faketime")
        self.set("+0")
        self.environment = {"LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": self.path, "FAKETIME_NO_CACHE": "1",
                            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}

    def set(self, offset):
        with open(self.path + ".new", "w") as f:
            f.write(offset + "\n")
        os.rename(self.path + ".new", self.path)


def steps(seed, count, out):
    """Steps of the wall clock by +5 days, -1 hour, to 2038, and back."""
    rng = random.Random(seed)
    clock = Clock(out.folder)
    slowest = 0.0
    with world.World(out, seed, script=SCRIPT, rate=300, environment=clock.environment) as w:
        w.begin(200)
        for i in range(count):
            step = STEPS[i % len(STEPS)]
            with w.blow("clock to " + step) as blow:
                # What is on its way to the scheduler has a stamp from before the step.
                scheduler = w.sluice.pids("scheduler")[0]
                os.kill(scheduler, signal.SIGSTOP)
                time.sleep(0.3)
                clock.set(offset_of(step))
                blow.at = time.time()
                os.kill(scheduler, signal.SIGCONT)
            acked, taken = w.acknowledged(), w.sink.taken()

            def goes_on():
                "mail comes in and goes out after the step"
                return w.acknowledged() > acked + 100 and w.sink.taken() > taken + 100
            harness.wait_for(goes_on, 20)
            slowest = max(slowest, time.time() - blow.at)

            def seen():
                "the accounting has the new time"
                return abs(clock_of(w) - expected(step)) < 60
            harness.wait_for(seen, 10)
            time.sleep(rng.uniform(0.5, 1.5))
        done = w.finish(60)
    expired = sum("expired" in row.get("dsnDiag", "") for rows in w.sluice.acct().terminal.values() for row in rows)
    bad = dict(done["bad"])
    if expired:
        bad["expired"] = expired
    if done["report"]["types"].get("t", 0) < 100:
        bad["deferred"] = done["report"]["types"]
    return {"rows": done["rows"], "bad": bad, "slowest_s": round(slowest, 1),
            "deferrals": done["report"]["types"].get("t", 0)}


def expected(step):
    now = time.time()
    return {"+5d": now + 5 * 86400, "-1h": now - 3600, "2038": 2 ** 31, "+0": now}[step]


def clock_of(w):
    """The wall clock of the last accounting record."""
    path = max(glob.glob(w.sluice.acct_pattern), key=os.path.getmtime)
    with open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - 65536))
        times = re.findall(rb"\n[a-z]+,(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", f.read())
    return calendar.timegm(time.strptime(times[-1].decode(), "%Y-%m-%d %H:%M:%S")) if times else 0


STAGES = [("clocks", steps, 4, 16)]
