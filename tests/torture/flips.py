#!/usr/bin/python3
"""One flipped bit, a cut file, a zeroed page: somewhere in the files of a stopped queue. Then it is started and delivers to a sink.
Each damage must be told (refused, quarantined, found by `sluice queue-check`, in the log) or mean nothing; the sink takes no byte
that was not sent, nothing twice, and every acknowledged recipient is delivered, quarantined, or in a queue that was refused.
usage: flips.py [--flips N] [--cuts N] [--zeros N] [--messages N] [--seed S] [--jobs N] [--keep]"""
import argparse
import concurrent.futures
import glob
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness  # noqa: E402

LATER = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ];
  rules = ( { stage = "rcpt"; reply = "450 4.2.1 later"; } ); } );"""
DOMAINS = """domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; retry-after = "1h"; retry-recipients-after = "1h"; } );"""
PAGE = 4096
QUIET = ("lock", "lock.mdb")  # written at every start, read by nobody else


def copy_spool(source, target):
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)


def build(folder, messages, domains=20, variant="release"):
    """A stopped instance with so many deferred messages, its zeros taken out; the load's ledger."""
    port = harness.free_port()
    sink = harness.Sink(folder, script=LATER % port, name="later", variant=variant)
    sluice = harness.Sluice(folder, domains=DOMAINS % port, variant=variant, workers=2)
    sluice.start()
    load = harness.Load(folder, sluice.target, "-s", 20, "-m", messages, "--size", "300", "--domain-count", domains, variant=variant)
    load.wait()
    harness.wait_for(lambda: sluice.stat()["totals"]["transient"] >= messages, 60 + messages / 50)
    assert sluice.stop() == 0
    sink.stop()
    copy_spool(sluice.spool, sluice.spool + ".thin")
    shutil.rmtree(sluice.spool)
    os.rename(sluice.spool + ".thin", sluice.spool)
    return sluice, load.read()


