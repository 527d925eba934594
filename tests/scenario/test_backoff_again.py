"""Back-off that meets the same reply again, and that begins anew with the scheduler."""
import time

import harness
import smtp_peer
from test_backoff import IPS, TOO_MANY, world  # noqa: F401


def test_a_further_match_restarts_the_timer(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=5s" ];')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    until = w.queue("p.example/v")["backoff"]["until"]
    time.sleep(9)  # tried, and refused, each second or two
    q = w.queue("p.example/v")
    assert [e["to"] for e in q["modeEvent"]] == ["backoff"]
    assert q["backoff"]["until"] > until
    w.angry.clear()
    w.wait_mode("p.example/v", "normal", 20)


def held(w, recipients):
    """Who comes through in a while: less than all."""
    time.sleep(3)
    return [r for r in w.peer.recipients() if r in recipients]


def test_the_limits_of_a_scope_hold_for_a_queue_that_comes_later(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";', domain='backoff-max-msg-rate = "1/h";')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.angry.clear()
    later = [f"l{i}@later.example" for i in range(5)]
    w.send(*later, vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) >= 1, 20)
    assert len(held(w, later)) == 1


def test_the_limits_of_a_scope_hold_after_a_restart(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";', domain='backoff-max-msg-rate = "2/h";')
    w.angry.add(IPS["v"])
    mail = [f"r{i}@p.example" for i in range(10)]
    w.send(*mail, vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.angry.clear()
    w.kill_scheduler()
    w.send("w@p.example", vmta="w")
    harness.wait_for(lambda: "w@p.example" in w.peer.recipients(), 20)
    assert len(held(w, mail)) <= 2
    assert w.queue("p.example/v")["mode"] == "backoff"


def test_what_is_queued_waits_from_the_first_match_on(world):  # noqa: F811
    w = world(domain='max-smtp-out = 1; backoff-max-msg-rate = "1/h";')
    w.peer.script["mail"] = smtp_peer.once(TOO_MANY)
    mail = [f"r{i}@p.example" for i in range(12)]
    w.say("pause", "queue", "p.example/v")
    w.send(*mail, vmta="v")
    w.say("resume", "queue", "p.example/v")
    w.wait_mode("p.example/v", "backoff")
    assert held(w, mail) == []


def test_the_automatic_rate_is_shown(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; recover = "auto";', domain='max-msg-rate = "1000/s"; backoff-max-msg-rate = "1/h";')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    shown = w.queue("p.example/v")["backoff"]["learnedRate"]
    assert shown.endswith(("/s", "/m")) and float(shown[:-2]) > 0
    assert "learned rate" in w.say("show", "queue", "p.example/v")
    w.angry.clear()
    w.send(*(f"r{i}@p.example" for i in range(10)), vmta="v")
    harness.wait_for(lambda: len(w.peer.recipients()) == 11, 30)  # in place of one an hour


def test_a_queue_that_flips_while_its_virtual_mta_is_in_back_off_recovers_by_its_own_rule(world):  # noqa: F811
    w = world(rules='{ reply = "/all of you/"; scope = "virtual-mta"; actions = [ "mode=backoff" ]; }, '
                    '{ reply = "/too many/"; actions = [ "mode=backoff" ]; recover = "auto"; }', domain='max-msg-rate = "1000/s";')
    w.angry.add(IPS["v"])
    w.reply = "450 4.7.0 all of you"
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    assert w.queue("p.example/v")["backoff"]["learnedRate"] is None
    w.reply = "450 4.7.0 too many"
    harness.wait_for(lambda: w.queue("p.example/v")["backoff"]["reason"] == w.reply, 20)
    assert w.queue("p.example/v")["backoff"]["learnedRate"] is not None
    w.say("set", "queue", "p.example/v", "--mode=normal")
    assert w.mode("p.example/v") == "normal"


def refused_last(w):
    """The only connection: a few messages, then 421, and it is closed."""
    def mail(talk, line):
        if len(w.peer.recipients()) != 5 or w.said:
            return smtp_peer.usual
        w.said = True
        talk.say(TOO_MANY)
        talk.close()
    w.said = False
    w.peer.script["mail"] = mail
    w.say("pause", "queue", "p.example/v")
    w.send(*(f"r{i}@p.example" for i in range(15)), vmta="v")
    w.say("resume", "queue", "p.example/v")
    w.wait_mode("p.example/v", "backoff")


AN_HOUR = [('backoff-retry-after = "1s"', 'backoff-retry-after = "1h"')]


def test_while_the_rate_is_learned_a_refusal_is_no_host_that_is_down(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; recover = "auto";', domain='max-msg-rate = "1000/s"; max-smtp-out = 1;', edits=AN_HOUR)
    refused_last(w)
    harness.wait_for(lambda: len(w.peer.recipients()) >= 14, 30)
    assert w.queue("p.example/v")["retryTime"] is None


def test_unless_421_means_that_it_is(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; recover = "auto";',
              domain='max-msg-rate = "1000/s"; max-smtp-out = 1; smtp-421-means-mx-unavailable = true;', edits=AN_HOUR)
    refused_last(w)
    harness.wait_for(lambda: w.queue("p.example/v")["retryTime"] is not None, 20)
    assert len(w.peer.recipients()) == 5
