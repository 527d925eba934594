"""The delivery side against RFC 5321 and its extensions; one instance, a scripted peer per row, named by the row of the checklist."""
import csv
import glob
import os
import random
import re
import select
import smtplib
import socket
import subprocess
import tempfile
import time

import harness
import pytest
from conftest import program
from nsd_fixture import nsd  # noqa: F401  (a fixture)
from smtp_peer import Gone, Peer, once, usual

# Domain -> what its queue has beside the peer as smtp-hosts.
SHORT = 'smtp-greeting-timeout = "1s"; smtp-command-reply-timeout = "1s"; data-send-timeout = "1s"; smtp-data-termination-timeout = "1s"; '
STAGES = ("greeting", "ehlo", "mail", "rcpt", "data", "body", "dot", "rset")
ENDS = {"fin": lambda t, a: t.close(), "rst": lambda t, a: t.reset(), "hang": lambda t, a: t.hang(), "garbage": "xyzzy",
        "half": lambda t, a: t.say(b"250 2.0") or t.close(), "continued": lambda t, a: t.say("250-2.0.0 one") or t.close(),
        "mixed": "250-2.0.0 one\r\n550 5.0.0 two", "bare-lf": b"250 2.0.0 ok\n", "code3": "354 go on", "code1": "150 2.0.0 ok",
        "code6": "650 2.0.0 ok", "nul": b"250 2.0.0 o\0k\r\n", "long": b"250 " + b"x" * 5000 + b"\r\n",
        "endless": lambda t, a: [t.say(b"250-and so on\r\n" * 500) for _ in range(1000)] and None}
DOMAINS = {
    "c01": "", "c02": "", "c03": "", "c04": "bounce-upon-5xx-greeting = false; ", "c05": "", "c06": "", "c07": "", "c09": "",
    "c11": "", "c12": "max-rcpt-per-transaction = 100; ", "c12-limits": "", "c23": 'retry-after = "1h"; ', "c24": "", "c26": "", "c28": "",
    "c29": "", "c32": "bounce-upon-5xx-greeting = false; ", "c32-rcpt": "", "e01": "", "e01-plain": "", "e02-0": "", "e02-1": "", "e02-2": "", "e02-3": "", "e03": "", "e04": "", "e09": "", "e29": "",
    "e31": "", "body": "", "early": "", "surplus": "",
    **{f"c08-{s}": SHORT for s in STAGES[:-1]}, **{f"c27-{s}": "" for s in STAGES}, **{f"c31-{e}": SHORT for e in ENDS},
}


class World:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="sluice-test-")
        self.peers = {name: Peer() for name in DOMAINS}
        self.second = Peer()
        blocks = []
        for name, more in DOMAINS.items():
            hosts = f"[127.0.0.1]:{self.peers[name].port}"
            if name in ("c04", "c32"):
                hosts += f";[127.0.0.1]:{self.second.port}"
            retry = "" if "retry-after" in more else 'retry-after = "1s"; '
            blocks.append(f'{{ name = "{name}.example"; smtp-hosts = "{hosts}"; {retry}retry-recipients-after = "1s"; {more}}}')
        vmtas = """virtual-mtas = ( { name = "v"; smtp-source-hosts = ( { ip = "127.0.0.41"; name = "a.out.example"; },
            { ip = "127.0.0.42"; name = "b.out.example"; } );
            domains = ( { name = "c01.example"; max-msg-per-connection = 1; } ); } );"""
        self.sluice = harness.Sluice(self.folder, domains="domains = ( " + ",\n".join(blocks) + " );", vmtas=vmtas, workers=1).start()

    def begin_slow_ones(self):
        """What waits for timers and retries: all of it together."""
        self.dots = {}
        for end, script in ENDS.items():
            self.peers["c31-" + end].script = {"dot": once(script)}
            self.dots[end], = self.send("c31-" + end)
        self.quits = []

        def hang(talk, _):
            self.quits.append(time.monotonic())
            try:
                talk.hang()
            finally:
                self.quits.append(time.monotonic())
        self.peers["c26"].script = {"quit": hang}
        self.send("c26")

    def send(self, name, *locals_, body=b"Subject: x\r\n\r\nbody\r\n", sender="from@here.example", options=(), vmta=None):
        """Hands in one message for recipients LOCAL@NAME.example; their addresses."""
        rcpts = [f"{one}@{name}.example" for one in locals_ or ("u",)]
        if vmta:
            body = f"X-Virtual-MTA: {vmta}\r\n".encode() + body
        with smtplib.SMTP("127.0.0.1", self.sluice.port, timeout=60) as s:
            s.ehlo("client.example")
            code, text = s.mail(sender, list(options))
            assert code == 250, text
            for rcpt in rcpts:
                code, text = s.rcpt(rcpt)
                assert code == 250, text
            code, text = s.docmd("DATA")
            assert code == 354, text
            s.send(re.sub(rb"(?m)^\.", b"..", body) + b".\r\n")
            code, text = s.getreply()
            assert code == 250, text
        return rcpts

    def rows(self, kinds="dbt"):
        found = []
        for path in sorted(glob.glob(self.sluice.acct_pattern)):
            with open(path, newline="", errors="replace") as f:
                found += [row for row in csv.DictReader(f) if row["type"] in kinds.split(",")]
        return found

    def ends(self, *rcpts, seconds=40):
        """{recipient: its terminal row}, once each has one."""
        def there():
            "each recipient has a terminal record"
            rows = {}
            for row in self.rows("d,b"):
                if row["rcpt"] in rcpts:
                    assert row["rcpt"] not in rows, "two ends of one recipient"
                    rows[row["rcpt"]] = row
            return len(rows) == len(set(rcpts)) and rows
        return harness.wait_for(there, seconds, 0.05)

    def end(self, rcpt):
        return self.ends(rcpt)[rcpt]

    def deferred(self, rcpt, n=1):
        """The rows of its transient failures, once there are `n`."""
        def there():
            "so many transient records"
            rows = [r for r in self.rows("t") if r["rcpt"] == rcpt]
            return len(rows) >= n and rows
        return harness.wait_for(there, 40, 0.05)