def used_pages(path):
    """Numbers of the pages that are not all zeros."""
    pages = []
    with open(path, "rb") as f:
        size, at = os.fstat(f.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            for page in range(at // PAGE, (end + PAGE - 1) // PAGE):
                if any(os.pread(f.fileno(), PAGE, page * PAGE)):
                    pages.append(page)
            at = end
    return pages, size


class Places:
    """Where damage may fall: half by used bytes, half by kind of file, so that small files and heads have their share."""

    def __init__(self, spool):
        self.files, self.kinds = {}, {}
        for path in sorted(glob.glob(os.path.join(spool, "**"), recursive=True)):
            name = os.path.relpath(path, spool)
            if not os.path.isfile(path) or os.path.getsize(path) == 0 or os.path.basename(path) in QUIET:
                continue
            pages, size = used_pages(path)
            self.files[name] = (pages or [0], size)
            kind = name.split("/")[0]
            self.kinds.setdefault(kind, []).append(name)
            if kind in ("segments", "claims", "events", "lmdb"):
                self.kinds.setdefault(kind + " head", []).append(name)
        self.weights = [len(pages) for pages, _ in self.files.values()]

    def pick(self, rng):
        """(file, byte)"""
        if rng.random() < 0.5:
            name = rng.choices(list(self.files), self.weights)[0]
            page = rng.choice(self.files[name][0])
        else:
            kind = rng.choice(sorted(self.kinds))
            name = rng.choice(self.kinds[kind])
            page = rng.choice(self.files[name][0])
            if kind.endswith(" head"):  # of segment, table, log file; of the two meta pages
                page = rng.randrange(2 if kind.startswith("lmdb") else 1)
                return name, min(page * PAGE + rng.randrange(160), self.files[name][1] - 1)
        return name, min(page * PAGE + rng.randrange(PAGE), self.files[name][1] - 1)


def damage(spool, kind, name, at, rng):
    """Does it; what was done, or None when it changed nothing."""
    path = os.path.join(spool, name)
    with open(path, "r+b") as f:
        if kind == "flip":
            bit = rng.randrange(8)
            old = os.pread(f.fileno(), 1, at)
            os.pwrite(f.fileno(), bytes([old[0] ^ (1 << bit)]), at)
            return f"{name} byte {at} bit {bit}"
        if kind == "cut":
            os.ftruncate(f.fileno(), at)
            return f"{name} cut to {at}"
        at = at // PAGE * PAGE
        if not any(os.pread(f.fileno(), PAGE, at)):
            return None
        os.pwrite(f.fileno(), bytes(min(PAGE, os.fstat(f.fileno()).st_size - at)), at)
        return f"{name} zeros at {at}"


def queue_check(sluice):
    done = sluice.sluice("queue-check", "--json", seconds=120)
    assert done.returncode in (0, 1, 3), (done.returncode, done.stdout, done.stderr)
    data = json.loads(done.stdout)
    found = [c["name"] for c in data["data"]["check"] if c["wrong"]] if data["data"].get("check") else []
    return done.returncode, found or ([data["message"]] if done.returncode else [])


def judge(case, sluice, sink, sent):
    """Fills the case in; `bad` says what must not be."""
    taken = sink.read().taken
    wrong = [r for r, many in taken.items() if r not in sent.acked or any(t.hash != sent.acked[r].hash for t in many)]
    case["wrong"] = len(wrong)
    case["twice"] = sum(len(many) - 1 for many in taken.values())
    case["lost"] = len(sent.acked) - len(taken) - case["quarantined"]
    log = sluice.log() if os.path.exists(sluice.log_path) else ""
    deaths = [line for line in log.splitlines() if " died role=" in line and " status=0 " not in line]
    case["deaths"] = len(deaths)
    if case["refused"]:
        case["lost"] = 0
        case["bad"] = [w for w in ("wrong", "twice") if case[w]]
        if not any(word in sluice.complaints() for word in ("refused=yes", "cannot use the spool", "error=")):
            case["bad"].append("refused without a word")
        if any(" signal=" in line for line in deaths):
            case["bad"].append("crash")
        case["class"] = "refused"
    else:
        case["bad"] = [w for w in ("wrong", "twice", "lost", "deaths") if case[w]]
        told = case["check"] or "damaged" in log or "cursor=acct error" in log
        case["class"] = "quarantined" if case["quarantined"] else "detected" if told else "harmless"
    if case["class"] in ("quarantined", "refused") and not case["check"]:
        case["bad"].append("queue-check saw nothing")
    if case["bad"]:
        case["class"] = "bad"


def run_case(top, source, sent, case, seed, variant):
    rng = random.Random(seed)
    folder = os.path.join(top, "case-%04d" % case["number"])
    port = harness.free_port()
    sluice = harness.Sluice(folder, domains=DOMAINS % port, variant=variant, workers=2)
    os.makedirs(folder)
    copy_spool(source, sluice.spool)
    case["what"] = damage(sluice.spool, case["kind"], case["file"], case["at"], rng)
    if case["what"] is None:
        case["class"], case["bad"] = "harmless", []
        shutil.rmtree(folder)
        return case
    with open(sluice.conf_path, "w") as f:
        f.write(sluice.text)
    case["check"] = queue_check(sluice)[1]
    case["quarantined"], case["refused"] = 0, False
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"], variant=variant)
    try:
        sluice.start(wait=False)
        ready = wait_ready(sluice)
        case["refused"] = not ready
        if ready:
            sluice.sluice("schedule", "*/*", "--retry-recipients")
            harness.wait_for(lambda: sluice.queued() == 0, 60 + len(sent.acked) / 50, 0.1)
            case["quarantined"] = sluice.ask("show", "status")["spool"]["quarantinedRcp"]
            assert sluice.stop() == 0
    except AssertionError as error:
        case["stuck"] = str(error)[:300]
    finally:
        sluice.kill()
        sink.stop()
    judge(case, sluice, sink, sent)
    if "stuck" in case:
        case["bad"].append("stuck")
        case["class"] = "bad"
    if not case["bad"]:
        shutil.rmtree(folder)
    return case


def wait_ready(sluice, seconds=60):
    """False: it ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if sluice.process.poll() is not None:
            return False
        if sluice.sluice("show", "status", "--json").returncode == 0 and sluice.listens():
            return True
        time.sleep(0.05)
    raise AssertionError("neither ready nor ended:\n" + sluice.complaints())


def campaign(top, flips, cuts, zeros, messages, seed, jobs=2, variant="release", out=print):
    """All cases, each judged."""
    rng = random.Random(seed)
    source, sent = build(os.path.join(top, "source"), messages, variant=variant)
    code, found = queue_check(source)
    assert code == 0, found
    places = Places(source.spool)
    cases = []
    for kind, n in (("flip", flips), ("cut", cuts), ("zero", zeros)):
        for _ in range(n):
            name, at = places.pick(rng)
            cases.append(dict(number=len(cases), kind=kind, file=name, at=at))
    lock = threading.Lock()
    done = []

    def one(case):
        run_case(top, source.spool, sent, case, seed * 1000003 + case["number"], variant)
        with lock:
            done.append(case)
            if case["bad"]:
                out(f"BAD {case}")
            elif len(done) % 20 == 0:
                out(f"{len(done)} of {len(cases)} done")
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, cases))
    return cases


def table(cases):
    """Rows of kind and file against what became of it."""
    classes = ("refused", "quarantined", "detected", "harmless", "bad")
    rows = {}
    for c in cases:
        for row in ((c["kind"], c["file"].split("/")[0]), (c["kind"], "all")):
            rows.setdefault(row, dict.fromkeys(classes, 0))[c["class"]] += 1
    lines = [f"{'damage':6} {'files':10} " + " ".join(f"{c:>11}" for c in classes)]
    lines += [f"{kind:6} {files:10} " + " ".join(f"{n[c]:11}" for c in classes) for (kind, files), n in sorted(rows.items())]
    return "\n".join(lines)


def flips(seed, count, out):
    """Single-bit flips, and a seventh as many cut files and zeroed pages, in a stopped queue of 10,000."""
    os.makedirs(os.path.join(out.folder, "source"))
    cases = campaign(out.folder, count, count // 7, count // 7, 10000, seed, out=out)
    for line in table(cases).splitlines():
        out(line)
    return {"bad": [c for c in cases if c["bad"]], "damages": len(cases)}


STAGES = [("flips", flips, 0, 200)]  # make check: tests/scenario/test_flips.py


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=30)
    parser.add_argument("--zeros", type=int, default=30)
    parser.add_argument("--messages", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    o = parser.parse_args()
    top = tempfile.mkdtemp(prefix="sluice-flips-")
    os.makedirs(os.path.join(top, "source"))
    print(f"again: tests/torture/flips.py --flips {o.flips} --cuts {o.cuts} --zeros {o.zeros} --messages {o.messages} --seed {o.seed}",
          flush=True)
    cases = campaign(top, o.flips, o.cuts, o.zeros, o.messages, o.seed, o.jobs)
    bad = [c for c in cases if c["bad"]]
    print(table(cases))
    for c in bad:
        print(f"bad: {c}")
    print(f"flips: {'FAILED' if bad else 'passed'}: {len(cases)} damages, {len(bad)} bad, wrong bodies "
          f"{sum(c.get('wrong', 0) for c in cases)}, lost {sum(c.get('lost', 0) for c in cases)}")
    if bad or o.keep:
        print("left in " + top)
    else:
        shutil.rmtree(top, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
