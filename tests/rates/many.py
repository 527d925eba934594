#!/usr/bin/python3
"""many: limits and many queues, live: what waiting costs, whose turn it is, who overtakes.

    many.py idle [--domains 1009 --vmtas 100 --seconds 60]     queues limited to 1/h, each with mail: CPU while nothing is due,
                                                               and what deliveries cost beside them
    many.py turns [--queues 1000 --large 500000 --rate 200]    one virtual MTA's limit: each queue has its turn, and a queue
                                                               of priority 90 overtakes
    many.py cost [--queues 100000]                             instructions of an admission, and of a message with every limit

Each prints its figures beside their goals; the exit status is 1 when one is missed.
"""
import argparse
import csv
import glob
import os
import re
import shutil
import smtplib
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
sys.path.insert(0, HERE)
import harness  # noqa: E402

IDLE_PERCENT = 0.5   # of a core
STEADY_PERCENT = 1.0
STEADY_DOMAINS = 17  # in each virtual MTA: queues that have one message due each minute
TURN_SLACK = 1.2     # of the time that a round takes
OVERTAKES_MS = 100   # the median of these
OVERTAKING = 50
ADMISSION = 1.05     # many queues to few
GROWTH_PERCENT = 5
TICK = os.sysconf("SC_CLK_TCK")


def boot_us():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Report:
    def __init__(self):
        self.good = True

    def line(self, what, value, goal, ok):
        print("%-50s %-22s goal %s%s" % (what, value, goal, "" if ok else "   MISSED"), flush=True)
        self.good = self.good and ok


def ticks(pids):
    """By process."""
    spent = {}
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid) as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        spent["%s %d" % (harness.comm_of(pid), pid)] = int(fields[11]) + int(fields[12])
    return spent


def scratch():
    return tempfile.mkdtemp(prefix="sluice-many-")


def load(sluice, folder, name, *args):
    done = harness.Load(folder, sluice.target, "-s", 8, "--size", 512, "--pipelining", *args, name=name)
    summary = done.wait(3600)
    assert done.process.returncode == 0, summary
    os.unlink(done.ledger_path)


def vmtas_named(names):
    return "virtual-mtas = ( %s );" % ", ".join(
        '{ name = "%s"; smtp-source-hosts = ( { ip = "127.0.0.1"; name = "out.example"; } ); }' % v for v in names)


def cpu_over(sluice, sink, seconds):
    """What all processes spent by name in ms, in percent of a core, and what was delivered meanwhile."""
    pids = [sluice.master_pid(), *sluice.pids()]
    before, delivered, began = ticks(pids), sink.ledger.count(), time.monotonic()
    time.sleep(seconds)
    spent = {name: 1000 * (n - before.get(name, 0)) / TICK for name, n in ticks(pids).items()}
    return spent, sum(spent.values()) / 10 / (time.monotonic() - began), sink.ledger.count() - delivered


def told(spent):
    print("    ms: " + ", ".join("%s: %d" % (name, n) for name, n in spent.items() if n), flush=True)


def steadily(sluice, sink, names, seconds):
    """Each of some queues has one message a minute due, spread over it, when this returns; what that costs."""
    queues = STEADY_DOMAINS * len(names)
    common = ("--domain-count", STEADY_DOMAINS, "--domain-format", "d%d.steady.example", "--vmta", ",".join(names))
    load(sluice, sluice.folder, "first", "-m", queues, "--rate", queues / 60, *common)
    load(sluice, sluice.folder, "more", "-m", queues * (3 + int(seconds / 60)), *common)
    time.sleep(5)
    return cpu_over(sluice, sink, seconds)


