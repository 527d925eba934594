"""A process without descriptors to spare: what it cannot look up now is looked up later, and nothing is told wrong meanwhile."""
import csv
import glob
import os
import resource
import signal
import smtplib
import subprocess
import time

import harness

HANGS = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ];
  delay-ms = { dot = 60000; }; } );"""


def send(sluice, *rcpts):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=10) as s:
        s.sendmail("a@b.example", list(rcpts), b"Subject: 1\r\n\r\nhi\r\n")


def descriptors(pid):
    return {int(n) for n in os.listdir(f"/proc/{pid}/fd")}


def limit(pid, number):
    """No descriptor from this number on may be opened."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def leave_one(pid):
    """The process may open one more descriptor."""
    used = harness.wait_for(lambda: still(pid), 20)
    limit(pid, [n for n in range(len(used) + 2) if n not in used][1])


def still(pid):
    """What it has open, when that does not change."""
    seen = descriptors(pid)
    for _ in range(5):
        time.sleep(0.1)
        if descriptors(pid) != seen:
            return None
    return seen


def all_free(pid):
    limit(pid, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1])


def rows(sluice, kind):
    found = []
    for path in glob.glob(sluice.acct_pattern):
        with open(path, newline="") as f:
            found += [r for r in csv.DictReader(f) if r["type"] == kind]
    return found


def test_deleting_waits_for_the_record(folder):
    """Not one descriptor for the segment: the deletion is told with its recipients, when it can be read."""
    with harness.Sluice(folder) as sluice:
        assert sluice.sluice("pause", "queue", "d.example/{default}").returncode == 0
        send(sluice, "one@d.example", "two@d.example")
        pid = sluice.pids("scheduler")[0]
        leave_one(pid)  # the operator's
        asking = subprocess.Popen([sluice.bin("sluice"), "-c", sluice.conf_path, "delete", "--queue=d.example/*"],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        harness.wait_for(lambda: "records read=failed" in sluice.log() or rows(sluice, "b"), 10)
        limit(pid, 3)
        time.sleep(1.2)
        early = rows(sluice, "b")
        spent = harness.cpu_seconds(pid)
        time.sleep(1)
        spent = harness.cpu_seconds(pid) - spent
        all_free(pid)
        said = asking.communicate(timeout=20)[0]
        assert asking.returncode == 0, said
        harness.wait_for(lambda: len(rows(sluice, "b")) == 2, 10)
        assert sorted(r["rcpt"] for r in rows(sluice, "b")) == ["one@d.example", "two@d.example"]
        assert [r['rcpt'] for r in early] == [] and spent < 0.5
        assert sluice.queued() == 0 and "records read=failed" in sluice.log()


def kill_worker(sluice):
    pid = sluice.pids("worker")[0]
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_lost_attempt_waits_for_the_record(folder):
    """A worker dies and the scheduler cannot open the segment: the attempt is told with its recipient, later."""
    port = harness.free_port()
    sink = harness.Sink(folder, script=HANGS % port)
    with harness.Sluice(folder, sink_port=port, workers=1) as sluice:
        for _ in range(2):  # so that the next death is followed by a pause, without a new channel
            dead = kill_worker(sluice)
            harness.wait_for(lambda: sluice.pids("worker") not in ([], [dead]) and sluice.log().count("ready role=worker") > _ + 1, 10)
        send(sluice, "one@d.example")
        harness.wait_for(lambda: sluice.stat()["totals"]["attempted"] == 1, 10)
        time.sleep(0.3)  # the message is out, up to its dot
        scheduler = sluice.pids("scheduler")[0]
        limit(scheduler, 3)
        kill_worker(sluice)
        harness.wait_for(lambda: "records read=failed" in sluice.log() or rows(sluice, "t"), 10, 0.005)
        all_free(scheduler)
        early = rows(sluice, "t")
        harness.wait_for(lambda: rows(sluice, "t"), 20)
        assert [r["rcpt"] for r in rows(sluice, "t")][:1] == ["one@d.example"]
        assert early == [] and sluice.pids("scheduler") == [scheduler]
    sink.stop()
