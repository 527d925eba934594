"""What each action of a rule does, one by one; source IPs that are disabled, and those that back-off leaves."""
import calendar
import os
import signal
import smtplib
import subprocess
import time

import harness
import pytest
import smtp_peer
from test_backoff import IPS, World

SECOND = "127.0.0.12"  # of virtual MTA v, in two_sources
# A worker does what fires at each match; of what is counted it only hears.
AT_ONCE_OR_COUNTED = pytest.mark.parametrize("after", ["", 'after = "1/10m";'])


@pytest.fixture
def world(folder, kept):
    return lambda **more: kept(World(folder, **more))


def two_sources():
    ip = IPS["v"]
    return (f'ip = "{ip}"; name = "v.example"; }} );', f'ip = "{ip}"; name = "v.example"; }}, {{ ip = "{SECOND}"; name = "v2.example"; }} );')


def from_v(w):
    return [(ip, at) for ip, at in w.mails if ip in (IPS["v"], SECOND)]


def test_bounce_queue_returns_all_that_waits_and_no_other_queue(world):
    w = world(rule='reply = "/closed for good/"; actions = [ "bounce-queue" ];', domain="max-smtp-out = 1;")
    w.reply = "421 4.7.0 closed for good"
    w.say("pause", "queue", "p.example/v")
    w.say("pause", "queue", "p.example/w")
    w.send(*(f"r{i}@p.example" for i in range(30)), vmta="v")
    w.send("other@p.example", vmta="w")
    w.angry.add(IPS["v"])
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: len(w.sluice.accounted("b")) == 30, 20)
    rows = w.sluice.accounted("b")
    waited = [r for r in rows.values() if r["dsnDiag"].startswith("x-pmta;bounce-queue;reply:421 4.7.0 closed for good")]
    met = [r for r in rows.values() if r["dsnDiag"].startswith("smtp;421 4.7.0 closed for good")]
    assert len(met) == 1 and len(waited) == 29 and all(r["dsnStatus"].startswith("5.0.0") for r in waited)
    assert len(w.mails) == 1 and w.queue("p.example/w")["rcp"] == 1 and w.queue("p.example/v")["rcp"] == 0
    w.angry.clear()
    w.send("new@p.example", vmta="v")
    harness.wait_for(lambda: w.peer.recipients() == ["new@p.example"], 10)


@AT_ONCE_OR_COUNTED
def test_bounce_rcpt_returns_one_recipient(world, after):
    w = world(rule=f'reply = "/^450 .*never/"; actions = [ "bounce-rcpt" ]; {after}')
    w.peer.script["rcpt"] = lambda talk, line: "450 4.1.1 never" if "<x@" in line else smtp_peer.usual
    with smtplib.SMTP("127.0.0.1", w.sluice.port, timeout=60) as s:
        s.sendmail("a@here.example", ["x@p.example", "y@p.example"], "X-Virtual-MTA: v\r\n\r\nbody\r\n")
    harness.wait_for(lambda: w.peer.recipients() == ["y@p.example"], 10)
    harness.wait_for(lambda: list(w.sluice.accounted("b")) == ["x@p.example"], 10)
    assert len(w.mails) == 1


@AT_ONCE_OR_COUNTED
def test_bounce_rcpt_by_421_returns_nobody_whom_it_did_not_refuse(world, after):
    w = world(rule=f'reply = "/^421 .*never/"; actions = [ "bounce-rcpt" ]; {after}')
    said = []

    def rcpt(talk, line):
        if said or "<x@" not in line:
            return smtp_peer.usual
        said.append(line)
        talk.say("421 4.1.1 never")
        talk.close()
    w.peer.script["rcpt"] = rcpt
    with smtplib.SMTP("127.0.0.1", w.sluice.port, timeout=60) as s:
        s.sendmail("a@here.example", ["x@p.example", "y@p.example"], "X-Virtual-MTA: v\r\n\r\nbody\r\n")
    harness.wait_for(lambda: {"x@p.example", "y@p.example"} <= set(w.sluice.acct().terminal), 20)
    assert "y@p.example" in w.peer.recipients() and "y@p.example" not in w.sluice.accounted("b")


