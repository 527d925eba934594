"""kill -9 at the named points of the code. The torture build maps the file that SLUICE_KILL_POINTS names; we write the request
into it, the process that meets it says so there and dies (common/base/kill_point.c)."""
import glob
import mmap
import os
import random
import re
import signal
import struct
import time

import crash
import harness
import kills
import world

# Point: (kind of process, most hits to wait for, kind whose kill leads there, or None).
POINTS = {
    "before-append": ("receiver", 20, None),
    "mid-append": ("receiver", 60, None),
    "after-append-before-sync": ("receiver", 20, None),
    "after-sync": ("receiver", 20, None),
    "before-250": ("receiver", 100, None),
    "mid-batch": ("scheduler", 300, None),
    "before-commit": ("scheduler", 20, None),
    "after-commit-before-ack": ("scheduler", 20, None),
    "before-event-sync": ("scheduler", 20, None),
    "after-event-sync": ("scheduler", 20, None),
    "slot-free": ("scheduler", 100, None),
    "claim-granted": ("scheduler", 100, None),
    "rcpt-granted": ("scheduler", 30, None),
    "during-replay": ("scheduler", 3, "scheduler"),
    "during-load": ("scheduler", 10, "scheduler"),
    "segment-stamped": ("scheduler", 1, "receiver"),
    "sealed": ("scheduler", 1, "receiver"),
    "claim-begun": ("worker", 100, None),
    "rcpt-stamped": ("worker", 30, None),
    "dot-claimed": ("worker", 100, None),
    "dot-sent": ("worker", 100, None),
    "answered": ("worker", 100, None),
    "result-sent": ("worker", 100, None),
    "after-write": ("recorder", 10, None),
    "before-cursor": ("recorder", 2, None),
    "mid-restart": ("master", 1, "recorder"),
}
# Met only by notices of ours: tests/scenario/test_notify.py dies there.
ELSEWHERE = ("notify-owed", "notify-sent", "notify-before-store", "notify-stored")
# Met only in back-off: backoffs.py dies there.
BACKOFF = {
    "match-told": ("worker", 20, None),
    "match-read": ("scheduler", 20, None),
    "flip-begun": ("scheduler", 10, None),
    "flip-put": ("scheduler", 10, None),
    "flip-before-commit": ("scheduler", 10, None),
    "flip-after-commit": ("scheduler", 10, None),
    "redirect-begun": ("scheduler", 1, None),
    "redirect-made": ("scheduler", 1, None),
    "entry-moved": ("scheduler", 100, None),
    "recovery-step": ("scheduler", 10, None),
}
AGAIN = "five times in recovery"
IN_RECOVERY = ("during-replay", "during-load", "mid-batch", "before-commit", "after-commit-before-ack", "claim-granted")
PLACES = (*POINTS, AGAIN)
# Five of the twenty domains are at a host without PIPELINING and have a rate: each of their recipients is asked for.
LOCKSTEP = 'providers = ( { name = "lockstep"; listen = [ "127.0.0.1:%d" ]; features = [ "8BITMIME", "SIZE 52428800" ]; }, '
DOMAINS = """domains = ( %s
  { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; retry-after = "1s,2s"; retry-recipients-after = "1s"; } );"""
ASKED = '{ name = "d%d.example"; smtp-hosts = "[127.0.0.1]:%d"; max-msg-rate = "5000/s"; retry-after = "1s,2s"; retry-recipients-after = "1s"; },'


class Switch:
    """The request file: armed, left, stop_pid, name[52], pid, comm[16], passed."""
    LAYOUT = struct.Struct("=IiI52sI16sQ")

    def __init__(self, path):
        with open(path, "wb") as f:
            f.write(bytes(4096))
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 4096)

    def arm(self, name, left, stop_pid=0):
        struct.pack_into("=I", self.map, 0, 0)
        struct.pack_into("=iI52sI16s", self.map, 4, left, stop_pid, name.encode(), 0, b"")
        struct.pack_into("=I", self.map, 0, 1)

    def disarm(self):
        """False: too late, somebody died."""
        if self.state() == 1:
            struct.pack_into("=I", self.map, 0, 0)
        return self.state() == 0

    def state(self):
        return struct.unpack_from("=I", self.map, 0)[0]

    def victim(self):
        """The pid and the kind of process that died."""
        fields = self.LAYOUT.unpack_from(self.map, 0)
        return fields[4], fields[5].split(b"\0")[0].decode()

    def close(self):
        self.map.close()
        self.file.close()


def wait_hit(switch, seconds):
    end = time.monotonic() + seconds
    while switch.state() != 2:
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def lead_there(w, kind):
    """The blow that brings somebody to the point."""
    pids = w.sluice.pids(kind)
    if pids:
        os.kill(w.rng.choice(pids), signal.SIGKILL)


