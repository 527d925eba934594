"""A process without descriptors to spare: what it cannot look up now is looked up later, and nothing is told wrong meanwhile."""
import csv
import glob
import os
import resource
import signal
import smtplib
import subprocess
import sys
import threading
import time

import harness
import pytest
import test_damage

sys.path.insert(0, os.path.join(harness.ROOT, "tests/torture"))
import claims  # noqa: E402

HANGS = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ];
  delay-ms = { dot = 60000; }; } );"""


def send(sluice, *rcpts):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
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
        said = asking.communicate(timeout=60)[0]
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
        harness.wait_for(lambda: claims.count(sluice.spool, (claims.DOT_SENT,)) == 1, 10)
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


def send_unanswered(sluice, *rcpts):
    with pytest.raises((smtplib.SMTPException, OSError)):
        send(sluice, *rcpts)


def holds(path, text):
    with open(path, "rb") as f:
        return text in f.read()


def unlogged_reception(folder, *rcpts):
    """A queue that lost its scheduler right between the rows of a message and its reception event; nobody runs."""
    sluice = harness.Sluice(folder)
    sluice.start()
    time.sleep(1)  # the event files are made ready
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", os.path.join(folder, "trace"), "-p", str(sluice.pids("scheduler")[0]), "-e", "trace=pwrite64",
         "-e", "inject=pwrite64:error=EIO:when=1"] + [w for n in glob.glob(sluice.spool + "/events/*") for w in ("-P", n)])
    harness.wait_for(lambda: "TracerPid:\t0\n" not in open(f"/proc/{sluice.pids('scheduler')[0]}/status").read(), 10)
    sending = threading.Thread(target=send_unanswered, args=(sluice, *rcpts))
    sending.start()
    harness.wait_for(lambda: "commit=failed" in sluice.log(), 10, 0.005)
    sluice.kill()
    sending.join(20)
    tracer.wait(10)
    assert rows(sluice, "r") == []
    return sluice


def test_a_reception_is_found_by_any_entry(folder):
    """The row of the first recipient is damaged: the `r` records come from the other one's."""
    sluice = unlogged_reception(folder, "one@d.example", "two@e.example")
    seen = []

    def change(data):
        for key, at, _ in test_damage.rows(data):
            if key[8:] == b"\0\0":
                data[at + 14] ^= 16
                seen.append(key)
    test_damage.edit(os.path.join(sluice.spool, "lmdb/data.mdb"), change)
    assert seen
    with sluice:
        harness.wait_for(lambda: len(rows(sluice, "r")) == 2, 10)
        assert sorted(r["rcpt"] for r in rows(sluice, "r")) == ["one@d.example", "two@e.example"]


def test_a_damaged_list_of_receptions(folder):
    """The list of the messages whose reception is to be logged again is damaged: the queue opens, and says so."""
    sluice = unlogged_reception(folder, "one@d.example")
    path = os.path.join(sluice.spool, "lmdb/data.mdb")
    with open(path, "rb") as f:
        places = f.read().count(b"receptions")
    assert places > 0

    def change(data):
        at = data.find(b"receptions")
        while at >= 0:
            data[at + 20] ^= 4
            at = data.find(b"receptions", at + 1)
    test_damage.edit(path, change)
    with sluice:
        assert "row=receptions" in sluice.log()
        said = sluice.log().count("row=receptions")
        assert sluice.stop() == 0
        sluice.start()
        assert sluice.log().count("row=receptions") == said


def without_maps(path):
    """A wrapper: no process gets memory to map this file."""
    return ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-P", path, "-e", "trace=mmap", "-e", "inject=mmap:error=ENOMEM"]


def segment_with(sluice, text):
    found = [p for p in glob.glob(sluice.spool + "/segments/*.seg") if holds(p, text)]
    assert len(found) == 1
    return found[0]


