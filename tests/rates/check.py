#!/usr/bin/python3
"""check: are limits exact? A judge that reads stamps and nothing else.

It shares no code with what it judges and knows nothing of how a limit is kept. A limit is N in a window;
what happened is a list of charges (stamp in µs, amount, transaction). In one pass over the sorted stamps:

    most      the most in any window, wherever it begins; both its ends belong to it: never above N
    even      the most in any tenth of a window, and in any transaction: never above max(1, N / 5)
    use       what came in the twenty windows from the first one: 98 % of 20 N when there was mail enough

For volume one body above N may go alone: it then counts as N in its window and goes on counting in as many
windows as its size takes; a body above a fifth of N goes alone in its tenth.

The witnesses are the event log (by build/release/tools/eventlog) and the sink's own trace.

    check.py --selftest    finds what is planted in made-up stamps
"""
import bisect
import random
import subprocess
import sys
from collections import defaultdict, namedtuple

WINDOWS = 20      # that use is looked at in
USE_PERCENT = 98

# scope: queue source vmta provider; measure: msg connect volume; use: percent that has to come, 0 where mail is not enough
# or another limit is narrower.
Limit = namedtuple("Limit", "scope key measure n window_us use")
Charge = namedtuple("Charge", "stamp amount transaction")
# source: the local IP; kind: msg connect volume.
Event = namedtuple("Event", "kind stamp amount transaction queue vmta provider source")


