"""What back-off leaves behind goes on over a kill of the scheduler, a reload, and other queues' back-off."""
import time

import harness
from test_backoff import IPS, changed_at, world  # noqa: F401  (a fixture)


def delivered(w):
    return len(w.peer.recipients())


def test_the_steps_of_a_recovery_go_on_after_a_kill(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=1s" ];',
              domain='max-msg-rate = "100/s"; recover = "5%,10% every 6s";')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.angry.clear()
    w.wait_mode("p.example/v", "normal")
    # When that was, not when it was seen: in whole seconds, so up to one before.
    began = changed_at(w, "p.example/v")[-1]
    w.kill_scheduler()
    w.send(*(f"r{i}@p.example" for i in range(150)), vmta="v")
    seen = delivered(w)
    # 5 a second, then 10; a hundred when nobody remembers.
    assert seen <= 15 * (time.time() - began) + 10, (seen, time.time() - began)
    assert w.mode("p.example/v") == "normal"
    harness.wait_for(lambda: delivered(w) == 151, 30)
    assert time.time() - began > 11.5


def test_the_end_of_one_is_not_put_off_by_the_next(world):  # noqa: F811
    w = world(domain='backoff-to-normal-after = "1h"; }, { name = "soon.example"; backoff-to-normal-after = "2s";')
    w.say("set", "queue", "soon.example/v", "--mode=backoff")
    for i in range(3):
        w.say("set", "queue", f"q{i}.example/v", "--mode=backoff")
        time.sleep(0.3)
    w.wait_mode("soon.example/v", "normal", 20)
    assert sorted(w.in_backoff()) == ["q0.example/v", "q1.example/v", "q2.example/v"]


def test_mail_that_waits_before_its_provider_is_known_goes_along(world):  # noqa: F811
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "provider";',
              domain='backoff-reroute-to-virtual-mta = "x";')
    w.angry.add(IPS["v"])
    w.say("pause", "queue", "p.example/x")
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    harness.wait_for(lambda: w.queue("p.example/x")["rcp"] == 1, 10)
    w.send("b@q.example", vmta="v")  # the same host, as its route tells
    harness.wait_for(lambda: w.peer.recipients() == ["b@q.example"], 10)
    assert [t.client for t in w.peer.talks if any("q.example" in line for line in t.lines)] == [IPS["x"]]
    # So it is after a restart: nothing is known of a provider then.
    w.say("pause", "queue", "r.example/x")
    w.kill_scheduler()
    w.send("c@r.example", vmta="v")
    harness.wait_for(lambda: w.queue("r.example/x")["rcp"] == 1, 10)
    assert w.queue("r.example/v")["rcp"] == 0


def test_a_threshold_of_a_scope_that_the_queue_has_not(world):  # noqa: F811
    """No source IP of its own: the rule is the queue's alone, and counts."""
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "source-ip"; after = "2/10m";')
    w.reply = "450 4.7.0 too many"
    w.angry.add("127.0.0.1")
    w.send("a@p.example", vmta="{default}")
    w.wait_mode("p.example/{default}", "backoff")


def test_a_wider_scope_ends_when_all_its_queues_are_set_normal(world):  # noqa: F811
    """And with it the back-off of those that come later; a queue's own name takes out that queue alone."""
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta"; }, '
                    '{ reply = "/too few/"; actions = [ "mode=backoff" ]; scope = "source-ip"; }')
    for vmta in ("v", "w"):
        w.angry.add(IPS[vmta])
        w.send("a@p.example", vmta=vmta)
        w.wait_mode(f"p.example/{vmta}", "backoff")
    w.angry.clear()
    w.say("set", "queue", "p.example/v", "--mode=normal")
    w.say("set", "queue", "p.example/*", "--mode=normal")
    w.send("b@later.example", vmta="v")
    assert w.mode("later.example/v") == "backoff"
    w.say("set", "queue", "*/V", "--mode=normal")  # names without case
    assert w.mode("later.example/v") == "normal"
    assert [c["reason"] for c in w.queue("later.example/v")["modeEvent"]][-1] == "by command"
    w.kill_scheduler()
    w.send("c@fresh.example", vmta="v")
    w.send("c@fresh.example", vmta="w")
    assert w.mode("fresh.example/v") == "normal" and w.mode("fresh.example/w") == "backoff"
    w.reply = "450 4.7.0 too few"
    w.angry.add(IPS["v"])
    w.send("d@p.example", vmta="v")
    harness.wait_for(lambda: f"source-ip={IPS['v']} mode=backoff" in w.sluice.log(), 10)
    w.say("set", "queue", "*/*", "--mode=normal")
    assert w.mode("fresh.example/w") == "normal"
    assert f"source-ip={IPS['v']} mode=normal" in w.sluice.log()
