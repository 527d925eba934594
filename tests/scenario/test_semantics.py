"""Back-off to the letter: what it changes and what it leaves, whom a rule reaches, what several rules do together."""
import datetime
import json
import smtplib
import time

import harness
import pytest
import smtp_peer
from nsd_fixture import nsd  # noqa: F401  (a fixture)
from test_backoff import IPS, World

SECOND = "127.0.0.12"  # of virtual MTA v, in two_sources
BACKOFF = 'reply = "/too many/"; actions = [ "mode=backoff" ];'


@pytest.fixture
def world(folder, kept):
    return lambda **more: kept(World(folder, **more))


def two_sources():
    ip = IPS["v"]
    return (f'ip = "{ip}"; name = "v.example"; }} );', f'ip = "{ip}"; name = "v.example"; }}, {{ ip = "{SECOND}"; name = "v2.example"; }} );')


def waiting(w, n, queue="p.example/v", name="r"):
    """So many messages, in a queue that is paused."""
    domain, vmta = queue.split("/")
    w.say("pause", "queue", queue)
    w.send(*(f"{name}{i}@{domain}" for i in range(n)), vmta=vmta)


def leaves(w):
    """When each message that was delivered had its leave."""
    shift = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return sorted(int(r["grantStamp"]) / 1e6 + shift for r in w.sluice.records("d"))


def test_after_the_reply_nothing_goes_at_the_old_limits_and_the_queue_goes_on(world):
    w = world(rule=BACKOFF, domain='max-smtp-out = 5; backoff-max-msg-rate = "1/s";')
    waiting(w, 400)
    said = []

    def rcpt(talk, line):
        if len(w.mails) < 60 or said:
            return smtp_peer.usual
        said.append(time.time())
        return "450 4.7.0 too many"
    w.peer.script["rcpt"] = rcpt
    w.peer.script["dot"] = lambda talk, body: time.sleep(0.01) or smtp_peer.usual
    w.say("resume", "queue", "p.example/v")
    w.wait_mode("p.example/v", "backoff")
    flipped = time.time()
    time.sleep(5)
    # Those that had their leave when the reply was on its way; all others would go within a second.
    behind = sum(at > said[0] for _, at in w.mails)
    assert behind <= time.time() - said[0] + 20, behind
    # A busy machine brings one late and the next in time; the leave of each is a second from the last one's.

    def granted():
        return [at for at in leaves(w) if at > flipped]
    harness.wait_for(lambda: len(granted()) >= 3, 20)
    assert all(b - a > 0.999 for a, b in zip(granted(), granted()[1:])), granted()
    blocked = w.queue("p.example/v")["blocked"]
    assert blocked["by"] == "rate" and blocked["limit"].startswith("backoff-max-msg-rate 1/s"), blocked
    assert w.queue("p.example/v")["retryTime"] is None
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: len(w.peer.recipients()) >= 395, 40)  # not one a second


def test_a_flip_in_a_pipelined_transaction_of_fifty(world):
    """It flips with the first reply, and the transaction runs to its end."""
    w = world(rule=BACKOFF)
    modes = []

    def rcpt(talk, line):
        return "450 4.7.0 too many" if line < "RCPT TO:<r10" else smtp_peer.usual  # r00 to r09

    def dot(talk, body):
        harness.wait_for(lambda: modes.append(w.mode("p.example/v")) or modes[-1] == "backoff")
        return smtp_peer.usual
    w.peer.script["rcpt"] = rcpt
    w.peer.script["dot"] = dot
    w.say("pause", "queue", "p.example/v")
    with smtplib.SMTP("127.0.0.1", w.sluice.port, timeout=60) as s:
        s.sendmail("a@here.example", [f"r{i:02}@p.example" for i in range(50)], "X-Virtual-MTA: v\r\n\r\nbody\r\n")
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 40, 20)
    assert modes[-1] == "backoff" and w.peer.taken[0][1] == [f"r{i:02}@p.example" for i in range(10, 50)]
    assert len(w.queue("p.example/v")["modeEvent"]) == 1
    w.peer.script["rcpt"] = smtp_peer.usual
    harness.wait_for(lambda: len(w.peer.recipients()) == 50, 20)


@pytest.mark.parametrize("first", ["backoff", "normal"])
def test_three_rules_for_one_reply_of_several_lines(world, first):
    """All contribute; where two contradict, the earlier one stands."""
    modes = ['{ reply = "/^421 4.7.0 Too many messages from/"; actions = [ "mode=backoff" ]; }',
             '{ reply = "/messages from you$/"; actions = [ "mode=normal", "reduce-connections" ]; }']
    w = world(rules=", ".join([*(modes if first == "backoff" else modes[::-1]), '{ reply = "/^421/"; actions = [ "defer-queue" ]; }']),
              edits=[('retry-after = "1s"; backoff-retry-after = "1s"', 'retry-after = "2h"; backoff-retry-after = "3h"')])
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: w.queue("p.example/v")["retryTime"] is not None, 10)
    time.sleep(0.3)
    assert w.mode("p.example/v") == first
    assert w.sluice.log().count("reply=matched") == 1 and 'text="421 4.7.0 Too many messages from you"' in w.sluice.log()


