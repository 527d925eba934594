"""Faults of the disk and of the system's resources under a running Sluice: what a failing call answers its client, and how soon
service is back once the cause is gone. Each stage keeps one Sluice under a small load; at its end the ledger must be clean: each 250
was delivered, exactly."""
import collections
import concurrent.futures
import contextlib
import csv
import glob
import os
import random
import re
import resource
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import harness  # noqa: E402
import ledger  # noqa: E402

FAULTS = ("lost", "corrupt", "missing", "unexplained_duplicates", "orphans", "doubled", "contrary", "unaccounted", "repeated_ids")
BACK_S = 5.0      # service is back so soon after the cause's end
VARIANT = os.environ.get("SLUICE_VARIANT", "release")
BUSY_S = 2        # processes are watched for so long, to see whether they turn in a circle
PATIENCE_S = 60   # then the stage gives up
CALLS = "pwrite64,pwritev,pwritev2,fdatasync,fsync,ftruncate,fallocate,msync,renameat,rename"
SCRIPT = """providers = ( { name = "provider"; listen = [ "127.0.0.1:%d" ];
  features = [ "PIPELINING", "8BITMIME", "SIZE 52428800" ]; delay-ms = { dot = 2; };
  rules = ( { stage = "rcpt"; percent = 2.0; first-attempts = 1; reply = "450 4.2.1 try later"; } ); } );
"""


class World:
    """One Sluice under load, its sink, its ledger."""

    def __init__(self, out, seed, rate=150, sessions=8, size="2k", script=SCRIPT, sink=True, env=None, load=(), **options):
        self.out, self.seed, self.rng = out, seed, random.Random(seed)
        self.load_options = ("-s", sessions, *(("--rate", rate) if rate else ()), "--size", size, "--reconnect", "--insist",
                             "--domain-count", 20, "--timeout", 400, *load)
        # So many recipients may be on their way at once: what comes after them was sent later.
        self.under_way = sessions * (load[load.index("--rcpts") + 1] if "--rcpts" in load else 1)
        self.port = harness.free_port()
        self.script, self.sink, self.sinks = script % self.port, None, []
        if sink:
            self.sink_up()
        self.sluice = harness.Sluice(out.folder, sink_port=self.port, variant=VARIANT, environment=env, **{"workers": 2, "receivers": 1, **options})
        self.loads, self.tracers = [], []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for tracer in self.tracers:
            tracer.stop()
        for load in self.loads:
            load.stop()
        self.sink_down()
        self.sluice.kill()

    def sink_up(self):
        self.sink = harness.Sink(self.out.folder, script=self.script, name=f"sink{len(self.sinks)}")  # always of this build
        self.sinks.append(self.sink)

    def sink_down(self):
        if self.sink:
            self.sink.stop()
        self.sink = None

    def taken(self):
        return sum(sink.taken() for sink in self.sinks)

    def start(self, wait=True):
        self.sluice.start(wait)
        return self

    def load(self, *more):
        load = harness.Load(self.out.folder, self.sluice.target, *self.load_options,
                            *(() if "-m" in more else ("--duration", 100000)), "--seed", self.rng.randrange(1 << 30), *more,
                            name=f"load{len(self.loads)}")
        self.loads.append(load)
        return load

    def acknowledged(self):
        return sum(load.acknowledged() for load in self.loads)

    def back(self, since, acknowledged=True, taken=True):
        """Seconds from the moment `since` until mail that began after it is acknowledged, and as much is delivered again."""
        acked, sunk = self.acknowledged() + self.under_way, self.taken() + self.under_way

        def works():
            "mail goes in and out again"
            assert self.sluice.process.poll() is None, "sluiced ended:\n" + self.sluice.complaints()
            return (not acknowledged or self.acknowledged() > acked) and (not taken or self.taken() > sunk)
        harness.wait_for(works, PATIENCE_S, 0.01)
        return time.monotonic() - since

    def trace(self, *args):
        tracer = Tracer(*args)
        self.tracers.append(tracer)
        return tracer

    def forget(self, tracer):
        """Of many, the output is not kept."""
        self.tracers.remove(tracer)
        os.unlink(tracer.path)

    def finish(self, drain_s=120):
        """Ends the load, drains, stops; what the ledger finds."""
        for load in self.loads:
            load.stop()
        for load in self.loads:
            load.wait(450)
        self.sluice.wait_drained(drain_s)
        sent = ledger.Load([load.ledger_path for load in self.loads])
        self.sluice.wait_recorded(sent.acked, 60)
        status = self.sluice.stop()
        self.sink_down()
        report = ledger.check(sent, ledger.Sink([sink.ledger_path for sink in self.sinks]), self.sluice.acct())
        bad = {k: report[k] for k in FAULTS if report[k]}
        if bad:
            bad["examples"] = report["examples"]
        if status != 0:
            bad["status"] = status
        row = {key: report[key] for key in ("acknowledged", "lost", "corrupt", "missing", "doubled", "duplicates")}
        row["flagged"] = report["duplicates"] - report["unexplained_duplicates"]
        return {"acknowledged": report["acknowledged"], "duplicates": report["duplicates"], "bad": bad, "rows": [row]}