def test_defer_queue_puts_the_whole_queue_into_retry_once(world):
    w = world(rule='reply = "/^450 .*not now/"; actions = [ "defer-queue" ];', domain="max-smtp-out = 1;", edits=[('retry-after = "1s"; backoff', 'retry-after = "4s"; backoff')])
    w.reply = "450 4.3.0 not now"
    w.say("pause", "queue", "p.example/v")
    w.send(*(f"r{i}@p.example" for i in range(10)), vmta="v")
    w.angry.add(IPS["v"])
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: len(w.mails) >= 1, 10)
    first = w.mails[0][1]
    harness.wait_for(lambda: w.queue("p.example/v")["retryTime"] is not None, 5)
    assert w.mode("p.example/v") == "normal" and w.queue("p.example/v")["blocked"]["by"] == "retry"
    w.angry.clear()
    harness.wait_for(lambda: len(w.peer.recipients()) == 10, 20)
    # Those granted before the reply was read have gone their way; all others waited.
    assert sum(at > first + 3 for _, at in w.mails) >= 8, w.mails


@pytest.mark.parametrize("actions", ['"mode=backoff", "defer-queue"', '"defer-queue", "mode=backoff"'])
def test_a_queue_that_is_deferred_into_back_off_waits_as_back_off_says(world, actions):
    w = world(rules='{ reply = "/too many/"; actions = [ %s ]; }, { reply = "/all well/"; actions = [ "mode=normal", "defer-queue" ]; }' % actions,
              edits=[('retry-after = "1s"; backoff-retry-after = "1s"', 'retry-after = "10m"; backoff-retry-after = "2h"')])
    w.angry.add(IPS["v"])
    for reply, mode, seconds in ("421 4.7.0 too many", "backoff", 7200), ("421 4.7.0 all well", "normal", 600):
        w.reply = reply
        if mode == "backoff":
            w.send("a@p.example", vmta="v")
        else:
            w.say("schedule", "p.example/v", "--retry-recipients")
        w.wait_mode("p.example/v", mode)
        due = harness.wait_for(lambda: w.queue("p.example/v")["retryTime"], 10)
        assert abs(calendar.timegm(time.strptime(due, "%Y-%m-%dT%H:%M:%SZ")) - time.time() - seconds) < 60, due


def test_back_off_alone_puts_nothing_into_retry(world):
    w = world(domain="max-smtp-out = 1; max-msg-per-connection = 1;", edits=[('retry-after = "1s"; backoff-retry-after = "1s"', 'retry-after = "1h"; backoff-retry-after = "1h"')],
              rule='reply = "/too many/"; actions = [ "mode=backoff" ];')
    w.reply = "450 4.7.0 too many"
    said = []
    w.peer.script["rcpt"] = lambda talk, line: w.reply if said.append(1) or len(said) == 1 else smtp_peer.usual
    w.send("a@p.example", "b@p.example", "c@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    harness.wait_for(lambda: len(w.peer.recipients()) >= 2, 10)


def test_wait_reply_waits_as_long_as_the_reply_says(world):
    w = world(rule='reply = "/again in (.*)/"; actions = [ "wait-reply" ];', domain="max-smtp-out = 1;")
    w.reply = "450 4.7.1 greylisted, come again in 4 seconds"
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: len(w.mails) == 1, 10)
    w.angry.clear()
    w.send("b@p.example", vmta="v")  # the queue waits, not that message
    harness.wait_for(lambda: len(w.peer.recipients()) == 2, 15)
    assert w.mails[1][1] - w.mails[0][1] > 3


@AT_ONCE_OR_COUNTED
def test_reconnect_ends_the_connection_behind_the_message(world, after):
    w = world(rule=f'reply = "/2.0.0 taken, now go/"; actions = [ "reconnect" ]; {after}', domain='max-smtp-out = 1; connection-idle-timeout = "5s";')
    w.peer.script["dot"] = lambda talk, body: "250 2.0.0 taken, now go" if talk.client == IPS["v"] else smtp_peer.usual
    for vmta in "v", "w":
        w.say("pause", "queue", f"p.example/{vmta}")
        w.send(*(f"r{i}-{vmta}@p.example" for i in range(4)), vmta=vmta)
        w.say("resume", "queue", f"p.example/{vmta}")
    harness.wait_for(lambda: len(w.peer.recipients()) == 8, 20)
    talks = [t.client for t in w.peer.talks]
    assert talks.count(IPS["v"]) == 4 and talks.count(IPS["w"]) == 1
    assert w.sluice.accounted("t") == {}


