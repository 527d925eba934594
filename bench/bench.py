#!/usr/bin/python3
"""bench: Sluice and Debian's Postfix side by side, in interleaved pairs of the same minutes.

Both relay from sluice-load (20 sessions, PIPELINING) to sluice-sink, one destination, with their
spools on the same disk's file system. Rate: first MAIL to last 250 at the sink. CPU: all processes
of the MTA, per message. Beside each pair: what the disk and the two programs of the bench can do by
themselves. Needs root, because Postfix does. Postfix's configuration: etc/postfix-relay.
"""
import argparse
import grp
import json
import os
import platform
import pwd
import shutil
import statistics
import subprocess
import sys
import time

import ledger
import rig
from rig import Failure

DAEMONS = "/usr/lib/postfix/sbin"
GOAL_RATE, GOAL_CPU = 6.0, 6.0      # what we want: times the rate, times less CPU
ASSERT_RATE, ASSERT_CPU = 0.6, 0.6  # what fails the run: a tenth of it
FAIR_RATE, FAIR_CPU_MS = 700, 2.5   # a Postfix below this was not given a fair machine


class Postfix:
    """An instance of its own under `work`; the machine's Postfix is not touched."""

    def __init__(self, work, sink_port):
        self.work, self.port = work, rig.free_port()
        self.meter = rig.Meter("bench-postfix")
        self._lay_out(sink_port)
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MAIL_CONFIG": self.work}
        with open(os.path.join(self.work, "out"), "wb") as out:
            self.process = subprocess.Popen(
                [os.path.join(DAEMONS, "master"), "-c", self.work, "-d"], env=env, cwd=self.work,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=self.meter.enter)
        self.meter.root = self.process.pid
        try:
            rig.wait_for("greeting of Postfix", lambda: rig.answers("127.0.0.1", self.port), 20)
        except Failure:
            self.close()
            raise

    def _lay_out(self, sink_port):
        user, drop = pwd.getpwnam("postfix"), grp.getgrnam("postdrop").gr_gid
        for name in ("main.cf", "master.cf"):
            rig.fill(os.path.join(rig.ROOT, "etc/postfix-relay", name),
                     os.path.join(self.work, name), WORK=self.work,
                     LISTEN="127.0.0.1:%d" % self.port, SINK=sink_port)
        own = "active bounce corrupt defer deferred flush hold incoming private saved trace"
        for name, mode, uid, gid in (
                [("queue", 0o755, 0, 0), ("queue/pid", 0o755, 0, 0),
                 ("queue/public", 0o710, user.pw_uid, drop),
                 ("queue/maildrop", 0o730, user.pw_uid, drop),
                 ("data", 0o700, user.pw_uid, user.pw_gid)] +
                [("queue/" + n, 0o700, user.pw_uid, 0) for n in own.split()]):
            path = os.path.join(self.work, name)
            os.mkdir(path)
            os.chown(path, uid, gid)
            os.chmod(path, mode)

    def close(self):
        rig.stop(self.process)
        self.meter.close()


class Sluice:
    def __init__(self, work, sink_port):
        self.work, self.port = work, rig.free_port()
        run_dir = os.path.join(self.work, "run")
        conf = rig.fill(os.path.join(rig.ROOT, "etc/demo/bench.conf.in"),
                        os.path.join(self.work, "sluice.conf"), WORK=self.work, RUN=run_dir,
                        LISTEN=self.port, SINK=sink_port)
        self.meter = rig.Meter("bench-sluice")
        self.daemon = rig.Daemon(conf, run_dir, "127.0.0.1", self.port,
                                 os.path.join(self.work, "sluiced.out"), self.meter)
        self.meter.root = self.daemon.process.pid

    def close(self):
        self.daemon.close()
        self.meter.close()