@pytest.fixture(scope="module")
def world():
    w = World()
    try:
        w.begin_slow_ones()
        yield w
        assert w.sluice.stop() == 0
        w.sluice.remove()
    finally:
        if w.sluice.process.poll() is None:
            w.sluice.kill()
        for p in (*w.peers.values(), w.second):
            p.close()


def test_c01_ehlo_first_with_the_name_of_the_source(world):
    peer = world.peers["c01"]
    for i in range(4):
        world.end(*world.send("c01", f"u{i}", vmta="v"))
    names = {t.client: t.lines[0] for t in peer.talks}
    assert names == {"127.0.0.41": "EHLO a.out.example", "127.0.0.42": "EHLO b.out.example"}
    world.end(*world.send("c01"))
    assert peer.talks[-1].lines[0] == "EHLO mta.test.example"


@pytest.mark.parametrize("refusal", ["500 5.5.1 what?", "502 5.5.1 no"])
def test_c02_helo_when_ehlo_is_unknown(world, refusal):
    peer = world.peers["c02"]
    peer.script = {"ehlo": refusal}
    n = len(peer.talks)
    assert world.end(*world.send("c02", "u" + refusal[:3]))["type"] == "d"
    lines = peer.talks[n].lines
    assert lines[0].startswith("EHLO ") and lines[1] == "HELO mta.test.example" and lines[2] == "MAIL FROM:<from@here.example>"


def test_c03_waits_for_the_whole_greeting(world):
    early = []

    def greeting(talk, _):
        early.append(not talk.quiet(0.4))
        talk.say("220-peer.example")
        early.append(not talk.quiet(0.4))
        return "220 ready"
    world.peers["c03"].script = {"greeting": greeting}
    assert world.end(*world.send("c03"))["type"] == "d"
    assert early == [False, False]


def test_c04_refused_by_the_greeting_the_next_host_is_tried(world):
    peer = world.peers["c04"]
    peer.script = {"greeting": "554 5.7.1 not you"}
    rcpt, = world.send("c04")
    row = world.end(rcpt)
    assert row["type"] == "d" and rcpt in world.second.recipients()
    assert not [r for r in world.rows("t") if r["rcpt"] == rcpt]  # the same attempt
    assert [t.lines for t in peer.talks] == [["QUIT"]]


def test_c05_the_code_counts_not_the_text(world):
    peer = world.peers["c05"]
    peer.script = {"dot": once("250 rejected, error 550 5.7.1", "550 ok 250 2.0.0")}
    first, = world.send("c05", "u1")
    assert world.end(first)["type"] == "d"
    second, = world.send("c05", "u2")
    assert world.end(second)["type"] == "b"