def test_reconnect_asks_nobody(world):
    """The worker ends the connection while the scheduler stands still."""
    w = world(rule='reply = "/now go/"; actions = [ "reconnect" ];', domain='connection-idle-timeout = "1m"; max-smtp-out = 1;')
    scheduler, sent = w.sluice.pids("scheduler")[0], []

    def dot(talk, body):
        os.kill(scheduler, signal.SIGSTOP)
        harness.wait_for(lambda: open(f"/proc/{scheduler}/stat").read().rsplit(")", 1)[1].split()[0] == "T", 10)
        sent.append(talk)
        return "250 2.0.0 taken, now go"
    w.peer.script["dot"] = dot
    try:
        w.send("a@p.example", vmta="v")
        harness.wait_for(lambda: sent and sent[0].ended, 10)
    finally:
        os.kill(scheduler, signal.SIGCONT)
    assert w.sluice.pids("scheduler") == [scheduler]


@pytest.mark.parametrize("more", ["", ' after = "1/10m";'])
@pytest.mark.parametrize("action", ["reconnect", "reduce-connections"])
def test_whose_session_is_refused_stays_queued_also_on_5xx(world, action, more):
    """The fault is not the mail's; where the rule is to bounce it, it does."""
    w = world(rules=f'{{ reply = "/too much here/"; actions = [ "{action}" ];{more} }}, {{ reply = "/and never/"; actions = [ "bounce-rcpt" ]; }}',
              domain="max-smtp-out = 1;")
    said = []
    refusals = {"<a@": "554 5.7.0 too much here", "<b@": "554 5.7.0 too much here, and never"}
    w.peer.script["rcpt"] = lambda talk, line: next((r for n, r in refusals.items() if n in line and (said.append(n) or said.count(n) == 1)),
                                                    smtp_peer.usual)
    w.send("a@p.example", "b@p.example", vmta="v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 10)
    harness.wait_for(lambda: list(w.sluice.accounted("b")) == ["b@p.example"], 10)
    assert w.sluice.accounted("t")["a@p.example"]["dsnDiag"] == "smtp;554 5.7.0 too much here"


def test_reduce_connections_halves_them_for_a_while(world):
    w = world(rule='reply = "/fewer please/"; actions = [ "reduce-connections", "for=4s" ];', domain="max-smtp-out = 8; max-msg-per-connection = 1;")
    now, most = set(), []
    said = []

    def dot(talk, body):
        now.add(talk)
        most.append((time.time(), len(now)))
        if not said:  # until there is something to halve
            harness.wait_for(lambda: said or len(now) > 4, 20, 0.005)
        time.sleep(0.1)
        now.discard(talk)
        if not said:
            said.append(time.time())
            return "250 2.0.0 taken, but fewer please"
        return smtp_peer.usual
    w.peer.script["dot"] = dot
    w.say("pause", "queue", "p.example/v")
    w.send(*(f"r{i}@p.example" for i in range(400)), vmta="v")
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 400, 60)
    during = [n for at, n in most if said[0] + 1 < at < said[0] + 3]
    after = [n for at, n in most if at > said[0] + 4.5]
    assert max(n for at, n in most if at < said[0] + 0.05) > 4
    assert during and max(during) <= 4 and max(after) > 4, (max(during), max(after))
    assert w.mode("p.example/v") == "normal"


@pytest.mark.parametrize("action, reply, kind", [("bounce-rcpt", "450 4.1.1 never", "b"), ("skip-mx", "550 5.1.1 never", "t")])
def test_what_a_reply_meant_for_a_recipient_outlives_the_scheduler(world, action, reply, kind):
    w = world(rule=f'reply = "/never/"; actions = [ "{action}" ];', edits=[('retry-recipients-after = "1s"', 'retry-recipients-after = "1h"')])
    w.peer.script["rcpt"] = lambda talk, line: reply if "<x@" in line else smtp_peer.usual
    died = []

    def dot(talk, body):  # the reply to RCPT was read, the outcome is not told
        if not died:
            died.append(w.kill_scheduler())
        return smtp_peer.usual
    w.peer.script["dot"] = dot
    with smtplib.SMTP("127.0.0.1", w.sluice.port, timeout=60) as s:
        s.sendmail("a@here.example", ["x@p.example", "y@p.example"], "X-Virtual-MTA: v\r\n\r\nbody\r\n")
    harness.wait_for(lambda: "x@p.example" in {**w.sluice.accounted("b"), **w.sluice.accounted("t")}, 20)
    assert "x@p.example" in w.sluice.accounted(kind) and w.peer.recipients() == ["y@p.example"]


