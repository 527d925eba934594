"""Who is told by mail of back-off and of disabled source IPs: exactly once each, also when processes die in between."""
import email
import email.policy
import os
import re
import signal
import smtplib
import sys
import threading
import time

import harness
import pytest
import smtp_peer

from nsd_fixture import nsd  # noqa: F401  (a fixture)

sys.path.insert(0, os.path.join(harness.ROOT, "tests/torture"))
import killpoints  # noqa: E402

IPS = {"v": "127.0.0.2", "w": "127.0.0.3"}
REPLY = "421 4.7.0 Too many messages from you"
OPS = "ops@ops.example"
TOLD = f'backoff-notify = "{OPS}"; disabled-source-ip-notify = [ "{OPS}" ];'
RULE = '{ reply = "/^421 .*too many/"; actions = [ "mode=backoff" ]; }'


class World:
    """Providers at one peer, which says REPLY at MAIL to those that `angry` names; the operator's mailbox at another one."""

    def __init__(self, folder, told=TOLD, rules=RULE, receivers=1, **more):
        self.peer, self.ops = smtp_peer.Peer(), smtp_peer.Peer()
        self.angry, self.reply = set(), REPLY
        self.peer.script["mail"] = lambda talk, line: self.reply if talk.client in self.angry else smtp_peer.usual
        vmtas = ", ".join('{ name = "%s"; smtp-source-hosts = ( { ip = "%s"; name = "%s.example"; } ); }' % (v, ip, v)
                          for v, ip in IPS.items())
        self.sluice = harness.Sluice(
            folder, vmtas=f"virtual-mtas = ( {vmtas} );", receivers=receivers,
            domains=f'domains = ( {{ name = "ops.example"; smtp-hosts = "[127.0.0.1]:{self.ops.port}"; }}, '
                    f'{{ name = "*"; smtp-hosts = "[127.0.0.1]:{self.peer.port}"; retry-after = "1s"; retry-recipients-after = "1s"; '
                    f'backoff-retry-after = "1h"; backoff-max-msg-rate = "7/h"; smtp-pattern-list = "l"; {told} }} );',
            conf='smtp-pattern-lists = ( { name = "l"; rules = ( %s ); } );' % rules, **more).start()

    def send(self, *recipients, vmta="v"):
        with smtplib.SMTP("127.0.0.1", self.sluice.port, timeout=60) as s:
            for r in recipients:
                s.sendmail("sender@here.example", [r], f"X-Virtual-MTA: {vmta}\r\nSubject: x\r\n\r\nbody\r\n")

    def say(self, *words, status=0):
        done = self.sluice.sluice(*words)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def mode(self, queue):
        return self.sluice.ask("show", "queue", queue)["queue"][0]["mode"]

    def told(self):
        """The notices that arrived, in their order."""
        return [email.message_from_bytes(body, policy=email.policy.default)
                for sender, rcpts, body in list(self.ops.taken) if sender == ""]

    def wait_told(self, n, seconds=30):
        harness.wait_for(lambda: len(self.told()) >= n, seconds)
        time.sleep(2.5)  # longer than what happens together is waited for
        assert len(self.told()) == n, [m["subject"] for m in self.told()]
        return self.told()

    def line_of(self, text):
        return 1 + self.sluice.text[:self.sluice.text.index(text)].count("\n")

    def restarted(self, role, before):
        harness.wait_for(lambda: self.sluice.pids(role) and before not in self.sluice.pids(role), 20)
        self.sluice.wait_ready()

    def close(self):
        self.sluice.stop()
        self.peer.close()
        self.ops.close()


@pytest.fixture
def world(folder, kept):
    return lambda **more: kept(World(folder, **more))


def fields(message):
    """The lines `Label:  value` of a notice."""
    return dict(re.findall(r"^([A-Z][A-Za-z ]*):\s+(.*?)\r?$", message.get_content(), re.M))


