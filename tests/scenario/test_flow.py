"""The way of a message: in by SMTP, durable, out by SMTP, recorded."""
import csv
import glob
import os
import signal
import smtplib
import socket
import subprocess
import time

import harness
import ledger
import pytest


@pytest.fixture
def pair(folder):
    """A sink and an instance that delivers everything to it."""
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    sluice = harness.Sluice(folder, sink_port=port)
    sluice.start()
    yield sluice, sink
    sluice.stop()
    sink.stop()


def settle(sluice, sink, load):
    sluice.wait_drained()
    sent = load.read()
    sluice.wait_recorded(sent.acked)
    # The sink writes its ledger in batches.
    harness.wait_for(lambda: sink.taken() >= sluice.acct().types["d"], 10)
    report = ledger.check(sent, sink.read(), sluice.acct())
    assert report["ok"], report
    return report


@pytest.mark.parametrize("size,messages", [("2k", 500), ("20k", 200), ("mix", 300), ("1000000", 10)])
def test_messages_arrive_whole(pair, size, messages, folder):
    sluice, sink = pair
    load = harness.Load(folder, sluice.target, "-s", 10, "-m", messages, "--size", size)
    assert load.wait()["acknowledged"] == messages
    assert settle(sluice, sink, load)["taken"] == messages