@AT_ONCE_OR_COUNTED
def test_skip_mx_goes_to_the_next_host_also_on_5xx(world, after):
    other = smtp_peer.Peer("127.0.0.1")
    w = world(rule=f'reply = "/^550 .*not from here/"; actions = [ "skip-mx" ]; {after}')
    w.reply = "550 5.7.1 not from here"
    w.angry.add(IPS["v"])
    hosts = f'smtp-hosts = "[127.0.0.1]:{w.peer.port}'
    w.reload(hosts, f"{hosts};[127.0.0.1]:{other.port}")
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: other.recipients() == ["a@p.example"], 15)
    assert len(w.mails) == 1 and w.sluice.accounted("b") == {}
    other.close()


def test_mode_normal_by_a_rule_for_one_of_two_queues(world):
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; }, { reply = "/fine again/"; actions = [ "mode=normal" ]; }')
    for vmta in "v", "w":
        w.say("set", "queue", f"p.example/{vmta}", "--mode=backoff")
    w.peer.script["dot"] = lambda talk, body: "250 2.0.0 fine again" if talk.client == IPS["v"] else smtp_peer.usual
    w.send("a@p.example", vmta="v")
    w.send("b@p.example", vmta="w")
    w.wait_mode("p.example/v", "normal")
    harness.wait_for(lambda: len(w.peer.recipients()) == 2, 10)
    assert w.mode("p.example/w") == "backoff"
    assert w.queue("p.example/v")["modeEvent"][-1]["reason"] == "250 2.0.0 fine again"