class Side:
    """One MTA with a sink of its own; runs of it."""

    def __init__(self, name, make, work, disk):
        self.name, self.make, self.work, self.disk = name, make, work, disk
        self.sink = rig.Sink(os.path.join(work, name + ".sink"))
        self.mta, self.spool, self.lives, self.loads = None, None, 0, []

    def renew(self):
        """A new instance with an empty spool: what earlier runs left in files and folders weighs on none."""
        self.stop()
        self.lives += 1
        self.spool = os.path.join(self.work, "%s-%d" % (self.name, self.lives))
        os.makedirs(self.spool, 0o755)
        self.mta = self.make(self.spool, self.sink.addresses[0].rpartition(":")[2])

    def warm(self, size):
        """Starts processes, connections and caches; messages/s, from which the length of a run follows."""
        return self.run(1000, size, 120)["rate"]

    def run(self, messages, size, seconds):
        """One run: messages/s, CPU ms a message, flushes and bytes written a message."""
        path = os.path.join(self.work, "%s-%d.load" % (self.name, len(self.loads)))
        self.loads.append(path)
        rig.settle_disk(self.disk)
        self.sink.stats(reset=True)
        disk, cpu = self.disk.counts(), self.mta.meter.seconds()
        summary = rig.load("127.0.0.1:%d" % self.mta.port, path, sessions=20, messages=messages,
                           size=size, domains="bench.example", pipelining=True)
        if summary["acknowledged"] != messages:
            raise Failure("%s acknowledged %d of %d" % (self.name, summary["acknowledged"], messages))
        rig.wait_for("end of %s's run" % self.name,
                     lambda: self.sink.stats()["total"]["recipients"] >= messages, seconds, 0.02)
        total = self.sink.stats()["total"]
        time.sleep(0.3)  # what is done behind the last 250 is work for these messages too
        cpu = self.mta.meter.seconds() - cpu
        after = self.disk.counts()
        result = {"rate": messages * 1e6 / (total["last_250_us"] - total["first_mail_us"]),
                  "cpu_ms": cpu * 1e3 / messages, "latency_p50_us": summary["latency_p50_us"],
                  "latency_p99_us": summary["latency_p99_us"]}
        if disk and after:
            result["flushes"] = (after["flushes"] - disk["flushes"]) / messages
            result["written"] = (after["bytes"] - disk["bytes"]) / messages
        return result

    def verdict(self):
        self.sink.stats()
        return ledger.check(ledger.Load(self.loads), ledger.Sink(self.sink.ledger))

    def stop(self):
        if self.mta:
            self.mta.close()
            self.mta = None
            shutil.rmtree(self.spool, ignore_errors=True)

    def close(self):
        self.stop()
        self.sink.close()


def direct(work, size, messages=10000):
    """Messages a second and CPU us a message of sluice-load straight into sluice-sink."""
    sink = rig.Sink(os.path.join(work, "direct.sink"))
    try:
        s = rig.load(sink.addresses[0], os.path.join(work, "direct.load"), sessions=20,
                     messages=messages, size=size, domains="bench.example", pipelining=True)
        total = sink.stats()
    finally:
        sink.close()
    t = total["total"]
    return (messages * 1e6 / max(1, t["last_250_us"] - t["first_mail_us"]),
            (s["cpu_us"] + total["cpu_us"]) / messages)


def probes(work, size):
    rate, cpu_us = direct(work, size)
    return {"disk_20k": rig.raw_disk(work, 20 << 10), "disk_640k": rig.raw_disk(work, 640 << 10),
            "direct_rate": rate, "direct_cpu_us": cpu_us}


def show_run(name, r):
    print("  %-8s %7.0f msg/s  %6.3f ms CPU  %5.2f flushes  %6.1f KiB written a message"
          "  250 after p50 %.1f p99 %.1f ms" %
          (name, r["rate"], r["cpu_ms"], r.get("flushes", float("nan")),
           r.get("written", float("nan")) / 1024, r["latency_p50_us"] / 1e3,
           r["latency_p99_us"] / 1e3), flush=True)


def show_probe(p):
    print("  raw disk: %.0f fdatasync/s of 20 KiB, %.0f MB/s in 640 KiB;  direct injector->sink:"
          " %.0f msg/s, %.0f us CPU of both" % (p["disk_20k"], p["disk_640k"] * 640 / 1000,
                                                p["direct_rate"], p["direct_cpu_us"]), flush=True)


