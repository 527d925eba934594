"""rollup-by-ip: queues of domains whose MX hosts have the same addresses, whatever they are called."""
import collections
import time

import harness
import pytest

from nsd_fixture import nsd  # noqa: F401  (a fixture)
from test_rollup import DOMAINS, World, top

ONE, TWO, THREE, DEAD = "127.0.0.51", "127.0.0.52", "127.0.0.53", "127.0.0.54"
PATTERN = "*.out.test out.rollup rollup-by-ip"
PLAIN = "mx1.test one.rollup rollup-by-ip", "mx2.test one.rollup"
HOSTS = {"mx1": ONE, "mx2": TWO, "also1": ONE, "also2": TWO, "mx3": THREE, "a.out": ONE, "b.out": ONE, "c.out": TWO, "dead.out": DEAD}


def zone(hosts=(), **domains):
    """Domains with their MX hosts, each `PREFERENCE HOST`, and a short time to live."""
    lines = [f"{name} 1 A {address}\n" for name, address in {**HOSTS, **dict(hosts)}.items()]
    lines += [f"{d} 1 MX {mx}\n" for d, hosts in domains.items() for mx in hosts.split(",")]
    return {"test": "".join(lines)}


@pytest.fixture
def world(folder, nsd):  # noqa: F811
    made = []

    def make(zones, entries, retry="1s", more='{ name = "none.example"; }'):
        made.append(World(folder, nsd, [ONE, TWO, THREE], zones, top=top(*entries), conf=DOMAINS % (retry, more)))
        return made[-1].start()
    yield make
    for w in made:
        w.stop()


def delivered(w, domains, n):
    """{domain: (its queue's domain, where its mail went)} after n messages to each."""
    wanted = [f"u{i}@{d}.test" for d in domains for i in range(n)]
    w.send(*wanted)
    w.accounted(len(wanted))
    found = collections.defaultdict(set)
    for row in w.records("d"):
        found[row["rcpt"].split("@")[1].split(".")[0]].add((row["queue"].removesuffix("/{default}"), row["dlvDestinationIp"]))
    assert all(len({queue for queue, _ in pairs}) == 1 for pairs in found.values()), found
    return {d: (next(iter(pairs))[0], {ip for _, ip in pairs}) for d, pairs in found.items()}


def change(w, zones):
    w.nsd.zones.update(zones)
    w.nsd.stop()
    w.nsd.start()


def test_patterns_group_by_addresses(world):
    """One queue for each set of addresses, which are those of the matching hosts; nothing goes to another domain's hosts."""
    w = world({"test": zone(a="5 a.out", b="7 B.OUT,9 mx3", both="5 a.out,5 b.out", more="5 b.out,5 mx3", c="5 c.out", wide="5 a.out,5 c.out",
                            off="5 a.out", plain="5 mx1", six="5 six.out", half="5 a.out,5 x.broken.")["test"] + f"six.out 1 A {ONE}\nsix.out 1 AAAA 2001:db8::1\n",
               "broken": None},
              (PATTERN,), more='{ name = "off.test"; disable-mx-rollup = true; }')
    one, two = f"{ONE}.out.rollup", f"{TWO}.out.rollup"
    found = delivered(w, ("a", "b", "both", "more", "c", "wide", "off", "plain", "six"), 3)
    assert found.pop("wide")[0] == f"{ONE}+{TWO}.out.rollup"
    assert found == {"a": (one, {ONE}), "b": (one, {ONE}), "both": (one, {ONE}), "more": (one, {ONE}), "c": (two, {TWO}), "off": ("off.test", {ONE}),
                     "plain": ("plain.test", {ONE}), "six": (f"{ONE}+2001:db8::1.out.rollup", {ONE})}
    # Who knows all its addresses only sometimes keeps its queue.
    w.send("u@half.test")
    assert w.accounted(28)["u@half.test"] == "half.test/{default}"
    assert "not supported" not in w.sluice.log()