def test_mode_normal_by_a_rule_ends_the_back_off_of_its_scope(world):
    w = world(rules='{ reply = "/too many/"; scope = "virtual-mta"; actions = [ "mode=backoff" ]; }, '
                    '{ reply = "/fine again/"; scope = "virtual-mta"; actions = [ "mode=normal" ]; }')
    w.send("a@q.example", vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 1, 10)
    w.reply = "450 4.7.0 too many"
    w.angry.add(IPS["v"])
    w.send("b@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    assert w.in_backoff() == ["p.example/v", "q.example/v"]
    w.peer.script["dot"] = "250 2.0.0 fine again"
    w.angry.clear()
    w.wait_mode("q.example/v", "normal")
    assert w.in_backoff() == []


def test_retry_tls_is_said_not_to_be_there(folder):
    path = os.path.join(folder, "s.conf")
    with open(path, "w") as f:
        f.write('host-name = "a.example";\nsmtp-pattern-lists = ( { name = "l"; rules = (\n{ reply = "/TLS/"; actions = [ "retry-tls" ]; } ); } );\n')
    done = subprocess.run([os.path.join(harness.ROOT, "build/release/bin/sluiced"), "-t", "-c", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f'{path}:3: ' in done.stdout + done.stderr and '"retry-tls" is not supported yet' in done.stdout + done.stderr


# Source IPs -------------------------------------------------------------------------------------------------------------------------------------


def test_one_of_two_sources_is_disabled_for_one_queue_and_comes_back_by_its_rule(world):
    w = world(rule='reply = "/blocked/"; actions = [ "disable-source-ip", "reenable-after=12s" ];', edits=[two_sources()],
              domain='reenable-source-ip-after = "1h";')
    w.reply = "550 5.7.1 blocked"
    w.angry.add(IPS["v"])
    w.send(*(f"r{i}@p.example" for i in range(6)), vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 6, 20)  # also the one that met the 550
    assert {w.carried[r] for r in w.peer.recipients()} == {SECOND}
    assert f"{IPS['v']}" in w.say("show", "disabled", "sources") and w.sluice.accounted("b") == {}
    refused = len([1 for ip, _ in from_v(w) if ip == IPS["v"]])
    w.angry.clear()
    for i in range(20):  # another queue of that virtual MTA: they take turns
        w.send(f"s{i}@q.example", vmta="v")
        harness.wait_for(lambda: len(w.peer.recipients()) == 7 + i, 20)
    assert IPS["v"] in {w.carried[f"s{i}@q.example"] for i in range(20)}
    w.kill_scheduler()
    harness.wait_for(lambda: IPS["v"] not in w.say("show", "disabled", "sources"), 40)
    w.say("disable", "source", SECOND, "p.example/v")
    w.send("back@p.example", vmta="v")
    harness.wait_for(lambda: "back@p.example" in w.peer.recipients(), 15)
    assert w.carried["back@p.example"] == IPS["v"] and refused >= 1 and w.mode("p.example/v") == "normal"


def test_a_message_stays_by_a_rule_with_a_count_also_when_the_reply_is_longer_than_what_is_kept(world):
    w = world(rule='reply = "/blocked/"; after = "1/10m"; actions = [ "disable-source-ip", "reenable-after=3s" ];')
    w.reply = "".join(f"550-5.7.1 blocked {'x' * 150}\r\n" for _ in range(5)) + "550 5.7.1 blocked"
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: IPS["v"] in w.say("show", "disabled", "sources"), 10)
    w.angry.clear()
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"] or w.sluice.accounted("b"), 15)
    assert w.sluice.accounted("b") == {} and w.peer.recipients() == ["a@p.example"]


def test_a_rule_does_not_shorten_what_an_operator_has_disabled(world):
    w = world(rule='reply = "/blocked/"; actions = [ "disable-source-ip", "reenable-after=2s" ];')
    said = []

    def at_rcpt(talk, line):
        if not said:
            said.append(w.say("disable", "source", IPS["v"], "p.example/v"))
            return "450 4.7.1 blocked"
        return smtp_peer.usual
    w.peer.script["rcpt"] = at_rcpt
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: "reply=matched" in w.sluice.log(), 10)
    time.sleep(4)
    assert IPS["v"] in w.say("show", "disabled", "sources") and w.peer.recipients() == []
    w.say("enable", "source", IPS["v"], "p.example/v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 10)


@pytest.mark.parametrize("long", ['"disable-source-ip"', '"disable-source-ip", "reenable-after=1h"'])
def test_a_rule_does_not_shorten_for_how_long_another_has_disabled(world, long):
    w = world(rules='{ reply = "/blocked/"; actions = [ %s ]; }, { reply = "/busy/"; actions = [ "disable-source-ip", "reenable-after=1s" ]; }' % long)
    w.reply = "450 4.7.1 blocked"
    w.peer.script["rcpt"] = lambda talk, line: "450 4.7.1 busy" if talk.refused else smtp_peer.usual  # pipelined behind it
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: w.sluice.log().count("reply=matched") == 2, 10)
    w.angry.clear()
    time.sleep(3)
    assert IPS["v"] in w.say("show", "disabled", "sources") and w.peer.recipients() == []


def test_replies_leave_operators_room_to_disable(world):
    w = world(rule='reply = "/blocked/"; actions = [ "disable-source-ip" ];')
    w.reply = "450 4.7.1 blocked"
    w.angry.add(IPS["v"])
    call = ("import socket,struct,sys\n"
            "for i in range(3584):\n"
            "    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n"
            "    words = [b'disable', b'source', b'127.0.0.3', b'd%d.example/w' % i]\n"
            "    body = struct.pack('<H', len(words)) + b''.join(struct.pack('<I', len(x)) + x for x in words)\n"
            "    s.send(struct.pack('<IHHI', 0x314f4c53, 1, 1, len(body)) + body)\n"
            "    while struct.unpack('<IHHI', s.recv(1 << 20)[:12])[2] != 3: pass\n")
    subprocess.run(["/usr/bin/python3", "-c", call, os.path.join(w.sluice.run_dir, "control.sock")], check=True, timeout=120)
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: 'disable=refused why="too many"' in w.sluice.log(), 15)
    w.say("disable", "source", IPS["v"], "p.example/v")
    assert IPS["v"] in w.say("show", "disabled", "sources")