def idle(report, domains, vmtas, seconds):
    """The first message of each queue goes at once, the second waits for an hour. Then some others have one due each minute: what that
    costs here, and where nobody else waits."""
    queues = domains * vmtas
    names = ["v%d" % i for i in range(vmtas)]
    both = {"vmtas": vmtas_named(names), "top": "total-max-smtp-out = 500;"}
    each = 'smtp-hosts = "[127.0.0.1]:%s"; max-msg-per-connection = 1; connection-idle-timeout = "1s"; '

    folder = scratch()
    sink = harness.Sink(folder, listen=("127.0.0.1:0",))
    own = each % sink.listening[0].rpartition(":")[2]
    conf = {"domains": 'domains = ( { name = "*.steady.example"; %smax-msg-rate = "1/m"; }, { name = "*"; %smax-msg-rate = "1/h"; } );' % (own, own)}
    with harness.Sluice(os.path.join(folder, "mta"), acct="d,b", **both, **conf) as sluice:
        # Domains and virtual MTAs by turns meet in all ways when neither divides the other.
        for turn in range(2):
            load(sluice, folder, "load%d" % turn, "-m", queues, "--domain-count", domains, "--domain-format", "d%d.example",
                 "--vmta", ",".join(names))
        harness.wait_for(lambda: sluice.queued() == queues, 60 + queues / 200, 0.5)
        time.sleep(5)  # the last connections are closed, what was done is committed
        spent, percent, _ = cpu_over(sluice, sink, seconds)
        held = sluice.queued()
        many, many_percent, many_delivered = steadily(sluice, sink, names, seconds)
    sink.stop()
    shutil.rmtree(folder, ignore_errors=True)
    report.line("queues with mail, limited to 1/h", str(queues), str(queues), held == queues)
    report.line("CPU of all processes, nothing due", "%.2f %% of a core" % percent, "< %g %%" % IDLE_PERCENT, percent < IDLE_PERCENT)
    told(spent)

    folder = scratch()
    sink = harness.Sink(folder, listen=("127.0.0.1:0",))
    due = STEADY_DOMAINS * vmtas
    conf = {"domains": 'domains = ( { name = "*"; %smax-msg-rate = "1/m"; } );' % (each % sink.listening[0].rpartition(":")[2])}
    with harness.Sluice(os.path.join(folder, "mta"), acct="d,b", **both, **conf) as sluice:
        alone, alone_percent, alone_delivered = steadily(sluice, sink, names, seconds)
    sink.stop()
    shutil.rmtree(folder, ignore_errors=True)
    goes = due * seconds / 60
    report.line("delivered meanwhile, beside those and alone", "%d, %d" % (many_delivered, alone_delivered), "%d, a tenth more or less" % goes,
                abs(many_delivered - goes) <= goes / 10 and abs(alone_delivered - goes) <= goes / 10)
    cost = alone_percent * many_delivered / max(1, alone_delivered)
    report.line("CPU of these deliveries, of them alone", "%.2f %%, %.2f %%" % (many_percent, cost), "<= %g %% of a core more" % STEADY_PERCENT,
                many_percent <= cost + STEADY_PERCENT)
    told(many)
    told(alone)


def stamps_by_queue(sluice):
    """Of what was delivered, by the accounting files: the event log does not keep half a million messages."""
    found = defaultdict(list)
    for path in glob.glob(sluice.acct_pattern):
        with open(path, newline="", errors="replace") as f:
            for row in csv.DictReader(f):
                if row["type"] == "d":
                    found[row["queue"]].append(int(row["grantStamp"]))
    return {q: sorted(s) for q, s in found.items()}


def overtake(sluice):
    """One message to each of the queues of priority 90; when each was acknowledged."""
    sent = {}
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=20) as s:
        for i in range(OVERTAKING):
            time.sleep(0.1)
            s.sendmail("a@b.example", ["r@p%d.vip.example" % i], b"X-Virtual-MTA: v\r\nSubject: x\r\n\r\nhi\r\n")
            sent["p%d.vip.example/v" % i] = boot_us()
    return sent


def longest_wait(stamps, begin, end):
    """Between turns of a queue that has mail from `begin` to `end`."""
    inside = [begin] + [s for s in stamps if begin < s < end] + [end]
    return max(b - a for a, b in zip(inside, inside[1:]))


