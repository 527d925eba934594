"""The receiving side against RFC 5321 and its extensions, and against clients that mean no good; named by the row of the checklist."""
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import time

import harness
import pytest
from smtp_peer import Peer

HELLO = b"EHLO c.example\r\n"
FROM = b"MAIL FROM:<a@b.example>\r\n"
TO = b"RCPT TO:<c@d.example>\r\n"
replies = []  # all that any server said to any client here


class Client:
    """A raw connection; greeted unless told otherwise."""

    def __init__(self, port, source="127.0.0.1", greeted=True):
        self.sock = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))
        self.kept = b""
        self.heard = bytearray()
        replies.append(self.heard)
        if greeted:
            assert self.reply().startswith("220 ")

    def more(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.heard += data
        self.kept += data
        return data

    def reply(self):
        """The next reply, lines joined by newlines; None at the end."""
        text = ""
        while True:
            while b"\r\n" not in self.kept:
                if not self.more():
                    return None
            line, self.kept = self.kept.split(b"\r\n", 1)
            text += line.decode() + "\n"
            if line[3:4] != b"-":
                return text.rstrip("\n")

    def codes(self, n):
        return [(self.reply() or "end")[:3] for _ in range(n)]

    def ask(self, command):
        self.sock.sendall(command if isinstance(command, bytes) else command.encode() + b"\r\n")
        return self.reply()

    def ended(self):
        return not self.kept and not self.more()

    def mail(self, body, rcpts=("c@d.example",), sender="a@b.example", hello="EHLO c.example"):
        """One message, `body` in wire form without the final dot's line; the reply to the dot."""
        assert self.ask(hello).startswith("250")
        assert self.ask(f"MAIL FROM:<{sender}>").startswith("250")
        for rcpt in rcpts:
            assert self.ask(f"RCPT TO:<{rcpt}>").startswith("250")
        assert self.ask("DATA").startswith("354")
        return self.ask(body + b".\r\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


class World:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="sluice-test-")
        self.peer = Peer()
        sources = """sources = ( { match = "127.0.0.0/8"; always-allow-relaying = true; max-message-size = "1M"; max-rcpt-per-message = 120; },
            { match = "127.0.0.7/32"; smtp-data-timeout = "1s"; smtp-command-timeout = "1s"; },
            { match = "127.0.0.3/32"; always-allow-relaying = false; } );"""
        self.sluice = harness.Sluice(self.folder, sink_port=self.peer.port, sources=sources, workers=1,
                                     top='postmaster = "ops@d.example"; total-max-smtp-in = 500;').start()
        self.port = self.sluice.port
        self.receiver = self.sluice.pids("receiver")[0]

    def client(self, **kw):
        return Client(self.port, **kw)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.receiver}/fd"))

    def memory(self):
        with open(f"/proc/{self.receiver}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) * 1024

    def bodies(self, rcpt, n):
        """What came for `rcpt`, once nothing is under way any more; n of them."""
        self.sluice.wait_drained()
        found = [body for _, rcpts, body in self.peer.taken if rcpt in rcpts]
        assert len(found) == n
        return found


@pytest.fixture(scope="module")
def world():
    w = World()
    try:
        yield w
        assert w.sluice.stop() == 0
        w.sluice.remove()
    finally:
        if w.sluice.process.poll() is None:
            w.sluice.kill()
        w.peer.close()


def test_l01_l02_the_verbs_in_any_case(world):
    with world.client() as c:
        for command, code in (("noop", "250"), ("NoOp with words", "250"), ("vrfy a", "252"), ("hElP", "214"), ("rset", "250"), ("HELO x", "250"),
                              ("ehlo x", "250"), ("mail from:<a@b.example>", "250"), ("Noop", "250"), ("rcpt to:<c@d.example>", "250"), ("Vrfy x", "252"),
                              ("dATA", "354"), (b".\r\n", "250"), ("BDAT 3", "502"), ("EXPN x", "502"), ("FOO", "500"), ("quit", "221")):
            assert c.ask(command)[:3] == code, command
        assert c.ended()


def test_e08_e13_e35_what_is_offered_is_what_is_built(world):
    with world.client() as c:
        words = c.ask(HELLO).split("\n")
        assert [w[:4] for w in words] == ["250-"] * (len(words) - 1) + ["250 "]
        assert [w[4:].split(" ")[0] for w in words] == ["mta.test.example", "PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES"]
        assert "250-SIZE 1048576" in words
        assert c.ask("MAIL FROM:<a@b.example> SMTPUTF8")[:3] == "555" and c.ask("MAIL FROM:<a@b.example> BODY=BINARYMIME")[:3] == "501"
        assert c.ask("MAIL FROM:<a@b.example> RET=FULL")[:3] == "555" and c.ask("STARTTLS")[:3] == "502"


def test_l03_order(world):
    with world.client() as c:
        c.sock.sendall(FROM + HELLO + TO + b"DATA\r\n" + FROM + FROM + b"DATA\r\n" + TO + b"RSET\r\nDATA\r\n" + TO + FROM + TO + HELLO + b"DATA\r\n")
        assert c.codes(15) == "503 250 503 503 250 503 503 250 250 503 503 250 250 250 503".split()


def test_l04_l05_sizes(world):
    label = "d" * 63
    domain = ".".join([label] * 2 + ["d" * 59, "a"])  # 189 bytes: with a local part of 64 a path of 256
    with world.client() as c:
        c.ask(HELLO)
        c.ask(FROM)
        for rcpt, code in (("l" * 64 + "@" + domain, "250"), ("l" * 65 + "@d.example", "501"), ("l" * 64 + "@" + domain + "x", "501"),
                           ("u@" + "d" * 64 + ".example", "501"), ("u@" + label + ".example", "250")):
            assert c.ask(f"RCPT TO:<{rcpt}>")[:3] == code, rcpt
        assert c.ask("NOOP " + "x" * (512 - 7))[:3] == "250"
        assert c.ask("NOOP " + "x" * 100000)[:3] == "500"
        assert c.ask("RSET")[:3] == "250"
        # 100 recipients and a few more; what is too much is refused one by one, and the rest is kept.
        c.ask(FROM)
        assert [c.ask(f"RCPT TO:<u{i}@d.example>")[:3] for i in range(122)] == ["250"] * 120 + ["452"] * 2
        assert c.ask("DATA")[:3] == "354"
        assert c.ask(b"Subject: x\r\n\r\n" + b"x" * 998 + b"\r\n" + b"y" * 100000 + b"\r\n.\r\n")[:3] == "250"
    harness.wait_for(lambda: len([r for r in world.peer.recipients() if re.match(r"u\d+@d", r)]) == 120, 10)


def test_e28_size(world):
    with world.client() as c:
        c.ask(HELLO)
        assert c.ask("MAIL FROM:<a@b.example> SIZE=1048577")[:9] == "552 5.3.4"
        assert c.ask("MAIL FROM:<a@b.example> SIZE=99999999999999999999")[:3] == "552"
        assert c.ask("MAIL FROM:<a@b.example> SIZE=999999999999999999999")[:3] == "501"
        assert c.ask("MAIL FROM:<a@b.example> SIZE=1 BODY=8BITMIME")[:3] == "250" and c.ask(TO)[:3] == "250" and c.ask("DATA")[:3] == "354"
        # Its growth is cut where the limit is, whatever was said; and the session goes on.
        assert c.ask(b"x" * 1000 + b"\r\n" + (b"y" * 998 + b"\r\n") * 2000 + b".\r\n")[:9] == "552 5.3.4"
        assert c.mail(b"Subject: small\r\n\r\nx\r\n")[:3] == "250"


def test_l06_patience_by_default(world):
    out = subprocess.run([world.sluice.bin("sluiced"), "--print-manual"], capture_output=True, text=True).stdout.replace("\\-", "-")
    for name in ("smtp-command-timeout", "smtp-data-timeout"):
        assert re.search(rf"(?s){name}.{{0,200}}\b10m\b", out), name  # RFC 5321 4.5.3.2.7: at least 5 minutes


def test_l07_only_crlf_dot_crlf(world):
    """What stands around a dot, 8 x 8: the peer sees exactly what was acknowledged; nothing hidden behind is ever executed."""
    edges = [b"", b"\r", b"\n", b"\r\n", b"\n\r", b"\r\r\n", b"\0\r\n", b"\r\n\0"]
    smuggled = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<smuggled@d.example>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n.\r\n"
    taken, flawed = 0, 0
    for one in edges:
        for two in edges:
            if (one, two) == (b"\r\n", b"\r\n"):
                continue
            with world.client() as c:
                c.sock.sendall(HELLO + FROM + b"RCPT TO:<smug@d.example>\r\nDATA\r\n")
                c.codes(4)
                c.sock.sendall(b"Subject: first\r\n\r\nfirst" + one + b"." + two + smuggled)
                reply = c.reply()
                if reply[:3] == "550":
                    assert reply.startswith("550 5.6.0") and c.ended()
                    flawed += 1
                else:
                    taken += 1
    assert (taken, flawed) == (4, 59)
    world.bodies("smug@d.example", taken)
    assert not [r for r in world.peer.recipients() if "smuggled" in r]


def test_l08_received(world):
    with world.client() as c:
        assert c.mail(b"Subject: one\r\n\r\nx\r\n", ["l08@d.example"], hello="HELO helo.example")[:3] == "250"
        assert c.mail(b"Subject: two\r\n\r\nx\r\n", ["l08@d.example"])[:3] == "250"
    bodies = sorted(world.bodies("l08@d.example", 2))
    form = (r"Received: from {} \(\[127\.0\.0\.1\]\)\r\n\tby mta\.test\.example with {} id [0-9a-f]+;\r\n"
            r"\t(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{{1,2}} [A-Z][a-z]{{2}} \d{{4}} \d\d:\d\d:\d\d [+-]\d{{4}}\r\nSubject: ")
    for body, helo, protocol in zip(bodies, (r"c\.example", r"helo\.example"), ("ESMTP", "SMTP")):
        assert re.match(form.format(helo, protocol), body.decode()), body


def test_l09_loop(world):
    with world.client() as c:
        hop = b"Received: from a by b; x\r\n"
        assert c.mail(hop * 99 + b"Subject: x\r\n\r\nx\r\n")[:3] == "250"
        assert c.mail(hop * 101 + b"Subject: x\r\n\r\nx\r\n").startswith("554 5.4.6")
        assert c.mail(b"Subject: x\r\n\r\n" + hop * 101)[:3] == "250"  # in the body they count nothing


def test_l10_l11_l12_l15_recipients(world):
    with world.client() as c:
        c.ask(HELLO)
        assert c.ask("MAIL FROM:<>")[:3] == "250"
        for path, code in (("<Postmaster>", "250"), ("<@a.example,@[127.0.0.1]:routed@d.example>", "250"), ("<u@[127.0.0.1]>", "550"), ("<>", "501"),
                           ("<nobody>", "501"), ("<last@d.example>", "250")):
            assert c.ask("RCPT TO:" + path)[:3] == code, path
        assert c.ask("DATA")[:3] == "354" and c.ask(b"Subject: x\r\n\r\nx\r\n.\r\n")[:3] == "250"
    taken = harness.wait_for(lambda: [t for t in world.peer.taken if t[0] == ""], 10)
    assert sorted(taken[0][1]) == ["last@d.example", "ops@d.example", "routed@d.example"]


def test_e05_nothing_pipelined_is_lost(world):
    with world.client() as c:
        one = FROM + TO + b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nNOOP\r\n"
        c.sock.sendall(HELLO + b"NOOP\r\n" * 1000 + one * 50 + b"QUIT\r\n")
        assert c.codes(1 + 1000 + 50 * 5 + 1) == ["250"] * 1001 + ["250", "250", "354", "250", "250"] * 50 + ["221"]
        assert c.ended()


def test_half_closed_clients_get_their_answers(world):
    """Whoever closes his side behind the dot hears the 250 of what was queued, or would send it again."""
    with world.client() as c:
        c.sock.sendall(HELLO + FROM + TO + b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n" + FROM + TO + b"DATA\r\nSubject: y\r\n\r\ny\r\n.\r\nNOOP\r\nNO")
        c.sock.shutdown(socket.SHUT_WR)
        assert c.codes(10) == "250 250 250 354 250 250 250 354 250 250".split()
        assert c.ended()
    with world.client() as c:
        c.sock.sendall(HELLO + FROM + b"RCPT TO:<half@d.example>\r\nDATA\r\nSubject: not whole\r\n\r\nx\r\n.\r")
        c.sock.shutdown(socket.SHUT_WR)
        assert c.codes(5) == "250 250 250 354 end".split()
    world.bodies("half@d.example", 0)


def test_v27_trickles_and_idle_clients_end(world):
    before = world.descriptors()
    clients = [world.client(source="127.0.0.7") for _ in range(4)]
    idle, line, body, deaf = clients
    body.sock.sendall(HELLO + FROM + TO + b"DATA\r\n")
    assert body.codes(4) == "250 250 250 354".split()
    deaf.sock.settimeout(0.3)
    try:
        for _ in range(2000):
            deaf.sock.sendall(b"NOOP\r\n" * 5000)
    except (TimeoutError, socket.timeout, ConnectionError):
        pass
    deaf.sock.settimeout(10)
    began, heard = time.monotonic(), {}
    while len(heard) < 3 and time.monotonic() - began < 20:
        for name, c in (("idle", idle), ("line", line), ("body", body)):
            try:
                if name not in heard:
                    if name != "idle":
                        c.sock.sendall(b"x")
                    c.sock.settimeout(0.05)
                    heard[name] = c.reply()
            except (TimeoutError, socket.timeout):
                pass
            except ConnectionError:
                heard[name] = "reset"
    assert {k: v and v[:9] for k, v in heard.items()} == {n: "421 4.4.2" for n in ("idle", "line", "body")}, heard
    for c in (idle, line, body):
        c.sock.close()
    harness.wait_for(lambda: world.descriptors() <= before, 30)  # the deaf one, too
    deaf.sock.close()


def test_v27_whoever_does_not_read_holds_up_nobody(world):
    """Part of a command behind replies that nobody takes: the others are served, and its time is not made longer."""
    before = world.descriptors()
    with world.client() as other, world.client(source="127.0.0.7") as deaf:
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        chunk = b"NOOP\r\n" * 500
        deaf.sock.sendall(b"NO")
        deaf.sock.settimeout(0.2)
        filled = False
        for _ in range(4000):
            try:
                deaf.sock.sendall(chunk[2:] + b"NO")  # each ends within a command
            except (TimeoutError, socket.timeout, ConnectionError):
                filled = True
                break
            assert other.ask("NOOP")[:3] == "250"
        assert filled
        assert other.ask("NOOP")[:3] == "250"
        harness.wait_for(lambda: world.descriptors() <= before + 1, 30)


def test_v28_other_protocols_are_dropped(world):
    for first in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n" + HELLO + FROM, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0\0\0\0", b"CONNECT a:25 HTTP/1.1\r\n\r\n"):
        with world.client() as c:
            began = time.monotonic()
            c.sock.sendall(first)
            assert c.ended() and time.monotonic() - began < 5, first
    with world.client() as c:
        c.sock.sendall(b"WHAT\r\n" * 30)
        assert c.codes(22) == ["500"] * 20 + ["421", "end"]


def test_v5_v9_hostile_lines(world):
    before = world.memory()
    with world.client() as c:
        began = time.monotonic()
        assert c.ask(b"MAIL FROM:<" + b"a" * (1 << 20) + b"@x>\r\n")[:3] == "500"
        assert time.monotonic() - began < 5
        assert c.ask(b"EHLO a\0b\r\n")[:3] == "500" and c.ask(b"NOOP\n")[:3] == "500" and c.ask(HELLO)[:3] == "250"
        for sender in ("a" * 2000, '"' * 2000, "(" * 2000, '"\\' * 900, "<" * 2000, "@a," * 600 + ":b@c", '"a@evil.example"@b.example\\', "a@b.example> SIZE=1\\r\\nRCPT", "a|b`c$(d);e"):
            assert c.ask(f"MAIL FROM:<{sender}>")[:3] in ("501", "500"), sender
        assert c.ask("NOOP")[:3] == "250"
    with world.client() as c:  # a line that never ends
        try:
            for _ in range(64):
                c.sock.sendall(b"x" * (1 << 20))
        except ConnectionError:
            pass
    assert world.memory() - before < 8 << 20
    with world.client() as c:  # a header of 100,000 fields, and one of 1 MB
        assert c.mail(b"X: y\r\n" * 100000 + b"\r\nx\r\n")[:3] == "250"
        assert c.mail(b"X: " + b"y" * 1000000 + b"\r\n\r\nx\r\n")[:9] == "552 5.3.4"


def test_v10_rset_and_aborts_leave_nothing(world):
    abort = b"RCPT TO:<abort@d.example>\r\n"
    with world.client() as c:
        c.sock.sendall(HELLO + (FROM + TO + b"RSET\r\n") * 3000)
        assert c.codes(9001) == ["250"] * 9001
    fds = world.descriptors()
    for i in range(1000):
        with world.client(greeted=False) as c:
            c.sock.sendall(HELLO + FROM + abort + b"DATA\r\nSubject: x\r\n\r\n" + b"y" * 2000 + b"\r\n")
            if i % 3 == 0:
                assert c.codes(5) == "220 250 250 250 354".split()
            elif i % 3 == 1:
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    harness.wait_for(lambda: world.descriptors() <= fds, 30)
    world.bodies("abort@d.example", 0)


def test_v27_floods_leave_descriptors(folder):
    """More clients than descriptors: each is told, and those kept back for segments stay free."""
    peer = Peer()
    sluice = harness.Sluice(folder, sink_port=peer.port, workers=1, top="total-max-smtp-in = 5000;")
    sluice.wrapper = ["sh", "-c", 'ulimit -n 256; exec "$0" "$@"']
    sluice.start()
    sluice.wrapper = []
    try:
        receiver = sluice.pids("receiver")[0]
        honest = Client(sluice.port)
        began = time.monotonic()
        clients = [Client(sluice.port, greeted=False) for _ in range(400)]
        said = [c.reply()[:3] for c in clients]
        assert time.monotonic() - began < 30
        assert 150 < said.count("220") < 230 and set(said) == {"220", "421"}
        assert len(os.listdir(f"/proc/{receiver}/fd")) < 250
        assert honest.mail(b"Subject: x\r\n\r\nx\r\n")[:3] == "250"
        for c in clients:
            c.sock.close()
        harness.wait_for(lambda: len(os.listdir(f"/proc/{receiver}/fd")) < 60, 30)
        honest.sock.close()
        harness.wait_for(lambda: peer.taken, 10)
    finally:
        assert sluice.stop() == 0
        peer.close()


def test_idle_processes_sleep(world):
    """No busy loops: with clients connected in every state, a second costs next to no processor time."""
    clients = [world.client() for _ in range(6)]
    clients[1].sock.sendall(HELLO)
    clients[2].sock.sendall(HELLO + FROM + TO + b"DATA\r\nhalf a mess")
    clients[3].sock.sendall(b"NOO")
    clients[4].sock.shutdown(socket.SHUT_WR)
    clients[5].sock.settimeout(0.2)
    try:
        for _ in range(2000):
            clients[5].sock.sendall(b"NOOP\r\n" * 5000)
    except (TimeoutError, socket.timeout):
        pass
    pids = [world.receiver, *world.sluice.pids("worker")]

    def still():
        "all that was sent is worked off"
        before = sum(harness.cpu_seconds(p) for p in pids)
        time.sleep(0.2)
        return sum(harness.cpu_seconds(p) for p in pids) - before <= 0.02
    harness.wait_for(still, 20)
    before = [harness.cpu_seconds(p) for p in pids]
    time.sleep(1.5)
    for pid, was in zip(pids, before):
        assert harness.cpu_seconds(pid) - was <= 0.15
    for c in clients:
        c.sock.close()


def test_l14_the_last_word_is_421(world):
    """It stops the instance: only the check of what was heard comes behind it."""
    idle, busy = world.client(), world.client()
    busy.sock.sendall(HELLO + FROM + TO + b"DATA\r\nSubject: x\r\n")
    assert busy.codes(4) == "250 250 250 354".split()
    os.kill(world.sluice.master_pid(), signal.SIGTERM)
    assert idle.reply().startswith("421 4.3.2") and idle.ended()
    assert busy.ask(b"\r\nx\r\n.\r\n")[:3] == "250"
    assert busy.reply().startswith("421 4.3.2") and busy.ended()


def test_l13_e30_form_of_all_replies(world):
    """The last one: each reply line that any client here has heard."""
    seen = 0
    for heard in replies:
        lines = bytes(heard).split(b"\r\n")
        for line in lines[:-1]:
            seen += 1
            assert 3 <= len(line) <= 510 and b"\n" not in line and b"\r" not in line and line.isascii()
            assert re.match(rb"[2-5]\d\d[ -]", line), line
            hello = line.startswith((b"220 mta", b"250-", b"250 mta", b"250 ENHANCED", b"354 "))
            assert hello or re.match(rb"(\d)\d\d[ -]\1\.\d{1,3}\.\d{1,3} ", line), line
    assert seen > 10000