def share(n):
    return max(1, n // 5)


def most_within(charges, window_us):
    """The largest sum in any [t, t + window], and the stamp at which such a window ends. `charges` are sorted."""
    best, best_at, total, low = 0, 0, 0, 0
    for high in charges:
        total += high.amount
        while high.stamp - charges[low].stamp > window_us:
            total -= charges[low].amount
            low += 1
        if total > best:
            best, best_at = total, high.stamp
    return best, best_at


def clipped(charges, n):
    """Bodies larger than N as if they were N: such a one is alone in its window."""
    return [c._replace(amount=min(c.amount, n)) for c in charges]


def too_early(charges, n, window_us):
    """What came after a body larger than N before its size was made up for: as many windows as it is times N."""
    return [b.stamp for a, b in zip(charges, charges[1:]) if a.amount > n and b.stamp - a.stamp <= window_us * a.amount // n]


def most_even(charges, n, tenth_us, volume):
    """The most in any tenth; with volume a body above the share counts as the share if it is alone there."""
    if not volume:
        return most_within(charges, tenth_us)[0]
    limit, worst, total, low = share(n), 0, 0, 0
    for high, c in enumerate(charges):
        total += c.amount
        while c.stamp - charges[low].stamp > tenth_us:
            total -= charges[low].amount
            low += 1
        worst = max(worst, limit if low == high and total > limit else total)
    return worst


def largest_transaction(charges):
    sums = defaultdict(int)
    for c in charges:
        sums[c.transaction] += c.amount
    return max(sums.values(), default=0)


class Verdict:
    """What the stamps say of one limit."""

    def __init__(self, limit, charges, shorter_us=0, windows=WINDOWS):
        """`shorter_us`: of a witness further away: windows are shorter, and that is all that is judged."""
        charges = sorted(charges)
        volume = limit.measure == "volume"
        n, window = limit.n, limit.window_us - shorter_us
        self.limit, self.sent = limit, sum(c.amount for c in charges)
        self.faults, self.is_short = [], ""
        self.most, at = most_within(clipped(charges, n) if volume else charges, window)
        if self.most > n:
            self.faults.append("%d in the window that ends at %d" % (self.most, at))
        if volume:
            self.faults += ["too early at %d after a body larger than N" % at for at in too_early(charges, n, window)]
        self.tenth = self.transaction = self.percent = None
        if shorter_us == 0:
            self._even(charges, n, volume)
            self._use(charges, n, windows)

    def _even(self, charges, n, volume):
        self.tenth = most_even(charges, n, self.limit.window_us // 10, volume)
        if self.tenth > share(n):
            self.faults.append("%d in a tenth of a window" % self.tenth)
        if self.limit.measure == "msg":
            self.transaction = largest_transaction(charges)
            if self.transaction > share(n):
                self.faults.append("%d in a transaction" % self.transaction)

    def _use(self, charges, n, windows):
        end = charges[0].stamp + windows * self.limit.window_us if charges else 0
        used = sum(c.amount for c in charges if c.stamp < end)
        self.percent = 100.0 * used / (windows * n)
        if used < self.limit.use * windows * n // 100:
            self.is_short = "%d in %d windows" % (used, windows)

    def __str__(self):
        l = self.limit
        text = "%s %s %s %d/%gs: sent %d, most %d" % (l.scope, l.key, l.measure, l.n, l.window_us / 1e6, self.sent, self.most)
        if self.tenth is not None:
            text += ", a tenth %d of %d" % (self.tenth, share(l.n))
        if self.percent is not None:
            text += ", use %.1f %%" % self.percent
        return text + "".join("; FAULT: " + f for f in self.faults) + ("; short: " + self.is_short if self.is_short else "")


def event_log(tool, spool):
    """Events of a spool's event log. All of it must be there: nothing recycled."""
    done = subprocess.run([tool, spool], stdout=subprocess.PIPE, text=True, errors="surrogateescape", check=True)
    events, now = [], None
    last = 0
    for line in done.stdout.splitlines():
        f = line.split("\t")
        lsn = int(f[1])
        if f[0] == "rcpt":
            stamp = int(f[3])
            if now and stamp and f[2] != "UNATTEMPTED":
                events.append(Event("msg", stamp, 1, lsn, *now))
            continue
        assert lsn == last + 1, "the event log is not whole: %d after %d" % (lsn, last)
        last, kind, stamp, volume = lsn, f[2], int(f[4]), int(f[6])
        now = (f[7], f[8], f[9], f[10]) if kind == "RESULT" else None
        if kind in ("CONNECT", "ATTEMPT") and stamp:
            events.append(Event("connect", stamp, 1, lsn, f[7], f[8], f[9], f[10]))
        elif kind == "RESULT" and volume:
            events.append(Event("volume", stamp, volume, lsn, f[7], f[8], f[9], f[10]))
    return events


def modes(tool, spool):
    """{queue: [(wall-clock µs, True: into back-off)]} of the queues' own changes."""
    done = subprocess.run([tool, spool], stdout=subprocess.PIPE, text=True, errors="surrogateescape", check=True)
    found = defaultdict(list)
    for line in done.stdout.splitlines():
        f = line.split("\t")
        if f[0] == "event" and f[2] == "MODE" and f[7]:
            found[f[7] + "/" + f[8]].append((int(f[3]), f[14] == "2"))
    return found


def above_twin(charges, changes, n, window_us, slack_us=2000):
    """What is above the back-off twin: of a charge in back-off all that its window and its tenth hold counts, also from before.
    (faults, charges looked at)"""
    faults, looked = [], 0
    stamps = sorted(c.stamp for c in charges)
    spans = [(at + slack_us, changes[i + 1][0] - slack_us if i + 1 < len(changes) else float("inf"))
             for i, (at, on) in enumerate(changes) if on]
    for i, t in enumerate(stamps):
        if not any(low < t < high for low, high in spans):
            continue
        looked += 1
        for most, us in ((n, window_us), (share(n), window_us // 10)):
            seen = i + 1 - bisect.bisect_left(stamps, t - us)
            if seen > most:
                faults.append("%d of %d in the %d µs that end at %d, in back-off" % (seen, most, us, t))
    return faults, looked


def ip_of(peer):
    return peer.rpartition(":")[0].strip("[]")


def sink_trace(path, ledger_path, vmta_of, provider, only_queue=""):
    """Events by the sink's own clock. `vmta_of`: source IP -> virtual MTA; every domain is of `provider`; connections
    are of `only_queue`."""
    events, session = [], {}
    with open(path, errors="surrogateescape") as trace:
        for number, line in enumerate(trace):
            if not line.endswith("\n"):
                break
            at, _, client, _, stage, key = line.split(" ", 6)[:6]
            source = ip_of(client)
            vmta = vmta_of.get(source, "")
            if stage == "mail":
                session[client] = number
            elif stage == "rcpt":
                queue = key.rpartition("@")[2] + "/" + vmta
                events.append(Event("msg", int(at), 1, session.get(client, number), queue, vmta, provider, source))
            elif stage == "connect":
                events.append(Event("connect", int(at), 1, number, only_queue, vmta, provider, source))
    seen = set()
    with open(ledger_path, errors="surrogateescape") as ledger:
        for line in ledger:
            f = line.split(" ")
            if f[0] == "unanswered" or not line.endswith("\n") or (f[0], f[2]) in seen:
                continue
            seen.add((f[0], f[2]))  # one line a recipient, one body a transaction
            vmta = vmta_of.get(ip_of(f[2]), "")
            queue = f[4].rpartition("@")[2] + "/" + vmta
            events.append(Event("volume", int(f[0]), int(f[6]), len(seen), queue, vmta, provider, ip_of(f[2])))
    return events


def judge(limits, events, shorter_us=0, windows=WINDOWS):
    """A verdict for each limit: what falls into it by scope, key and measure."""
    parts = defaultdict(list)
    for e in events:
        charge = Charge(e.stamp, e.amount, e.transaction)
        for scope in ("queue", "vmta", "provider", "source"):
            parts[scope, getattr(e, scope), e.kind].append(charge)
    return [Verdict(l, parts[l.scope, l.key, l.measure], shorter_us, windows) for l in limits]


# Planted ----------------------------------------------------------------------------------------
def ideal(n, window_us, delta_us, rng, windows=WINDOWS + 2, lost=0, burst=1):
    """Stamps of a limiter that is right: as early as n, the share and its deadline allow. `lost`: one in so many is
    charged, not attempted and, a fault, not given back."""
    out, charged, at, end = [], [], 1000000, 1000000 + windows * window_us
    transaction = 0
    while at < end:
        transaction += 1
        k = min(burst, share(n))
        for _ in range(k):
            back = charged[-n] + window_us + delta_us + 1 if len(charged) >= n else 0
            tenth = charged[-share(n)] + window_us // 10 + delta_us + 1 if len(charged) >= share(n) else 0
            at = max(at, back, tenth)
            charged.append(at)
            if not lost or len(charged) % lost:
                out.append(Charge(at, 1, transaction))
        at += rng.randrange(1, 50)
    return out


def selftest(seed):
    rng = random.Random(seed)
    wrong = []
    for n, window in ((1, 1000000), (10, 1000000), (100, 60000000), (500, 1000000), (5000, 1000000), (83, 600000000)):
        limit = Limit("queue", "q", "msg", n, window, USE_PERCENT)
        delta = min(max(window // 100, 10000), 1000000)
        for name, stamps, right in (
                ("right", ideal(n, window, delta, rng), True),
                ("off by one", ideal(n + 1, window, 0, rng), False),
                ("missing refund", ideal(n, window, delta, rng, lost=8), False),
                ("not even", [Charge(c.stamp - c.stamp % (window // 4) * (n > 1), 1, i)
                              for i, c in enumerate(ideal(n, window, delta, rng))], n == 1),
                ("a stamp moved by a window", ideal(n, window, delta, rng) + [Charge(1000000 + 3 * window // 2, 1, -1)], False)):
            verdict = Verdict(limit, stamps)
            if bool(verdict.faults or verdict.is_short) == right:
                wrong.append("%s, %s: %s" % (name, "a fault found" if right else "nothing found", verdict))
    limit = Limit("vmta", "v", "volume", 1000, 1000000, 0)
    for name, sizes, right in (
            ("small ones", [(0, 100), (0, 100), (100001, 200), (200002, 200), (300003, 200), (400004, 200), (1000001, 200)], True),
            ("one too many", [(i * 100001, 200) for i in range(6)], False),
            ("a large one alone", [(0, 900), (100001, 100), (1000001, 900)], True),
            ("a large one not alone", [(0, 500), (100000, 100)], False),
            ("larger than the limit", [(0, 2500), (3000003, 100)], True),
            ("larger, one after the other", [(0, 1300), (1300001, 1200), (2500002, 1000)], True),
            ("larger, not in an empty window", [(0, 100), (900000, 1200)], False),
            ("larger, and not made up for", [(0, 2500), (2400000, 700)], False)):
        verdict = Verdict(limit, [Charge(at, k, i) for i, (at, k) in enumerate(sizes)])
        if bool(verdict.faults) == right:
            wrong.append("%s, %s: %s" % (name, "a fault found" if right else "nothing found", verdict))
    return wrong + selftest_twin()


def selftest_twin():
    """In back-off from 5 s to 15 s, with 20/s."""
    wrong, calm = [], range(0, 20000000, 51000)
    for name, more, right in (("right", (), True), ("one too many", (10000001,), False), ("before back-off", (2000001,), True),
                              ("behind it", (18000001,), True), ("not even", (10002000, 10003000, 10004000), False)):
        stamps = sorted([*(at for at in calm if name != "not even" or not (9500000 < at < 10000000 or 10100000 < at < 10600000)), *more])
        faults, looked = above_twin([Charge(at, 1, at) for at in stamps], [(5000000, True), (15000000, False)], 20, 1000000)
        if bool(faults) == right or looked == 0:
            wrong.append("twin, %s: %s" % (name, faults or "nothing found"))
    return wrong


def main():
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    if sys.argv[1:2] != ["--selftest"]:
        print(__doc__)
        return 2
    wrong = selftest(seed)
    print("\n".join(wrong + ["check: seed %d: %s" % (seed, "FAILED" if wrong else "PASSED")]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