def test_a_source_comes_back_by_the_domains_setting_and_none_leaves_the_queue_waiting(world):
    w = world(rule='reply = "/blocked/"; actions = [ "disable-source-ip" ];', domain='reenable-source-ip-after = "5s";')
    w.reply = "421 4.7.1 blocked"
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: IPS["v"] in w.say("show", "disabled", "sources"), 10)
    harness.wait_for(lambda: w.queue("p.example/v")["blocked"]["by"] == "sources", 10)
    assert w.mode("p.example/v") == "normal"  # backoff-upon-all-sources-disabled is not set
    w.angry.clear()
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 15)
    assert w.mails[1][1] - w.mails[0][1] > 4


def test_a_pattern_enables_a_source_for_all_queues_that_it_covers(world):
    w = world(rule='reply = "/blocked/"; actions = [ "disable-source-ip" ];')
    w.reply = "421 4.7.0 blocked"
    w.angry.add(IPS["v"])
    for d in "pqr":
        w.send(f"{d}@{d}.example", vmta="v")

    def disabled():
        return [row["queue"] for row in w.sluice.ask("show", "disabled", "sources")["disabledSource"]]
    harness.wait_for(lambda: len(disabled()) == 3, 10)
    w.say("disable", "source", IPS["v"], "*/v")
    w.angry.clear()
    w.say("enable", "source", IPS["v"], "*/w", status=1)
    w.say("enable", "source", IPS["v"], "p.example/*")
    assert sorted(disabled()) == ["*/v", "q.example/v", "r.example/v"]  # what a wider pattern says stays
    w.say("enable", "source", IPS["v"], "*/*")
    assert disabled() == []
    harness.wait_for(lambda: w.peer.recipients() == ["p@p.example", "q@q.example", "r@r.example"], 10)
    w.kill_scheduler()
    assert disabled() == []


def test_a_success_that_holds_the_word_disables_nothing(world):
    w = world(rule='reply = "/blocked/"; actions = [ "disable-source-ip", "bounce-queue" ];')
    w.peer.script["dot"] = "250 2.0.0 taken; nobody is blocked"
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 10)
    harness.wait_for(lambda: "reply=matched" in w.sluice.log(), 10)
    time.sleep(0.3)
    assert IPS["v"] not in w.say("show", "disabled", "sources") and "bounced=all" not in w.sluice.log()
    w.send("b@p.example", vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 2, 10)


def test_back_off_uses_only_the_sources_it_names(world):
    w = world(edits=[two_sources()], domain=f'backoff-use-source = [ "{SECOND}" ];')
    w.send(*(f"r{i}@p.example" for i in range(8)), vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 8, 15)
    assert {w.carried[f"r{i}@p.example"] for i in range(8)} == {IPS["v"], SECOND}
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.kill_scheduler()
    w.send(*(f"s{i}@p.example" for i in range(8)), vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 16, 15)
    assert {w.carried[f"s{i}@p.example"] for i in range(8)} == {SECOND}
    w.say("set", "queue", "p.example/v", "--mode=normal")
    w.send(*(f"t{i}@p.example" for i in range(8)), vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 24, 15)
    assert {w.carried[f"t{i}@p.example"] for i in range(8)} == {IPS["v"], SECOND}


def test_the_last_source_disabled_by_command_brings_back_off_where_that_is_set(world):
    w = world(edits=[two_sources()], domain="backoff-upon-all-sources-disabled = true;")
    w.say("disable", "source", IPS["v"], "p.example/v")
    assert w.mode("p.example/v") == "normal"
    w.say("disable", "source", SECOND, "*/v")
    assert w.in_backoff() == ["p.example/v"] and w.queue("p.example/v")["backoff"]["reason"] == "all SMTP sources are disabled"
    w.kill_scheduler()
    assert w.in_backoff() == ["p.example/v"]
    w.say("pause", "queue", "q.example/w")
    w.say("pause", "queue", "q.example/x")
    w.say("disable", "source", IPS["w"], "*/*")
    assert w.in_backoff() == ["p.example/v", "q.example/w"]
    assert w.sluice.log().count("All SMTP sources for queue ") == 2
