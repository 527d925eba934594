"""What a large queue costs, small: the stages of bench/million.py; names that nothing refers to any more;
deletions that are answered when they are on disk; answers in slices."""
import os
import signal
import subprocess
import sys

import harness


def test_small_million():
    """All stages at 10,000 messages: nothing lost or miscounted, memory within bounds; no turn takes long in CPU time."""
    done = subprocess.run([sys.executable, os.path.join(harness.ROOT, "bench/million.py"), "--messages", "10000", "--queues", "1000",
                           "--restarts", "1", "--probe", "500", "--probes", "1", "--retry", "3s", "--settle", "0.5", "--counts"],
                          capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all held" in done.stdout


def names(sluice):
    return sluice.stat()["totals"]["names"]


def paused_with(sluice, messages, folder, **options):
    assert sluice.sluice("pause", "queue", "q.example/{default}").returncode == 0
    load = harness.Load(folder, sluice.target, "-m", messages, "-s", 20, "--domains", "q.example", "--pipelining",
                        *[x for k, v in options.items() for x in ("--" + k, v)], name="load-" + options.get("tag", "x"))
    assert load.wait()["acknowledged"] == messages
    harness.wait_for(lambda: sluice.queued() >= messages, 10)
    return load


def test_names_are_forgotten(tmp_path):
    """A thousand jobs of one message each leave nothing behind, in memory or on disk; numbers are used again."""
    sink = harness.Sink(str(tmp_path), ["127.0.0.1:0"])
    port = int(sink.listening[0].rpartition(":")[2])
    try:
        with harness.Sluice(str(tmp_path / "s"), sink_port=port) as sluice:
            for turn in ("a", "b"):
                paused_with(sluice, 1000, str(tmp_path), job=f"{turn}-%d", tag=turn)
                harness.wait_for(lambda: names(sluice) >= 1000, 5)
                kept = sluice.ask("list", f"--jobId={turn}-7")["message"]
                assert [m["jobId"] for m in kept] == [f"{turn}-7"]
                if turn == "b":  # what is loaded is counted, too
                    os.kill(sluice.pids("scheduler")[0], signal.SIGKILL)
                    harness.wait_for(lambda: sluice.sluice("show", "status").returncode == 0, 20)
                    harness.wait_for(lambda: names(sluice) >= 1000, 5)
                    assert [m["jobId"] for m in sluice.ask("list", "--jobId=b-7")["message"]] == ["b-7"]
                assert sluice.sluice("resume", "queue", "q.example/{default}").returncode == 0
                sluice.wait_drained()
                # The queue, nothing else: the sender's domain went, too.
                harness.wait_for(lambda: names(sluice) <= 1, 10)
            os.kill(sluice.pids("scheduler")[0], signal.SIGKILL)
            harness.wait_for(lambda: sluice.sluice("show", "status").returncode == 0, 20)
            harness.wait_for(lambda: names(sluice) <= 1, 10)
    finally:
        sink.stop()


def test_deletion_is_durable_when_answered(tmp_path):
    sluice = harness.Sluice(str(tmp_path / "s"))
    sluice.start()
    try:
        for turn in range(2):
            paused_with(sluice, 2500, str(tmp_path), job="gone", tag=f"t{turn}")
            done = sluice.sluice("delete", "--jobId=gone", "--json")
            sluice.kill()
            assert done.returncode == 0 and '"matched":2500' in done.stdout.replace(" ", ""), done.stdout + done.stderr
            sluice.start()
            assert sluice.queued() == 0
            harness.wait_for(lambda: sum(1 for rows in sluice.acct().terminal.values() for _ in rows) == 2500 * (turn + 1), 20)
    finally:
        sluice.stop()


def test_what_matches_nothing_says_so(tmp_path):
    with harness.Sluice(str(tmp_path / "s")) as sluice:
        paused_with(sluice, 50, str(tmp_path), job="j", tag="x")
        for words in (("--jobId=none",), ("--queue=other.example/*",), ("--jobId=j", "--rcpt=nobody@q.example")):
            done = sluice.sluice("delete", *words)
            assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, (done.stdout, done.stderr)
        assert sluice.queued() == 50
        assert sluice.sluice("delete", "--jobId=j", "--maxitems=20").returncode == 0
        assert sluice.queued() == 30
        assert sluice.sluice("list", "--jobId=none").returncode == 0


def test_long_answers_are_whole(tmp_path):
    """More than a slice and more than a frame of each listing command, in one answer."""
    with harness.Sluice(str(tmp_path / "s")) as sluice:
        paused_with(sluice, 3000, str(tmp_path), job="j", tag="x")
        listed = sluice.ask("list", "--maxitems=100000")["message"]
        assert len(listed) == len({m["rcpt"] for m in listed}) == 3000
        assert len(sluice.ask("list", "--orig=load@load.example", "--maxitems=2500")["message"]) == 2500
        load = harness.Load(str(tmp_path), sluice.target, "-m", 2000, "-s", 20, "--domain-count", 3000, "--domain-format",
                            "d%d.example", "--pipelining", name="many")
        assert load.wait()["acknowledged"] == 2000
        queues = sluice.ask("show", "queues", "d*", "--maxitems=100000")
        assert len({q["name"] for q in queues["queue"]}) == queues["matching"] == 2000
        assert sluice.ask("pause", "queue", "*/*")["matched"] >= 2001
        assert sluice.ask("show", "queues", "--paused")["matching"] >= 2001
