"""A peer without PIPELINING: each RCPT is charged at its own moment, and none leaves without its leave."""
import csv
import glob
import os
import signal
import smtplib
import subprocess
import threading
import time

import harness
import smtp_peer

RCPTS = 7
RATE = 10


def boot_us():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Lockstep(smtp_peer.Peer):
    """Keeps the moment of each RCPT and MAIL."""

    def __init__(self, **script):
        super().__init__()
        self.heard = []  # (boot µs, address)
        self.lock = threading.Lock()
        self.script = {"ehlo": "250-peer.example\r\n250 8BITMIME", "rcpt": self.on_rcpt, "mail": self.on_mail, **script}

    def on_mail(self, talk, line):
        time.sleep(0.03)  # others ask meanwhile
        return smtp_peer.usual

    def on_rcpt(self, talk, line):
        with self.lock:
            self.heard.append((boot_us(), smtp_peer.path_of(line)))
        time.sleep(0.01)
        return smtp_peer.usual


def most_in(stamps, window_us):
    """The most stamps in any window [t, t + window)."""
    stamps, best, low = sorted(stamps), 0, 0
    for high, stamp in enumerate(stamps):
        while stamp - stamps[low] >= window_us:
            low += 1
        best = max(best, high - low + 1)
    return best


def records(sluice, kinds="dbt"):
    found = []
    for path in glob.glob(sluice.acct_pattern):
        with open(path, newline="") as f:
            found += [row for row in csv.DictReader(f) if row["type"] in kinds]
    return found


def event_log(sluice):
    """(events, recipients by lsn): the lines of tests/tools/eventlog."""
    tool = os.path.join(harness.ROOT, "build/release/tools/eventlog")
    done = subprocess.run([tool, sluice.spool], capture_output=True, text=True, timeout=20, check=True)
    events, rcpts = [], {}
    for line in done.stdout.splitlines():
        what, lsn, *rest = line.split("\t")
        if what == "event":
            names = ("kind", "wall", "stamp", "body", "volume", "queue", "vmta", "provider", "source", "job", "sender", "reason")
            events.append({"lsn": lsn, **dict(zip(names, rest))})
        else:
            rcpts.setdefault(lsn, []).append(rest)
    return events, rcpts


def domains(port):
    return ('domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; max-smtp-out = 4; max-msg-rate = "%d/s"; '
            'retry-after = "1s"; retry-recipients-after = "1s"; } );' % (port, RATE))


def send(sluice, messages):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
        for m in range(messages):
            s.sendmail("a@b.example", [f"r{m}-{i}@one.example" for i in range(RCPTS)], b"Subject: x\r\n\r\nhi\r\n")


def without_leave(rows, peer):
    """Each RCPT that was heard has a leave of its own before it, and was heard before its next one; those that have not."""
    bad = []
    for rcpt in {rcpt for _, rcpt in peer.heard}:
        heard = sorted(at for at, r in peer.heard if r == rcpt)
        stamps = sorted(int(r["grantStamp"]) for r in rows if r["rcpt"] == rcpt and r["grantStamp"])
        for n, at in enumerate(heard):
            if sum(s <= at for s in stamps) != n + 1:
                bad.append((rcpt, heard, stamps))
    return bad


def judge(sluice, peer, messages, exact=True):
    wanted = sorted(f"r{m}-{i}@one.example" for m in range(messages) for i in range(RCPTS))
    sluice.wait_recorded(wanted, 20)
    rows = records(sluice)
    stamps = [int(r["grantStamp"]) for r in rows if r["grantStamp"]]
    assert most_in(stamps, 1000000) <= RATE
    assert most_in(stamps, 100000) <= RATE // 5
    if not exact:
        return rows
    assert peer.recipients() == wanted  # nothing lost, nothing twice
    # A stamp for each RCPT that was heard, before it was, and no two records of one transaction alike.
    assert len(stamps) == len(peer.heard) == len(rows)
    assert without_leave(rows, peer) == []
    return rows


def test_each_rcpt_is_charged_by_itself(folder):
    peer = Lockstep()
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, 12)
        sluice.wait_drained(60)
        rows = judge(sluice, peer, 12)
        assert len({r["grantStamp"] for r in rows}) > len(rows) / 2  # asks of several connections may be answered together
        # Some were refused after MAIL: RSET, or DATA with fewer; they went back and were delivered all the same.
        assert any("RSET" in line for talk in peer.talks for line in talk.lines)
        harness.wait_for(lambda: sluice.stat()["totals"]["delivered"] == 12 * RCPTS, 10)
        # By the event log alone: every connection, every RCPT, the bytes that stay charged.
        events, rcpts = event_log(sluice)
        connects = [e for e in events if e["kind"] == "ATTEMPT"]
        assert len(connects) == len(peer.talks) and not [e for e in events if e["kind"] == "CONNECT"]
        for e, talk in zip(sorted(connects, key=lambda e: int(e["stamp"])), peer.talks):
            assert 0 < int(e["stamp"]) and e["source"] == "" and e["queue"] == "one.example/{default}", e
        results = [e for e in events if e["kind"] == "RESULT"]
        for e in results:
            delivered = [r for r in rcpts[e["lsn"]] if r[0] == "DELIVERED"]
            assert int(e["volume"]) == (int(e["body"]) if delivered else 0) and e["source"] == "127.0.0.1"
        # A refusal alone is no event; only on a busy machine one has to wait that uses its leaves too late each time.
        assert sum(all(r[0] == "UNATTEMPTED" for r in rcpts[e["lsn"]]) for e in results) <= len(results) // 10
        logged = sorted(int(r[1]) for e in results for r in rcpts[e["lsn"]] if r[0] != "UNATTEMPTED")
        assert logged == sorted(int(r["grantStamp"]) for r in rows)
    peer.close()


