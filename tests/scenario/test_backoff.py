"""Back-off as rules and operators bring it about: one queue and not its sibling, durable, left by each way out."""
import datetime
import os
import signal
import smtplib
import time

import harness
import pytest
import smtp_peer

IPS = {"v": "127.0.0.2", "w": "127.0.0.3", "x": "127.0.0.4"}
TOO_MANY = "421-4.7.0 Too many\r\n421 4.7.0 messages from you"
AS_RECEIVED = "421 4.7.0 Too many messages from you"


class World:
    """Two virtual MTAs and a third to go to; the peer says 421 at MAIL to those that `angry` names."""

    def __init__(self, folder, rule='reply = "/^421 .*too many/"; actions = [ "mode=backoff" ];', domain="", rules=None, conf="", edits=(), top="", peer=None, more=""):
        self.peer = peer or smtp_peer.Peer()
        self.angry = set()
        self.reply = TOO_MANY
        self.mails = []  # (source IP, when) of each MAIL
        self.carried = {}  # recipient: source IP that brought it
        self.peer.script["mail"] = self.at_mail
        self.peer.script["rcpt"] = self.at_rcpt
        self.peer.script["data"] = self.at_data
        self.rules = rules or "{ %s }" % rule
        vmtas = ", ".join('{ name = "%s"; smtp-source-hosts = ( { ip = "%s"; name = "%s.example"; } ); }' % (v, ip, v)
                          for v, ip in IPS.items())
        self.sluice = harness.Sluice(
            folder, top=top, vmtas=f"virtual-mtas = ( {vmtas} );",
            domains=f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{self.peer.port}"; retry-after = "1s"; '
                    f'backoff-retry-after = "1s"; retry-recipients-after = "1s"; smtp-pattern-list = "l"; {domain} }} );',
            conf='smtp-pattern-lists = ( { name = "l"; rules = ( %s ); } );' % self.rules + conf + more)
        for old, new in edits:
            assert old in self.sluice.text
            self.sluice.text = self.sluice.text.replace(old, new)
        self.sluice.start()

    def at_mail(self, talk, line):
        self.mails.append((talk.client, time.time()))
        talk.refused = talk.client in self.angry
        return self.reply if talk.refused else smtp_peer.usual

    def at_rcpt(self, talk, line):
        return "503 5.5.1 no sender" if getattr(talk, "refused", False) else smtp_peer.usual

    def at_data(self, talk, recipients):
        self.carried.update((r, talk.client) for r in recipients)
        return smtp_peer.usual

    def send(self, *recipients, vmta):
        with smtplib.SMTP("127.0.0.1", self.sluice.port, timeout=60) as s:
            for r in recipients:
                s.sendmail("sender@here.example", [r], f"X-Virtual-MTA: {vmta}\r\nSubject: x\r\n\r\nbody\r\n")

    def queue(self, name):
        return self.sluice.ask("show", "queue", name)["queue"][0]

    def mode(self, name):
        return self.queue(name)["mode"]

    def wait_mode(self, name, mode, seconds=15):
        harness.wait_for(lambda: self.mode(name) == mode, seconds)

    def in_backoff(self):
        return [q["name"] for q in self.sluice.ask("show", "queues", "--mode=backoff")["queue"]]

    def say(self, *words, status=0):
        done = self.sluice.sluice(*words)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def on_disk(self):
        """What is shown is in force, and on disk with the commit under way: these two are answered when they are, and so is what came before."""
        self.say("set", "limit", "--vmta=x", "max-smtp-out=20000")
        self.say("set", "limit", "--vmta=x", "--clear")

    def kill_scheduler(self):
        self.on_disk()
        before = self.sluice.pids("scheduler")
        os.kill(before[0], signal.SIGKILL)
        harness.wait_for(lambda: self.sluice.pids("scheduler") not in ([], before), 20)
        self.sluice.wait_ready()

    def reload(self, old, new):
        assert old in self.sluice.text
        self.sluice.text = self.sluice.text.replace(old, new)
        with open(self.sluice.conf_path, "w") as f:
            f.write(self.sluice.text)
        self.say("reload")

    def line_of(self, text):
        return 1 + self.sluice.text[:self.sluice.text.index(text)].count("\n")

    def close(self):
        self.peer.close()
        self.sluice.stop()


