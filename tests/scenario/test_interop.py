"""Peers that we did not write: Postfix's smtp-source and smtp-sink, swaks, aiosmtpd. 1,000 messages each."""
import hashlib
import os
import smtplib
import subprocess
import threading

import harness
from conftest import program


def body_of(raw):
    return raw.replace(b"\r\n", b"\n").partition(b"\n\n")[2].rstrip(b"\n")


def test_smtp_source_to_smtp_sink(folder):
    port = harness.free_port()
    dumps = os.path.join(folder, "dump")
    os.makedirs(dumps)
    os.chmod(folder, 0o755)
    os.chmod(dumps, 0o777)
    # One file per message, named by time and process.
    command = [program("smtp-sink"), "-d", dumps + "/%H%M%S.", f"127.0.0.1:{port}", "1000"]
    if os.geteuid() == 0:
        command[1:1] = ["-u", "nobody"]
    sink = subprocess.Popen(command)
    text = b"Subject: interop\n\n" + b"".join(b"line %d of the body\n.with a dot\n" % i for i in range(50))
    source_file = os.path.join(folder, "message")
    with open(source_file, "wb") as f:
        f.write(text)
    try:
        with harness.Sluice(folder, sink_port=port) as sluice:
            subprocess.run([program("smtp-source"), "-s", "20", "-m", "1000", "-F", source_file, "-f", "a@b.example", "-t", "c@d.example",
                            f"127.0.0.1:{sluice.port}"], check=True, timeout=120)
            sluice.wait_drained()
            harness.wait_for(lambda: sluice.stat()["totals"]["delivered"] == 1000, 5)

            def all_dumped():
                "smtp-sink has written all messages"
                return len(os.listdir(dumps)) >= 1000
            harness.wait_for(all_dumped, 20)
            hashes = set()
            for name in os.listdir(dumps):
                with open(os.path.join(dumps, name), "rb") as f:
                    raw = f.read()
                # The dump begins with the envelope as X- headers; the message's own header follows.
                hashes.add(hashlib.sha256(body_of(raw)).hexdigest())
            assert hashes == {hashlib.sha256(body_of(text)).hexdigest()}
    finally:
        sink.terminate()
        sink.wait()


def test_swaks(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    swaks = program("swaks")
    body = "swaks body\n.leading dot\n" + "x" * 900 + "\n"
    with harness.Sluice(folder, sink_port=port) as sluice:
        failures = []

        def some(first):
            for i in range(first, 1000, 4):
                done = subprocess.run([swaks, "--silent", "3", "--server", sluice.target, "--from", "a@b.example", "--to", f"u{i}@d.example",
                                       "--header", f"X-Load-Id: k{i}", "--body", body], capture_output=True, text=True, timeout=60)
                if done.returncode != 0:
                    failures.append((i, done.stdout, done.stderr))
        threads = [threading.Thread(target=some, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failures, failures[:3]
        sluice.wait_drained()
        harness.wait_for(lambda: sink.taken() >= 1000, 10)
        taken = sink.read().taken
        assert len(taken) == 1000 and all(len(rows) == 1 for rows in taken.values())
        assert len({rows[0].hash for rows in taken.values()}) == 1
        assert all(taken[f"u{i}@d.example"][0].key == f"k{i}" for i in range(1000))
    sink.stop()


def test_aiosmtpd(folder):
    from aiosmtpd.controller import Controller
    got = {}

    class Handler:
        async def handle_DATA(self, server, session, envelope):
            got.setdefault(envelope.rcpt_tos[0], []).append(envelope.original_content)
            return "250 2.0.0 ok"
    controller = Controller(Handler(), hostname="127.0.0.1", port=harness.free_port())
    controller.start()
    want = {}
    try:
        with harness.Sluice(folder, sink_port=controller.port) as sluice:
            with smtplib.SMTP("127.0.0.1", sluice.port) as s:
                for i in range(1000):
                    body = b"Subject: %d\r\n\r\n" % i + b"".join(b".%d line %d\r\n" % (i, k) for k in range(i % 40))
                    want[f"u{i}@d.example"] = body
                    s.sendmail("a@b.example", [f"u{i}@d.example"], body)
            sluice.wait_drained()
    finally:
        controller.stop()
    assert set(got) == set(want)
    for rcpt, bodies in got.items():
        assert len(bodies) == 1
        assert hashlib.sha256(bodies[0].partition(b"Subject: ")[2]).digest() == hashlib.sha256(want[rcpt].partition(b"Subject: ")[2]).digest()
