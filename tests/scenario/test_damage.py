"""Damaged and foreign files: told, kept and never sent; or refused with nothing written. Never a crash, never a loss unsaid."""
import csv
import glob
import hashlib
import json
import os
import shutil
import signal
import smtplib
import struct
import subprocess
import time

import harness

LATER = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ];
  rules = ( { stage = "rcpt"; reply = "450 4.2.1 later"; } ); } );"""
# Nothing is tried again by itself while a test looks; `sluice schedule` brings it.
DOMAINS = """domains = ( { name = "*"; smtp-hosts = "[127.0.0.1]:%d"; retry-after = "1h"; retry-recipients-after = "1h"; } );"""


def patterns(spool, folder, name="*"):
    return sorted(glob.glob(os.path.join(spool, folder, name)))


def edit(path, change):
    """Whole file through `change(bytearray)`."""
    with open(path, "r+b") as f:
        data = bytearray(f.read())
        change(data)
        f.seek(0)
        f.write(data)
        f.truncate(len(data))


def flip_text(paths, text, times=None):
    """One bit of the first byte of each place where `text` stands; how many."""
    n = 0
    for path in paths:
        def change(data):
            nonlocal n
            at = data.find(text)
            while at >= 0 and (times is None or n < times):
                data[at] ^= 4
                n += 1
                at = data.find(text, at + 1)
        edit(path, change)
    return n


def rows(data):
    """(key, where its value begins, its length) in every page that looks like a leaf of LMDB, also those not in use."""
    for page in range(8192, len(data) - 4095, 4096):
        flags, lower = struct.unpack_from("<HH", data, page + 10)
        if flags != 2 or not 16 < lower <= 4096:
            continue
        for (at,) in struct.iter_unpack("<H", data[page + 16:page + lower]):
            if at > 4080:
                continue
            low, high, _, ksize = struct.unpack_from("<HHHH", data, page + at)
            if ksize == 10 and low + (high << 16) >= 54:
                yield bytes(data[page + at + 8:page + at + 18]), page + at + 18, low + (high << 16)


def queue_up(sluice, n, domains=1):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
        for i in range(n):
            s.sendmail("a@b.example", [f"r{i}@d{i % domains}.example"], f"Subject: {i}\r\n\r\nbody-of-{i}-end\r\n".encode())


def stopped_queue(folder, n=6, domains=1):
    """An instance that has queued `n` messages, tried each once, and stopped."""
    port = harness.free_port()
    sink = harness.Sink(folder, script=LATER % port, name="later")
    sluice = harness.Sluice(folder, domains=DOMAINS % port)
    sluice.start()
    queue_up(sluice, n, domains)
    harness.wait_for(lambda: sluice.stat()["totals"]["transient"] >= n, 20)
    assert sluice.stop() == 0
    sink.stop()
    return sluice, port


def deliver_rest(folder, sluice, port, n):
    """Starts it again with a sink that takes all: `n` are taken, nothing more is due."""
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"], name=f"sink{time.monotonic_ns()}")
    sluice.start()
    sluice.sluice("schedule", "*/*", "--retry-recipients")
    harness.wait_for(lambda: sink.taken() >= n, 20)
    harness.wait_for(lambda: sluice.queued() == 0, 20)
    assert sink.taken() == n
    sink.stop()
    return {t.rcpt for many in sink.read().taken.values() for t in many}


def no_death(sluice):
    for word in ("signal=6", "signal=7", "signal=11", "CHECK"):
        assert word not in sluice.log(), sluice.log()


def quarantined(sluice):
    return sluice.ask("list", "--quarantined")["message"]


def kept_and_deleted(folder, sluice, port, why, bad, accounted):
    """Visible in all places, kept over a restart and a crash, and gone when it is deleted."""
    assert [q["why"] for q in quarantined(sluice)] == [why], quarantined(sluice)
    assert sluice.ask("show", "status")["spool"]["quarantinedRcp"] == 1
    harness.wait_for(lambda: sluice.stat()["totals"]["quarantined"] == 1, 5)
    assert "quarantined=yes" in sluice.log()
    sluice.kill()
    sluice.start()
    assert [q["why"] for q in quarantined(sluice)] == [why]
    done = sluice.sluice("delete", "--quarantined")
    assert done.returncode == 0, done.stderr
    harness.wait_for(lambda: quarantined(sluice) == [], 10)
    harness.wait_for(lambda: sluice.ask("show", "status")["spool"]["quarantinedRcp"] == 0, 10)
    if accounted:
        harness.wait_for(lambda: bad in sluice.acct().terminal, 10)
    assert sluice.stop() == 0
    sluice.start()
    assert quarantined(sluice) == []
    assert sluice.stop() == 0
    no_death(sluice)


def test_record(folder):
    sluice, port = stopped_queue(folder)
    assert flip_text(patterns(sluice.spool, "segments"), b"body-of-2-end") == 1
    assert deliver_rest(folder, sluice, port, 5) == {f"r{i}@d0.example" for i in (0, 1, 3, 4, 5)}
    kept_and_deleted(folder, sluice, port, "record damaged", "r2@d0.example", True)


def test_record_of_an_expired_message(folder):
    """Its end could not say whose it is: kept, not expired."""
    sluice, port = stopped_queue(folder)
    assert flip_text(patterns(sluice.spool, "segments"), b"body-of-2-end") == 1
    sluice.text = sluice.text.replace('retry-after = "1h";', 'retry-after = "1h"; bounce-after = "1s";')
    time.sleep(1.2)
    sluice.start()
    harness.wait_for(lambda: sluice.queued() == 0, 20)
    harness.wait_for(lambda: sluice.acct().types["b"] == 5, 20)
    harness.wait_for(lambda: sluice.stat()["totals"]["expired"] == 5, 10)
    kept_and_deleted(folder, sluice, port, "record damaged", "r2@d0.example", True)


def test_row(folder):
    sluice, port = stopped_queue(folder)
    path = os.path.join(sluice.spool, "lmdb/data.mdb")

    def change(data):
        keys = sorted({key for key, _, _ in rows(data)})
        for key, at, _ in list(rows(data)):
            if key == keys[2]:
                data[at + 14] ^= 16  # in the middle of the epoch: the place is a wrong one, too
    edit(path, change)
    deliver_rest(folder, sluice, port, 5)
    assert quarantined(sluice)[0]["segment"] > 0  # found by a search, and so not used again
    kept_and_deleted(folder, sluice, port, "row damaged", None, False)


def test_name_of_a_queue(folder):
    """The records know it, too."""
    sluice, port = stopped_queue(folder, 6, 2)
    assert flip_text([os.path.join(sluice.spool, "lmdb/data.mdb")], b"d1.example/{default}") > 0
    assert len(deliver_rest(folder, sluice, port, 6)) == 6
    assert "queue names were lost" in sluice.log() and quarantined(sluice) == []
    assert sluice.stop() == 0
    no_death(sluice)


def test_segment_cut_while_stopped(folder):
    sluice, port = stopped_queue(folder)
    for path in patterns(sluice.spool, "segments"):
        os.truncate(path, 8192)
    deliver_rest(folder, sluice, port, 0)
    harness.wait_for(lambda: len(quarantined(sluice)) == 6, 10)
    assert sluice.stop() == 0
    no_death(sluice)


def test_segment_cut_while_mapped(folder):
    """The worker and the reader have it mapped: SIGBUS where they touch it."""
    port = harness.free_port()
    sink = harness.Sink(folder, script=LATER % port, name="later")
    with harness.Sluice(folder, domains=DOMAINS.replace('"1h"', '"1s"') % port, workers=1) as sluice:
        queue_up(sluice, 4)
        harness.wait_for(lambda: sluice.stat()["totals"]["transient"] >= 4, 20)
        assert len(sluice.ask("list")["message"]) == 4
        workers = sluice.pids("worker")
        for path in patterns(sluice.spool, "segments"):
            os.truncate(path, 4096)
        # After some attempts; the disk might have come back.
        harness.wait_for(lambda: len(quarantined(sluice)) == 4, 30)
        assert sluice.ask("list")["message"] == [] and sluice.pids("worker") == workers
        assert "record=unreadable" in sluice.log() and "record=damaged" in sluice.log()
        no_death(sluice)
    sink.stop()


# The event log ----------------------------------------------------------------------------------------------------------------

def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def of_another_boot(path):
    """The next event begins a new file, as after a restart of the machine."""
    def change(data):
        data[40] ^= 1
        data[56:60] = struct.pack("<I", crc32c(data[:56]))
    edit(path, change)


def flip_bytes(path, text):
    """The first place where it stands, in a file that is in use."""
    with open(path, "r+b") as f:
        data = f.read()
        at = data.index(text)
        os.pwrite(f.fileno(), bytes([data[at] ^ 4]), at)


def lsns(sluice):
    return sorted(int(r["eventId"].split("-")[1], 16) for rows in sluice.acct().terminal.values() for r in rows)


def queue_one(sluice, rcpt):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
        s.sendmail("a@b.example", [rcpt], "Subject: one\r\n\r\nbody\r\n")
    harness.wait_for(lambda: sluice.queued() == 0, 20)


def test_damaged_event_ahead_of_the_recorder(folder):
    """Told and passed over; what follows is recorded, and the files of the log are used again."""
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    first = os.path.join(folder, "spool/events/000000000001.log")
    with harness.Sluice(folder, sink_port=port, acct="d,b") as sluice:
        queue_one(sluice, "r0@d.example")
        sluice.wait_recorded(["r0@d.example"])
        recorder = sluice.pids("recorder")
        os.kill(recorder[0], signal.SIGSTOP)
        for i in range(1, 6):
            queue_one(sluice, f"r{i}@d.example")
        flip_bytes(first, b"r2@d.example")
        os.kill(recorder[0], signal.SIGCONT)
        sluice.wait_recorded([f"r{i}@d.example" for i in (0, 1, 3, 4, 5)])
        # Of each message two events: its connection and its result.
        assert "r2@d.example" not in sluice.acct().terminal and lsns(sluice) == [2, 4, 8, 10, 12]
        told = [line for line in sluice.log().splitlines() if "missing_lsn=" in line]
        assert len(told) == 1 and "missing_lsn=6..6 " in told[0] and "event_file=1 " in told[0], told
        harness.wait_for(lambda: sluice.stat()["recorder"]["gaps"] == 1, 10)
        assert sluice.stop() == 0
        # The next event begins a new file; of the first nothing is needed any more.
        of_another_boot(first)
        sluice.start()
        queue_one(sluice, "r6@d.example")
        sluice.wait_recorded(["r6@d.example"])
        # What was charged is synced every ten seconds; the events of the sync before the last one are still kept.
        harness.wait_for(lambda: not os.path.exists(first), 60)
        assert lsns(sluice) == [2, 4, 8, 10, 12, 14] and sluice.log().count("missing_lsn=") == 1
        no_death(sluice)
    sink.stop()


# queue-check ---------------------------------------------------------------------------------------------------------------------

QUICK = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ]; delay-ms = { dot = 5; };
  rules = ( { stage = "rcpt"; percent = 30.0; first-attempts = 2; reply = "450 4.2.1 later"; } ); } );"""