def turns(report, queues, large, rate):
    folder = scratch()
    sink = harness.Sink(folder, listen=("127.0.0.1:0",))
    hosts = 'smtp-hosts = "[127.0.0.1]:%s"; ' % sink.listening[0].rpartition(":")[2]
    conf = {"vmtas": 'virtual-mtas = ( { name = "v"; max-smtp-msg-rate = "%d/s"; smtp-source-hosts = ( { ip = "127.0.0.1"; '
                     'name = "out.example"; } ); } );' % rate,
            "domains": 'domains = ( { name = "*.vip.example"; %squeue-priority = 90; }, { name = "*"; %s} );' % (hosts, hosts),
            "top": "total-max-smtp-out = 4000;"}
    rounds = queues / rate
    watched = max(8.0, 4 * rounds)
    each = int((watched + 30) * rate / queues) + 10
    with harness.Sluice(os.path.join(folder, "mta"), acct="d,b", **conf) as sluice:
        load(sluice, folder, "large", "-m", large, "--domains", "large.example", "--vmta", "v")
        load(sluice, folder, "small", "-m", each * (queues - 1), "--domain-count", queues - 1, "--domain-format", "d%d.example",
             "--vmta", "v")
        begin = boot_us()
        sent = overtake(sluice)
        time.sleep(max(0.0, watched - (boot_us() - begin) / 1e6))
        end = boot_us()
        sluice.stop()
        stamps = stamps_by_queue(sluice)  # before its folder goes
    sink.stop()
    late = [(s[0] - sent[q]) / 1000 for q, s in stamps.items() if q in sent]
    waits = {q: longest_wait(s, begin, end) for q, s in stamps.items() if q not in sent and not is_over(q, s, end, each)}
    report.line("queues that had mail all the time", str(len(waits)), str(queues), len(waits) == queues)
    worst = max(waits, key=waits.get) if waits else None
    over = sum(w > TURN_SLACK * rounds * 1e6 for w in waits.values())
    report.line("longest wait for a turn (%s)" % worst, "%.2f s, %d above" % (waits.get(worst, 0) / 1e6, over), "<= %.2f s" % (TURN_SLACK * rounds),
                bool(waits) and waits[worst] <= TURN_SLACK * rounds * 1e6)
    report.line("priority 90 overtook", "%d of %d" % (len(late), OVERTAKING), str(OVERTAKING), len(late) == OVERTAKING)
    report.line("priority 90 waited, median", "%.1f ms" % (statistics.median(late) if late else 0), "<= %d ms" % OVERTAKES_MS,
                bool(late) and statistics.median(late) <= OVERTAKES_MS)
    shutil.rmtree(folder, ignore_errors=True)


def is_over(queue, stamps, end, each):
    """Nothing was left of it."""
    return not queue.startswith("large.") and sum(s < end for s in stamps) >= each


def instructions(queues, admissions, which):
    """Of one admission, as callgrind counts them."""
    tool = os.path.join(harness.ROOT, "build/release/tools/limit_cost")
    done = subprocess.run(["valgrind", "--tool=callgrind", "--toggle-collect=measured", "--callgrind-out-file=/dev/null", tool,
                           str(queues), str(admissions), which], capture_output=True, text=True, timeout=1800)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert done.returncode == 0 and found, done.stderr
    return int(found.group(1)) / admissions


# Never reached; and by the hour, so that grants do not lapse while valgrind takes its time.
MANY, MUCH = "1000000000/h", "1000000g/h"
RATES = 'max-msg-rate = "%s"; max-connect-rate = "%s"; max-data-volume-rate = "%s"; ' % (MANY, MANY, MUCH)
OUT = "max-smtp-out = 1000; "


# Of a queue: two connections that live on, or one for each message. By default it is something between, as it happens: a
# connection is closed when there is nothing to send; it costs as much as several messages, so that chance would decide.
KEPT = 'max-smtp-out = 2; connection-idle-timeout = "10m"; '
EACH = "max-smtp-out = 20; max-msg-per-connection = 1; "


