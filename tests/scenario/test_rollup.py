"""Domains whose MX hosts the rollup list names share one queue: its limits, its hosts, its place in the accounting."""
import collections
import os
import re
import smtplib
import sys
import time

import harness
import ledger
import pytest

from nsd_fixture import nsd  # noqa: F401  (a fixture)
from test_dns import Site

sys.path.insert(0, os.path.join(harness.ROOT, "tests/torture"))
import killpoints  # noqa: E402

HOSTS = {"mx1": "127.0.0.51", "mx2": "127.0.0.52", "mx3": "127.0.0.53", "old": "127.0.0.54"}
DOMAINS = ('domains = ( { name = "*"; default-smtp-port = PORT; retry-after = "%s"; retry-recipients-after = "1s"; retry-after-dns-error = "1s"; }, %s );')
MEMBERS = "mx1.test one.rollup", "mx2.test one.rollup"


def top(*entries):
    return "mx-rollup-list = { mx = [ %s ]; };" % ", ".join(f'"{e}"' for e in entries)


def zone(**domains):
    """Domains with their MX hosts, each `PREFERENCE HOST`, and a short time to live."""
    lines = [f"{name} A {address}\n" for name, address in HOSTS.items()]
    lines += [f"{d} 1 MX {mx}\n" for d, hosts in domains.items() for mx in hosts.split(",")]
    return {"test": "".join(lines)}


class World(Site):
    def send(self, *recipients, vmta=None):
        header = f"X-Virtual-MTA: {vmta}\r\n" if vmta else ""
        with smtplib.SMTP("127.0.0.1", self.sluice.port, timeout=60) as s:
            for r in recipients:
                s.sendmail("sender@here.example", [r], header + "Subject: x\r\n\r\nbody\r\n")

    def queues(self):
        """{queue: recipients} of those with mail."""
        return {q["name"]: q["rcp"] for q in self.sluice.ask("show", "queues")["queue"] if q["rcp"]}

    def wait_queues(self, **expected):
        want = {k.replace("_", "."): v for k, v in expected.items()}

        def they_are():
            return self.domains() == want
        harness.wait_for(they_are, 20)

    def domains(self):
        return {name.split("/")[0]: n for name, n in self.queues().items()}

    def listed(self):
        return {m["rcpt"]: m["queue"].split("/")[0] for m in self.sluice.ask("list", "--maxitems=10000")["message"]}

    def accounted(self, wanted):
        """{recipient: queue} of what was delivered."""
        harness.wait_for(lambda: len(self.records("d")) >= wanted, 20)
        rows = self.records("d")
        assert len(rows) == len({r["rcpt"] for r in rows}) == wanted
        return {r["rcpt"]: r["queue"] for r in rows}

    def say(self, *words):
        done = self.sluice.sluice(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)

    def reload(self, old, new, answered=True):
        assert old in self.sluice.text
        self.sluice.text = self.sluice.text.replace(old, new)
        with open(self.sluice.conf_path, "w") as f:
            f.write(self.sluice.text)
        done = self.sluice.sluice("reload")
        assert done.returncode == 0 or not answered, done.stderr


@pytest.fixture
def world(folder, nsd):  # noqa: F811
    made = []

    def make(zones, entries, retry="1s", more="", **kw):
        kw.setdefault("conf", DOMAINS % (retry, more or '{ name = "none.example"; }'))
        made.append(World(folder, nsd, [HOSTS[h] for h in ("mx1", "mx2", "mx3")], zones, top=top(*entries), **kw))
        return made[-1].start()
    yield make
    for w in made:
        w.stop()


def test_domains_share_a_queue(world):
    """All MX hosts of the queue, at the lowest preference; further ones are not used; whoever does not want it has its own."""
    w = world(zone(a="5 mx1,5 mx2", b="7 MX2,7 mx1,7 mx3", backup="5 mx1,5 mx2,9 mx3", half="5 mx1", late="5 mx1,9 mx2", off="5 mx1,5 mx2"),
              MEMBERS, more='{ name = "off.test"; disable-mx-rollup = true; }')
    members, others = ("a", "b", "backup"), ("half", "late", "off")
    wanted = [f"u{i}@{d}.test" for d in members + others for i in range(20)]
    w.send(*wanted)
    w.sluice.wait_drained(30)
    queues = w.accounted(len(wanted))
    for r in wanted:
        d = r.split("@")[1]
        assert queues[r] == ("one.rollup/{default}" if d.split(".")[0] in members else d + "/{default}"), (r, queues[r])
    hosts = collections.Counter(row["dlvDestinationIp"] for row in w.records("d"))
    assert HOSTS["mx3"] not in hosts and hosts[HOSTS["mx1"]] > 0
    assert sorted(w.taken(len(wanted))) == sorted(wanted)