@pytest.fixture
def world(folder, kept):
    return lambda **more: kept(World(folder, **more))


def test_one_queue_flips_and_its_sibling_does_not(world):
    w = world()
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.send("b@p.example", vmta="w")
    w.wait_mode("p.example/v", "backoff")
    q = w.queue("p.example/v")
    assert q["backoff"]["reason"] == AS_RECEIVED
    assert q["backoff"]["rule"] == f"{w.sluice.conf_path}:{w.line_of('too many/')}"
    assert q["backoff"]["sourceIp"] == IPS["v"] and q["backoff"]["rerouteTo"] is None
    assert q["backoff"]["since"] is not None and q["backoff"]["until"] is None
    assert [(e["from"], e["to"], e["reason"]) for e in q["modeEvent"]] == [("normal", "backoff", AS_RECEIVED)]
    harness.wait_for(lambda: w.peer.recipients() == ["b@p.example"], 10)
    sibling = w.queue("p.example/w")
    assert sibling["mode"] == "normal" and sibling["backoff"] is None and sibling["modeEvent"] == []
    assert w.in_backoff() == ["p.example/v"]
    assert AS_RECEIVED in w.say("show", "queues") and AS_RECEIVED in w.say("show", "queue", "p.example/v")


def test_back_off_survives_kills_and_a_reload_without_the_rule(world):
    w = world()
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    before = w.queue("p.example/v")
    w.kill_scheduler()
    after = w.queue("p.example/v")
    assert after["mode"] == "backoff"
    assert {k: after["backoff"][k] for k in ("since", "reason", "rule", "sourceIp")} == \
        {k: before["backoff"][k] for k in ("since", "reason", "rule", "sourceIp")}
    assert after["modeEvent"] == before["modeEvent"]
    w.reload("too many", "something else")
    assert w.mode("p.example/v") == "backoff"
    w.on_disk()
    w.sluice.kill()
    w.sluice.start()
    assert w.queue("p.example/v")["modeEvent"] == before["modeEvent"]
    assert w.in_backoff() == ["p.example/v"]


def test_by_command_in_and_out(world):
    w = world()
    w.say("set", "queue", "p.example/v", "--mode=backoff")  # before its first mail
    assert w.in_backoff() == ["p.example/v"]
    w.kill_scheduler()
    assert w.in_backoff() == ["p.example/v"]
    w.say("set", "queue", "*/v", "--mode=normal")
    assert w.in_backoff() == []
    w.kill_scheduler()
    assert w.in_backoff() == []
    assert [e["to"] for e in w.queue("p.example/v")["modeEvent"]] == ["backoff", "normal"]
    w.say("set", "queue", "p.example/v", status=2)
    w.say("set", "queue", "nothing.example/*", "--mode=normal", status=1)


def test_a_queue_is_one_however_its_name_is_typed(world):
    w = world()
    w.say("pause", "queue", "p.example/v")
    w.send("a@P.Example", vmta="V")
    for words in ("set", "queue", "P.Example/V", "--mode=backoff"), ("pause", "queue", "Q.Example/V"):
        w.say(*words)
    assert [q["name"] for q in w.sluice.ask("show", "queues")["queue"]] == ["p.example/v", "q.example/v"]
    assert w.queue("P.example/V")["mode"] == w.mode("p.example/v") == "backoff"
    w.say("show", "queue", "p.example/nobody", status=1)


def test_what_is_answered_is_on_disk(world):
    w = world()
    for turn in range(3):
        for mode in "backoff", "normal":
            w.say("set", "queue", f"d{turn}.example/v", "--mode=backoff")
            if mode == "normal":
                w.say("set", "queue", f"d{turn}.example/v", "--mode=normal")
                w.say("set", "queue", f"d{turn}.example/v", "--mode=normal")  # also when nothing changes there is an answer
            os.kill(w.sluice.pids("scheduler")[0], signal.SIGKILL)
            w.sluice.wait_ready()
            harness.wait_for(lambda: w.sluice.sluice("show", "status").returncode == 0, 20)
            assert w.mode(f"d{turn}.example/v") == mode, turn


