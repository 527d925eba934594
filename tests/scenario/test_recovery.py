"""What a crash leaves: nothing is lost, nothing is sent twice unsaid, and no start fails on what is there."""
import mmap
import os
import random
import signal
import smtplib
import socket
import stat
import time

import harness
import ledger

SLOW = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ];
  delay-ms = { dot = 600; }; } );"""
QUICK = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ];
  delay-ms = { dot = 3; }; rules = ( { stage = "rcpt"; percent = 3.0; first-attempts = 1; reply = "450 4.2.1 later"; } ); } );"""
LATER = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ];
  rules = ( { stage = "rcpt"; reply = "450 4.2.1 later"; } ); } );"""


def judge(sluice, sink, load):
    sent = load.read()
    sluice.wait_recorded(sent.acked, 40)
    harness.wait_for(lambda: sink.taken() >= sluice.acct().types["d"], 10)
    report = ledger.check(sent, sink.read(), sluice.acct())
    assert report["ok"], report
    return report


def no_abort(sluice):
    assert "signal=6" not in sluice.log() and "CHECK" not in sluice.complaints(), sluice.complaints()


def test_job_with_the_name_of_a_queue(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    with harness.Sluice(folder, sink_port=port) as sluice:
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@b.example", ["x@one.example"], b"X-Job: two.example/{default}\r\nSubject: 1\r\n\r\nhi\r\n")
            s.sendmail("a@b.example", ["x@two.example"], b"Subject: 2\r\n\r\nhi\r\n")
        sluice.wait_drained()
        sluice.kill()
        sluice.start()
        # Only queues come back as queues, not the names of jobs.
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@b.example", ["y@one.example"], b"X-Job: a/b\r\nSubject: 1\r\n\r\nhi\r\n")
        sluice.wait_drained()
        harness.wait_for(lambda: sink.taken() == 3, 10)
        sluice.kill()
        sluice.start()
        assert not [q for q in sluice.ask("show", "queues")["queue"] if q["name"] == "a/b"]
        no_abort(sluice)
    sink.stop()


def test_deferred_mail_keeps_its_next_try(folder):
    """Tries, next due time and last reply, to the second, over a killed scheduler and over a stop."""
    port = harness.free_port()
    sink = harness.Sink(folder, script=LATER % port)
    domains = f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; retry-recipients-after = "10m"; }} );'
    with harness.Sluice(folder, domains=domains) as sluice:
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@b.example", [f"x{i}@one.example" for i in range(3)], b"Subject: 1\r\n\r\nhi\r\n")
        shown = lambda: [(m["rcpt"], m["attempts"], m["nextDue"], m["lastReply"]) for m in sluice.ask("list")["message"]]
        harness.wait_for(lambda: [row[1:4:2] for row in shown()] == 3 * [(1, "450 4.2.1 later")], 10)
        before = shown()
        assert all(row[2] for row in before)
        old = sluice.pids("scheduler")
        os.kill(old[0], signal.SIGKILL)
        harness.wait_for(lambda: sluice.pids("scheduler") not in ([], old), 20)
        sluice.wait_ready()
        assert shown() == before
        assert sluice.stop() == 0
        sluice.start()
        assert shown() == before
        no_abort(sluice)
    sink.stop()


def test_fewer_workers_and_receivers(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, script=SLOW % port)
    with harness.Sluice(folder, sink_port=port, workers=4, receivers=3) as sluice:
        load = harness.Load(folder, sluice.target, "-s", 20, "-m", 200, "--domain-count", 20)
        load.wait()
        harness.wait_for(lambda: sluice.stat()["totals"]["connections"] > 10, 10)
        time.sleep(0.2)  # in the middle of their dots
        sluice.kill()
        sluice.text = sluice.text.replace("workers = 4", "workers = 1").replace("receivers = 3", "receivers = 1")
        sluice.start()
        sluice.wait_drained()
        report = judge(sluice, sink, load)
        assert report["acknowledged"] == 200
        no_abort(sluice)
        # What the missing receivers had open is free again.
        harness.wait_for(lambda: sluice.stat()["totals"]["segments"] - sluice.stat()["totals"]["segments_free"] <= 2, 10)
    sink.stop()


def test_claims_of_one_entry_in_a_row(folder):
    """An entry is claimed again for its next recipients before the last result is on disk: both claims count."""
    rng = random.Random(5)
    port = harness.free_port()
    sink = harness.Sink(folder, script=QUICK % port)
    domains = ('domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; retry-after = "1s"; retry-recipients-after = "1s"; '
               'max-rcpt-per-transaction = 2; } );' % port)
    with harness.Sluice(folder, domains=domains, workers=3) as sluice:
        load = harness.Load(folder, sluice.target, "-s", 30, "--duration", 1000, "--rcpts", 12, "--domain-count", 3,
                            "--reconnect", "--insist")
        for i in range(14):
            time.sleep(rng.uniform(0.2, 0.5))
            before = load.acknowledged()
            if i % 3 == 2:
                sluice.kill()
                sluice.start(wait=False)
            else:
                for role in (("scheduler",), ("scheduler", "worker"))[i % 2]:
                    for pid in sluice.pids(role)[:2]:
                        os.kill(pid, signal.SIGKILL)
            harness.wait_for(lambda: load.acknowledged() > before, 30)
        load.stop()
        load.wait()
        sluice.wait_drained()
        report = judge(sluice, sink, load)
        assert report["acknowledged"] > 1000
        no_abort(sluice)
    sink.stop()


def test_deleting_one_recipient_leaves_the_other_its_time(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, script=LATER % port)
    domains = 'domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; retry-recipients-after = "1h"; } );' % port
    with harness.Sluice(folder, domains=domains) as sluice:
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@b.example", ["one@d.example", "two@d.example"], b"Subject: 1\r\n\r\nhi\r\n")

        def listed():
            return {m["rcpt"]: (m["attempts"], m["nextDue"]) for m in sluice.ask("list")["message"]}
        harness.wait_for(lambda: listed().get("two@d.example", (0, ""))[0] == 1, 10)
        due = listed()["two@d.example"]
        assert sluice.sluice("delete", "--queue=d.example/*", "--rcpt=one@d.example").returncode == 0
        harness.wait_for(lambda: list(listed()) == ["two@d.example"], 10)
        assert listed()["two@d.example"] == due
        sluice.kill()
        sluice.start()
        assert listed() == {"two@d.example": due}
        assert sluice.stat()["totals"]["attempted"] == 0  # since this start
    sink.stop()


def test_outcomes_without_an_attempt_are_counted_once(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, script=LATER % port)
    domains = ('domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; retry-recipients-after = "1h"; bounce-after = "2s"; }, '
               '{ name = "gone.example"; type = "discard"; } );' % port)
    with harness.Sluice(folder, domains=domains) as sluice:
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@b.example", ["one@d.example", "two@d.example", "three@gone.example"], b"Subject: 1\r\n\r\nhi\r\n")
        sluice.wait_drained()
        harness.wait_for(lambda: sluice.stat()["totals"]["expired"] == 2, 10)
        total = sluice.stat()["totals"]
        assert (total["attempted"], total["transient"], total["delivered"], total["bounced"]) == (2, 2, 1, 0)
        traffic = sluice.ask("show", "status")["traffic"]
        assert (traffic["expired"], traffic["delivered"], traffic["bounced"]) == (2, 1, 0)
    sink.stop()


def scribble(pid):
    """Nonsense over the counters of its channel: what a process gone mad could do to the scheduler."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if "memfd:sluice-channel" not in os.readlink(f"/proc/{pid}/fd/{fd}"):
            continue
        with open(f"/proc/{pid}/fd/{fd}", "r+b") as f, mmap.mmap(f.fileno(), 4096) as page:
            page[64:512] = b"\xa5" * 448
        return
    raise AssertionError(f"{pid} has no channel")