def back(w, old):
    """There is a scheduler again, another one than those, and it answers."""
    harness.wait_for(lambda: w.sluice.pids("scheduler") not in ([], old), 20)
    w.sluice.wait_ready()


def strike(w, switch, point, place="at "):
    """True when the point was met."""
    kind, most, leader = POINTS.get(point) or BACKOFF[point]
    with w.blow(place + point, new_life=kind in ("scheduler", "master")) as blow:
        master = w.sluice.master_pid()
        children = list(w.sluice.pids())
        before = w.sluice.pids(kind) if kind != "master" else []
        switch.arm(point, w.rng.randint(1, most), master if kind == "worker" else 0)
        for _ in range(5):
            if leader is not None:
                harness.wait_for(lambda: w.sluice.pids(leader), 10)
                lead_there(w, leader)
            if wait_hit(switch, 6):
                break
            switch.disarm()
            if switch.state() == 2:
                break
            switch.arm(point, 1, master if kind == "worker" else 0)
        blow.at = time.time()
        if not wait_hit(switch, 1):
            switch.disarm()
            blow.missed = True
            return False
        pid, comm = switch.victim()
        if kind == "master":
            w.sluice.process.wait(20)
            crash.children_left(w.sluice, children)
            blow.bound = world.dots_out(w.sluice)
            blow.dead_at = time.time()
            kills.restart(w)
            return True
        harness.wait_for(lambda: not harness.lives(pid), 5, 0.002)
        assert kind in comm, f"{point} was met by {comm}"
        if kind == "worker":
            slot = int("".join(c for c in comm if c.isdigit()))
            blow.bound = world.dots_out(w.sluice, slot)
            os.kill(master, signal.SIGCONT)
        if kind != "scheduler":
            w.wait_child(kind, pid, len(before), blow)
    return True


def strike_again(w, switch):
    """The scheduler dies five times in a row, each time soon after its start."""
    with w.blow(AGAIN, new_life=True) as blow:
        lead_there(w, "scheduler")
        for _ in range(5):
            switch.arm(w.rng.choice(IN_RECOVERY), w.rng.randint(1, 3))
            if not wait_hit(switch, 2):  # nothing to replay, nothing to load
                switch.disarm()
                lead_there(w, "scheduler")
            blow.dead_at = time.time()
    return True


def unlisted():
    """Points of the code that the tables above lack, and the other way round."""
    named = set()
    for path in glob.glob(os.path.join(harness.ROOT, "*", "*.c")) + glob.glob(os.path.join(harness.ROOT, "*", "*", "*.c")):
        with open(path, errors="replace") as f:
            named.update(re.findall(r'KILL_POINT\("([^"]+)"\)', f.read()))
    return sorted(named ^ {*POINTS, *BACKOFF, *ELSEWHERE})


def plan(count, rng):
    points = [p for _ in range(-(-count // len(PLACES))) for p in rng.sample(PLACES, len(PLACES))]
    return points[:count]


def killpoints(seed, count, out):
    """Kills at each named point in turn."""
    rng = random.Random(seed)
    result = {"rows": [], "bad": {}}
    hits = dict.fromkeys(PLACES, 0)
    points = plan(count, rng)
    for n in world.lives_of(count):
        sub = out.sub()
        switch = Switch(os.path.join(sub.folder, "kill-points"))
        port, lockstep = harness.free_port(), harness.free_port()
        domains = DOMAINS % ("\n  ".join(ASKED % (i, lockstep) for i in range(5)), port)
        script = world.SCRIPT.replace("providers = ( ", LOCKSTEP % lockstep)
        with world.World(sub, rng.randrange(1 << 30), variant="torture", environment={"SLUICE_KILL_POINTS": switch.file.name},
                         port=port, script=script, domains=domains) as w:
            w.begin()
            for point in points[:n]:
                time.sleep(w.rng.uniform(0.05, 0.4))
                hits[point] += strike_again(w, switch) if point == AGAIN else strike(w, switch, point)
                w.wait_acknowledged(50)
            points = points[n:]
            done = w.finish()
        switch.close()
        world.add_rows(result["rows"], done["rows"])
        result["bad"].update(done["bad"])
        if done["bad"]:
            out(f"examples: {done['report']['examples']}")
            break
    least = 3 if count >= 3 * len(PLACES) else min(1, count // len(PLACES))
    unhit = {p: n for p, n in hits.items() if n < least}
    if unhit:
        result["bad"]["unhit"] = unhit
    if unlisted():
        result["bad"]["unlisted"] = unlisted()
    result["bad"].update(world.above_bound(result["rows"]))
    result["hits"] = sum(hits.values())
    return result


STAGES = [("killpoints", killpoints, 30, 250)]
