"""Where a queue's mail goes: another virtual MTA, in back-off or always; chains, loops, pools; the probe that stays; the way back."""
import os
import smtplib
import subprocess
import sys
import threading
import time

import harness
import ledger
import pytest
from test_backoff import IPS, World

sys.path.insert(0, os.path.join(harness.ROOT, "tests/torture"))
import killpoints  # noqa: E402


@pytest.fixture
def world(folder, kept):
    return lambda **more: kept(World(folder, **more))


def of_vmta(vmta, settings, name="*"):
    """Settings of a domain in one virtual MTA: an edit of what World writes."""
    ip = IPS[vmta]
    return (f'ip = "{ip}"; name = "{vmta}.example"; }} );',
            f'ip = "{ip}"; name = "{vmta}.example"; }} ); domains = ( {{ name = "{name}"; {settings} }} );')


def by_name(rows):
    return {q["name"]: q["rcp"] for q in rows if q["rcp"]}


def queued(w):
    return by_name(w.sluice.ask("show", "queues", "--maxitems=1000")["queue"])


def from_ip(w):
    """{recipient: virtual MTA whose source IP brought it}"""
    vmta = {ip: v for v, ip in IPS.items()}
    return {r: vmta[w.carried[r]] for r in w.peer.recipients()}


def test_one_domain_of_a_message_is_rerouted_the_other_is_not(world):
    w = world(edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "x";', "p.example")])
    for q in "p.example/v", "q.example/v", "p.example/x":
        w.say("pause", "queue", q)
    with smtplib.SMTP("127.0.0.1", w.sluice.port, timeout=60) as s:
        s.sendmail("a@here.example", ["a@p.example", "b@p.example", "c@q.example"], "X-Virtual-MTA: v\r\nSubject: x\r\n\r\nbody\r\n")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/x": 2, "q.example/v": 1}, 10)
    w.say("resume", "queue", "*/*")
    harness.wait_for(lambda: from_ip(w) == {"a@p.example": "x", "b@p.example": "x", "c@q.example": "v"}, 10)


def test_always_to_another_virtual_mta(world):
    w = world(edits=[of_vmta("v", 'reroute-to-virtual-mta = "x";')])
    w.say("pause", "queue", "p.example/x")
    w.send("a@p.example", vmta="v")
    assert queued(w) == {"p.example/x": 1}
    w.kill_scheduler()
    assert queued(w) == {"p.example/x": 1}
    # Its twin says nothing, so in back-off mail stays in the queue, until that ends.
    w.say("pause", "queue", "p.example/v")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.send("b@p.example", vmta="v")
    assert queued(w) == {"p.example/x": 1, "p.example/v": 1}
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: queued(w) == {"p.example/x": 2}, 10)
    w.say("resume", "queue", "p.example/x")
    harness.wait_for(lambda: from_ip(w) == {"a@p.example": "x", "b@p.example": "x"}, 10)


def test_a_reload_names_the_other_virtual_mta(world):
    old, new = of_vmta("v", 'reroute-to-virtual-mta = "x";')
    w = world()
    for q in "p.example/v", "p.example/x":
        w.say("pause", "queue", q)
    w.send(*(f"r{i}@p.example" for i in range(20)), vmta="v")
    assert queued(w) == {"p.example/v": 20}
    w.reload(old, new)
    harness.wait_for(lambda: queued(w) == {"p.example/x": 20}, 10)


def test_a_reload_says_anew_where_mail_goes_in_back_off(world):
    old, new = of_vmta("v", 'backoff-reroute-to-virtual-mta = "x";')
    w = world()
    for q in "p.example/v", "p.example/w", "p.example/x":
        w.say("pause", "queue", q)
    w.send("a@p.example", vmta="v")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.reload(old, new)
    harness.wait_for(lambda: queued(w) == {"p.example/x": 1}, 10)
    assert w.queue("p.example/v")["backoff"]["rerouteTo"] == "p.example/x"
    w.reload('virtual-mta = "x"', 'virtual-mta = "w"')
    w.send("b@p.example", vmta="v")
    assert queued(w) == {"p.example/w": 1, "p.example/x": 1}  # what was moved stays moved
    w.kill_scheduler()
    assert w.queue("p.example/v")["backoff"]["rerouteTo"] == "p.example/w"
    w.reload(new.replace('"x"', '"w"'), old)
    w.send("c@p.example", vmta="v")
    assert queued(w) == {"p.example/v": 1, "p.example/w": 1, "p.example/x": 1}
    assert w.mode("p.example/v") == "backoff" and w.queue("p.example/v")["backoff"]["rerouteTo"] is None