def test_one_flip_is_one_mail_and_so_is_its_end(world):
    w = world()
    w.angry.add(IPS["v"])
    w.send("a@p.example", "b@p.example", "c@p.example")
    m = w.wait_told(1)[0]
    assert m["subject"] == "[sluice] p.example/v is in back-off"
    assert m["to"] == OPS and m["from"] == "Sluice <postmaster@mta.test.example>"
    assert m["auto-submitted"] == "auto-generated" and m["date"].datetime and m["message-id"].endswith("@mta.test.example>")
    sender, rcpts, body = w.ops.taken[0]
    assert (sender, rcpts) == ("", [OPS])
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", body) and all(len(line) < 990 for line in body.split(b"\r\n"))
    f = fields(m)
    assert f["Queue"] == "p.example/v" and f["Virtual MTA"] == "v" and f["Mode"] == "normal -> back-off"
    assert f["Reason"] == REPLY and f["Pattern"] == "^421 .*too many" and f["Source IP"] == IPS["v"]
    assert f["Rule"] == f"{w.sluice.conf_path}:{w.line_of('too many/')}"
    assert f["Ends"] == "not by time" and "Next try" in f
    assert "backoff-max-msg-rate 7/h" in f["Limits"] and "backoff-retry-after 1h" in f["Limits"]
    assert f["To undo"] == "sluice set queue --mode=normal 'p.example/v'"
    w.angry.clear()
    w.say("set", "queue", "p.example/v", "--mode=normal")
    m = w.wait_told(2)[1]
    assert m["subject"] == "[sluice] p.example/v is out of back-off"
    f = fields(m)
    assert f["Mode"] == "back-off -> normal" and f["Reason"] == "by command" and "max-msg-rate unlimited" in f["Limits"]
    assert w.told()[0]["message-id"] != w.told()[1]["message-id"]


def test_nobody_is_told_where_nobody_is_named(world):
    w = world(told='backoff-notify = []; disabled-source-ip-notify = [];')
    w.angry.add(IPS["v"])
    w.send("a@p.example")
    harness.wait_for(lambda: w.mode("p.example/v") == "backoff", 15)
    w.say("disable", "source", IPS["w"], "p.example/w")
    time.sleep(3)
    assert w.ops.taken == [] and "notification" not in w.sluice.log()


def test_back_off_does_not_hold_what_tells_of_it_and_there_is_no_loop(world):
    w = world()
    # The operator's own host is in back-off for everybody, and says so to the notice, too.
    w.say("set", "queue", "ops.example/{default}", "--mode=backoff")
    w.wait_told(1)
    w.ops.script["mail"] = smtp_peer.once(REPLY)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    told = w.wait_told(2)
    assert [m["subject"] for m in told] == [f"[sluice] {q} is in back-off" for q in ("ops.example/{default}", "p.example/v")]
    assert len([t for t in w.ops.talks if t.lines and any(x.startswith("MAIL") for x in t.lines)]) >= 2
    assert w.mode("ops.example/{notify}") == "normal"
    w.say("set", "queue", "*/*", "--mode=backoff")
    assert w.mode("ops.example/{notify}") == "normal" and w.mode("ops.example/{default}") == "backoff"
    w.say("set", "limit", "ops.example/{notify}", "max-msg-rate=100/h")
    assert [o["object"] for o in w.sluice.ask("show", "limits")["override"]] == ["ops.example/{notify}"]


def test_where_all_mail_is_rerouted_what_tells_of_it_is_not(world):
    w = world(told=TOLD + ' reroute-to-virtual-mta = "w";')
    w.angry.add(IPS["w"])
    w.send("a@p.example")
    m = w.wait_told(1)[0]
    assert m["subject"] == "[sluice] p.example/w is in back-off"
    assert {t.client for t in w.ops.talks}.isdisjoint(IPS.values())
    queues = [q["name"] for q in w.sluice.ask("show", "queues")["queue"]]
    assert "ops.example/w" not in queues and "p.example/w" in queues


def test_a_back_off_of_the_whole_provider_is_one_mail_and_does_not_hold_it(world):
    rule = RULE.replace("actions", 'scope = "virtual-mta"; actions')
    w = world(rules=rule, top='providers = ( { name = "x"; mx = [ "*.x.example" ]; } );')
    w.angry.add(IPS["v"])
    w.send("a@p.example", "a@q.example", "a@r.example")
    m = w.wait_told(1)[0]
    assert m["subject"] == "[sluice] virtual-mta v is in back-off"
    assert fields(m)["Name"] == "v" and fields(m)["Reason"] == REPLY
    assert fields(m)["To undo"] == "sluice set queue --mode=normal '*/v'"