def sum_rows(ends):
    """One row of the ledger for what several worlds ended with."""
    row = collections.Counter()
    for end in ends:
        for one in end["rows"]:
            row.update(one)
    return dict(row)


class Tracer:
    """strace that lets chosen calls fail, from being attached until stop(). Calls are counted for each thread."""

    def __init__(self, folder, pids, inject, calls=CALLS, *paths):
        self.path = os.path.join(folder, f"strace.{time.monotonic_ns()}")
        command = ["strace", "-f", "-o", self.path, "-e", "trace=" + calls, "-e", "signal=none", "-e", f"inject={calls}:{inject}", *paths]
        for pid in pids:
            command += ["-p", str(pid)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
        for _ in pids:
            line = self.process.stderr.readline()
            assert "attached" in line, "strace: " + line
        self.stopped = 0.0
        time.sleep(0.05)  # threads of theirs

    def injected(self):
        try:
            with open(self.path, errors="replace") as f:
                return f.read().count("(INJECTED)")
        except OSError:
            return 0

    def first(self):
        """The call that failed first, by name."""
        with open(self.path, errors="replace") as f:
            found = re.search(r"(?:(\w+)\(|<\.\.\. (\w+) resumed).*\(INJECTED\)", f.read())
        return found.group(1) or found.group(2) if found else ""

    def stop(self):
        """Detaches; the moment at which calls work again."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(1)  # it may hang on a tracee that leaves
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stderr.close()
        self.stopped = self.stopped or time.monotonic()
        return self.stopped


def wait_injected(tracer, seconds):
    """False: that many calls did not come."""
    end = time.monotonic() + seconds
    while True:
        over = time.monotonic() > end or tracer.process.poll() is not None  # strace leaves with who dies of the error: ask that first
        if tracer.injected():
            return True
        if over:
            return False
        time.sleep(0.02)


# EIO ----------------------------------------------------------------------------------------------
KINDS = ("scheduler once", "scheduler lasting", "scheduler start", "scheduler start lasting", "receiver once", "receiver lasting",
         "recorder once", "recorder lasting")
LANES = 4  # Sluices side by side: nearly all of a point is waiting


def eio_point(world, kind, k, lasts_s):
    """The k-th call fails. (name of the call that did, seconds from the cause's end until mail goes in and out); None: k never came."""
    sluice, folder = world.sluice, world.out.folder
    role, lasting = kind.split()[0], "lasting" in kind
    inject = f"error=EIO:when={k}{'+' if lasting else ''}"
    pids = harness.wait_for(lambda: sluice.pids(role), PATIENCE_S)
    if "start" in kind:
        # The master is traced for its next child; a killed scheduler makes it have one.
        tracer = world.trace(folder, [sluice.master_pid()], inject)
        os.kill(pids[0], signal.SIGKILL)
    else:
        tracer = world.trace(folder, [*pids, *([sluice.master_pid()] if lasting and role == "scheduler" else [])], inject)
    came = wait_injected(tracer, 20 if role != "recorder" else 60)
    if came and lasting:
        time.sleep(lasts_s)
    if came and not lasting:
        # The cause has ended with the failed call; the time until strace has gone counts as ours.
        since = time.monotonic()
        tracer.stop()
    else:
        since = tracer.stop()
    took = world.back(since)
    called = tracer.first()
    world.forget(tracer)
    return (called, took) if came else None


def outage(world, bad):
    """The queue cannot be opened for 40 s: clients hear 451 after 30 of them, nothing turns in a circle. Seconds until service is back."""
    tracer = world.trace(world.out.folder, [world.sluice.master_pid(), *world.sluice.pids("scheduler")], "error=EIO:when=1+")
    wait_injected(tracer, 10)
    time.sleep(34)
    used = busy_seconds(world.sluice.pids(), 4)
    code = ask_mail(world.sluice.port)
    if used > 2.0:
        bad["outage busy"] = f"{used:.1f} s of processor in 4 s"
    if code not in (421, 451):
        bad["outage code"] = code
    if not world.sluice.log().count("action=wait"):
        bad["outage"] = "the queue was open"
    return world.back(tracer.stop())


class Tally:
    """What came of the points of all lanes."""

    def __init__(self, out, asked):
        self.out, self.asked, self.limit_s = out, asked, BACK_S * getattr(out, "slack", 1.0)
        self.bad, self.calls = {}, {}
        self.took = {}      # kind: seconds
        self.missed, self.slow = [], []
        self.outage_s = None

    def note(self, kind, k, came):
        if came is None:
            self.missed.append(f"{kind}, k={k}")
            return
        call, took = came
        self.calls[call] = self.calls.get(call, 0) + 1
        self.took.setdefault(kind, []).append(took)
        if took > self.limit_s:
            self.slow.append(f"{kind}, k={k}, {call}: {took:.1f} s")
        done = len(self.times())
        if done % 100 == 0:
            self.out(f"{done} of {self.asked} points")

    def times(self):
        return [t for took in list(self.took.values()) for t in took]


def eio_lane(world, points, tally):
    """Takes point after point, on one Sluice, until none is left; what its ledger says."""
    try:
        world.load()
        world.back(time.monotonic())
        while points:
            kind, k, lasts_s = points.popleft()
            if kind == "outage":
                tally.outage_s = round(outage(world, tally.bad), 2)
            else:
                # Not reached (its process may have been leaving of the point before): the next one is tried.
                came = next((c for _ in range(3) if (c := eio_point(world, kind, k, lasts_s))), None)
                tally.note(kind, k, came)
        return world.finish()
    except BaseException:
        points.clear()  # the others end, too
        raise


def eio_points(rng, count):
    """(kind, k, how long a lasting one lasts), k from 1 to 100."""
    ks = sorted({1 + round(i * 99 / max(1, count - 1)) for i in range(count)}) if count > 1 else [1]
    whole = count >= 20
    points = [(kind, k, rng.uniform(0.5, 3.0)) for i, k in enumerate(ks)
              for kind in (KINDS if whole else [KINDS[(i + j) % len(KINDS)] for j in (0, 4)])]
    rng.shuffle(points)
    return collections.deque([("outage", 0, 0)] * whole + points)


def eio(seed, count, out):
    """the k-th write or sync of the scheduler (running, starting), a receiver, the recorder fails with EIO, once or from then on"""
    rng = random.Random(seed)
    points, worlds = eio_points(rng, count), []
    asked = len([p for p in points if p[0] != "outage"])
    tally = Tally(out, asked)
    with concurrent.futures.ThreadPoolExecutor(LANES) as pool, contextlib.ExitStack() as stack:
        for i in range(min(LANES, len(points))):
            folder = os.path.join(out.folder, f"lane{i}")
            os.makedirs(folder)
            worlds.append(stack.enter_context(World(Plain(folder), rng.randrange(1 << 30))).start())
        stack.callback(points.clear)  # when something is wrong here no lane goes on
        lanes = [pool.submit(eio_lane, world, points, tally) for world in worlds]
        ends = [lane.result() for lane in lanes]
    bad, times = tally.bad, tally.times()
    for i, end in enumerate(ends):
        if end["bad"]:
            bad[f"lane{i}"] = end["bad"]
    for what, found in (("slow", tally.slow), ("not_reached", tally.missed)):
        if found:
            bad[what] = found
    if tally.outage_s is not None and tally.outage_s > tally.limit_s:
        bad["outage slow"] = tally.outage_s
    if len(times) + len(tally.missed) != asked:
        bad["points"] = f"{len(times)} of {asked}"
    row = {**sum_rows(ends), "n": len(times), "restart_ms": [t * 1000 for t in times]}
    return {"bad": bad, "rows": [row], "injected": len(times), "of": asked, "lanes": len(worlds),
            "acknowledged": row["acknowledged"], "duplicates": row["duplicates"], "calls": tally.calls,
            "back_median_s": round(statistics.median(times or [0]), 2), "back_most_s": round(max(times or [0]), 2),
            "most_s": {kind: round(max(took), 2) for kind, took in sorted(tally.took.items())},
            **({"back_after_outage_s": tally.outage_s} if tally.outage_s is not None else {})}


# A full disk --------------------------------------------------------------------------------------
class SmallDisk:
    """A file system of its own, mounted: ext4 in a loop device, or tmpfs where there is none."""

    def __init__(self, path, megabytes):
        self.path, self.image = path, path + ".img"
        os.makedirs(path, exist_ok=True)
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        ext4 = f"mkfs.ext4 -q -F {shlex.quote(self.image)} && mount -o loop {shlex.quote(self.image)} {shlex.quote(path)}"
        done = subprocess.run(ext4, shell=True, capture_output=True, text=True, env=env)
        self.kind = "ext4"
        if done.returncode:
            self.kind = "tmpfs"
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path], capture_output=True, text=True)
        self.mounted = done.returncode == 0
        self.why = done.stderr.strip()

    def free(self):
        st = os.statvfs(self.path)
        return st.f_bavail * st.f_frsize

    def fill(self):
        """A foreign file takes all that is left; its path."""
        path = os.path.join(self.path, "lost+found" if self.kind == "ext4" else ".", "foreign")
        with open(path, "wb", buffering=0) as f:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        f.write(bytes(size))
                except OSError:
                    pass
            try:
                os.fsync(f.fileno())
            except OSError:
                pass
        return path

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for _ in range(50):
            if not self.mounted or subprocess.run(["umount", self.path], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            subprocess.run(["umount", "-l", self.path], capture_output=True)
        if os.path.exists(self.image):
            os.unlink(self.image)


def ask_mail(port):
    """The code that MAIL FROM gets, 0 when there is no answer in time."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.settimeout(5)
            f = s.makefile("rwb")
            f.readline()
            for command in (b"HELO probe.example\r\n", b"MAIL FROM:<probe@probe.example>\r\n"):
                f.write(command)
                f.flush()
                line = f.readline()
            f.write(b"QUIT\r\n")
            f.flush()
            return int(line[:3] or 0)
    except (OSError, ValueError):
        return 0


def wait_refused(world, code=452, seconds=60):
    def refused():
        "MAIL is refused for want of room"
        return ask_mail(world.sluice.port) == code
    harness.wait_for(refused, seconds, 0.1)


def restarts(world):
    return world.sluice.log().count("commit=failed") + world.sluice.log().count("queue open=failed")


def enospc(seed, count, out):
    """a 64 MB file system is filled by queued mail, then to the last byte by a foreign file, then freed"""
    disk = SmallDisk(os.path.join(out.folder, "spool"), 64)
    result, slow, bad = {"file_system": disk.kind}, [], {}
    if not disk.mounted:
        return {"skipped": "no file system can be mounted: " + disk.why}
    with disk, World(out, seed, rate=0, sessions=4, size="20k", sink=False) as world:
        world.start().load()
        for i in range(count):
            wait_refused(world)
            # The disk was never full, and reception stopped without an error of the queue.
            if disk.free() < 2 << 20 or restarts(world):
                bad[f"filled {i}"] = f"free={disk.free()} restarts={restarts(world)}"
            result["queued"] = world.sluice.queued()
            foreign = disk.fill()
            result["free_when_full"] = disk.free()
            queued = world.sluice.queued()
            world.sink_up()
            half = world.taken() + queued // 2
            harness.wait_for(lambda: world.taken() >= half, 60, 0.05)
            result["delivered_on_full_disk"] = world.taken()
            if ask_mail(world.sluice.port) == 250 and ask_mail(world.sluice.port) == 250:
                bad[f"full {i}"] = "MAIL is taken on a full disk"
            os.unlink(foreign)
            took = world.back(time.monotonic())
            result.setdefault("back_s", []).append(round(took, 2))
            if took > BACK_S * getattr(out, "slack", 1.0):
                slow.append(took)
            if i + 1 < count:
                world.sink_down()
        result["restarts"] = restarts(world)
        ledger_says = world.finish()
    result.update(ledger_says)
    result["bad"].update(bad)
    if slow:
        result["bad"]["slow"] = slow
    return result


# A full map ---------------------------------------------------------------------------------------
def mapfull(seed, count, out):
    """LMDB's map (a small one) is filled by queued mail: 452 at 85 %, completions commit, drains to nought, takes mail again"""
    result, bad = {}, {}
    # Ten entries a message: rows are what fills the map.
    with World(out, seed, rate=0, sessions=8, size="300", sink=False, env={"SLUICE_TEST_MAP_BYTES": str(2 << 20)},
               load=("--rcpts", 10, "--spread")) as world:
        world.start()
        for i in range(count):
            world.load()
            wait_refused(world)
            world.loads[-1].stop()
            world.loads[-1].wait(120)
            result.setdefault("queued", []).append(world.sluice.queued())
            fills = re.findall(r"quota=map .*map_percent=(\d+)", world.sluice.log())
            if not fills or not 84 <= int(fills[-1]) <= 97:
                bad[f"map {i}"] = f"refused at {fills} percent"
            world.sink_up()
            began = time.monotonic()
            world.sluice.wait_drained(120)
            result.setdefault("drained_s", []).append(round(time.monotonic() - began, 1))
            world.load()
            result.setdefault("back_s", []).append(round(world.back(time.monotonic()), 2))
            world.loads[-1].stop()
            world.loads[-1].wait(120)
            if i + 1 < count:
                world.sluice.wait_drained(60)
                world.sink_down()
        result["restarts"] = restarts(world)
        result.update(world.finish())
    result["bad"].update(bad)
    return result


# Descriptors and memory ---------------------------------------------------------------------------
def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def limit(pid, what, soft):
    """Sets the soft limit; the old pair."""
    old = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft if soft >= 0 else old[1], old[1]))
    return old