def scheduler_instructions(messages, every, connections):
    """Of the whole scheduler in a run with so many messages."""
    folder = scratch()
    sink = harness.Sink(folder, listen=("127.0.0.1:0",))
    hosts = 'smtp-hosts = "[127.0.0.1]:%s"; ' % sink.listening[0].rpartition(":")[2]
    out = os.path.join(folder, "callgrind.%p")
    limits = RATES + OUT if every else ""
    vmta = re.sub("max-connect[^;]*; ", "", limits).replace("max-msg", "max-smtp-msg").replace("max-data", "max-smtp-data")
    by_ip = re.sub(r"(max-[a-z-]*) = \"", r'source-ip-\1 = "0/0 ', RATES) if every else ""
    source = re.sub("max-data[^;]*; ", "", limits)
    conf = {"vmtas": 'virtual-mtas = ( { name = "v"; %ssmtp-source-hosts = ( { ip = "127.0.0.1"; name = "out.example"; %s} ); } );'
                     % (vmta, source),
            # As many connections of a queue with limits as without.
            "domains": 'domains = ( { name = "*"; %s%s%s%s} );' % (hosts, connections, RATES if every else "", by_ip),
            "conf": 'providers = ( { name = "prov"; mx = "*"; %s} );\n'
                    'jobs = ( { name = "j"; %s} );\nsenders = ( { name = "load.example"; %s} );' % (limits, limits, limits) if every else ""}
    # Without the rounds in which limits are shown: they go by the clock, for which valgrind takes fifty times as long.
    wrapper = ["valgrind", "-q", "--tool=callgrind", "--toggle-collect=some", "--collect-atstart=yes",
               "--callgrind-out-file=" + out]
    sluice = harness.Sluice(os.path.join(folder, "mta"), variant="counted", acct="d,b", workers=1, wrapper=wrapper, **conf)
    sluice.process = None
    try:
        sluice.start(wait=False)
        sluice.wrapper = []  # valgrind becomes the program: there is no process between
        sluice.wait_ready(120)
        scheduler = sluice.pids("scheduler")[0]
        load(sluice, folder, "load", "-m", messages, "--domain-count", 10, "--domain-format", "d%d.example", "--vmta", "v", "--job", "j")
        sluice.wait_drained(300)
    finally:
        sluice.stop(120)
        sink.stop()
    with open(out.replace("%p", str(scheduler))) as f:
        count = int(re.search(r"^(?:totals|summary): (\d+)", f.read(), re.M).group(1))
    shutil.rmtree(folder, ignore_errors=True)
    return count


def slope(every, connections, few=500, many=8000, times=3):
    """Of one message; how many share a commit is a matter of luck: the median of several runs, so long that it weighs little."""
    return (statistics.median(scheduler_instructions(many, every, connections) for _ in range(times)) -
            statistics.median(scheduler_instructions(few, every, connections) for _ in range(times))) / (many - few)


def cost(report, queues, whole):
    few, many = instructions(100, 5000, "one"), instructions(queues, 5000, "one")
    report.line("instructions of an admission: 100 queues", "%.0f" % few, "-", True)
    report.line("instructions of an admission: %d queues" % queues, "%.0f (%.2f times)" % (many, many / few), "<= %g times" % ADMISSION,
                many <= ADMISSION * few)
    none, every = instructions(100, 5000, "none"), instructions(100, 5000, "all")
    report.line("core, a message: no limits, every limit", "%.0f, %.0f" % (none, every), "-", True)
    if not whole:
        return
    for name, connections in (("kept", KEPT), ("for each", EACH)):
        none, every = slope(False, connections), slope(True, connections)
        percent = 100 * (every - none) / none
        report.line("a message, none and every limit, connections %s" % name, "%.0f, %.0f: %+.1f %%" % (none, every, percent),
                    "<= +%d %%" % GROWTH_PERCENT, percent <= GROWTH_PERCENT)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("what", choices=("idle", "turns", "cost"))
    p.add_argument("--domains", type=int, default=1009)
    p.add_argument("--vmtas", type=int, default=100)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--queues", type=int)
    p.add_argument("--large", type=int, default=500000)
    p.add_argument("--rate", type=int, default=200)
    p.add_argument("--core-only", action="store_true", help="cost: without the whole scheduler under callgrind")
    a = p.parse_args()
    report = Report()
    if a.what == "idle":
        idle(report, a.domains, a.vmtas, a.seconds)
    elif a.what == "turns":
        turns(report, a.queues or 1000, a.large, a.rate)
    else:
        cost(report, a.queues or 100000, not a.core_only)
    print("many %s: %s" % (a.what, "PASSED" if report.good else "FAILED"))
    return not report.good


if __name__ == "__main__":
    sys.exit(main())
