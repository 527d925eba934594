"""sluice, the command: exit status, one line of why, JSON as it comes, tables for people."""
import json
import os
import signal
import smtplib
import subprocess
import time

import harness
import pytest


@pytest.fixture
def pair(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    sluice = harness.Sluice(folder, sink_port=port)
    try:
        sluice.start()
        yield sluice, sink
        sluice.stop()
    finally:
        sluice.kill()
        sink.stop()


def send(sluice, *recipients):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
        s.sendmail("a@here.example", list(recipients), b"X-Load-Id: m\r\nSubject: x\r\n\r\nbody\r\n")


def one_line(done):
    """stderr is one line that says why."""
    return done.stderr.startswith("sluice: ") and done.stderr.count("\n") == 1 and len(done.stderr) > 12


READING = ["show status", "show queues", "show topqueues", "show domains", "show vmtas", "show sources", "show workers",
           "show settings d.example/{default}", "list", "version", "check config"]


@pytest.mark.parametrize("words", READING)
def test_reading_commands(pair, words):
    sluice, sink = pair
    text, answer = sluice.sluice(*words.split()), sluice.sluice(*words.split(), "--json")
    assert (text.returncode, text.stderr) == (0, ""), text
    assert text.stdout.strip() != ""
    assert (answer.returncode, answer.stderr) == (0, ""), answer
    envelope = json.loads(answer.stdout)
    assert set(envelope) == {"data", "status", "message"} and envelope["status"] == "success" and isinstance(envelope["data"], dict)


@pytest.mark.parametrize("words,status", [
    ("show queue nothere.example/{default}", 1), ("show settings d.example/nothere", 1), ("pause queue nothere.example/*", 1),
    ("top", 1), ("explain x", 1),
    ("", 2), ("nonsense", 2), ("show", 2), ("show queue", 2), ("show queues --nonsense", 2), ("pause queue", 2), ("stop now", 2),
    ("show queues --maxitems=many", 2)])
def test_exit_status_when_refused(pair, words, status):
    sluice, sink = pair
    done = sluice.sluice(*words.split())
    assert done.returncode == status and done.stdout == "", done
    assert one_line(done) or words == ""
    if status == 1:
        answer = sluice.sluice(*words.split(), "--json")
        envelope = json.loads(answer.stdout)
        assert answer.returncode == 1 and envelope["status"] == "error" and envelope["message"] != "" and one_line(answer)


def test_no_daemon(folder):
    sluice = harness.Sluice(folder)
    with open(sluice.conf_path, "w") as f:
        f.write(sluice.text)
    for words in ("show status", "stop", "list --json"):
        done = sluice.sluice(*words.split())
        assert done.returncode == 3 and one_line(done), done
    done = subprocess.run([sluice.bin("sluice"), "-s", os.path.join(folder, "none"), "show", "status"], capture_output=True, text=True)
    assert done.returncode == 3 and one_line(done)
    done = subprocess.run([sluice.bin("sluice"), "-c", os.path.join(folder, "none"), "show", "status"], capture_output=True, text=True)
    assert done.returncode == 1 and one_line(done)


def test_hung_daemon(pair):
    """The scheduler stands still: exit status 3 in bounded time."""
    sluice, sink = pair
    scheduler = sluice.pids("scheduler")[0]
    os.kill(scheduler, signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = sluice.sluice("show", "status")
        assert done.returncode == 3 and one_line(done) and time.monotonic() - began < 25
    finally:
        os.kill(scheduler, signal.SIGCONT)


def test_check_config(folder):
    sluice = harness.Sluice(folder)
    with open(sluice.conf_path, "w") as f:
        f.write(sluice.text + '\nno-such-directive = 1;\ndomains = ( { name = "x"; max-msg-rate = 7; } );\n')
    for words in (("check", "config"), ("check", "config", sluice.conf_path)):
        done = sluice.sluice(*words)
        assert done.returncode == 1 and one_line(done), done
        assert "no-such-directive" in done.stdout and all(line.startswith(sluice.conf_path + ":") for line in done.stdout.splitlines())
    answer = sluice.sluice("check", "config", "--json")
    data = json.loads(answer.stdout)["data"]
    assert answer.returncode == 1 and data["errors"] >= 2 and len(data["report"]) >= data["errors"]


def test_pause_list_delete_resume(pair):
    """Paused mail stays; it is listed and deleted by selection; resumed mail goes."""
    sluice, sink = pair
    send(sluice, "u@first.example")
    sluice.wait_drained()
    # A queue is known from its first mail on.
    assert sluice.sluice("pause", "queue", "first.example/*").returncode == 0
    send(sluice, "keep@first.example")
    send(sluice, "drop@first.example")
    harness.wait_for(lambda: sluice.queued() == 2, 10)
    rows = sluice.ask("list", "--queue=first.example/*")["message"]
    assert len(rows) == 2 and all(r["queue"] == "first.example/{default}" for r in rows)
    assert "keep@first.example" in sluice.sluice("list").stdout
    assert sluice.ask("show", "queue", "first.example/{default}")["queue"][0]["paused"] is True
    assert "paused" in sluice.sluice("show", "queue", "first.example/{default}").stdout
    unselective = sluice.sluice("delete", "--rcpt=drop@first.example")
    assert unselective.returncode in (1, 2) and one_line(unselective)  # as PowerMTA: it wants --queue or --jobId
    assert sluice.sluice("delete", "--queue=first.example/*", "--rcpt=drop@first.example").returncode == 0
    harness.wait_for(lambda: sluice.queued() == 1, 10)
    assert sluice.sluice("resume", "queue", "first.example/{default}").returncode == 0
    sluice.wait_drained()
    harness.wait_for(lambda: sink.taken() == 2, 10)
    assert sorted(sink.read().taken) == ["keep@first.example", "u@first.example"]


def test_tables_are_aligned(pair):
    sluice, sink = pair
    send(sluice, *[f"u@{'x' * n}.example" for n in (1, 9, 30)])
    sluice.wait_drained()
    lines = sluice.sluice("show", "queues").stdout.splitlines()
    column = lines[0].index("MODE")
    assert [line[column:column + 6] for line in lines[1:4]] == ["normal"] * 3
    assert max(len(line) for line in lines) > 80  # nothing is cut off in a pipe


def test_stop(pair):
    sluice, sink = pair
    done = sluice.sluice("stop")
    assert done.returncode == 0, done
    assert sluice.process.wait(1) == 0  # it was gone when the command ended
    assert sluice.sluice("show", "status").returncode == 3