def test_c06_unknown_codes_by_their_first_digit(world):
    peer = world.peers["c06"]
    peer.script = {"dot": "299 2.9.9 well"}
    assert world.end(*world.send("c06", "d2"))["type"] == "d"
    peer.script = {"dot": "599 no"}
    row = world.end(*world.send("c06", "d5"))
    assert row["type"] == "b" and row["dsnStatus"].startswith("5.0.0")
    peer.script = {"rcpt": lambda t, line: "555 no" if "r5" in line else "455 later" if "r4" in line else "255 well"}
    rcpts = world.send("c06", "r2", "r4", "r5")
    assert [world.ends(rcpts[0], rcpts[2])[r]["type"] for r in (rcpts[0], rcpts[2])] == ["d", "b"]
    assert world.deferred(rcpts[1])
    peer.script = {}
    assert world.end(rcpts[1])["type"] == "d"


def test_c07_codes_of_one_reply_agree(world):
    peer = world.peers["c07"]
    peer.script = {"dot": once("250-2.0.0 ok\r\n550 5.0.0 no"), "ehlo": once("250-peer.example\r\n251 SIZE 1000000")}
    rcpt, = world.send("c07")
    assert world.end(rcpt)["type"] == "d"
    assert len(peer.talks) == 3 and len(peer.taken) == 1
    assert world.deferred(rcpt)[-1]["maybeDup"] in ("1", "true", "yes")


def test_c08_each_wait_has_its_own_timer(world):
    """Seven peers stop at seven stages; each connection is closed by its own timer, none before."""
    began, ended = {}, {}

    def stop(name):
        def at(talk, _):
            began.setdefault(name, time.monotonic())
            try:
                if name == "body":  # reads no more, and sees the reset
                    talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    talk.say("354 go on")
                    watched = select.poll()
                    watched.register(talk.sock, 0)
                    watched.poll(15000)
                    raise Gone
                talk.hang()
            except Gone:
                ended.setdefault(name, time.monotonic() - began[name])
                raise
        return at
    names = [s for s in STAGES if s != "rset"]
    sent = {}
    for name in names:
        world.peers["c08-" + name].script = {("data" if name == "body" else name): once(stop(name))}
        body = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * (80000 if name == "body" else 1)
        sent[name], = world.send("c08-" + name, body=body)
    harness.wait_for(lambda: len(ended) == len(names), 20)
    for name in names:
        assert 0.3 <= ended[name] < 10, ended  # its second, seen by who may hear late that it began, not the minutes that are usual
    assert {r["type"] for r in world.ends(*sent.values()).values()} == {"d"}
    for name in names[2:]:  # before MAIL nothing was attempted
        assert "timed out" in world.deferred(sent[name])[0]["dsnDiag"]


def test_c08_defaults_are_those_of_the_rfc(world):
    out = world.sluice.sluice("show", "settings", "any.example/{default}").stdout
    def seconds(name):
        text = re.search(rf"(?m)^\s*{name}\s*=?\s*\"?([0-9a-z]+)", out).group(1)
        return sum(int(n) * {"s": 1, "m": 60, "h": 3600}[u] for n, u in re.findall(r"(\d+)([smh])", text))
    assert seconds("smtp-greeting-timeout") >= 300 and seconds("smtp-command-reply-timeout") >= 300
    assert seconds("data-send-timeout") >= 180 and seconds("smtp-data-termination-timeout") >= 600


def test_c09_dots_are_doubled(world):
    rng = random.Random(5321)
    lines = ["." * rng.randrange(4) + "".join(rng.choice(".ax ") for _ in range(rng.randrange(6))) for _ in range(10000)]
    body = b"Subject: dots\r\n\r\n" + "".join(l + "\r\n" for l in lines).encode()
    assert world.end(*world.send("c09", body=body))["type"] == "d"
    wire = world.peers["c09"].taken[0][2]
    assert wire.endswith(b"\r\n.\r\n")
    got = re.sub(rb"(?m)^\.", b"", wire[:-3])
    assert got[got.index(b"Subject: "):] == body