def test_settings_and_limits_of_the_rollup_queue(world):
    """Its own smtp-hosts, which patterns need, and its rate: 10 a second for all domains together."""
    w = world(zone(a="5 mx1", b="5 mx2", c="5 mx1"), ("*.test any.rollup",),
              more='{ name = "any.rollup"; smtp-hosts = "[127.0.0.53]:PORT"; max-msg-rate = "10/s"; }')
    wanted = [f"u{i}@{d}.test" for d in "abc" for i in range(10)]
    w.send(*wanted)
    assert any(row["name"] == "any.rollup/{default}" for row in w.sluice.ask("show", "queues")["queue"])
    w.sluice.wait_drained(30)
    assert set(w.accounted(30).values()) == {"any.rollup/{default}"}
    rows = w.records("d")
    assert {row["dlvDestinationIp"] for row in rows} == {HOSTS["mx3"]}
    taken = sorted(t for rcpt in w.taken(30).values() for t in [rcpt])
    assert len(taken) == 30


def test_another_mx(world, nsd):  # noqa: F811
    """A domain that leaves: what was moved stays moved, what comes then is its own."""
    w = world(zone(a="5 mx1,5 mx2"), MEMBERS)
    w.say("pause", "queue", "one.rollup/{default}")
    w.send(*(f"u{i}@a.test" for i in range(5)))
    w.wait_queues(one_rollup=5)
    w.say("pause", "queue", "a.test/{default}")
    w.nsd.zones["test"] = zone(a="5 mx3")["test"]
    w.nsd.stop()
    w.nsd.start()
    time.sleep(31)  # the least time that an answer holds
    w.send(*(f"v{i}@a.test" for i in range(3)))
    w.wait_queues(one_rollup=5, a_test=3)
    w.say("resume", "queue", "a.test/{default}")
    w.accounted(3)
    assert {r: q for r, q in w.listed().items()} == {f"u{i}@a.test": "one.rollup" for i in range(5)}
    w.say("resume", "queue", "one.rollup/{default}")
    assert collections.Counter(w.accounted(8).values()) == {"one.rollup/{default}": 5, "a.test/{default}": 3}


def test_reload_changes_the_list(world):
    """Mail that waits in its domain's queue goes where the new list says, with its due times; what is paused stays."""
    w = world(zone(a="5 old", b="5 old", c="5 mx1"), (), retry="1h", more='{ name = "old.rollup"; smtp-hosts = "[127.0.0.51]:PORT"; }')
    w.send(*(f"u{i}@{d}.test" for d in "ab" for i in range(10)))
    harness.wait_for(lambda: w.sluice.ask("show", "queues")["queue"] and all(
        q["retryTime"] for q in w.sluice.ask("show", "queues")["queue"] if q["rcp"]), 20)
    w.say("pause", "queue", "b.test/{default}")
    w.reload(top(), top("old.test old.rollup"))
    w.wait_queues(b_test=10)
    assert set(w.accounted(10).values()) == {"old.rollup/{default}"}
    # The list goes: new mail is for its own queue, and what waits in the other one is not returned.
    w.say("pause", "queue", "old.rollup/{default}")
    w.say("resume", "queue", "b.test/{default}")
    w.say("schedule", "b.test/{default}")
    w.wait_queues(old_rollup=10)
    w.reload(top("old.test old.rollup"), top())
    w.reload('{ name = "old.rollup"; smtp-hosts = "[127.0.0.51]:%d"; }' % w.port, '{ name = "none.example"; }')
    w.say("resume", "queue", "old.rollup/{default}")
    w.send("v@b.test")
    w.wait_queues(old_rollup=10, b_test=1)
    time.sleep(1)
    w.wait_queues(old_rollup=10, b_test=1)
    assert w.bounced() == {}


def test_killed_in_the_middle_of_the_move(world, folder):
    """Some rows name the rollup queue already, others do not: all of them are its."""
    switch = killpoints.Switch(os.path.join(folder, "kill-points"))
    w = world(zone(a="5 old"), (), retry="1h", more='{ name = "old.rollup"; smtp-hosts = "[127.0.0.51]:PORT"; retry-after = "1s"; }',
              variant="torture", environment={"SLUICE_KILL_POINTS": switch.file.name})
    n = 3000
    load = harness.Load(folder, w.sluice.target, "-s", 10, "-m", n, "--domains", "a.test", variant="release")
    load.wait()
    harness.wait_for(lambda: any(q["retryTime"] for q in w.sluice.ask("show", "queues")["queue"]), 20)
    switch.arm("entry-moved", 1000)
    w.reload(top(), top("old.test old.rollup"), answered=False)  # who would answer is dead by then
    assert killpoints.wait_hit(switch, 20)
    w.sluice.kill()
    # Whatever the list says now.
    w.sluice.text = w.sluice.text.replace(top("old.test old.rollup"), top())
    w.sluice.start()
    w.sluice.wait_drained(60)
    sent = load.read()
    assert len(sent.acked) == n
    w.sluice.wait_recorded(sent.acked, 40)
    report = ledger.check(sent, w.sink.read(), w.sluice.acct())
    assert report["ok"] and report["acknowledged"] == n, report
    assert set(w.accounted(n).values()) == {"old.rollup/{default}"}
    assert re.search(r"queue=a.test/{default} number=\d+ redirected_to=\d+ entries=\d+", w.sluice.log())
    # No row needs the redirect any more: the next start forgets it.
    w.sluice.kill()
    w.sluice.start()
    harness.wait_for(lambda: "redirects=0 unused=1" in w.sluice.log(), 10)
    switch.close()