def test_twins_that_are_not_given_never_speed_a_queue_up(world):
    """backoff-max-smtp-out is not 20 where max-smtp-out is 2; a round that fails in back-off waits an hour; a rate is the normal one."""
    w = world(rule=BACKOFF, domain='max-smtp-out = 2; max-msg-rate = "20/s";', edits=[('backoff-retry-after = "1s"; ', "")])
    now, most = set(), []

    def dot(talk, body):
        now.add(talk)
        most.append(len(now))
        time.sleep(0.05)
        now.discard(talk)
        return smtp_peer.usual
    w.peer.script["dot"] = dot
    waiting(w, 100)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    began = time.time()
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 100, 30)
    assert max(most) <= 2 and 4 < time.time() - began
    w.peer.script["greeting"] = "421 4.3.2 down"
    w.send("b@p.example", vmta="v")
    harness.wait_for(lambda: w.queue("p.example/v")["retryTime"] is not None, 10)
    ahead = datetime.datetime.fromisoformat(w.queue("p.example/v")["retryTime"].replace("Z", "+00:00")) - datetime.datetime.now(datetime.timezone.utc)
    assert 3500 < ahead.total_seconds() < 3700


def test_a_twin_that_is_given_is_taken_as_written(world):
    """Also one that lets more connections be than before."""
    w = world(rule=BACKOFF, domain="max-smtp-out = 2; backoff-max-smtp-out = 5;")
    now, most = set(), []

    def dot(talk, body):
        now.add(talk)
        most.append(len(now))
        if max(most) < 5:  # however slowly they come
            harness.wait_for(lambda: max(most) >= 5, 10)
        time.sleep(0.1)
        now.discard(talk)
        return smtp_peer.usual
    w.peer.script["dot"] = dot
    waiting(w, 60)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 60, 30)
    assert max(most) == 5, max(most)


def test_a_further_match_restarts_the_timer(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=5s" ];')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    first = w.queue("p.example/v")["backoff"]
    began = time.time()
    harness.wait_for(lambda: w.queue("p.example/v")["backoff"]["until"] > first["until"], 10)
    assert w.queue("p.example/v")["backoff"]["since"] == first["since"]
    time.sleep(3)
    w.angry.clear()
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 10)
    last = w.mails[-2][1]  # the last one that was refused
    w.wait_mode("p.example/v", "normal", 10)
    assert time.time() - began > 6 and time.time() - last > 4
    assert len(w.queue("p.example/v")["modeEvent"]) == 2


def test_scope_source_ip_slows_what_goes_by_it_and_nothing_else(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "source-ip";', edits=[two_sources()],
              domain='backoff-max-msg-rate = "1/h"; max-msg-per-connection = 1;')
    w.angry.add(IPS["v"])
    for i in range(10):  # until one has gone by that IP
        w.send(f"a{i}@p.example", vmta="v")
        time.sleep(0.1)
        if "mode=backoff" in w.sluice.log():
            break
    harness.wait_for(lambda: f'source-ip={IPS["v"]} mode=backoff' in w.sluice.log(), 10)
    w.angry.clear()
    for domain in "later.example", "q.example":  # queues that come later, too
        harness.wait_for(lambda: w.sluice.queued() == 0, 15)
        n = len(w.mails)
        w.send(*(f"b{i}@{domain}" for i in range(20)), vmta="v")
        harness.wait_for(lambda: sum(r.startswith("b") and r.endswith(domain) for r in w.peer.recipients()) == 20, 20)
        by = [ip for ip, _ in w.mails[n:]]
        assert by.count(IPS["v"]) <= 1 and by.count(SECOND) >= 19, by  # one an hour in each queue
        w.kill_scheduler()
    w.send("c@q.example", vmta="w")
    harness.wait_for(lambda: "c@q.example" in w.peer.recipients(), 10)
    rows = {s["ip"]: s for s in json.loads(w.say("show", "sources", "--json"))["data"]["source"]}
    assert [(rows[ip]["mode"], rows[ip]["backoff"] and rows[ip]["backoff"]["scope"]) for ip in (IPS["v"], SECOND)] == [("backoff", "source-ip"), ("normal", None)]
    assert "Too many" in rows[IPS["v"]]["backoff"]["reason"] and "421 4.7.0 Too many" in w.say("show", "sources")
    w.say("set", "queue", "--mode=normal", "*/*")
    assert {s["mode"] for s in json.loads(w.say("show", "sources", "--json"))["data"]["source"]} == {"normal"}