def cursor_lsn(sluice):
    """Of the event that the recorder reads next."""
    with open(os.path.join(sluice.spool, "cursors/acct"), "rb") as f:
        return struct.unpack("<Q", f.read()[-12:-4])[0]


def test_damaged_end_that_the_recorder_has_read(folder):
    """The last event is damaged, the recorder has it: the next ones have numbers of their own, and are recorded."""
    with harness.Sluice(folder) as sluice:
        assert sluice.sluice("pause", "queue", "d.example/{default}").returncode == 0
        time.sleep(1)
        # The transaction behind that of the message does not come any more: the store does not know that the event is synced.
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(sluice.pids("scheduler")[0]), "-P", sluice.spool + "/lmdb/data.mdb",
                                   "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=30000000:when=2"])
        harness.wait_for(lambda: "TracerPid:\t0\n" not in open(f"/proc/{sluice.pids('scheduler')[0]}/status").read(), 10)
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@b.example", ["first@d.example"], "Subject: one\r\n\r\nbody\r\n")
        harness.wait_for(lambda: "first@d.example" in received(sluice), 20)
        harness.wait_for(lambda: cursor_lsn(sluice) > received(sluice)["first@d.example"], 20)
        lsn = cursor_lsn(sluice)
        sluice.kill()
        tracer.kill()
        tracer.wait(10)
        log = [p for p in patterns(sluice.spool, "events", "*.log") if b"first@d.example" in open(p, "rb").read()]
        assert len(log) == 1 and flip_text(log, b"first@d.example") == 1
        for rcpt in ("second", "third"):
            sluice.start()
            with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
                s.sendmail("a@b.example", [f"{rcpt}@d.example"], "Subject: one\r\n\r\nbody\r\n")
            harness.wait_for(lambda: f"{rcpt}@d.example" in received(sluice), 20)
            sluice.kill()
        found = received(sluice)
        assert list(found)[0] == "first@d.example" and len(set(found.values())) == len(found)
        assert found["second@d.example"] >= lsn and "last events are damaged" in sluice.log()
        assert "records are lost" not in sluice.log()
        no_death(sluice)


