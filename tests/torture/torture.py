#!/usr/bin/python3
"""The torture driver: runs the stages of the modules beside it, prints the crash ledger.
usage: torture.py [--small] [--kills N] [--cuts N] [--count N] [--seed S] [--only STAGE,...] [--keep] [--list]
Lines `ok - torture STAGE`, `not ok - ...`, `skip - ...`; exit 1 when one failed."""
import argparse
import importlib
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
MODULES = ("kills", "killpoints", "backoffs", "powercut", "controls", "stalls", "clocks", "faults", "flips", "reloads")
COLUMNS = ("n", "acknowledged", "lost", "corrupt", "missing", "doubled", "duplicates", "flagged", "bound")
# A stage that takes longer is a failure, and so is one whose cleaning up takes longer again.
SMALL_SECONDS, FULL_SECONDS, LONG_SECONDS, CLEAN_SECONDS = 12 * 60, 25 * 60, 40 * 60, 300
SMALL_SLACK = 4.0  # part of `make check`, on whatever machine; the long form measures
LONG = ("kills", "killpoints", "backoff", "cuts")


class Out:
    """What a stage writes to: lines, and a folder of its own. `slack`: how much later than promised is still no fault."""

    def __init__(self, name, folder=None, slack=1.0):
        self.name, self.slack = name, slack
        self.folder = folder or tempfile.mkdtemp(prefix=f"sluice-torture-{name}-")
        self.subs = 0

    def __call__(self, text):
        print(f"   {self.name}: {text}", flush=True)

    def sub(self):
        """A folder inside, for one of several worlds."""
        self.subs += 1
        path = os.path.join(self.folder, str(self.subs))
        os.makedirs(path)
        return Out(self.name, path, self.slack)


def stages():
    """(name, function, small count, full count) of every module that is there."""
    found = []
    for module in MODULES:
        if os.path.exists(os.path.join(HERE, module + ".py")):
            found += importlib.import_module(module).STAGES
    return found


def count_of(stage, options):
    name, _, small, full = stage
    if options.count is not None:
        return options.count
    kinds = {"kills": options.kills, "killpoints": options.kills}
    if kinds.get(name) is not None:
        return max(1, kinds[name] // 2)
    if name == "cuts" and options.cuts is not None:
        return options.cuts
    return small if options.small else full


def limit_of(name, small):
    return SMALL_SECONDS if small else LONG_SECONDS if name in LONG else FULL_SECONDS


class Late(Exception):
    """Of a kind that no stage takes for an error of the system."""


def late(*_):
    raise Late("the stage took too long")


def again(name, count, seed):
    """The command that does the same once more."""
    return f"make torture SEED={seed} ONLY={name} COUNT={count}"


def run(stage, count, seed, small, keep):
    """(verdict, result)."""
    name, function, _, _ = stage
    out = Out(name, slack=SMALL_SLACK if small else 1.0)
    print(f"-- {name}: {count} ({(function.__doc__ or '').splitlines()[0]}) again: {again(name, count, seed)}", flush=True)
    began = time.time()
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit_of(name, small), CLEAN_SECONDS)
    try:
        result = function(seed, count, out) or {}
    except Exception:
        result = {"bad": {"exception": traceback.format_exc()}}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    figures = " ".join(f"{k}={v}" for k, v in result.items() if k not in ("bad", "rows", "skipped", "report"))
    tail = f"{name}: {figures} in {time.time() - began:.0f} s"
    if result.get("bad"):
        print(f"not ok - torture {tail}")
        bad = result["bad"]
        for what, value in bad.items() if isinstance(bad, dict) else enumerate(bad):
            print(f"   {what}: {value}")
        print(f"   left in {out.folder}\n   again: {again(name, count, seed)}", flush=True)
        return "failed", result
    if keep:
        print("   left in " + out.folder)
    else:
        shutil.rmtree(out.folder, ignore_errors=True)
    if result.get("skipped"):
        print(f"skip - torture {tail}: {result['skipped']}", flush=True)
        return "skipped", result
    print(f"ok - torture {tail}", flush=True)
    return "passed", result


def print_ledger(rows):
    if not rows:
        return
    width = max(len(r["place"]) for r in rows)
    print("\nThe crash ledger\n" + "place".ljust(width) + "".join(f"{c:>13}" for c in COLUMNS) + f"{'restart ms: median, most':>26}")
    total = dict.fromkeys(COLUMNS, 0)
    for row in rows:
        times = row.get("restart_ms") or []
        span = f"{statistics.median(times):.0f}, {max(times):.0f}" if times else "-"
        print(row["place"].ljust(width) + "".join(f"{row.get(c, '-'):>13}" for c in COLUMNS) + f"{span:>26}")
        for c in COLUMNS:
            total[c] += row.get(c, 0)
    print("total".ljust(width) + "".join(f"{total[c]:>13}" for c in COLUMNS))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--cuts", type=int)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true", help="the folders of stages that passed too")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    only = [x for x in options.only.split(",") if x]
    chosen = [s for s in stages() if not only or s[0] in only]
    if options.list:
        for name, function, small, full in chosen:
            print(f"{name:16} {small:6} {full:6}  {(function.__doc__ or '').splitlines()[0]}")
        return 0
    if not chosen:
        print(f"no such stage: {options.only}")
        return 2
    print(f"torture: seed {options.seed}", flush=True)
    tally = {"passed": 0, "failed": 0, "skipped": 0}
    rows, failed, began = [], [], time.time()
    for stage in chosen:
        count = count_of(stage, options)
        if count == 0:
            continue
        verdict, result = run(stage, count, options.seed, options.small, options.keep)
        tally[verdict] += 1
        failed += [again(stage[0], count, options.seed)] * (verdict == "failed")
        rows += [{"place": stage[0], "n": count, **row} for row in result.get("rows") or []]
    print_ledger(rows)
    for command in failed:
        print(f"failed: {command}")
    print(f"took {time.time() - began:.0f} s")
    print(f"torture: seed {options.seed}: {tally['passed']} passed, {tally['failed']} failed, {tally['skipped']} skipped")
    return 1 if tally["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