def test_along_a_chain_and_what_a_later_flip_moves_on(world):
    w = world(edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "w";'), of_vmta("w", 'backoff-reroute-to-virtual-mta = "x";')])
    for q in "p.example/v", "p.example/w", "p.example/x":
        w.say("pause", "queue", q)
    w.send("a@p.example", vmta="v")
    w.send("own@p.example", vmta="w")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/w": 2}, 10)
    w.say("set", "queue", "p.example/w", "--mode=backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/x": 2}, 10)
    w.kill_scheduler()
    w.send("b@p.example", vmta="v")
    assert queued(w) == {"p.example/x": 3}
    assert w.queue("p.example/v")["backoff"]["rerouteTo"] == "p.example/x"
    w.say("set", "queue", "p.example/w", "--mode=normal")
    w.send("c@p.example", vmta="v")
    assert queued(w) == {"p.example/x": 3, "p.example/w": 1}


def test_a_loop_is_cut_and_told_once(world):
    w = world(edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "w";'), of_vmta("w", 'backoff-reroute-to-virtual-mta = "v";')])
    for q in "p.example/v", "p.example/w":
        w.say("pause", "queue", q)
    w.send("a@p.example", vmta="v")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/w": 1}, 10)
    w.say("set", "queue", "p.example/w", "--mode=backoff")
    w.send("b@p.example", vmta="v")
    w.kill_scheduler()
    time.sleep(0.5)
    assert queued(w) == {"p.example/w": 2}
    assert w.sluice.log().count("reroute=loop") == 1
    w.say("resume", "queue", "*/*")
    harness.wait_for(lambda: from_ip(w) == {"a@p.example": "w", "b@p.example": "w"}, 10)


def test_the_way_back_while_mail_is_still_on_its_way(world):
    """v's mail goes to w, slowly; v is normal again, and w flips: its mail goes to v once v's has come."""
    w = world(edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "w";'), of_vmta("w", 'backoff-reroute-to-virtual-mta = "v";')])
    for q in "p.example/v", "p.example/w":
        w.say("pause", "queue", q)
    w.send("a@p.example", vmta="w")
    harness.Load(w.sluice.folder, w.sluice.target, "-s", 10, "-m", 3000, "--domains", "p.example", "--vmta", "v").wait()
    scheduler = str(w.sluice.pids("scheduler")[0])
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-p", scheduler, "-e", "trace=fdatasync", "-e",
                               "inject=fdatasync:delay_exit=500000"])
    try:
        harness.wait_for(lambda: "TracerPid:\t0\n" not in open(f"/proc/{scheduler}/status").read(), 10)
        for q, mode in ("p.example/v", "backoff"), ("p.example/v", "normal"), ("p.example/w", "backoff"):
            w.say("set", "queue", q, "--mode=" + mode)
        harness.wait_for(lambda: "queue=p.example/w reroute=waits to=p.example/v" in w.sluice.log(), 10)
    finally:
        tracer.terminate()
        tracer.wait(10)
    harness.wait_for(lambda: queued(w) == {"p.example/v": 3001}, 30)
    assert w.sluice.log().count("reroute=waits") == 1
    assert w.mode("p.example/w") == "backoff" and w.mode("p.example/v") == "normal"


def test_what_comes_behind_the_end_stays_although_a_message_is_in_flight(world):
    w = world(domain='backoff-reroute-to-virtual-mta = "x"; max-smtp-out = 1;')
    answered = threading.Event()

    def at_data(talk, recipients):
        assert recipients != ["slow@p.example"] or answered.wait(30)
        return w.at_data(talk, recipients)
    w.peer.script["data"] = at_data
    w.say("pause", "queue", "p.example/x")
    w.send("slow@p.example", vmta="v")
    harness.wait_for(lambda: w.queue("p.example/v")["conn"] == 1, 10)
    w.send("a@p.example", vmta="v")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/v": 1, "p.example/x": 1}, 10)
    w.send("b@p.example", vmta="v")
    harness.wait_for(lambda: queued(w) == {"p.example/v": 1, "p.example/x": 2}, 10)
    w.say("set", "queue", "p.example/v", "--mode=normal")
    w.send("c@p.example", vmta="v")
    try:
        assert queued(w) == {"p.example/v": 2, "p.example/x": 2}
    finally:
        answered.set()
    harness.wait_for(lambda: w.peer.recipients() == ["c@p.example", "slow@p.example"], 15)
    assert queued(w) == {"p.example/x": 2}