def received(sluice):
    """{recipient: lsn of the event} of the `r` records."""
    found = {}
    for path in glob.glob(sluice.acct_pattern):
        with open(path, newline="") as f:
            for r in csv.DictReader(f):
                if r["type"] == "r":
                    found.setdefault(r["rcpt"], int(r["eventId"].split("-")[1], 16))
    return found


def wrong(sluice, *options):
    done = sluice.sluice("queue-check", "--json", *options)
    data = json.loads(done.stdout)["data"]
    assert done.returncode in (0, 1) and (done.returncode == 1) == (data["wrong"] > 0), (done.returncode, done.stdout, done.stderr)
    return data["rows"], {c["name"]: c["found"] for c in data["check"] if c["wrong"]}


def test_queue_check_beside_load_and_after_kills(folder):
    """It finds nothing where nothing is wrong, however busy the queue or sudden its end; and then finds what is."""
    port = harness.free_port()
    sink = harness.Sink(folder, script=QUICK % port)
    sluice = harness.Sluice(folder, sink_port=port, workers=2, receivers=2)
    sluice.start()
    assert sluice.sluice("queue-check").returncode == 3  # it runs
    load = harness.Load(folder, sluice.target, "-s", 30, "--duration", 100, "--size", "1k", "--domain-count", 20, "--reconnect",
                        "--insist")
    most = 0
    for _ in range(3):
        acknowledged = load.acknowledged()
        harness.wait_for(lambda: load.acknowledged() > acknowledged + 200, 30)
        for _ in range(3):
            rows, found = wrong(sluice, "--live")
            assert found == {}, found
            most = max(most, rows)
        sluice.kill()
        assert wrong(sluice)[1] == {}
        sluice.start()
    assert most > 0
    load.stop()
    load.wait()
    sluice.kill()
    rows, found = wrong(sluice)
    assert rows > 0 and found == {}, found
    for path in patterns(sluice.spool, "segments"):
        os.truncate(path, 4096 + 1000)
    assert set(wrong(sluice)[1]) >= {"segments", "records"}
    sink.stop()