def test_c11_552_to_rcpt_is_too_many_for_now(world):
    peer = world.peers["c11"]
    n = {}

    def rcpt(talk, _):
        n[talk] = n.get(talk, 0) + 1
        return usual if n[talk] <= 100 else "552 5.5.3 too many recipients"
    peer.script = {"rcpt": rcpt, "mail": lambda t, _: n.pop(t, None) and usual or usual}
    rcpts = world.send("c11", *[f"u{i}" for i in range(150)])
    assert {r["type"] for r in world.ends(*rcpts).values()} == {"d"}
    assert [len(r) for _, r, _ in peer.taken] == [100, 50] and peer.recipients() == sorted(rcpts)


def test_c12_recipients_are_split(world):
    for name, script, sizes in (("c12", {}, [50, 100, 100]), ("c12-limits", {"ehlo": "250-peer\r\n250-LIMITS RCPTMAX=60\r\n250 PIPELINING"}, [10, 60, 60, 60, 60])):
        peer = world.peers[name]
        peer.script = script
        rcpts = world.send(name, *[f"u{i}" for i in range(250)])
        assert {r["type"] for r in world.ends(*rcpts).values()} == {"d"}
        assert sorted(len(r) for _, r, _ in peer.taken) == sizes and peer.recipients() == sorted(rcpts)


def test_c23_a_dead_host_is_remembered(world):
    peer = world.peers["c23"]
    peer.script = {"greeting": lambda t, _: t.close()}
    for _ in range(10):
        world.send("c23", *[f"u{i}" for i in range(30)])
    def given_up():
        "its host is remembered, and no connection is under way"
        queue = world.sluice.ask("show", "queue", "c23.example/{default}")["queue"][0]
        return queue["retryTime"] is not None and queue["conn"] == 0
    harness.wait_for(lambda: peer.talks and given_up(), 20)
    time.sleep(0.3)
    tried = len(peer.talks)
    assert tried <= 10
    for _ in range(20):
        world.send("c23", *[f"u{i}" for i in range(30)])
    time.sleep(0.3)
    assert len(peer.talks) == tried
    world.sluice.sluice("delete", "--queue=c23.example/{default}")


def test_c24_the_null_sender_is_never_answered(world):
    peer = world.peers["c24"]
    peer.script = {"rcpt": "550 5.1.1 nobody"}
    rcpt, = world.send("c24", sender="")
    assert world.end(rcpt)["type"] == "b"
    assert [l for t in peer.talks for l in t.lines if l.startswith("MAIL")] == ["MAIL FROM:<> SIZE=%d" % size for size in sizes_of(peer)]


def sizes_of(peer):
    return [int(m) for t in peer.talks for l in t.lines for m in re.findall(r"SIZE=(\d+)", l)]


def test_c26_quit_and_its_reply(world):
    """QUIT is said, its reply waited for; who never answers it costs at most 5 s and changes nothing."""
    rcpt, lines, quits = "u@c26.example", world.peers["c26"].talks[0].lines, world.quits
    assert world.end(rcpt)["type"] == "d"
    harness.wait_for(lambda: len(quits) == 2, 20)
    assert 0.5 < quits[1] - quits[0] < 15
    assert len(lines) == 5 and lines[-1] == "QUIT"
    assert len([r for r in world.rows("d,b,t") if r["rcpt"] == rcpt]) == 1


def test_c27_421_at_any_stage(world):
    """Stop, come back later; nobody is lost, nobody gets it twice, and who was refused before stays refused."""
    def leave(talk, _):
        talk.say("421 4.3.2 going down")
        talk.close()
    sent = {}
    for name in STAGES:
        peer = world.peers["c27-" + name]
        peer.script = {name: once(leave)}
        if name == "rcpt":  # at the second one
            peer.script = {"rcpt": once(usual, once(leave))}
        elif name == "body":
            peer.script = {"data": once(lambda t, _: t.say("354 go on") or t.more() or leave(t, _))}
        elif name == "rset":
            peer.script = {"rset": leave, "rcpt": lambda t, line: "550 5.1.1 no" if "u1" in line or "u2" in line else usual}
        body = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * (80000 if name == "body" else 1)
        sent[name] = world.send("c27-" + name, "u1", "u2", body=body)
        if name == "rset":
            sent[name] += world.send("c27-" + name, "u3")
    for name, rcpts in sent.items():
        ends = world.ends(*rcpts)
        peer = world.peers["c27-" + name]
        assert [ends[r]["type"] for r in rcpts] == (["b", "b", "d"] if name == "rset" else ["d", "d"]), name
        assert peer.recipients() == ([rcpts[2]] if name == "rset" else rcpts), name
        for row in world.rows("t"):
            if row["rcpt"] in rcpts:
                assert row["dsnStatus"].startswith("4."), row