def test_who_is_taken_out_of_a_wider_scope_follows_what_holds_without_it(world):
    """Its reroute-to-virtual-mta, which does not hold in back-off."""
    w = world(rule='reply = "/^421 .*too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";')
    w.angry.add(IPS["v"])
    w.send("a@q.example", vmta="v")
    w.wait_mode("q.example/v", "backoff")
    w.reload(*of_vmta("v", 'reroute-to-virtual-mta = "x";'))
    for q in "p.example/v", "p.example/x":
        w.say("pause", "queue", q)
    w.send("a@p.example", vmta="v")
    assert queued(w)["p.example/v"] == 1
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: queued(w).get("p.example/x") == 1, 10)


def test_what_is_to_bounce_does_not_go_elsewhere(world):
    w = world(rules='{ reply = "/^421 .*too many/"; actions = [ "bounce-queue" ]; }, { reply = "/too many/"; actions = [ "mode=backoff" ]; }',
              domain='backoff-reroute-to-virtual-mta = "x"; max-smtp-out = 1;')
    for q in "p.example/v", "p.example/x":
        w.say("pause", "queue", q)
    w.angry.add(IPS["v"])
    w.send(*(f"r{i}@p.example" for i in range(400)), vmta="v")
    w.say("resume", "queue", "p.example/v")
    w.wait_mode("p.example/v", "backoff")
    harness.wait_for(lambda: queued(w) == {} and w.queue("p.example/v")["bounced"] == 400, 15)
    w.send("a@p.example", vmta="v")
    assert queued(w) == {"p.example/x": 1}


