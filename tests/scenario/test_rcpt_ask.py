"""A peer without PIPELINING: each RCPT is charged at its own moment, and none leaves without its leave."""
import csv
import glob
import os
import signal
import smtplib
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


def domains(port):
    return ('domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; max-smtp-out = 4; max-msg-rate = "%d/s"; '
            'retry-after = "1s"; retry-recipients-after = "1s"; } );' % (port, RATE))


def send(sluice, messages):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=10) as s:
        for m in range(messages):
            s.sendmail("a@b.example", [f"r{m}-{i}@one.example" for i in range(RCPTS)], b"Subject: x\r\n\r\nhi\r\n")


def judge(sluice, peer, messages, exact=True):
    wanted = sorted(f"r{m}-{i}@one.example" for m in range(messages) for i in range(RCPTS))
    sluice.wait_recorded(wanted, 20)
    rows = records(sluice)
    stamps = [int(r["grantStamp"]) for r in rows if r["grantStamp"]]
    print("rcpts heard", len(peer.heard), "records", len(rows), "most by stamps", most_in(stamps, 1000000),
          "most by the peer", most_in([at for at, _ in peer.heard], 950000))
    assert most_in(stamps, 1000000) <= RATE
    assert most_in(stamps, 100000) <= RATE // 5
    assert most_in([at for at, _ in peer.heard], 950000) <= RATE
    if not exact:
        return rows
    assert peer.recipients() == wanted  # nothing lost, nothing twice
    # A stamp for each RCPT that was heard, a little before it was, and no two records of one transaction alike.
    assert len(stamps) == len(peer.heard) == len(rows)
    for at, rcpt in peer.heard:
        before = [at - int(r["grantStamp"]) for r in rows if r["rcpt"] == rcpt]
        assert min(before) >= 0 and min(before) < 100000, (rcpt, before)
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
        assert sluice.stat()["totals"]["delivered"] == 12 * RCPTS
    peer.close()


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
    peer = Lockstep()
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
        # Each RCPT that was heard has its stamp in the log.
        for at, rcpt in peer.heard:
            assert any(0 <= at - int(r["grantStamp"] or 0) < 100000 for r in rows if r["rcpt"] == rcpt), (at, rcpt)
    peer.close()
