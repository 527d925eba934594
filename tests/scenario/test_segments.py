"""Segments for life: files come and go with the mail in them, behind the back of those who deliver it."""
import glob
import os
import signal
import time

import harness
import ledger

LATER = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ];
  rules = ( { stage = "rcpt"; reply = "450 4.2.1 later"; } ); } );"""


def files(sluice):
    return len(glob.glob(os.path.join(sluice.spool, "segments", "*.seg")))


def totals(sluice):
    """Of a scheduler that lives now; zeros while there is none."""
    try:
        got = sluice.stat()
    except AssertionError:
        return {}
    return got.get("totals") or {}


def judge(sluice, sinks, loads):
    sent = ledger.Load([load.ledger_path for load in loads])
    sluice.wait_recorded(sent.acked, 60)
    harness.wait_for(lambda: sum(s.taken() for s in sinks) >= sluice.acct().types["d"], 10)
    report = ledger.check(sent, ledger.Sink([s.ledger_path for s in sinks]), sluice.acct())
    assert report["ok"], report
    return report


def test_thin_segments_move_together(folder):
    """20,000 deferred messages lie thin among a gigabyte of delivered ones. Their files become few while mail flows and the
    scheduler is killed in the middle of moving; then all of it is delivered, each byte as it came."""
    port, later_port = harness.free_port(), harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    later = harness.Sink(folder, script=LATER % later_port, name="later")
    domains = ('domains = ( { name = "later.example"; smtp-hosts = "[127.0.0.1]:%d"; retry-after = "1s"; retry-recipients-after = "1h"; }, '
               '{ name = "*"; smtp-hosts = "[127.0.0.1]:%d"; retry-after = "1s"; } );' % (later_port, port))
    loads, sinks = [], [sink]
    with harness.Sluice(folder, domains=domains, top='compact-after = "1h";') as sluice:
        small = harness.Load(folder, sluice.target, "-s", 60, "-m", 20000, "--size", "2k", "--domains", "later.example", "--rate", 2000,
                             "--reconnect", "--insist", name="small")
        large = harness.Load(folder, sluice.target, "-s", 10, "-m", 10000, "--size", "100k", "--domain-count", 10, "--reconnect",
                             "--insist", name="large")
        loads += [small, large]
        assert small.wait(120)["acknowledged"] >= 20000 and large.wait(120)["acknowledged"] >= 10000
        harness.wait_for(lambda: sluice.queued() == 20000, 30, 0.1)
        most = files(sluice)
        assert sluice.stop() == 0
        sluice.text = sluice.text.replace('compact-after = "1h"', 'compact-after = "1s"')
        sluice.start()
        flow = harness.Load(folder, sluice.target, "-s", 4, "--duration", 1000, "--size", "20k", "--rate", 100, "--domain-count", 5,
                            "--reconnect", "--insist", name="flow")
        loads.append(flow)
        moved = 0
        for _ in range(4):
            harness.wait_for(lambda: totals(sluice).get("records_moved", 0) > 500, 20)
            moved += totals(sluice).get("records_moved", 0)
            scheduler, before = sluice.pids("scheduler"), flow.acknowledged()
            os.kill(scheduler[0], signal.SIGKILL)
            harness.wait_for(lambda: sluice.pids("scheduler") not in ([], scheduler), 20)
            harness.wait_for(lambda: flow.acknowledged() > before + 20, 30)
        # One alone has nothing to move together with.
        harness.wait_for(lambda: totals(sluice).get("segments_thin", 99) <= 1 and totals(sluice).get("segments_free", 99) <= 4, 60, 0.2)
        least, idle = files(sluice), totals(sluice)["segments_free"]
        print(f"files {most} -> {least}, of them free {idle}; moved before kills {moved}")
        # Two are open; the live mail fills less than one.
        assert most >= 10 and most - least >= 3 and least - idle <= 5 and moved > 2000, (most, least, idle, moved)
        assert sluice.queued() >= 20000
        later.stop()
        after = harness.Sink(folder, [f"127.0.0.1:{later_port}"], name="after")
        sinks.append(after)
        flow.stop()
        flow.wait()
        assert sluice.sluice("schedule", "later.example/*", "--retry-recipients").returncode == 0
        sluice.wait_drained(120)
        report = judge(sluice, sinks, loads)
        assert report["acknowledged"] >= 30000 and report["duplicates"] == 0, report
        log = sluice.log()
        assert "signal=6" not in log and "unreadable" not in log and "quarantined" not in log, sluice.complaints()
    for s in sinks:
        s.stop()