def test_connects_that_fail_have_their_stamp(folder):
    port = harness.free_port()
    conf = ('domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; max-connect-rate = "4/s"; retry-after = "1s"; } );' % port)
    with harness.Sluice(folder, domains=conf) as sluice:
        send(sluice, 3)
        harness.wait_for(lambda: len(records(sluice, ("tq",))) >= 3, 20)
        before = boot_us()
        connects = [e for e in event_log(sluice)[0] if e["kind"] == "CONNECT"]
        stamps = [int(e["stamp"]) for e in connects]
        assert len(stamps) >= 3 and all(before - 20000000 < s < before for s in stamps), connects
        assert most_in(stamps, 1000000) <= 4
        assert {int(r["grantStamp"]) for r in records(sluice, ("tq",))} <= set(stamps)


def test_mail_refused_charges_nobody(folder):
    seen = []

    def refuse(talk, line):
        seen.append(line)
        return "451 4.7.1 later" if len(seen) < 12 else smtp_peer.usual
    peer = Lockstep(mail=refuse)
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, 3)
        sluice.wait_drained(60)
        rows = records(sluice)
        refused = [r for r in rows if r["type"] == "t"]
        assert refused and not any(r["grantStamp"] for r in refused), refused
        assert all(r["grantStamp"] for r in rows if r["type"] == "d")
        judge(sluice, peer, 3, exact=False)
        assert peer.recipients() == sorted(f"r{m}-{i}@one.example" for m in range(3) for i in range(RCPTS))
    peer.close()


def test_scheduler_dies_while_asked(folder):
    """Nothing is lost and nothing sent twice: what had its leave is delivered, the rest comes again."""
    peer = Lockstep()
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, 10)
        for pause in (0.73, 1.31, 0.47, 0.9):
            time.sleep(pause)
            old = sluice.pids("scheduler")[0]
            # Questions pile up before it dies.
            os.kill(old, signal.SIGSTOP)
            time.sleep(0.15)
            os.kill(old, signal.SIGKILL)
            harness.wait_for(lambda: [p for p in sluice.pids("scheduler") if p != old], 20)
            sluice.wait_ready()
        sluice.wait_drained(60)
        wanted = sorted(f"r{m}-{i}@one.example" for m in range(10) for i in range(RCPTS))
        sluice.wait_recorded(wanted, 20)
        assert peer.recipients() == wanted
        rows = records(sluice)
        assert sorted(r["rcpt"] for r in rows if r["type"] == "d") == wanted
        heard = sorted(rcpt for _, rcpt in peer.heard)
        assert sorted(r["rcpt"] for r in rows if r["grantStamp"]) == heard
    peer.close()


def test_worker_dies_while_it_asks(folder):
    """Who had a stamp in the claim table was attempted; the others were not."""
    def slow(talk, body):
        time.sleep(0.3)
        return smtp_peer.usual
    peer = Lockstep(dot=slow)
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, 10)
        for pause in (0.7, 1.1, 0.9):
            time.sleep(pause)
            os.kill(sluice.pids("worker")[0], signal.SIGKILL)
        sluice.wait_drained(60)
        wanted = sorted(f"r{m}-{i}@one.example" for m in range(10) for i in range(RCPTS))
        sluice.wait_recorded(wanted, 20)
        rows = records(sluice)
        again = sluice.acct().maybe_dup
        assert set(peer.recipients()) == set(wanted)
        assert all(peer.recipients().count(r) == 1 for r in wanted if r not in again)
        stamps = [int(r["grantStamp"]) for r in rows if r["grantStamp"]]
        assert most_in(stamps, 1000000) <= RATE
        # Each RCPT that was heard has its stamp in the log; who had one and died may not have said it.
        for rcpt in {rcpt for _, rcpt in peer.heard}:
            heard = sorted(at for at, r in peer.heard if r == rcpt)
            stamps = sorted(int(r["grantStamp"]) for r in rows if r["rcpt"] == rcpt and r["grantStamp"])
            assert all(sum(s <= at for s in stamps) > n for n, at in enumerate(heard)), (rcpt, heard, stamps)
    peer.close()