def test_a_process_that_breaks_its_channel_is_replaced(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    with harness.Sluice(folder, sink_port=port, workers=2, receivers=2) as sluice:
        load = harness.Load(folder, sluice.target, "-s", 20, "--duration", 1000, "--domain-count", 10, "--reconnect", "--insist")
        for role in ("worker", "receiver", "recorder"):
            before, victim = load.acknowledged(), sluice.pids(role)[0]
            harness.wait_for(lambda: load.acknowledged() > before + 50, 20)
            scribble(victim)
            harness.wait_for(lambda: victim not in sluice.pids(role) and len(sluice.pids(role)) > 0, 20)
            harness.wait_for(lambda: load.acknowledged() > before + 100, 20)
        scheduler = sluice.pids("scheduler")
        load.stop()
        load.wait()
        sluice.wait_drained()
        judge(sluice, sink, load)
        assert sluice.pids("scheduler") == scheduler
    sink.stop()


def test_silent_operators_do_not_keep_others_out(folder):
    with harness.Sluice(folder, sink_port=harness.free_port()) as sluice:
        path = next(os.path.join(sluice.run_dir, n) for n in os.listdir(sluice.run_dir)
                    if stat.S_ISSOCK(os.stat(os.path.join(sluice.run_dir, n)).st_mode))
        silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(200)]
        for s in silent:
            s.connect(path)
        for _ in range(3):
            assert sluice.sluice("show", "status").returncode == 0
        for s in silent:
            s.close()