# Refused -----------------------------------------------------------------------------------------------------------------------

def fingerprint(spool):
    """All but what any start writes: the locks."""
    marks = {}
    for top, _, names in os.walk(spool):
        for name in names:
            path = os.path.join(top, name)
            if name not in ("lock", "lock.mdb"):
                marks[os.path.relpath(path, spool)] = hash_of(path)
    return marks


def hash_of(path):
    """Of what is not zeros: holes are passed over."""
    mark = hashlib.blake2b()
    with open(path, "rb") as f:
        size, at = os.fstat(f.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break  # only a hole is left
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            block = os.pread(f.fileno(), min(end - at, 1 << 20), at)
            if block.count(0) != len(block):
                mark.update(b"%d " % at + block)
            at += len(block)
    return size, mark.hexdigest()


def zero(path, at, n):
    def change(data):
        data[at:at + n] = bytes(n)
    edit(path, change)


def set_format(text):
    def act(spool, other):
        edit(os.path.join(spool, "format"), lambda data: data.__setitem__(slice(0, len(text)), text))
    return act


def take_from_other(name):
    def act(spool, other):
        for path in patterns(spool, *os.path.split(name)):
            os.unlink(path)
        for path in patterns(other, *os.path.split(name)):
            shutil.copy(path, os.path.join(spool, os.path.dirname(name)))
    return act


def remove(*names):
    def act(spool, other):
        for name in names:
            for path in patterns(spool, *os.path.split(name)):
                os.unlink(path)
    return act


def rows_of_yesterday(spool, other):
    shutil.copy(os.path.join(spool, "../yesterday.mdb"), os.path.join(spool, "lmdb/data.mdb"))


REFUSED = {
    "format-of-a-later-version": (set_format(b"sluice spool 2\n"), "not of this version"),
    "format-zeroed": (lambda s, o: zero(os.path.join(s, "format"), 0, 40), "not of this version"),
    "format-missing": (remove("format"), "no file `format`"),
    "format-of-another-instance": (take_from_other("format"), "belongs to another instance"),
    "rows-missing": (remove("lmdb/data.mdb"), "the rows are gone"),
    "lmdb-emptied": (remove("lmdb/*"), "the rows are gone"),
    "rows-of-another-instance": (take_from_other("lmdb/data.mdb"), "belongs to another instance"),
    "rows-zeroed": (lambda s, o: zero(os.path.join(s, "lmdb/data.mdb"), 0, 8192), "unknown format"),
    "rows-without-last-commit": (lambda s, o: zero(os.path.join(s, "lmdb/data.mdb"), 4096, 4096), "unknown format"),
    "rows-of-yesterday": (rows_of_yesterday, "older than the mail"),
    "events-missing": (remove("events/*"), "event log"),
    "events-of-another-instance": (take_from_other("events/*"), "event log"),
    "claims-of-another-instance": (take_from_other("claims/worker-00"), "claims worker=0"),
    "claims-header-damaged": (lambda s, o: zero(os.path.join(s, "claims/worker-00"), 0, 8), "claims worker=0"),
    "claims-header-cut": (lambda s, o: os.truncate(os.path.join(s, "claims/worker-00"), 20), "claims worker=0"),
    "segment-of-another-instance": (take_from_other("segments/00000001.seg"), "segment=1"),
}


def two_spools(folder):
    """Ours, and one of another instance; both with queued mail, their zeros taken out so that copies are quick."""
    made = []
    for name in ("ours", "other"):
        top = os.path.join(folder, name)
        os.makedirs(top)
        sluice, _ = stopped_queue(top)
        if name == "ours":
            # A day passes: the segments are other ones, and hold newer mail.
            shutil.copy(os.path.join(sluice.spool, "lmdb/data.mdb"), os.path.join(top, "yesterday.mdb"))
            sluice.start()
            queue_up(sluice, 2)
            assert sluice.stop() == 0
        copy_spool(sluice.spool, sluice.spool + ".thin")
        shutil.rmtree(sluice.spool)
        os.rename(sluice.spool + ".thin", sluice.spool)
        made.append(sluice)
    return made


def copy_spool(source, target):
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)


def test_refused(folder):
    ours, other = two_spools(folder)
    cases = list(REFUSED)
    for some in (cases[0::2], cases[1::2]):  # side by side: the master tries for some seconds
        running = []
        for case in some:
            sluice = harness.Sluice(os.path.join(folder, case), domains=DOMAINS % 9)
            os.makedirs(sluice.folder)
            copy_spool(ours.spool, sluice.spool)
            shutil.copy(os.path.join(ours.folder, "yesterday.mdb"), sluice.folder)
            REFUSED[case][0](sluice.spool, other.spool)
            running.append((case, sluice, fingerprint(sluice.spool)))
            sluice.start(wait=False)
        for case, sluice, before in running:
            assert sluice.process.wait(30) != 0, case
            assert REFUSED[case][1] in sluice.complaints(), (case, sluice.complaints())
            no_death(sluice)
            assert fingerprint(sluice.spool) == before, case
            shutil.rmtree(sluice.folder)