def test_larger_than_a_segment(pair):
    sluice, sink = pair
    line = b"0123456789abcdef" * 4 + b"\r\n"
    body = line * (70 * (1 << 20) // len(line))
    with smtplib.SMTP("127.0.0.1", sluice.port) as s:
        s.sendmail("a@b.example", ["large@d.example"], b"X-Load-Id: large\r\nSubject: x\r\n\r\n" + body)
        s.sendmail("a@b.example", ["small@d.example"], b"X-Load-Id: small\r\nSubject: x\r\n\r\nsmall\r\n")
    sluice.wait_drained()
    harness.wait_for(lambda: sink.taken() == 2, 20)
    row = sink.read().taken["large@d.example"][0]
    assert row.bytes >= len(body) and row.hash == sink.read().taken["large@d.example"][-1].hash
    assert (row.key, len(sink.read().taken["large@d.example"])) == ("large", 1)


def test_many_recipients_in_many_queues(pair, folder):
    sluice, sink = pair
    load = harness.Load(folder, sluice.target, "-s", 4, "-m", 20, "--rcpts", 250, "--spread", "--domain-count", 7)
    load.wait()
    report = settle(sluice, sink, load)
    assert report["taken"] == 20 * 250
    # One entry per queue, not one per recipient.
    harness.wait_for(lambda: sluice.stat()["totals"]["delivered"] == 5000, 5)
    total = sluice.stat()["totals"]
    assert total["received"] == 20 and total["received_rcpt"] == 5000


def test_truth_per_recipient(folder):
    port = harness.free_port()
    script = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; rules = (
        { stage = "rcpt"; percent = 20.0; sticky = true; reply = "550 5.1.1 no such user"; },
        { stage = "rcpt"; percent = 30.0; first-attempts = 1; reply = "450 4.2.1 later"; } ); } );""" % port
    sink = harness.Sink(folder, script=script)
    with harness.Sluice(folder, sink_port=port) as sluice:
        load = harness.Load(folder, sluice.target, "-s", 5, "-m", 40, "--rcpts", 25)
        load.wait()
        report = settle(sluice, sink, load)
        assert 0 < report["bounced"] < 1000 and report["taken"] == 1000 - report["bounced"]
        assert report["duplicates"] == 0
        types = sluice.acct().types
        assert types["d"] == report["taken"] and types["b"] == report["bounced"] and types["t"] > 100
        assert types["r"] == 1000
    sink.stop()


def test_headers_choose_vmta_and_job(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    vmtas = """virtual-mtas = ( { name = "a"; smtp-source-hosts = ( { ip = "127.0.0.31"; name = "a.example"; } ); },
        { name = "b"; smtp-source-hosts = ( { ip = "127.0.0.32"; name = "b.example"; } ); } );
        virtual-mta-pools = ( { name = "p"; virtual-mtas = [ "a", "b" ]; } );"""
    with harness.Sluice(folder, sink_port=port, vmtas=vmtas) as sluice:
        def send(rcpt, *headers):
            with smtplib.SMTP("127.0.0.1", sluice.port) as s:
                body = "".join(h + "\r\n" for h in headers) + "Subject: x\r\nX-Load-Id: " + rcpt + "\r\n\r\nhello\r\n"
                s.sendmail("me@x.example", [rcpt], body)
        send("one@d.example", "X-Virtual-MTA: a", "X-Job: job7", "X-Envid: env9")
        send("two@d.example", "X-Virtual-MTA: b")
        for i in range(10):
            send(f"pool{i}@d.example", "X-Virtual-MTA: p")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            send("bad@d.example", "X-Virtual-MTA: nosuch")
        assert refused.value.smtp_code == 550
        sluice.wait_drained()
        harness.wait_for(lambda: sink.taken() >= 12, 10)
        ips = {r: rows[0].client.split(":")[0] for r, rows in sink.read().taken.items()}
        assert ips["one@d.example"] == "127.0.0.31" and ips["two@d.example"] == "127.0.0.32"
        assert sorted(ips[f"pool{i}@d.example"] for i in range(10)) == ["127.0.0.31"] * 5 + ["127.0.0.32"] * 5
        sluice.wait_recorded(list(ips))
        row = sluice.acct().terminal["one@d.example"][0]
        assert (row["vmta"], row["jobId"], row["envId"], row["queue"]) == ("a", "job7", "env9", "d.example/a")
        assert row["dlvSourceIp"] == "127.0.0.31" and row["type"] == "d" and row["dsnStatus"].startswith("2.")
        pool = sluice.acct().terminal["pool0@d.example"][0]
        assert pool["vmtaPool"] == "p"
    sink.stop()


def test_control_headers_do_not_leave(folder):
    """X-Virtual-MTA, X-Job and X-Envid are read and removed; everything else leaves as it came, behind our Received."""
    got = []
    from aiosmtpd.controller import Controller

    class Handler:
        async def handle_DATA(self, server, session, envelope):
            got.append(envelope.original_content)
            return "250 2.0.0 ok"
    controller = Controller(Handler(), hostname="127.0.0.1", port=harness.free_port())
    controller.start()
    try:
        with harness.Sluice(folder, sink_port=controller.port) as sluice:
            body = b"From: a@b.example\r\nX-Job: j1\r\nSubject: t\r\nX-Envid:\r\n  folded\r\nTo: c@d.example\r\n\r\n.dot\r\n..two\r\nend\r\n"
            with smtplib.SMTP("127.0.0.1", sluice.port) as s:
                s.sendmail("a@b.example", ["c@d.example"], body)
            harness.wait_for(lambda: got, 10)
    finally:
        controller.stop()
    head, _, rest = got[0].partition(b"From: ")
    assert head.startswith(b"Received: from ") and head.count(b"Received:") == 1
    assert b"From: " + rest == body.replace(b"X-Job: j1\r\n", b"").replace(b"X-Envid:\r\n  folded\r\n", b"")


def test_relay_only_by_client_rules(folder):
    sluice = harness.Sluice(folder, sink_port=1, sources='sources = ( { match = "127.0.0.2/32"; always-allow-relaying = true; } );')
    with sluice:
        with smtplib.SMTP("127.0.0.1", sluice.port, source_address=("127.0.0.1", 0)) as s:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                s.sendmail("a@b.example", ["c@d.example"], "x")
            assert refused.value.recipients["c@d.example"][0] == 550
        with smtplib.SMTP("127.0.0.1", sluice.port, source_address=("127.0.0.2", 0)) as s:
            s.sendmail("a@b.example", ["c@d.example"], "Subject: x\r\n\r\nx\r\n")
        assert sluice.queued() == 1


def test_smuggling_is_refused(pair):
    sluice, sink = pair
    for ending in (b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r\n\x00.\r\n", b"\0"):
        with socket.create_connection(("127.0.0.1", sluice.port), 5) as s:
            f = s.makefile("rwb")
            assert f.readline().startswith(b"220 ")
            for line in (b"HELO x", b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA"):
                f.write(line + b"\r\n")
                f.flush()
                assert f.readline()[:1] in b"23"
            f.write(b"Subject: x\r\n\r\nbody" + ending + b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<smuggled@d.example>\r\nDATA\r\nx\r\n.\r\n")
            f.flush()
            assert f.readline().startswith(b"550 5.6.0"), ending
    time.sleep(0.3)
    assert sluice.stat()["totals"]["received"] == 0 and sink.taken() == 0


def test_stop_and_start_lose_nothing(folder):
    port = harness.free_port()
    sluice = harness.Sluice(folder, sink_port=port)
    sluice.start()
    load = harness.Load(folder, sluice.target, "-s", 5, "-m", 300)
    assert load.wait()["acknowledged"] == 300
    harness.wait_for(lambda: sluice.queued() == 300, 5)
    assert sluice.stop() == 0
    sluice.start()
    harness.wait_for(lambda: sluice.queued() == 300, 5)
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    sluice.sluice("schedule", "*/*")
    settle(sluice, sink, load)
    assert sluice.stop() == 0
    sink.stop()


def test_second_instance_is_refused(folder):
    sluice = harness.Sluice(folder, sink_port=1)
    with sluice:
        second = harness.Sluice(folder, sink_port=1)
        done = subprocess.run([second.bin("sluiced"), "-f", "-c", sluice.conf_path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done
        assert "spool" in done.stderr or "spool" in sluice.log()
        assert sluice.queued() == 0


def test_expiry_in_every_state(folder):
    """bounce-after holds while a queue is paused, in retry, or never reached."""
    domains = ('domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:1"; retry-after = "1h"; bounce-after = "3s"; } );')
    with harness.Sluice(folder, domains=domains) as sluice:
        sluice.sluice("pause", "queue", "paused.example/{default}")
        with smtplib.SMTP("127.0.0.1", sluice.port) as s:
            for d in ("paused", "retry", "other"):
                s.sendmail("a@b.example", [f"x@{d}.example"], "Subject: x\r\n\r\nx\r\n")
        names = [f"x@{d}.example" for d in ("paused", "retry", "other")]
        sluice.wait_recorded(names, 20)
        for n in names:
            row = sluice.acct().terminal[n][0]
            assert row["type"] == "b" and row["dsnDiag"] == "x-sluice;delivery time expired (bounce-after)", row
        assert sluice.queued() == 0


def test_limits_of_a_queue(folder):
    """max-smtp-out, max-msg-per-connection, max-rcpt-per-transaction, max-msg-rate by the sink's own count."""
    port = harness.free_port()
    sink = harness.Sink(folder, script="""providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ];
        delay-ms = { dot = 20; }; } );""" % port)
    domains = (f'domains = ( {{ name = "few.example"; smtp-hosts = "[127.0.0.1]:{port}"; max-smtp-out = 3; max-msg-per-connection = 5; }},'
               f' {{ name = "slow.example"; smtp-hosts = "[127.0.0.1]:{port}"; max-msg-rate = "20/s"; }} );')
    with harness.Sluice(folder, domains=domains) as sluice:
        sluice.sluice("pause", "queue", "few.example/{default}")  # or little is left to see
        load = harness.Load(folder, sluice.target, "-s", 10, "-m", 100, "--domains", "few.example")
        load.wait()
        sluice.sluice("resume", "queue", "few.example/{default}")
        most = 0
        end = time.time() + 60
        while sluice.queued() and time.time() < end:
            most = max(most, *[q["conn"] for q in sluice.ask("show", "queues")["queue"]], 0)
        assert 0 < most <= 3
        harness.wait_for(lambda: sink.taken() == 100, 10)
        by_connection = {}
        for rows in sink.read().taken.values():
            by_connection.setdefault(rows[0].client, []).append(rows[0])
        assert max(map(len, by_connection.values())) <= 5
        slow = harness.Load(folder, sluice.target, "-s", 10, "-m", 60, "--domains", "slow.example", name="slow")
        slow.wait()
        sluice.wait_drained()
        harness.wait_for(lambda: sink.taken() == 160, 10)
        at = sorted(rows[0].time_us for r, rows in sink.read().taken.items() if "slow.example" in r)
        # Exact at the leaves; the sink sees them through a queue of its own, and the machine may be busy.
        assert 1e6 < at[-1] - at[0] < 30e6
        harness.wait_for(lambda: len(sluice.records("d")) == 160, 20)
        granted = sorted(int(r["grantStamp"]) for r in sluice.records("d") if "slow.example" in r["rcpt"])
        assert len(granted) == 60 and all(b - a > 1000000 for a, b in zip(granted, granted[20:]))
    sink.stop()