def test_c28_the_message_leaves_as_it_came(world):
    body = (b"Return-Path: <x@y.example>\r\nReceived: from b by c; Mon, 1 Jan 2024 00:00:00 +0000\r\nReceived: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
            b"X-Odd:\r\n  folded\t \r\nSubject: x\r\nsubject: again\r\n\r\nbody \t\r\n\r\n\r\n" + b"l" * 5000 + b"\r\nlast\r\n")
    assert world.end(*world.send("c28", body=body))["type"] == "d"
    wire = world.peers["c28"].taken[0][2][:-3]
    head, rest = wire[:len(wire) - len(body)], wire[len(wire) - len(body):]
    assert rest == body
    assert re.fullmatch(rb"Received: from client\.example \(\[127\.0\.0\.1\]\)\r\n\tby mta\.test\.example with ESMTP id \w+;\r\n\t[^\r\n]+\r\n", head), head


def test_c29_local_parts_are_kept(world):
    forms = ['Abc', '"a b"', '"A\\"b\\\\c"', "o'neil+x", '"@c29.example"', "a!b%c"]
    rcpts = world.send("c29", *forms)
    world.ends(*rcpts)
    assert world.peers["c29"].recipients() == sorted(rcpts)


@pytest.mark.parametrize("end", sorted(ENDS))
def test_c31_no_answer_to_the_dot_is_no_success(world, end):
    peer = world.peers["c31-" + end]
    rcpt = world.dots[end]
    assert world.end(rcpt)["type"] == "d"
    row, = world.deferred(rcpt)
    assert row["maybeDup"] not in ("", "0", "no", "false") and row["dsnStatus"].startswith("4."), row
    assert peer.recipients() == [rcpt]  # after the retry; the first was not answered by 2xx


def test_c31_refusals_of_the_dot(world):
    peer = world.peers["body"]
    peer.script = {"dot": once("554 5.6.0 not this", once("451 4.3.0 later"))}
    assert world.end(*world.send("body", "u1"))["type"] == "b"
    rcpt, = world.send("body", "u2")
    assert world.end(rcpt)["type"] == "d"
    assert [r["maybeDup"] for r in world.deferred(rcpt)] in ([""], ["0"], ["no"], ["false"])


def test_c32_521_and_556(world):
    peer = world.peers["c32"]
    peer.script = {"greeting": "521 5.3.2 takes no mail"}
    rcpt, = world.send("c32")
    assert world.end(rcpt)["type"] == "d"
    harness.wait_for(lambda: rcpt in world.second.recipients(), 10)  # it notes that after its 250
    assert [t.lines for t in peer.talks] == [["QUIT"]]
    world.peers["c32-rcpt"].script = {"rcpt": "556 5.1.10 null MX"}
    row = world.end(*world.send("c32-rcpt"))
    assert row["type"] == "b" and row["dsnStatus"].startswith("5.1.10")


def test_e01_pipelining_only_where_offered(world):
    peer = world.peers["e01"]
    peer.script = {"data": lambda t, _: usual if t.quiet(0.3) else "554 5.5.0 nothing may follow DATA"}
    rcpts = world.send("e01", "u1", "u2", "u3")
    assert {r["type"] for r in world.ends(*rcpts).values()} == {"d"}
    group, = [c for c in peer.talks[0].chunks if c.startswith(b"MAIL")]
    assert [l[:4] for l in group.decode().splitlines()] == ["MAIL", "RCPT", "RCPT", "RCPT", "DATA"]
    plain = world.peers["e01-plain"]
    alone = []

    def waits(stage):
        def at(talk, _):
            alone.append((stage, talk.quiet(0.1)))
            return usual
        return at
    plain.script = {"ehlo": "250-peer.example\r\n250 SIZE", **{s: waits(s) for s in ("mail", "rcpt", "data")}}
    world.ends(*world.send("e01-plain", "u1", "u2"))
    assert alone == [("mail", True), ("rcpt", True), ("rcpt", True), ("data", True)]