def changed_at(w, queue):
    """When its mode changed each time, in whole seconds."""
    return [datetime.datetime.fromisoformat(e["time"].replace("Z", "+00:00")).timestamp() for e in w.queue(queue)["modeEvent"]]


def test_by_time_also_while_nothing_runs(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=6s" ];', domain='backoff-to-normal-after = "1h";')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.angry.clear()
    assert w.queue("p.example/v")["backoff"]["until"] is not None
    w.kill_scheduler()
    assert w.mode("p.example/v") == "backoff"
    w.wait_mode("p.example/v", "normal", 20)
    began, ended = changed_at(w, "p.example/v")
    assert ended - began >= 5  # in whole seconds
    w.angry.add(IPS["w"])
    w.send("b@p.example", vmta="w")
    w.wait_mode("p.example/w", "backoff")
    w.angry.clear()
    w.on_disk()
    w.sluice.kill()
    time.sleep(6)
    w.sluice.start()
    started = time.time()
    w.wait_mode("p.example/w", "normal")
    assert changed_at(w, "p.example/w")[-1] < started + 3  # whoever counted anew would take longer


def test_by_a_delivery_and_by_a_rule(world):
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; }, { reply = "/welcome/"; actions = [ "mode=normal" ]; }',
              domain="backoff-to-normal-after-delivery = true;")
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.angry.clear()
    w.wait_mode("p.example/v", "normal")
    assert w.peer.recipients() == ["a@p.example"]
    assert [e["to"] for e in w.queue("p.example/v")["modeEvent"]] == ["backoff", "normal"]
    w.angry.add(IPS["w"])
    w.send("b@p.example", vmta="w")
    w.wait_mode("p.example/w", "backoff")
    w.reply = "450 4.2.0 welcome back, later"
    w.wait_mode("p.example/w", "normal")
    assert w.queue("p.example/w")["modeEvent"][-1]["reason"] == "450 4.2.0 welcome back, later"


def test_a_threshold_counts_over_a_kill(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; after = "3/10m";')
    w.reply = "450 4.7.0 too many"  # of the transaction: the next one is another
    w.angry.add(IPS["v"])

    def refused():
        return sum(line.startswith("MAIL") for t in w.peer.talks for line in t.lines)

    def mail(talk, line):  # of the second one the operator hears before the client does
        if refused() == 2:
            w.say("pause", "queue", "p.example/v")
        return w.at_mail(talk, line)
    w.peer.script["mail"] = mail
    w.sluice.sluice("pause", "queue", "p.example/w")
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: w.sluice.log().count("reply=matched") == 2, 20)
    time.sleep(0.5)
    assert refused() == 2 and w.mode("p.example/v") == "normal"
    w.kill_scheduler()
    assert w.mode("p.example/v") == "normal"
    w.say("resume", "queue", "p.example/v")
    w.wait_mode("p.example/v", "backoff")
    assert refused() == 3


def test_a_wider_scope_and_a_queue_taken_out_of_it(world):
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.angry.clear()
    w.send("b@later.example", vmta="v")
    w.send("b@later.example", vmta="w")
    assert w.mode("later.example/v") == "backoff" and w.mode("later.example/w") == "normal"
    w.say("set", "queue", "p.example/v", "--mode=normal")
    assert w.in_backoff() == ["later.example/v"]
    w.kill_scheduler()
    # A queue without mail and a mode of its own is not known any more: it comes later again.
    w.send("c@later.example", "c@p.example", vmta="v")
    assert w.in_backoff() == ["later.example/v"]