def test_accounting_columns(pair, folder):
    sluice, sink = pair
    load = harness.Load(folder, sluice.target, "-m", 3)
    load.wait()
    settle(sluice, sink, load)
    path = sorted(glob.glob(sluice.acct_pattern))[0]
    with open(path, newline="") as f:
        text = f.read()
    assert "\r\n" in text
    header = next(csv.reader([text.split("\r\n")[0]]))
    wanted = ("type timeLogged timeQueued orig rcpt orcpt dsnAction dsnStatus dsnDiag dsnMta bounceCat srcType srcMta dlvType "
              "dlvSourceIp dlvDestinationIp dlvEsmtpAvailable dlvSize vmta jobId envId queue vmtaPool").split()
    assert [c for c in header if c in wanted] == wanted and header[0] == "type"
    assert header[-3:] == ["eventId", "grantStamp", "maybeDup"]


def test_operator_commands(folder):
    with harness.Sluice(folder, sink_port=1) as sluice:
        with smtplib.SMTP("127.0.0.1", sluice.port) as s:
            for i in range(20):
                s.sendmail("boss@b.example", [f"u{i}@d{i % 2}.example"], "X-Job: j%d\r\nSubject: x\r\n\r\nx\r\n" % (i % 4))
        assert sluice.queued() == 20
        assert sluice.sluice("pause", "queue", "d0.example/*").returncode == 0
        queue = sluice.ask("show", "queue", "d0.example/{default}")["queue"][0]
        assert queue["paused"] and queue["blocked"]["by"] == "paused" and queue["rcp"] == 10 and queue["mode"] == "normal"
        assert sluice.sluice("resume", "queue", "*/*").returncode == 0
        assert len(sluice.ask("list", "--queue=d1.example/*", "--maxitems=100")["message"]) == 10
        found = sluice.ask("list", "--rcpt=u3@d1.example")["message"]
        assert [m["rcpt"] for m in found] == ["u3@d1.example"] and found[0]["orig"] == "boss@b.example" and found[0]["jobId"] == "j3"
        assert sluice.sluice("delete", "--jobId=j2").returncode == 0
        harness.wait_for(lambda: sluice.queued() == 15, 5)
        sluice.wait_recorded([f"u{i}@d0.example" for i in range(2, 20, 4)])
        row = sluice.acct().terminal["u2@d0.example"][0]
        assert row["type"] == "b" and "deleted by administrator" in row["dsnDiag"]
        assert sluice.sluice("delete").returncode == 2
        assert sluice.sluice("show", "queue", "none.example/{default}").returncode == 1
        assert sluice.sluice("show", "nonsense").returncode == 2
        for words in (("show", "status"), ("show", "queues"), ("show", "topqueues"), ("show", "domains"), ("show", "vmtas"),
                      ("show", "sources"), ("show", "workers"), ("show", "settings", "d0.example/{default}")):
            assert sluice.sluice(*words).returncode == 0, words
            assert sluice.ask(*words) is not None
        settings = {x["name"]: x for x in sluice.ask("show", "settings", "d0.example/{default}")["setting"]}
        assert settings["retry-after"]["file"].endswith("sluice.conf") and settings["retry-after"]["line"] > 0
        assert sluice.sluice("stop").returncode == 0
        harness.wait_for(lambda: sluice.process.poll() is not None, 30)
        assert sluice.process.returncode == 0
        assert sluice.sluice("show", "status").returncode == 3


def test_children_leave_with_the_master(folder):
    sluice = harness.Sluice(folder, sink_port=1).start()
    pids = list(sluice.pids())
    assert {harness.comm_of(p).split("-")[1] for p in pids} == set(harness.ROLES)
    os.kill(sluice.master_pid(), signal.SIGKILL)
    sluice.process.wait(5)

    def gone():
        return not any(harness.lives(p) for p in pids)
    harness.wait_for(gone, 10)
    sluice.start()
    sluice.stop()