def test_e02_replies_are_counted(world):
    """A surplus, a missing or an unintelligible reply in a pipelined group: nobody is delivered, nobody refused by it; retried."""
    cases = {"surplus": {"mail": once("250 2.1.0 ok\r\n250 2.1.0 again")},
             "garbage": {"rcpt": once("250 2.1.5 ok\r\nhm?")},
             "early": {"greeting": once("220 peer.example\r\n250 peer.example")},
             "behind the ready": {"ehlo": once("250 peer.example\r\n250 2.1.0 ok")}}
    sent = {}
    for n, (case, script) in enumerate(cases.items()):
        nobody = {"rcpt": lambda t, line: "550 5.1.1 nobody" if "no@" in line else usual}
        world.peers[f"e02-{n}"].script = {**nobody, **script}
        sent[case] = world.send(f"e02-{n}", "u", "no")
        if case == "garbage":  # its second recipient is as good as the first
            sent[case].pop()
    for n, (case, rcpts) in enumerate(sent.items()):
        rows = world.ends(*rcpts)
        assert rows[rcpts[0]]["type"] == "d", (case, rows)
        assert world.peers[f"e02-{n}"].recipients()[-1] == rcpts[0]
        for rcpt in rcpts[1:]:
            assert rows[rcpt]["type"] == "b" and "5.1.1 nobody" in rows[rcpt]["dsnDiag"], (case, rows)


def test_e03_no_deadlock(world):
    """1,000 RCPT to a peer with small buffers that reads no further command before its reply has left."""
    peer = world.peers["e03"]

    def small(talk):
        talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer.serve(talk)
    peer.whole = small
    peer.script = {"rcpt": "250-" + "x" * 200 + "\r\n250 2.1.5 ok"}
    rcpts = world.send("e03", *[f"recipient-with-a-long-name-{i}" for i in range(1000)])
    assert {r["type"] for r in world.ends(*rcpts).values()} == {"d"}
    assert peer.recipients() == sorted(rcpts)


def test_e04_354_for_nobody(world):
    peer = world.peers["e04"]
    peer.script = {"rcpt": "550 5.1.1 nobody", "dot": "250 2.0.0 taken, really"}
    rcpts = world.send("e04", "u1", "u2")
    assert {r["type"] for r in world.ends(*rcpts).values()} == {"b"}
    assert [t.bodies for t in peer.talks] == [[b".\r\n"]]


def test_e09_eight_bits_only_where_they_are_taken(world):
    peer = world.peers["e09"]
    peer.script = {"ehlo": "250-peer.example\r\n250 PIPELINING"}
    row = world.end(*world.send("e09", "u1", body=b"Subject: x\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n", options=["BODY=8BITMIME"]))
    assert row["type"] == "b" and row["dsnStatus"].startswith("5.6.3")
    assert not [l for t in peer.talks for l in t.lines if l.startswith("MAIL")]
    # The client's word alone does not make eight bits of seven.
    row = world.end(*world.send("e09", "u2", options=["BODY=8BITMIME"]))
    assert row["type"] == "d"
    peer.script = {}
    world.end(*world.send("e09", "u3", options=["BODY=8BITMIME"]))
    world.end(*world.send("e09", "u4", body=b"Subject: x\r\n\r\n\xff\r\n", options=["BODY=7BIT"]))
    lines = {re.search("u\\d", t.lines[i + 1]).group(): l for t in peer.talks for i, l in enumerate(t.lines) if l.startswith("MAIL")}
    assert " BODY=" not in lines["u2"] + lines["u3"] and lines["u4"].endswith(" BODY=8BITMIME")


def test_e29_sizes(world):
    peer = world.peers["e29"]
    for n, (announced, kind) in enumerate({"SIZE 100": "b", "SIZE 0": "d", "SIZE": "d", "SIZE 99999999999999999999": "d", "SIZE x": "d", "SIZE 100000": "d"}.items()):
        peer.script = {"ehlo": f"250-peer.example\r\n250-{announced}\r\n250 8BITMIME"}
        before = len(peer.talks)
        row = world.end(*world.send("e29", f"u{n}"))
        assert row["type"] == kind, announced
        if kind == "b":
            assert row["dsnStatus"].startswith("5.3.4")
            assert not [l for t in peer.talks[before:] for l in t.lines if l.startswith("MAIL")]
    for (_, _, body), size in zip(peer.taken, sizes_of(peer)):
        assert size == len(body) - 3


@pytest.mark.parametrize("reply,status", [
    ("550 5.7.26 fails DMARC", "5.7.26"), ("550 5.7.2", "5.7.2"), ("550 4.7.1 mixed up", "5.1.1"), ("550 nobody", "5.1.1"), ("550", "5.1.1"),
    ("550-5.7.1 first\r\n550 5.7.1 second", "5.7.1"), ("550 5.7.1234 no", "5.1.1"), ("553 strange", "5.1.1")])