def busy_seconds(pids, seconds):
    """CPU time that each used in that time, the most of them, of those that live."""
    before = {pid: harness.cpu_seconds(pid) for pid in pids}
    time.sleep(seconds)
    return max([harness.cpu_seconds(pid) - before[pid] for pid in pids if harness.lives(pid)] or [0.0])


def nofile(seed, count, out):
    """no descriptor to be had for the scheduler, receiver, worker, recorder: refuses politely, turns in no circle, recovers"""
    result, bad, slow, busiest = {"back_s": []}, {}, [], 0.0
    with World(out, seed, load=("--per-connection", 3), receivers=2) as world:
        world.start().load()
        world.back(time.monotonic())
        for i in range(count):
            role = ("scheduler", "receiver", "worker", "recorder")[i % 4]
            pids = world.sluice.pids(role)
            for pid in pids:
                limit(pid, resource.RLIMIT_NOFILE, (3, descriptors(pid), descriptors(pid) + 1)[i // 4 % 3])
            asking = [subprocess.Popen([world.sluice.bin("sluice"), "-c", world.sluice.conf_path, "show", "status"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
            used = busy_seconds(pids, BUSY_S)
            busiest = max(busiest, used)
            if used > BUSY_S * 0.6:
                bad[f"{role} {i}"] = f"used {used:.1f} s of processor in {BUSY_S} s"
            for pid in pids:
                if harness.lives(pid):
                    limit(pid, resource.RLIMIT_NOFILE, -1)
            took = world.back(time.monotonic())
            result["back_s"].append(round(took, 2))
            if took > BACK_S * getattr(out, "slack", 1.0):
                slow.append(f"{role}: {took:.1f} s")
            for one in asking:
                one.wait(20)
        result["busiest_s"] = round(busiest, 2)
        result.update(world.finish())
    result["bad"].update(bad)
    if slow:
        result["bad"]["slow"] = slow
    return result


def virtual_bytes(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[0]) * 4096


def memory(seed, count, out):
    """no memory to be had for a scheduler, receiver, worker, recorder, or for the scheduler's next lives: lost 0, recovers"""
    result, bad, slow, died, busiest = {"back_s": []}, {}, [], 0, 0.0
    with World(out, seed, rate=60, size="mix", load=("--per-connection", 20)) as world:
        world.start().load()
        world.back(time.monotonic())
        for i in range(count):
            role = ("scheduler", "next scheduler", "receiver", "worker", "recorder")[i % 5]
            pids = world.sluice.pids(role.split()[-1])
            if role == "next scheduler":
                # Its map of the queue does not fit.
                limit(world.sluice.master_pid(), resource.RLIMIT_AS, 2 << 30)
                os.kill(pids[0], signal.SIGKILL)
                time.sleep(1.5)
                pids = world.sluice.pids("scheduler")
            else:
                for pid in pids:
                    limit(pid, resource.RLIMIT_AS, virtual_bytes(pid) + world.rng.choice((0, 1 << 20)))
            used = busy_seconds(pids, BUSY_S)
            busiest = max(busiest, used)
            died += sum(not harness.lives(pid) for pid in pids)
            if used > BUSY_S * 0.6:
                bad[f"{role} {i}"] = f"used {used:.1f} s of processor in {BUSY_S} s"
            for pid in [world.sluice.master_pid(), *world.sluice.pids()]:
                limit(pid, resource.RLIMIT_AS, -1)
            took = world.back(time.monotonic())
            result["back_s"].append(round(took, 2))
            if took > BACK_S * getattr(out, "slack", 1.0):
                slow.append(f"{role}: {took:.1f} s")
        result.update(died=died, busiest_s=round(busiest, 2))
        result.update(world.finish())
    result["bad"].update(bad)
    if slow:
        result["bad"]["slow"] = slow
    return result


# A slow disk --------------------------------------------------------------------------------------
def slow_disk(seed, count, out):
    """every sync of the scheduler takes 2 s: its loop goes on, the command line is answered at once, mail is slow but safe"""
    result, bad, asked, beats = {}, {}, [], []
    with World(out, seed) as world:
        world.start().load()
        world.back(time.monotonic())
        pid = world.sluice.pids("scheduler")[0]
        tracer = world.trace(out.folder, [pid], "delay_exit=2000000", "fdatasync,fsync,msync")
        time.sleep(2.5)
        before = world.acknowledged()
        end = time.monotonic() + 6 * count
        while time.monotonic() < end:
            began = time.monotonic()
            world.sluice.ask("show", "status")
            world.sluice.ask("show", "queues")
            asked.append((time.monotonic() - began) / 2)
            beats.append(world.sluice.stat()["shm"]["heartbeatMs"])
            time.sleep(0.1)
        during = world.acknowledged() - before
        since = tracer.stop()
        result.update(asked=len(asked), answer_most_s=round(max(asked), 3), heartbeat_most_ms=max(beats), acknowledged_meanwhile=during,
                      back_s=round(world.back(since), 2))
        if max(asked) > 1.0 * getattr(out, "slack", 1.0):
            bad["answer"] = max(asked)
        if max(beats) > 1000 * getattr(out, "slack", 1.0):
            bad["heartbeat"] = max(beats)
        if during == 0:
            bad["stopped"] = "no mail was taken in 6 s"
        if world.sluice.pids("scheduler") != [pid]:
            bad["restart"] = "the scheduler did not live through it"
        result.update(world.finish())
    result["bad"].update(bad)
    return result


# A stopped worker ---------------------------------------------------------------------------------
SLOW_DOT = """providers = ( { name = "provider"; listen = [ "127.0.0.1:%d" ]; delay-ms = { dot = 1500; }; } );
"""


def stopped(seed, count, out):
    """SIGSTOP of the workers with a dot out: for longer than a heartbeat may be missing; shorter; shorter with a new scheduler meanwhile"""
    result, bad, ends = {}, {}, []
    for i in range(count):
        how = ("killed", "goes on", "new scheduler")[i % 3]
        folder = os.path.join(out.folder, f"stopped{i}")
        os.makedirs(folder)
        limit_ms = 4000 if how == "killed" else 60000
        with World(Plain(folder), seed + i, rate=0, sessions=4, script=SLOW_DOT, env={"SLUICE_TEST_HEARTBEAT_MS": str(limit_ms)},
                   load=("-m", 8)) as world:
            world.start()
            world.load("-m", 8).wait(60)
            harness.wait_for(lambda: world.sluice.ask("show", "status")["totalRcp"] == 8, 20)
            time.sleep(0.5)  # dots are out, 1.5 s before their answers
            workers = world.sluice.pids("worker")
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            dots = world.taken()
            if how == "killed":
                harness.wait_for(lambda: not any(harness.lives(pid) for pid in workers), 60)
            else:
                time.sleep(2.5)
                if how == "new scheduler":
                    old = world.sluice.pids("scheduler")
                    os.kill(old[0], signal.SIGKILL)
                    harness.wait_for(lambda: [p for p in world.sluice.pids("scheduler") if p not in old], 20)
                    time.sleep(1.0)
            for pid in workers:
                if harness.lives(pid):
                    os.kill(pid, signal.SIGCONT)
            one = world.finish()
            ends.append(one)
            result[how] = f"{dots} answered before, {one['duplicates']} duplicates"
            # Each dot that was out may be there twice, flagged, when its worker was killed; never thrice, and with one record.
            if one["bad"] or (how != "killed" and one["duplicates"]) or one["duplicates"] > 8:
                bad[how] = one
    result.update(bad=bad, rows=[sum_rows(ends)])
    return result


# Receptions ---------------------------------------------------------------------------------------
def receptions(world):
    """{recipient: number of r records}"""
    found = {}
    for path in glob.glob(world.sluice.acct_pattern):
        with open(path, newline="", errors="surrogateescape") as f:
            for row in csv.DictReader(f):
                if row.get("type") == "r":
                    found[row["rcpt"]] = found.get(row["rcpt"], 0) + 1
    return found


def reception(seed, count, out):
    """the event log's write fails beside a commit that does not: each message that was taken has its one `r` record"""
    with World(out, seed, rate=0, sessions=16) as world:
        world.start().load()
        world.back(time.monotonic())
        for i in range(count):
            pids = world.sluice.pids("scheduler")
            # The youngest files: the one in use and its successor.
            names = [os.path.join(world.sluice.spool, "events", n) for n in os.listdir(os.path.join(world.sluice.spool, "events"))]
            paths = [word for name in names for word in ("-P", name)]
            calls = ("pwrite64", "fdatasync")[i % 4 == 3]
            tracer = world.trace(out.folder, pids, f"error=EIO:when={world.rng.randrange(1, 40)}", calls, *paths)
            wait_injected(tracer, 10)
            world.back(tracer.stop())
        again = sum(int(n) for n in re.findall(r"receptions=(\d+) logged=again", world.sluice.log()))
        result = world.finish()
        found, sent = receptions(world), ledger.Load([load.ledger_path for load in world.loads])
    wrong = {rcpt: found.get(rcpt, 0) for rcpt in [*sent.acked, *found] if found.get(rcpt, 0) != 1}
    if wrong:
        result["bad"]["r records"] = f"{len(wrong)}: {list(wrong.items())[:5]}"
    result["logged_again"] = again
    return result


def filled_log(log):
    """Reception was refused by the event log's quota, at what it should be."""
    return any(84 <= int(p) <= 97 for p in re.findall(r"quota=event-log .*events_percent=(\d+)", log))


def until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def eventlog(seed, count, out):
    """the recorder does not read: 452 when the event log has its quota, deliveries go on, all goes on when it reads again"""
    disk = SmallDisk(os.path.join(out.folder, "spool"), 128)
    if not disk.mounted:
        return {"skipped": "no file system can be mounted: " + disk.why}
    bad, result = {}, {}
    with disk, World(out, seed, rate=0, sessions=16, size="300", load=("--rcpts", 20)) as world:
        world.start().load()
        world.back(time.monotonic())
        for i in range(count):
            recorder, seen = world.sluice.pids("recorder")[0], len(world.sluice.log())
            os.kill(recorder, signal.SIGSTOP)
            try:
                wait_refused(world, seconds=90)
                # The disk's quota may come first, and go when segments are free again.
                if not until(lambda: filled_log(world.sluice.log()[seen:]), 60):
                    bad[f"log {i}"] = f"refused by {re.findall('quota=.*', world.sluice.log()[seen:])[-3:]}"
                world.sluice.wait_drained(60)
            finally:
                os.kill(recorder, signal.SIGCONT)
            result.setdefault("back_s", []).append(round(world.back(time.monotonic()), 2))
        result["restarts"] = restarts(world)
        result.update(world.finish())
    result["bad"].update(bad)
    return result


STAGES = [("eio", eio, 4, 100), ("enospc", enospc, 1, 3), ("mapfull", mapfull, 1, 2), ("nofile", nofile, 4, 16),
          ("memory", memory, 5, 20), ("slowdisk", slow_disk, 1, 10), ("stopped", stopped, 3, 12),
          ("reception", reception, 6, 40), ("eventlog", eventlog, 1, 3)]


class Plain:
    """What a stage writes to when nobody else gives it one. `slack`: how much later than promised is still no fault."""

    def __init__(self, folder, slack=1.0):
        self.folder, self.slack = folder, slack

    def __call__(self, text):
        print(text, flush=True)


def main():
    import argparse
    import shutil
    import tempfile
    parser = argparse.ArgumentParser(description="faults.py STAGE [--count N] [--seed S]")
    parser.add_argument("stage", choices=[name for name, *_ in STAGES])
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    options = parser.parse_args()
    _, function, _, full = next(s for s in STAGES if s[0] == options.stage)
    folder = tempfile.mkdtemp(prefix="sluice-faults-")
    count = options.count or full
    print(f"again: tests/torture/faults.py {options.stage} --count {count} --seed {options.seed}", flush=True)
    result = function(options.seed, count, Plain(folder))
    for key, value in result.items():
        print(f"  {key:20} {value}")
    if result["bad"]:
        print("FAILED; left in " + folder)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