def messages_for(rate, seconds, least=1500, most=60000):
    return int(max(least, min(most, rate * seconds)) // 100 * 100)


def measure(size, postfix, sluice, a, work):
    print("\n%s messages" % size)
    pairs = []
    for i in range(a.pairs):
        pair = {"probe": probes(work, size)}
        order = (postfix, sluice) if i % 2 == 0 else (sluice, postfix)
        print(" pair %d" % (i + 1))
        show_probe(pair["probe"])
        for side in order:
            side.renew()
            count = messages_for(side.warm(size), a.seconds)
            pair[side.name] = side.run(count, size, 30 + 20 * a.seconds)
            show_run(side.name, pair[side.name])
        pairs.append(pair)
    return pairs


def median(pairs, pick):
    return statistics.median(pick(p) for p in pairs)


def judge(size, pairs):
    """Prints the medians; (void, failed)."""
    rate = median(pairs, lambda p: p["sluice"]["rate"] / p["postfix"]["rate"])
    cpu = median(pairs, lambda p: p["postfix"]["cpu_ms"] / p["sluice"]["cpu_ms"])
    pf_rate = median(pairs, lambda p: p["postfix"]["rate"])
    pf_cpu = median(pairs, lambda p: p["postfix"]["cpu_ms"])
    print("%s, median of %d pairs: Postfix %.0f msg/s at %.3f ms; Sluice %.0f msg/s at %.3f ms;"
          " rate x %.2f (goal %.0f), CPU / %.2f (goal %.0f)" %
          (size, len(pairs), pf_rate, pf_cpu, median(pairs, lambda p: p["sluice"]["rate"]),
           median(pairs, lambda p: p["sluice"]["cpu_ms"]), rate, GOAL_RATE, cpu, GOAL_CPU))
    return (pf_rate < FAIR_RATE or pf_cpu > FAIR_CPU_MS, rate < ASSERT_RATE or cpu < ASSERT_CPU)


def machine():
    with open("/proc/cpuinfo") as f:
        model = [x.partition(":")[2].strip() for x in f if x.startswith("model name")]
    print("%d x %s, Linux %s, load %.2f %.2f %.2f" %
          (os.cpu_count(), model[0] if model else "CPU", platform.release(), *os.getloadavg()))


def spread(directory):
    """Each folder made in it lies on a part of the disk of its own (ext4; a wish elsewhere). An ext4 without a
    journal does not give out an inode again for a minute, and looks at each such one whenever a file is
    made: the next instance at the same place cost Postfix twice the CPU."""
    subprocess.run(["chattr", "+T", directory], stderr=subprocess.DEVNULL, check=False)


def compare(a, work):
    spread(work)
    disk = rig.Disk(work)
    sides, results = [], {}
    try:
        for name, make in (("postfix", Postfix), ("sluice", Sluice)):
            sides.append(Side(name, make, work, disk))
        meter = rig.Meter("bench")
        print("spools in %s on %s; CPU from %s" % (work, disk.name, meter.how()))
        meter.close()
        for size in a.sizes.split(","):
            results[size] = measure(size, *sides, a, work)
        verdicts = {s.name: s.verdict() for s in sides}
    finally:
        for side in sides:
            side.close()
    return results, verdicts


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--seconds", type=float, default=4, help="about so long is a run")
    p.add_argument("--sizes", default="2k,20k")
    p.add_argument("--json", metavar="FILE", help="write all numbers there")
    a = p.parse_args()
    if os.geteuid() != 0:
        print("bench: Postfix needs root; run: sudo make bench", file=sys.stderr)
        return 1
    if not os.path.exists(os.path.join(DAEMONS, "master")):
        print("bench: there is no Postfix; run: make deps", file=sys.stderr)
        return 1
    work = rig.work_dir("bench")
    machine()
    try:
        results, verdicts = compare(a, work)
    except Failure as e:
        print("bench: %s" % e, file=sys.stderr)
        return 1
    print()
    judged = [judge(size, pairs) for size, pairs in results.items()]
    for name, v in verdicts.items():
        print("%s: %d acknowledged, %d delivered, %d lost, %d corrupt, %d duplicates" %
              (name, v["acknowledged"], v["taken"], v["lost"], v["corrupt"], v["duplicates"]))
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"results": results, "verdicts": verdicts}, f, indent=1)
    shutil.rmtree(work, ignore_errors=True)
    if not verdicts["sluice"]["ok"]:
        print("FAILED: Sluice's ledger is not clean")
        return 1
    if any(void for void, _ in judged):
        print("VOID: Postfix stayed below %d msg/s or above %.1f ms: this machine is too busy now" %
              (FAIR_RATE, FAIR_CPU_MS))
        return 3
    if any(failed for _, failed in judged):
        print("FAILED: below a tenth of the goal")
        return 1
    print("PASSED (asserted only at a tenth of the goal)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
