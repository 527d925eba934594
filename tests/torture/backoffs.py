"""kill -9 in the midst of back-off: at a match, in a flip and its commit, while the mail is sent elsewhere, between the steps of
a recovery. Modes, where the mail is and how much of it are looked at right after the restart."""
import os
import random
import signal
import subprocess
import time

import harness
import killpoints
import kills
import world

# Points that a command leads to, on a queue whose mail goes to another one, and those that replies lead to.
COMMANDED = ("flip-begun", "flip-put", "flip-before-commit", "flip-after-commit", "redirect-begun", "redirect-made", "entry-moved")
ANSWERED = ("match-told", "match-read", "flip-begun", "flip-before-commit", "flip-after-commit", "recovery-step")
FEW, MANY = 60, 400  # messages: their rows are rewritten at once, or a redirect is remembered


class Pair:
    """Two queues of a domain, paused; each one's back-off sends its mail to the other."""

    def __init__(self, w, domain, messages):
        self.w, self.messages = w, messages
        self.here, self.there = f"{domain}/a", f"{domain}/b"
        for name in (self.here, self.there):
            say(w, "set", "queue", name, "--mode=backoff")  # it is there before its first mail
            say(w, "set", "queue", name, "--mode=normal")
            say(w, "pause", "queue", name)
        load = harness.Load(w.folder, w.sluice.target, "-s", 8, "-m", messages, "--size", "300", "--domains", domain, "--vmta", "a",
                            "--insist", "--reconnect", "--seed", w.rng.randrange(1 << 30), name=domain)
        w.loads.append(load)
        harness.wait_for(lambda: load.acknowledged() >= messages, 60)

    def look(self):
        """Both at one moment."""
        rows = {q["name"]: q for q in self.w.sluice.ask("show", "queues", self.here.split("/")[0] + "/*")["queue"]}
        return [rows[name] for name in (self.here, self.there)]


def say(w, *words):
    done = w.sluice.sluice(*words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


def wrong_modes(w):
    """Queues whose mode is not what their last change says, or that changed from a mode to itself."""
    bad = []
    for q in w.sluice.ask("show", "queues", "--maxitems=1000")["queue"]:
        events = q["modeEvent"]
        own = q["backoff"] is not None and q["backoff"]["scope"] == "queue"
        if any(e["from"] == e["to"] for e in events) or (own and (not events or events[-1]["to"] != "backoff")) or \
                (q["mode"] == "normal" and events and events[-1]["to"] != "normal"):
            bad.append((q["name"], q["mode"], events[-2:]))
    return bad


def command(w, switch, point, pair, bad):
    """A queue with mail flips by command; the scheduler dies at the point."""
    before = pair.look()
    assert [q["mode"] for q in before] == ["normal", "normal"] and before[0]["rcp"] == pair.messages
    with w.blow("back-off at " + point, new_life=True) as blow:
        old = w.sluice.pids("scheduler")
        switch.arm(point, w.rng.randint(1, 40) if point == "entry-moved" else 1)
        blow.at = time.time()
        asking = subprocess.Popen([w.sluice.bin("sluice"), "-c", w.sluice.conf_path, "set", "queue", pair.here, "--mode=backoff"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        met = killpoints.wait_hit(switch, 10)
        asking.wait(60)
        if not met:
            switch.disarm()
            blow.missed = True
            return False
        killpoints.back(w, old)
    check(pair, before, point == "flip-after-commit", bad)
    return True


def check(pair, before, surely, bad):
    """Right after the restart: in back-off with all of the mail there, or as if nothing had been."""
    (here, there), name = pair.look(), pair.here
    flipped = here["mode"] == "backoff"
    events = before[0]["modeEvent"]
    # Of a change the reason and the time are its own; ten are kept.
    if (flipped and [e["to"] for e in here["modeEvent"]] != ([e["to"] for e in events] + ["backoff"])[-10:]) or \
            (not flipped and here["modeEvent"] != events):
        bad["modes"] = (name, here["mode"], here["modeEvent"][-3:], events[-2:])
    if (surely and not flipped) or there["mode"] != "normal":
        bad["mode"] = (name, here["mode"], there["mode"])
    if here["rcp"] + there["rcp"] != pair.messages or (not flipped and there["rcp"] > 0):
        bad["counts"] = (name, here["mode"], here["rcp"], there["rcp"])
    if flipped and (here["backoff"] or {}).get("rerouteTo") != pair.there:
        bad["redirect"] = (name, here["backoff"])
    if not flipped:
        return

    def moved():
        return [q["rcp"] for q in pair.look()] == [0, pair.messages]
    try:
        harness.wait_for(moved, 15)
    except AssertionError:
        bad["left_behind"] = (name, [q["rcp"] for q in pair.look()])
    say(pair.w, "set", "queue", name, "--mode=normal")
    pair.here, pair.there = pair.there, pair.here


def commanded(points, rng, out, hits, result):
    sub = out.sub()
    switch = killpoints.Switch(os.path.join(sub.folder, "kill-points"))
    with world.World(sub, rng.randrange(1 << 30), variant="torture", rate=400, environment={"SLUICE_KILL_POINTS": switch.file.name},
                     **world.backoff(0)) as w:
        w.begin(200)
        few, many = Pair(w, "few.example", FEW), Pair(w, "many.example", MANY)
        for point in points:
            pair = many if point.startswith("redirect") or w.rng.random() < 0.5 else few
            hits[point] += command(w, switch, point, pair, result["bad"])
            w.wait_acknowledged(20)
            if result["bad"]:
                break
        say(w, "set", "queue", "*/*", "--mode=normal")
        say(w, "resume", "queue", "*/*")
        finish(w, result)
    switch.close()


def answered(points, rng, out, hits, result):
    sub = out.sub()
    switch = killpoints.Switch(os.path.join(sub.folder, "kill-points"))
    with world.World(sub, rng.randrange(1 << 30), variant="torture", rate=600, environment={"SLUICE_KILL_POINTS": switch.file.name},
                     **world.backoff(1.0)) as w:
        w.begin(200)
        for point in points:
            hits[point] += killpoints.strike(w, switch, point, "back-off at ")
            if killpoints.BACKOFF[point][0] == "scheduler":
                w.sluice.wait_ready()
            w.wait_acknowledged(20)
            if wrong := wrong_modes(w):
                result["bad"]["modes"] = wrong[:3]
                break
        finish(w, result)
    switch.close()


def finish(w, result):
    done = w.finish()
    world.add_rows(result["rows"], done["rows"])
    result["bad"].update(done["bad"])


def backoffs(seed, count, out):
    """Kills at the named points of back-off."""
    rng = random.Random(seed)
    result = {"rows": [], "bad": {}}
    hits = dict.fromkeys((*COMMANDED, *ANSWERED), 0)
    places = [(commanded, p) for p in COMMANDED] + [(answered, p) for p in ANSWERED]
    plan = [place for _ in range(-(-count // len(places))) for place in rng.sample(places, len(places))][:count]
    for by in (commanded, answered):
        points = [p for b, p in plan if b is by]
        if points and not result["bad"]:
            by(points, rng, out, hits, result)
    least = 3 if count >= 3 * len(places) else min(1, count // len(places))
    if unhit := {p: n for p, n in hits.items() if n < least}:
        result["bad"]["unhit"] = unhit
    result["bad"].update(world.above_bound(result["rows"]))
    result["hits"] = sum(hits.values())
    return result


STAGES = [("backoff", backoffs, 7, 39)]