@pytest.mark.parametrize("scope", ["virtual-mta", "source-ip"])
def test_out_of_its_own_back_off_and_a_wider_one_is_one_mail(world, scope):
    w = world(rules=RULE.replace("actions", f'scope = "{scope}"; actions'))
    w.angry.add(IPS["v"])
    w.send("a@p.example")
    w.wait_told(1)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.wait_told(2)
    w.angry.clear()
    w.say("set", "queue", "p.example/v", "--mode=normal")
    assert w.wait_told(3)[2]["subject"] == "[sluice] p.example/v is out of back-off"
    assert w.mode("p.example/v") == "normal"
    changes = [(e["from"], e["to"]) for e in w.sluice.ask("show", "queue", "p.example/v")["queue"][0]["modeEvent"]]
    assert changes == [("normal", "backoff"), ("backoff", "normal")]


def test_no_source_ip_left_does_not_bring_what_tells_of_it_into_back_off(world):
    w = world(told=TOLD + ' backoff-upon-all-sources-disabled = true;',
              top='smtp-source-hosts = ( { ip = "127.0.0.4"; name = "x.example"; } );')
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.wait_told(1)
    w.say("disable", "source", "127.0.0.4", "*/*")
    assert w.mode("ops.example/{notify}") == "normal"
    w.say("enable", "source", "127.0.0.4", "*/*")
    w.wait_told(3)


def test_the_back_off_of_its_own_provider_does_not_hold_it(folder, nsd):  # noqa: F811
    """Mail to the provider that is angry at us, and to the operator there."""
    peer = smtp_peer.Peer("127.0.0.51")
    peer.script["mail"] = lambda talk, line: smtp_peer.usual if "<>" in line else REPLY
    nsd.zones["test"] = "mx1 A 127.0.0.51\np MX 1 mx1\nops MX 1 mx1\n"
    nsd.start()
    rule = RULE.replace("actions", 'scope = "provider"; actions')
    sluice = harness.Sluice(
        folder, top=f'name-server = "{nsd.name_server}"; providers = ( {{ name = "big"; mx = [ "mx1.test" ]; }} );',
        domains=f'domains = ( {{ name = "*"; default-smtp-port = {peer.port}; backoff-max-msg-rate = "1/d"; backoff-notify = "ops@ops.test"; '
                'retry-after = "1s"; smtp-pattern-list = "l"; } );', conf='smtp-pattern-lists = ( { name = "l"; rules = ( %s ); } );' % rule)
    with sluice:
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("sender@here.example", ["a@p.test"], "Subject: x\r\n\r\nbody\r\n")
        harness.wait_for(lambda: len(peer.taken) == 1, 20)
        assert b"\r\nSubject: [sluice] provider big is in back-off\r\n" in peer.taken[0][2]
        for n in (2, 3):
            assert sluice.sluice("set", "queue", f"d{n}.test/{{default}}", "--mode=backoff").returncode == 0
            harness.wait_for(lambda: len(peer.taken) == n, 20)
    peer.close()
    assert {r for _, rcpts, _ in peer.taken for r in rcpts} == {"ops@ops.test"}


def test_a_disabled_source_and_its_return(world):
    w = world(rules='{ reply = "/too many/"; actions = [ "disable-source-ip", "reenable-after=20s" ]; }')
    w.angry.add(IPS["v"])
    w.send("a@p.example")
    m = w.wait_told(1)[0]
    assert m["subject"] == f"[sluice] source IP {IPS['v']} of p.example/v is disabled"
    f = fields(m)
    assert f["Reason"] == REPLY and f["Source IP"] == IPS["v"] and f["Pattern"] == "too many" and ":" in f["Rule"]
    assert f["To undo"] == f"sluice enable source {IPS['v']} 'p.example/v'" and "Enabled again" in f
    w.angry.clear()
    m = w.wait_told(2, 60)[1]
    assert m["subject"] == f"[sluice] source IP {IPS['v']} of p.example/v is enabled again"
    assert fields(m)["Reason"] == "its time is over"
    # By command, for a pattern: whoever is to be told of one of its queues.
    w.say("disable", "source", IPS["w"], "*/*")
    m = w.wait_told(3)[2]
    assert m["subject"] == f"[sluice] source IP {IPS['w']} of */* is disabled" and fields(m)["Reason"] == "by command"


def test_many_flips_are_one_digest(world):
    w = world()
    w.angry.add(IPS["v"])
    w.reply = "451 4.3.0 not now"
    names = [f"d{i}.example" for i in range(40)]
    w.send(*(f"a@{n}" for n in names))
    w.say("set", "queue", "*/v", "--mode=backoff")
    m = w.wait_told(1)[0]
    assert m["subject"] == "[sluice] 40 changes: 40 into back-off"
    assert sorted(re.findall(r"^(\S+)/v is in back-off\r?$", m.get_content(), re.M)) == sorted(names)
    w.say("set", "queue", "*/v", "--mode=normal")
    assert w.wait_told(2)[1]["subject"] == "[sluice] 40 changes: 40 out of back-off"