def test_mail_goes_to_another_virtual_mta(world):
    w = world(domain='backoff-reroute-to-virtual-mta = "x";')
    w.angry.add(IPS["v"])
    w.say("pause", "queue", "p.example/x")
    w.send(*(f"r{i}@p.example" for i in range(5)), vmta="v")
    w.wait_mode("p.example/v", "backoff")
    harness.wait_for(lambda: w.queue("p.example/x")["rcp"] == 5, 10)
    assert w.queue("p.example/v")["backoff"]["rerouteTo"] == "p.example/x"
    w.kill_scheduler()
    w.send("new@p.example", vmta="v")
    assert w.queue("p.example/x")["rcp"] == 6 and w.queue("p.example/v")["rcp"] == 0
    w.say("set", "queue", "p.example/v", "--mode=normal")
    w.angry.clear()
    w.send("back@p.example", vmta="v")
    harness.wait_for(lambda: w.peer.recipients() == ["back@p.example"], 10)
    assert w.queue("p.example/x")["rcp"] == 6
    w.say("resume", "queue", "p.example/x")
    harness.wait_for(lambda: len(w.peer.recipients()) == 7, 10)


def test_a_virtual_mta_of_many_queues_flips_and_ends_for_all_of_them(world, tmp_path):
    """More queues than one turn looks at: each is in back-off, and what waits in it goes elsewhere; a sibling's are not; all come out of it."""
    n = 1802
    w = world(rule='reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";', domain='backoff-to-normal-after = "8s"; backoff-reroute-to-virtual-mta = "x";',
              edits=[('retry-after = "1s"', 'retry-after = "1h"'), ('retry-recipients-after = "1s"', 'retry-recipients-after = "1h"')])
    w.angry.update((IPS["v"], IPS["w"]))
    w.say("pause", "queue", "last.example/v")
    w.reply = "450 4.3.0 later"  # matches nothing
    load = harness.Load(str(tmp_path), w.sluice.target, "-m", n, "-s", 10, "--domain-count", n // 2, "--domain-format", "d%d.example", "--vmta", "v,v,w,w")
    assert load.wait()["acknowledged"] == n
    harness.wait_for(lambda: len(w.mails) >= n, 60)

    def in_backoff():
        return {q["name"] for q in w.sluice.ask("show", "queues", "--mode=backoff", "--maxitems=5000")["queue"]}
    mine = {q["name"]: q["rcp"] for q in w.sluice.ask("show", "queues", "*/v", "--maxitems=5000")["queue"]}
    assert len(mine) > 600 and in_backoff() == set()
    w.reply = TOO_MANY
    w.send("a@last.example", vmta="v")
    w.say("resume", "queue", "last.example/v")
    harness.wait_for(lambda: in_backoff() == set(mine) | {"last.example/v"}, 10)
    w.angry.clear()

    def waits(vmta):
        return sum(q["rcp"] for q in w.sluice.ask("show", "queues", f"*/{vmta}", "--maxitems=5000")["queue"])
    harness.wait_for(lambda: waits("v") == 0, 10)
    # Of what goes right now one hears before the other.
    harness.wait_for(lambda: waits("x") + len(w.peer.recipients()) == sum(mine.values()) + 1, 10)
    w.kill_scheduler()  # queues without mail are not known any more
    assert "d1.example/x" not in in_backoff()
    harness.wait_for(lambda: in_backoff() == set(), 15)


def test_a_source_is_disabled_and_the_last_one_brings_back_off(world):
    w = world(rule='reply = "/too many/"; actions = [ "disable-source-ip", "reenable-after=1h" ];', domain="backoff-upon-all-sources-disabled = true;")
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    assert IPS["v"] in w.say("show", "disabled", "sources")
    assert "All SMTP sources for queue p.example/v are now disabled." in w.sluice.log()
    w.kill_scheduler()
    assert IPS["v"] in w.say("show", "disabled", "sources") and w.mode("p.example/v") == "backoff"
    w.angry.clear()
    time.sleep(1.5)
    assert w.peer.recipients() == []
    w.say("enable", "source", IPS["v"], "p.example/v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 15)
    assert w.mode("p.example/v") == "backoff"  # PowerMTA: an enabled source does not end it