def test_mail_in_a_loop_does_not_wait_for_probes(world):
    w = world(domain='backoff-probe-after = "1h"; backoff-to-normal-after-delivery = false;',
              edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "w";'), of_vmta("w", 'backoff-reroute-to-virtual-mta = "v";')])
    for vmta in "v", "w":
        w.say("set", "queue", f"p.example/{vmta}", "--mode=backoff")
    for vmta in "v", "w":
        w.send(*(f"r{i}-{vmta}@p.example" for i in range(5)), vmta=vmta)
    harness.wait_for(lambda: len(w.peer.recipients()) == 10, 15)
    # Whose way does not lead back any more probes again.
    w.say("set", "queue", "p.example/w", "--mode=normal")
    w.say("pause", "queue", "p.example/w")
    w.send(*(f"s{i}@p.example" for i in range(5)), vmta="v")
    harness.wait_for(lambda: queued(w) == {"p.example/v": 1, "p.example/w": 4}, 15)
    assert w.queue("p.example/v")["blocked"]["by"] == "backoff"


def test_to_itself_is_told_and_mail_stays(world):
    w = world(edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "v";')])
    w.say("pause", "queue", "p.example/v")
    w.send("a@p.example", vmta="v")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.send("b@p.example", vmta="v")
    assert queued(w) == {"p.example/v": 2} and w.sluice.log().count("reroute=itself") == 1
    assert w.queue("p.example/v")["backoff"]["rerouteTo"] is None
    w.say("resume", "queue", "*/*")
    harness.wait_for(lambda: len(w.peer.recipients()) == 2, 10)


def test_age_counts_from_reception_and_the_targets_settings_hold(world):
    w = world(edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "x"; bounce-after = "1h";'), of_vmta("x", 'bounce-after = "6s";')])
    for q in "p.example/v", "p.example/x":
        w.say("pause", "queue", q)
    w.send("old@p.example", vmta="v")
    time.sleep(7)
    w.send("young@p.example", vmta="v")
    assert queued(w) == {"p.example/v": 2}
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/x": 1}, 5)
    w.say("resume", "queue", "p.example/x")
    harness.wait_for(lambda: from_ip(w) == {"young@p.example": "x"}, 5)


def test_a_pool_gives_each_queue_one_of_its_members(world):
    w = world(domain='backoff-reroute-to-virtual-mta = "some";', conf='virtual-mta-pools = ( { name = "some"; virtual-mtas = [ "v", "w", "x" ]; } );')
    domains = [f"d{i}.example" for i in range(24)]
    for d in domains:
        w.say("set", "queue", f"{d}/v", "--mode=backoff")
        w.say("pause", "queue", f"{d}/w")
        w.say("pause", "queue", f"{d}/x")
    w.send(*(f"a@{d}" for d in domains), vmta="v")
    first = queued(w)
    assert sorted(q.split("/")[0] for q in first) == sorted(domains)
    assert {q.split("/")[1] for q in first} == {"w", "x"}  # never back
    w.kill_scheduler()
    w.send(*(f"b@{d}" for d in domains), vmta="v")
    assert queued(w) == {q: 2 for q in first}


def test_probes_go_one_at_a_time_and_a_delivered_one_ends_it(world):
    w = world(domain='backoff-reroute-to-virtual-mta = "x"; backoff-probe-after = "3s";')
    w.angry.add(IPS["v"])
    w.say("pause", "queue", "p.example/x")
    w.say("pause", "queue", "p.example/v")
    w.send(*(f"r{i}@p.example" for i in range(6)), vmta="v")
    began = time.time()
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/x": 5, "p.example/v": 1}, 10)
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: w.queue("p.example/v")["blocked"]["by"] == "backoff", 2)
    w.send("new@p.example", vmta="v")  # there is a probe already
    assert queued(w) == {"p.example/x": 6, "p.example/v": 1}

    def probes():
        return [when for ip, when in w.mails if ip == IPS["v"]]
    harness.wait_for(lambda: len(probes()) == 2, 15)
    w.kill_scheduler()
    assert queued(w) == {"p.example/x": 6, "p.example/v": 1} and w.mode("p.example/v") == "backoff"
    w.angry.clear()
    w.wait_mode("p.example/v", "normal", 15)
    at = probes()
    # A new life counts from the beginning of back-off: its first probe may come a little early.
    assert at[0] - began > 2.5 and at[1] - at[0] > 2 and len(at) <= (time.time() - began) / 3 + 1, (began, at)
    assert [r for r in w.peer.recipients()] == ["r0@p.example"]
    assert w.queue("p.example/v")["modeEvent"][-1]["reason"] == "a message was delivered"
    w.send("back@p.example", vmta="v")
    harness.wait_for(lambda: "back@p.example" in w.peer.recipients(), 10)
    assert queued(w) == {"p.example/x": 6}
    w.say("resume", "queue", "p.example/x")
    harness.wait_for(lambda: len(w.peer.recipients()) == 8 and len(set(w.peer.recipients())) == 8, 10)


def test_the_message_that_met_the_reply_probes_when_no_other_waits(world):
    w = world(domain='backoff-reroute-to-virtual-mta = "x"; backoff-probe-after = "1s";')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    harness.wait_for(lambda: queued(w) == {"p.example/v": 1}, 5)
    w.angry.clear()
    w.wait_mode("p.example/v", "normal", 10)
    assert from_ip(w) == {"a@p.example": "v"}


def test_the_only_message_probes_when_a_wider_scope_flips_with_its_queue(world):
    """It is in flight while all queues of the virtual MTA are told."""
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; }, { reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta"; }',
              domain='backoff-reroute-to-virtual-mta = "x"; backoff-probe-after = "1s";')
    usual = w.peer.script["mail"]
    w.peer.script["mail"] = lambda talk, line: (usual(talk, line), time.sleep(0.3))[0]
    w.angry.add(IPS["v"])
    for d in "pqrst":
        w.send(f"a@{d}.example", vmta="v")
    harness.wait_for(lambda: len(w.in_backoff()) == 5, 15)
    time.sleep(3)
    w.angry.clear()
    harness.wait_for(lambda: len(w.peer.recipients()) == 5, 20)
    assert set(from_ip(w).values()) == {"v"}, from_ip(w)


def test_a_probe_takes_its_queue_alone_out_of_a_wider_scope(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";',
              domain='backoff-reroute-to-virtual-mta = "x"; backoff-probe-after = "2s";')
    for d in "p", "q":
        w.say("pause", "queue", f"{d}.example/v")
        w.say("pause", "queue", f"{d}.example/x")
        w.send(*(f"r{i}@{d}.example" for i in range(3)), vmta="v")
    w.angry.add(IPS["v"])
    w.send("a@first.example", vmta="v")
    harness.wait_for(lambda: {q: n for q, n in queued(w).items() if not q.startswith("first")} ==
                     {f"{d}.example/{v}": n for d in "pq" for v, n in (("v", 1), ("x", 2))}, 10)
    assert len(w.in_backoff()) == 3
    w.say("pause", "queue", "first.example/v")
    w.angry.clear()
    w.say("resume", "queue", "p.example/v")
    w.wait_mode("p.example/v", "normal", 10)
    assert "p.example/v" not in w.in_backoff() and "q.example/v" in w.in_backoff()
    w.kill_scheduler()
    w.send("b@p.example", "b@q.example", vmta="v")
    harness.wait_for(lambda: from_ip(w).get("b@p.example") == "v", 10)
    assert queued(w)["q.example/x"] == 3 and queued(w)["q.example/v"] == 1


def test_twenty_thousand_at_once():
    """tests/rates/reroute.py, small: it holds at once, another queue's mail does not wait, nothing is lost or doubled."""
    for _ in range(3):  # the machine may stand still in one of them: that is a time, and nothing else
        done = subprocess.run([sys.executable, os.path.join(harness.ROOT, "tests/rates/reroute.py"), "--messages", "20000", "--seconds", "6", "--drain",
                               "--slack", "10"], capture_output=True, text=True, timeout=300)
        if not any(" ms " in line and line.endswith("MISSED") for line in done.stdout.splitlines()):
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all held" in done.stdout


@pytest.mark.parametrize("n, probe", [(3000, False), (3000, True), (100, False)])
def test_killed_while_rows_follow(folder, n, probe):
    """Some rows name the other queue already, others do not: all of them are its, but for the one that stays to probe with. So few that their
    move needs no redirect are sent on their way again."""
    switch = killpoints.Switch(os.path.join(folder, "kill-points"))
    sink = harness.Sink(folder, ["127.0.0.1:0"])
    vmtas = ", ".join('{ name = "%s"; smtp-source-hosts = ( { ip = "127.0.0.1"; name = "out.example"; } ); }' % v for v in "vx")
    more = 'backoff-probe-after = "2s"; ' if probe else ""
    with harness.Sluice(
            os.path.join(folder, "mta"), variant="torture", environment={"SLUICE_KILL_POINTS": switch.file.name}, vmtas=f"virtual-mtas = ( {vmtas} );",
            domains=f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{sink.listening[0].rpartition(":")[2]}"; retry-after = "1s"; '
                    f'backoff-reroute-to-virtual-mta = "x"; {more}}} );') as sluice:
        for q in "a.example/v", "a.example/x":
            assert sluice.sluice("pause", "queue", q).returncode == 0
        load = harness.Load(folder, sluice.target, "-s", 10, "-m", n, "--domains", "a.example", "--vmta", "v", variant="release")
        load.wait()

        def held(q):
            return sluice.ask("show", "queue", q)["queue"][0]["rcp"]
        def strike():
            """False: the flip, which nobody was told of, had not come to the disk, and all is as if it had not been."""
            switch.arm("entry-moved", n // 3)
            sluice.sluice("set", "queue", "a.example/v", "--mode=backoff")
            assert killpoints.wait_hit(switch, 20)
            harness.wait_for(lambda: sluice.sluice("show", "status").returncode == 0, 30)
            if sluice.ask("show", "queue", "a.example/v")["queue"][0]["mode"] == "backoff":
                return True
            assert (held("a.example/v"), held("a.example/x")) == (n, 0)
            return False
        harness.wait_for(strike, 60)
        harness.wait_for(lambda: held("a.example/x") == n - probe, 20)
        assert held("a.example/v") == probe
        for q in "a.example/v", "a.example/x":
            assert sluice.sluice("resume", "queue", q).returncode == 0
        sluice.wait_drained(60)
        sent = load.read()
        sluice.wait_recorded(sent.acked, 40)
        report = ledger.check(sent, sink.read(), sluice.acct())
        assert report["ok"] and report["acknowledged"] == n, report
        mode = sluice.ask("show", "queue", "a.example/v")["queue"][0]["mode"]
        assert mode == ("normal" if probe else "backoff")
    sink.stop()
    switch.close()