def test_its_limit(world):
    """The settings of NAME.rollup, for each set of addresses: one an hour leaves each queue, not each domain."""
    w = world(zone(a="5 a.out", b="5 b.out", c="5 c.out"), (PATTERN,), more='{ name = "out.rollup"; max-msg-rate = "1/h"; }')
    one, two = f"{ONE}.out.rollup", f"{TWO}.out.rollup"
    w.send(*(f"u{i}@{d}.test" for i in range(4) for d in "abc"))
    assert sorted(w.accounted(2).values()) == [one + "/{default}", two + "/{default}"]
    harness.wait_for(lambda: w.domains() == {one: 7, two: 3}, 20)
    time.sleep(1)
    assert len(w.records("d")) == 2


def test_hosts_lend_their_addresses(world):
    """Named hosts without patterns: whoever has all their addresses is of the queue, whatever it calls them."""
    w = world(zone(a="5 also1,5 also2", b="5 mx1,5 mx2", more="5 also1,5 mx2,5 mx3", late="5 also1,9 also2", half="5 mx1", other="5 mx3", off="5 mx1,5 mx2"),
              PLAIN, more='{ name = "off.test"; disable-mx-rollup = true; }')
    one = f"{ONE}+{TWO}.one.rollup"
    found = delivered(w, ("a", "b", "more", "late", "half", "other", "off"), 10)
    assert {d: queue for d, (queue, _) in found.items()} == {"a": one, "b": one, "more": one, "late": "late.test", "half": "half.test", "other": "other.test", "off": "off.test"}
    assert found["a"][1] | found["b"][1] | found["more"][1] == {ONE, TWO}
    assert found["late"][1] == {ONE} and found["other"][1] == {THREE}


def test_another_address(world):
    """New mail goes to the queue of the new addresses; what was moved keeps the old ones, also after a restart and without the list."""
    w = world(zone(a="5 a.out"), (PATTERN,))
    old, new = f"{ONE}.out.rollup", f"{TWO}.out.rollup"
    w.say("pause", "queue", old + "/{default}")
    w.send(*(f"u{i}@a.test" for i in range(5)))
    harness.wait_for(lambda: w.domains() == {old: 5}, 20)
    change(w, zone(hosts={"a.out": TWO}, a="5 a.out"))
    time.sleep(31)  # the least time that an answer holds
    w.send(*(f"v{i}@a.test" for i in range(3)))
    assert set(w.accounted(3).values()) == {new + "/{default}"}
    w.reload(top(PATTERN), top())
    w.sluice.kill()
    w.sluice.start()
    harness.wait_for(lambda: w.domains() == {old: 5}, 20)
    w.say("resume", "queue", "*.out.rollup/*")
    w.accounted(8)
    went = collections.Counter((row["queue"].removesuffix("/{default}"), row["dlvDestinationIp"]) for row in w.records("d"))
    assert went == {(old, ONE): 5, (new, TWO): 3}
    assert w.bounced() == {}


@pytest.mark.parametrize("entries, queue", [((PATTERN,), "out"), (("dead.out.test out.rollup rollup-by-ip",), "out")])
def test_reload_adds_it(world, entries, queue):
    """Mail that waits for its next attempt in an hour goes into the queue at once, with the time it waits for."""
    w = world(zone(a="5 dead.out", b="5 mx3"), (), retry="1h")
    w.send(*(f"u{i}@a.test" for i in range(10)))
    harness.wait_for(lambda: any(q["retryTime"] for q in w.sluice.ask("show", "queues")["queue"] if q["rcp"]), 20)
    w.reload(top(), top(*entries))
    harness.wait_for(lambda: w.domains() == {f"{DEAD}.{queue}.rollup": 10}, 20)
    w.send("u@b.test")
    assert set(w.accounted(1).values()) == {"b.test/{default}"}