def test_a_reception_is_not_forgotten(folder):
    """Its segment cannot be mapped in the next life, nor in the one after: the `r` record comes when it can, before the mail goes."""
    port = harness.free_port()
    sluice = unlogged_reception(folder, "one@d.example")
    sluice.text = sluice.text.replace('domains = ( { name = "*"; ', f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; ')
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    sluice.wrapper = without_maps(segment_with(sluice, b"Subject: 1"))
    for _ in range(2):
        sluice.start()
        harness.wait_for(lambda: sluice.log().count("records read=failed") > _, 20)
        time.sleep(1.5)
        assert rows(sluice, "r") == [] and sink.taken() == 0
        assert sluice.log().count("records read=failed") == _ + 1
        sluice.kill()
    sluice.wrapper = []
    with sluice:
        harness.wait_for(lambda: rows(sluice, "r") and sink.taken() == 1, 20)
        sluice.wait_drained()
        assert [r["rcpt"] for r in rows(sluice, "r")] == ["one@d.example"]
    sink.stop()


def test_what_does_not_pass_is_not_waited_for(folder):
    """A segment that the file system refuses for a reason of its own: the deletion does not wait for it for ever."""
    with harness.Sluice(folder) as sluice:
        assert sluice.sluice("pause", "queue", "d.example/{default}").returncode == 0
        send(sluice, "one@d.example")
        path = segment_with(sluice, b"Subject: 1")
        os.rename(path, path + ".hidden")
        os.symlink(os.path.basename(path), path)
        said = sluice.sluice("delete", "--queue=d.example/*", "--rcpt=one@d.example")
        assert said.returncode == 1 and "1 entries could not be read" in said.stdout + said.stderr, said
        assert sluice.sluice("delete", "--queue=d.example/*").returncode == 0 and sluice.queued() == 0
        assert "record=unreadable" in sluice.log() and "records read=failed" not in sluice.log()
        os.unlink(path)
        os.rename(path + ".hidden", path)


def mount(path, megabytes, again=False):
    """Why not, or "". """
    words = ["mount", "-t", "tmpfs", "-o", f"{'remount,' if again else ''}size={megabytes}m", "tmpfs", path]
    return subprocess.run(words, capture_output=True, text=True).stderr.strip()


def test_a_full_disk_of_events_that_were_read(folder):
    """The start needs a new event file, the disk is full of old ones that the recorder has done with: they make room."""
    spool = os.path.join(folder, "spool")
    os.makedirs(spool)
    why = mount(spool, 64)
    if why:
        pytest.skip("no file system can be mounted: " + why)
    try:
        sluice = harness.Sluice(folder, spool=spool, sink_port=harness.free_port())
        for megabytes in (64, 96, 64):  # for a disk of another size each start begins a file of another size
            assert mount(spool, megabytes, again=True) == ""
            sluice.start()
            send(sluice, f"r{megabytes}@d.example")
            assert sluice.stop() == 0
        files = sorted(glob.glob(spool + "/events/*.log"))
        tail = [f for f in files if holds(f, b"r64@d.example")][-1]
        assert int(os.path.basename(tail)[:-4]) >= 3
        for spare in files[files.index(tail) + 1:]:
            os.unlink(spare)
        assert mount(spool, 96, again=True) == ""
        with open(spool + "/events/000000000001.log", "wb", buffering=0) as f, pytest.raises(OSError):
            while True:
                f.write(bytes(65536))
        with sluice:
            send(sluice, "more@d.example")
            assert sluice.queued() == 4 and not os.path.exists(spool + "/events/000000000001.log")
    finally:
        sluice.kill()
        subprocess.run(["umount", spool], check=False)


def test_more_queues_than_a_worker_has_descriptors(folder):
    """Each queue gets its connection in turn; none is opened in vain, none is lost."""
    port, n = harness.free_port(), 300
    sink = harness.Sink(folder, script=HANGS.replace("60000", "1000") % port)
    with harness.Sluice(folder, sink_port=port, workers=1) as sluice:
        resource.prlimit(sluice.master_pid(), resource.RLIMIT_NOFILE, (300, 300))
        kill_worker(sluice)
        harness.wait_for(lambda: sluice.log().count("ready role=worker") == 2, 10)
        assert resource.prlimit(sluice.pids("worker")[0], resource.RLIMIT_NOFILE) == (300, 300)
        send(sluice, *[f"r@d{i}.example" for i in range(n)])  # all at once

        def limits():
            return [q["blocked"]["limit"] for q in sluice.ask("show", "queues", "--maxitems=1000")["queue"] if q.get("blocked")]
        harness.wait_for(lambda: "descriptors of the worker" in limits() or "connect=failed" in sluice.log(), 10)
        most, end = 0, time.monotonic() + 120
        while sink.taken() < n:
            assert time.monotonic() < end, sink.taken()
            most = max(most, len(descriptors(sluice.pids("worker")[0])))
            time.sleep(0.1)
        sluice.wait_drained()
        assert 80 < most < 300, most
        assert "connect=failed" not in sluice.log() and "no room left" not in sluice.log() and sluice.log().count("died role") == 1
        assert rows(sluice, "t") == []
        assert {t.rcpt for many in sink.read().taken.values() for t in many} == {f"r@d{i}.example" for i in range(n)}
        assert sink.taken() == n
    sink.stop()