def test_scope_provider_and_rules_of_one_provider(nsd, world):  # noqa: F811
    """Queues of all its domains and virtual MTAs, also one that comes later; none of another provider; its reply means nothing there."""
    port = harness.free_port()
    peers = {a: smtp_peer.Peer(a, port) for a in ("127.0.0.51", "127.0.0.52")}
    nsd.zone("test", "mx1 A 127.0.0.51\nmx2 A 127.0.0.52\n" + "".join(f"{d} 1 MX 5 mx1\n" for d in ("a", "b", "later")) + "c 1 MX 5 mx2\n")
    nsd.start()
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "provider"; provider = "one";', top=f'name-server = "{nsd.name_server}";',
              conf='providers = ( { name = "one"; mx = [ "mx1.test" ]; }, { name = "two"; mx = [ "mx2.test" ]; } );', peer=peers["127.0.0.51"],
              edits=[(f'smtp-hosts = "[127.0.0.1]:{port}"', f"default-smtp-port = {port}")])
    try:
        other = peers["127.0.0.52"]
        other.script["mail"] = lambda talk, line: "450 4.7.0 too many"
        w.send("x@c.test", vmta="v")
        w.send("x@b.test", vmta="w")
        harness.wait_for(lambda: w.peer.recipients() == ["x@b.test"] and len(other.talks) >= 2, 20)
        assert w.in_backoff() == []
        w.angry.add(IPS["v"])
        w.send("x@a.test", vmta="v")
        w.wait_mode("a.test/v", "backoff")
        assert w.in_backoff() == ["a.test/v", "b.test/w"]
        w.angry.clear()
        w.send("x@later.test", vmta="x")
        w.wait_mode("later.test/x", "backoff")
        assert w.mode("c.test/v") == "normal"
        w.say("set", "queue", "b.test/w", "--mode=normal")
        assert w.in_backoff() == ["a.test/v", "later.test/x"]
        w.kill_scheduler()
        w.send("y@a.test", vmta="v")
        w.wait_mode("a.test/v", "backoff")
    finally:
        peers["127.0.0.52"].close()


def test_a_dry_run_only_counts(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff", "bounce-queue" ]; dry-run = true;')
    w.angry.add(IPS["v"])
    w.send("a@p.example", "b@p.example", vmta="v")
    harness.wait_for(lambda: "reply=matched" in w.sluice.log() and len(w.mails) >= 3, 15)
    assert w.mode("p.example/v") == "normal" and w.queue("p.example/v")["rcp"] == 2
    w.angry.clear()
    harness.wait_for(lambda: len(w.peer.recipients()) == 2, 15)


def test_a_rule_that_is_gone_does_nothing_and_its_back_off_keeps_its_timer(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=10s" ];')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.reload('reply = "/too many/"', 'reply = "/never said/"')
    until = w.queue("p.example/v")["backoff"]["until"]
    w.angry.add(IPS["w"])
    w.send("b@p.example", vmta="w")
    n = len(w.mails)
    harness.wait_for(lambda: all(sum(ip == IPS[v] for ip, _ in w.mails[n:]) >= 2 for v in "vw"))
    assert w.mode("p.example/w") == "normal" and w.queue("p.example/v")["backoff"]["until"] == until
    w.wait_mode("p.example/v", "normal", 15)


def test_recovery_in_steps_after_the_end(world):
    w = world(rule=BACKOFF, domain='max-msg-rate = "20/s"; recover = "10%,50% every 3s";')
    waiting(w, 150)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    before = time.time()
    w.say("set", "queue", "p.example/v", "--mode=normal")
    after = time.time()  # it ended in between
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 150, 40)
    harness.wait_for(lambda: len(leaves(w)) == 150)
    at = leaves(w)
    assert sum(t < before + 3 for t in at) <= 8 and sum(t < before + 6 for t in at) <= 42, [round(t - before, 1) for t in at]
    assert 10 <= sum(t < after + 6.5 for t in at)  # but they do not stand still
    last = [t for t in at if t > after + 6.2]
    assert max(sum(t <= u < t + 1 for u in last) for t in last) > 12  # more than ten a second


def test_mode_paused_and_retry_are_three_states_of_their_own(world):
    w = world(rule=BACKOFF, edits=[('retry-after = "1s"; backoff-retry-after = "1s"', 'retry-after = "1h"; backoff-retry-after = "2h"')])
    w.peer.script["greeting"] = "421 4.3.2 down"
    w.send("a@p.example", vmta="v")

    def states():
        q = w.queue("p.example/v")
        return q["mode"], q["paused"], q["retryTime"] is not None
    harness.wait_for(lambda: states() == ("normal", False, True), 10)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    assert states() == ("backoff", False, True)
    w.say("pause", "queue", "p.example/v")
    assert states() == ("backoff", True, True)
    w.say("set", "queue", "p.example/v", "--mode=normal")
    assert states() == ("normal", True, True)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.kill_scheduler()
    assert states() == ("backoff", True, True)
    w.say("resume", "queue", "p.example/v")
    assert states() == ("backoff", False, True)
    w.peer.script["greeting"] = smtp_peer.usual
    w.say("schedule", "p.example/v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 10)
    assert states() == ("backoff", False, False)


def test_the_last_ten_changes_are_kept(world):
    w = world()
    for _ in range(7):
        for mode in "backoff", "normal":
            w.say("set", "queue", "p.example/v", f"--mode={mode}")
    w.say("set", "queue", "p.example/*", "--mode=backoff")
    w.kill_scheduler()
    assert [e["to"] for e in w.queue("p.example/v")["modeEvent"]] == ["normal", "backoff"] * 5