def test_e31_the_status_is_theirs_where_it_agrees(world, reply, status):
    world.peers["e31"].script = {"rcpt": reply}
    row = world.end(*world.send("e31", "u%d" % (abs(hash(reply)) % 10**9)))
    assert row["type"] == "b" and row["dsnStatus"].split(" ")[0] == status, row
    assert row["dsnDiag"].startswith("smtp;" + reply[:3])


@pytest.mark.parametrize("act", ["close", "reset", "garbage", "refusal"])
def test_peers_that_leave_while_the_body_comes(world, act):
    """Whatever is said or done before the dot: transient, and delivered once by the retry."""
    peer = world.peers["early"]

    def at(talk, _):
        talk.say("354 go on")
        talk.more()
        {"close": talk.close, "reset": talk.reset, "garbage": lambda: talk.say(b"\0\1garbage\r\n" * 10), "refusal": lambda: talk.say("552 5.3.4 too big")}[act]()
        talk.hang()
    peer.script = {"data": once(at)}
    # Larger than both sockets' buffers, so that the dot cannot have left before the peer speaks.
    rcpt, = world.send("early", act, body=b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 125000)
    assert world.end(rcpt)["type"] == "d"
    row, = world.deferred(rcpt)
    assert row["dsnStatus"].startswith("4.") and row["maybeDup"] in ("", "0", "no", "false")
    assert peer.recipients().count(rcpt) == 1


def test_surplus_reply_behind_the_dot(world):
    peer = world.peers["surplus"]
    peer.script = {"dot": "250 2.0.0 taken\r\n250 2.0.0 and again"}
    rcpts = [world.send("surplus", f"u{i}")[0] for i in range(3)]
    assert {r["type"] for r in world.ends(*rcpts).values()} == {"d"}
    assert peer.recipients() == rcpts and not [r for r in world.rows("t") if r["rcpt"] in rcpts]


def test_c10_nothing_bare_ever_left(world):
    """The last one: all that any peer has heard in this file."""
    heard = 0
    for peer in (*world.peers.values(), world.second):
        for talk in peer.talks:
            heard += len(talk.heard)
            assert b"\0" not in talk.heard
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n", talk.heard[:-1] if talk.heard.endswith(b"\r") else talk.heard)
    assert heard > 10_000_000


def test_v13_denied_whatever_dns_says(folder, nsd):  # noqa: F811
    """MX hosts at loopback, private and other such addresses: refused before connect(), which strace sees never; the mail stays queued."""
    addresses = ["127.0.0.1", "10.1.1.1", "169.254.169.254", "192.168.0.1", "172.16.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1",
                 "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1"]
    nsd.zone("test", "".join(f"d{i} MX 5 h{i}\nh{i} {'AAAA' if ':' in a else 'A'} {a}\n" for i, a in enumerate(addresses)))
    nsd.start()
    peer = Peer()
    sluice = harness.Sluice(folder, workers=1, top=f'name-server = "{nsd.name_server}";',
                            domains='domains = ( { name = "*"; default-smtp-port = %d; retry-after = "1s"; } );' % peer.port)
    sluice.text = sluice.text.replace('allow-destinations = [ "127.0.0.0/8" ];', "")
    calls = os.path.join(folder, "calls")
    with sluice:
        strace = subprocess.Popen([program("strace"), "-f", "-e", "trace=connect,sendto,sendmsg", "-o", calls, "-p", str(sluice.pids("worker")[0])],
                                  stderr=subprocess.PIPE, text=True)
        try:
            assert "attached" in strace.stderr.readline()
            with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
                s.sendmail("a@here.example", [f"u@d{i}.test" for i in range(len(addresses))], b"Subject: x\r\n\r\nx\r\n")

            def refused():
                "each queue has its refusal"
                text = "".join(open(path).read() for path in glob.glob(sluice.acct_pattern))
                return all(re.search(rf"(?m)^tq,.*not permitted.*,d{i}\.test/", text) for i in range(len(addresses)))
            harness.wait_for(refused, 10)
            assert sluice.queued() == len(addresses)
        finally:
            strace.terminate()
            strace.wait(10)
        with open(calls) as f:
            assert not re.search("AF_INET", f.read())
    assert not peer.talks
    peer.close()