def test_hostile_replies_stay_text(world):
    w = world()
    w.angry.add(IPS["v"])
    w.reply = ("421-too many\x1b[31m\tFrom nobody\xff\r\n421-.\r\n421 Bcc: x@y.example" + "z" * 480).encode("latin-1") + b"\r\n"
    w.send("a@p.example")
    m = w.wait_told(1)[0]
    body = w.ops.taken[0][2]
    assert b"421 too many?[31m From nobody? . Bcc: x@y.examplezz" in body  # by then it is printable
    assert m["bcc"] is None and re.search(rb"[^\r\n\x20-\x7e]", body) is None and not re.search(rb"^(From |Bcc|\.[^\r])", body, re.M)
    assert "Next try" in fields(m)


# Where, who dies there, at which hit from the flip on.
POINTS = [("notify-owed", "scheduler", 1), *(("before-commit", "scheduler", n) for n in (1, 2, 3)),
          *(("after-commit-before-ack", "scheduler", n) for n in (1, 2, 3)), ("before-event-sync", "scheduler", 1),
          ("after-event-sync", "scheduler", 1), ("after-event-sync", "scheduler", 1), ("notify-sent", "scheduler", 1),
          *[("notify-before-store", "receiver", 1)] * 3, ("after-append-before-sync", "receiver", 1), ("after-sync", "receiver", 1),
          ("notify-stored", "scheduler", 1), ("before-250", "receiver", 1)]


@pytest.mark.parametrize("all_at_once", [False, True], ids=["one process", "all of them"])
def test_killed_anywhere_it_is_told_once(world, folder, all_at_once):
    switch = killpoints.Switch(os.path.join(folder, "kill-points"))
    w = world(variant="torture", environment={"SLUICE_KILL_POINTS": switch.file.name})
    queues = [f"d{n}.example/v" for n in range(len(POINTS))]
    for queue, (point, role, left) in zip(queues, POINTS):
        before = w.sluice.pids(role)[0]
        switch.arm(point, left)
        w.sluice.sluice("set", "queue", queue, "--mode=backoff")  # may be lost with who would answer
        assert killpoints.wait_hit(switch, 15), (point, left)
        if all_at_once:
            w.sluice.kill()
            w.sluice.start()
        else:
            w.restarted(role, before)
        w.sluice.sluice("set", "queue", queue, "--mode=backoff")  # if so it was; else it is in back-off already
        assert w.mode(queue) == "backoff"
    harness.wait_for(lambda: len(told_of(once(w))) >= len(queues), 200)  # five at once, those behind them after a minute
    w.sluice.wait_drained(40)
    time.sleep(3)
    assert sorted(told_of(once(w))) == sorted(queues)
    stored_once(w)
    # Nothing is owed, so nothing is told again.
    w.sluice.kill()
    w.sluice.start()
    time.sleep(3)
    assert sorted(told_of(once(w))) == sorted(queues)
    stored_once(w)
    assert len(w.sluice.ask("show", "queues", "--mode=backoff")["queue"]) == len(queues)
    switch.close()


def test_a_disabled_source_is_told_once_too(world, folder):
    switch = killpoints.Switch(os.path.join(folder, "kill-points"))
    w = world(variant="torture", environment={"SLUICE_KILL_POINTS": switch.file.name})
    points = [("notify-owed", 1), ("before-commit", 1), ("after-commit-before-ack", 1), ("before-event-sync", 1), ("after-event-sync", 1),
              ("notify-stored", 1), ("after-commit-before-ack", 3)]
    words = [("disable", "source", IPS["v"], f"d{n}.example/v") for n in range(len(points))]
    for act, (point, left) in zip(words, points):
        before = w.sluice.pids("scheduler")[0]
        switch.arm(point, left)
        w.sluice.sluice(*act)
        assert killpoints.wait_hit(switch, 15), (point, left)
        w.restarted("scheduler", before)
        w.sluice.sluice(*act)  # if so it was; else it is disabled already
    want = sorted(f"{IPS['v']} of {act[3]}" for act in words)

    def told():
        return [x for m in once(w) for x in
                re.findall(r"source IP (\S+ of \S+) is disabled", m["subject"] + ("\n" + m.get_content() if "changes" in m["subject"] else ""))]
    harness.wait_for(lambda: len(told()) >= len(want), 200)
    time.sleep(3)
    assert sorted(told()) == want
    stored_once(w)
    switch.close()


