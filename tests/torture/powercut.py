"""Power cuts: the spool and the accounting lie on a real file system whose disk forgets what was not flushed. After each cut the
instance dies with its disk, the file system recovers, the instance starts on it again; the ledger is checked at the end of each
disk's life."""
import os
import random
import signal
import subprocess
import time
import uuid

import claims
import disk
import world

PLACES = ("injection", "delivery", "recovery", "growth", "idle")
KEEPS = (0, 0.5, 0.9, 1)


def booted(folder, rng):
    """The command before sluiced that makes its life one after a boot: another boot id, and clocks that begin anew."""
    path = os.path.join(folder, "boot-id")
    with open(path, "w") as f:
        f.write(str(uuid.UUID(int=rng.getrandbits(128))) + "\n")
    with open("/proc/uptime") as f:
        uptime = int(float(f.read().split()[0]))
    offset = str(min(0, rng.randint(5, 60) - uptime))
    # In a chroot "/" is no mount, and its propagation cannot be changed: only that of /proc.
    return ["unshare", "-m", "--propagation", "unchanged", "-T", "--boottime", offset, "--monotonic", offset, "--fork", "sh", "-c",
            'mount --make-rprivate /proc && mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"', path]


class Cuts:
    """A world on such a disk."""

    def __init__(self, out, seed, filesystem="ext4", **options):
        self.rng = random.Random(seed)
        self.disk = disk.Disk(out.folder, filesystem)
        try:
            options = {"rate": 800, "sessions": 40, "receivers": 1, "workers": 2} | options
            self.world = world.World(out, seed, spool=os.path.join(self.disk.mount, "spool"),
                                     acct_folder=os.path.join(self.disk.mount, "acct"), **options)
        except BaseException:
            self.disk.remove()
            raise
        self.tables = None
        probe = booted(out.folder, self.rng) + ["true"]
        self.boots = subprocess.run(probe, capture_output=True, timeout=20).returncode == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            if self.tables is not None:
                self.tables.close()
            self.world.__exit__(*error)
        finally:
            self.disk.remove()

    def begin(self, keep):
        self.disk.attach(keep, self.rng.randrange(1 << 30))
        folder = os.path.join(self.disk.mount, "acct")
        os.makedirs(folder)
        fd = os.open(self.disk.mount, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self.world.begin(100)

    def start(self):
        """After a cut, a boot."""
        if self.boots:
            self.world.sluice.wrapper = booted(self.world.folder, self.rng)
        self.world.sluice.start(wait=False)

    # Bringing it to the place, with the power about to go.
    def to_injection(self):
        self.world.wait_acknowledged(20)
        self.disk.arm(self.rng.randint(1, 150))

    def to_delivery(self):
        """A backlog, and nothing comes in any more."""
        w = self.world
        os.kill(w.sink.process.pid, signal.SIGSTOP)
        try:
            w.wait_acknowledged(200)
            w.load_down(20)
        finally:
            os.kill(w.sink.process.pid, signal.SIGCONT)
        self.disk.arm(self.rng.randint(1, 60))

    def to_growth(self):
        """Large messages: segments are filled, sealed, made."""
        load = self.world.load_up("--size", 1 << 20, "--rate", 200, "-s", 8)
        self.disk.arm(self.rng.randint(300, 1500))
        self.disk.wait_off(6)
        load.stop()

    def to_idle(self):
        self.world.load_down(20)
        self.world.sluice.wait_drained(30)
        time.sleep(self.rng.uniform(0, 0.3))
        self.disk.off_now()

    def to_recovery(self):
        """Two cuts: the second falls into the start after the first."""
        w = self.world
        w.wait_acknowledged(20)
        self.disk.arm(self.rng.randint(1, 100))
        self.fall("cut before recovery")
        self.disk.detach()
        self.disk.attach(self.rng.choice(KEEPS), self.rng.randrange(1 << 30))
        self.tables = claims.Tables(w.sluice.spool)
        self.disk.arm(self.rng.randint(1, 80))
        self.start()

    def fall(self, place):
        """Waits for the cut; the instance dies with its disk."""
        w = self.world
        self.tables.look()
        with w.blow(place, new_life=True) as blow:
            if not self.disk.wait_off(5):
                self.disk.off_now()
            blow.at = time.time()
            w.sluice.kill()
            blow.dead_at = time.time()
            # Dots that no synced event covers: their slots are freed only after it.
            blow.bound = self.tables.count((claims.DOT_SENT, claims.ANSWERED))
            self.tables.close()
        return blow

    def cut(self, place, keep):
        """From under load to under load again."""
        w = self.world
        self.tables = claims.Tables(w.sluice.spool)
        getattr(self, "to_" + place)()
        blow = self.fall("cut in " + place)
        kept, total = self.disk.survived()
        began = time.time()
        self.disk.detach()
        self.disk.attach(keep, self.rng.randrange(1 << 30))
        self.start()
        if all(load.process.poll() is not None for load in w.loads):
            w.load_up()
        w.wait_acknowledged(30)
        w.queue_check("--live")
        return blow, kept, total, time.time() - began


def plan(count, rng):
    """Places and shares in turn, each with each other."""
    out = [(PLACES[i % len(PLACES)], KEEPS[(i + i // len(PLACES)) % len(KEEPS)]) for i in range(count)]
    rng.shuffle(out)
    return out


def campaign(count, seed, out, filesystem="ext4", most=20):
    rng = random.Random(seed)
    result = {"rows": [], "bad": {}}
    steps, sectors, back = plan(count, rng), 0, []
    for n in world.lives_of(count, most):
        with Cuts(out.sub(), rng.randrange(1 << 30), filesystem, **world.backoff(0.3)) as c:
            c.begin(steps[0][1])
            for i, (place, _) in enumerate(steps[:n]):
                following = steps[i + 1][1] if i + 1 < len(steps) else 0.5
                _, kept, total, took = c.cut(place, following)
                sectors += total - kept
                back.append(took)
            steps = steps[n:]
            done = c.world.finish()
            result["boots"] = "yes" if c.boots else "no: the kernel has no time namespaces"
        world.add_rows(result["rows"], done["rows"])
        # A claim table is not synced: after a cut a repeat has no flag, but there are only so many.
        done["bad"].pop("unexplained_duplicates", None)
        result["bad"].update(done["bad"])
        if done["bad"]:
            out(f"examples: {done['report']['examples']}")
            break
    # An xfs or btrfs that lost its disk refuses to read what is still in memory: the bound is too low there, printed and not judged.
    if filesystem == "ext4":
        result["bad"].update(world.above_bound(result["rows"]))
    if filesystem != "ext4":
        for row in result["rows"]:
            row["place"] += ", " + filesystem
    result["sectors_lost"] = sectors
    result["back_s"] = round(max(back), 1)
    if sectors == 0:
        result["bad"]["sectors"] = "no cut took anything away"
    return result


def cuts(seed, count, out):
    """Power cuts on ext4."""
    why = disk.why_not()
    return {"skipped": why} if why else campaign(count, seed, out)


def cuts_xfs(seed, count, out):
    """Power cuts on xfs."""
    why = disk.why_not()
    return {"skipped": why} if why else campaign(count, seed, out, "xfs")


def cuts_btrfs(seed, count, out):
    """Power cuts on btrfs."""
    why = disk.why_not()
    return {"skipped": why} if why else campaign(count, seed, out, "btrfs")


STAGES = [("cuts", cuts, 10, 100), ("cuts_xfs", cuts_xfs, 0, 10), ("cuts_btrfs", cuts_btrfs, 0, 10)]