def test_a_notice_that_was_under_way_to_the_operator_comes_again_and_says_so(world):
    """Nobody knows what became of it: as with any other mail, twice is better than never."""
    w = world()
    dots, killed = [], threading.Event()
    w.ops.script["dot"] = lambda talk, body: dots.append(1) or (killed.wait(30) and smtp_peer.usual)
    w.say("set", "queue", "d0.example/v", "--mode=backoff")
    harness.wait_for(lambda: dots, 20)
    w.sluice.kill()
    killed.set()
    w.sluice.start()
    harness.wait_for(lambda: len(w.told()) == 2, 60)
    w.sluice.wait_drained(20)
    time.sleep(1.5)
    assert len(w.told()) == 2 and told_of(once(w)) == ["d0.example/v"]
    stored_once(w)
    assert [r["maybeDup"] for r in w.sluice.records("t")] == ["1"]


def once(w):
    """The notices that arrived; one that came again when a worker had been killed with it is itself."""
    return {m["message-id"]: m for m in w.told()}.values()


def stored_once(w):
    """Each was stored once, and came again only where it was at the wire when a worker was killed (RFC 5321 6.1)."""
    assert len(w.sluice.records("r")) == len(once(w))
    assert len(w.told()) - len(once(w)) <= sum(r["maybeDup"] == "1" for kind in "dt" for r in w.sluice.records(kind))


def told_of(notices):
    """The queue of each flip that they tell, as often as they do."""
    return [q for m in notices for q in re.findall(r"^(?:Queue: +)?(d[0-9]+[.]example/v)(?: is in back-off)?\r?$", m.get_content(), re.M)]


def test_what_is_lost_with_a_ring_the_next_scheduler_sends(world):
    """The receivers stand still: what they were sent is lost with the scheduler, and owed still."""
    w = world(receivers=2)
    for n in range(2):
        receivers = w.sluice.pids("receiver")
        for pid in receivers:
            os.kill(pid, signal.SIGSTOP)
        w.say("set", "queue", f"d{n}.example/v", "--mode=backoff")
        time.sleep(1.5)
        scheduler = w.sluice.pids("scheduler")[0]
        os.kill(scheduler, signal.SIGKILL)
        for pid in receivers:
            os.kill(pid, signal.SIGCONT)
        w.restarted("scheduler", scheduler)
        w.wait_told(n + 1)


def test_what_was_sent_twice_is_stored_once(world):
    """A receiver that stands still is sent it again; then it takes in both."""
    w = world()
    w.wait_told(0)
    pid = w.sluice.pids("receiver")[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        w.say("set", "queue", "d0.example/v", "--mode=backoff")
        harness.wait_for(lambda: w.sluice.log().count("notification events=1 receiver=0") == 2, 60)
    finally:
        os.kill(pid, signal.SIGCONT)
    w.wait_told(1)
    assert "stored=no some were told before" in w.sluice.log()


def test_a_source_ip_in_back_off_does_not_hold_it(world):
    rule = RULE.replace("actions", 'scope = "source-ip"; actions')
    w = world(rules=rule, told=TOLD + 'backoff-source-ip-max-msg-rate = "0/0 1/d";',
              top='smtp-source-hosts = ( { ip = "127.0.0.4"; name = "x.example"; } );')
    w.angry.add("127.0.0.4")
    w.send("a@p.example", vmta="{default}")
    assert w.wait_told(1)[0]["subject"] == "[sluice] source-ip 127.0.0.4 is in back-off"
    for n in (2, 3):
        w.say("set", "queue", f"d{n}.example/v", "--mode=backoff")
        w.wait_told(n)
    assert {t.client for t in w.ops.talks} == {"127.0.0.4"}


def test_more_than_five_in_a_minute_wait_and_go_together(world):
    w = world()
    for n in range(9):
        w.say("set", "queue", f"d{n}.example/v", "--mode=backoff")
        harness.wait_for(lambda: len(w.told()) >= min(n + 1, 5), 20)
    time.sleep(3)
    assert len(w.told()) == 5
    harness.wait_for(lambda: len(w.told()) == 6, 150)
    assert w.told()[5]["subject"] == "[sluice] 4 changes: 4 into back-off"
    assert sorted(told_of(w.told())) == [f"d{n}.example/v" for n in range(9)]
