"""By MX: where a domain's mail goes, and what becomes of it when DNS says no, later or nothing."""
import collections
import csv
import glob
import json
import os
import smtplib

import harness
import pytest

from nsd_fixture import nsd  # noqa: F401  (a fixture)


def taken_by(sink, wanted):
    """{recipient: rows} of the sink's ledger, once `wanted` have come: it writes in batches."""
    harness.wait_for(lambda: wanted == 0 or (os.path.exists(sink.ledger_path) and sink.taken() >= wanted), 10)
    return sink.read().taken if os.path.exists(sink.ledger_path) else {}


class Site:
    """A name server, a sink that listens on several addresses at one port, and an instance that asks and delivers there."""

    def __init__(self, folder, nsd, addresses, zones, conf=None, workers=2, top="", listener=None, **more):
        self.nsd = nsd
        self.port = harness.free_port()
        for origin, records in zones.items():
            if records is None:
                nsd.broken_zone(origin)
            else:
                nsd.zone(origin, records)
        nsd.start()
        self.sink = harness.Sink(folder, [f"{a}:{self.port}" for a in addresses])
        domains = conf.replace("PORT", str(self.port)) if conf else ('domains = ( { name = "*"; default-smtp-port = %d; retry-after = "1s,1s,1s,1s,1s,1s,1s,1s,1s"; '
                           'retry-after-dns-error = "1s"; bounce-after = "1h"; } );' % self.port)
        self.sluice = harness.Sluice(folder, domains=domains, workers=workers,
                                     top=f'name-server = "{nsd.name_server}"; {top}', **more)

    def start(self):
        self.sluice.start()
        return self

    def send(self, *recipients):
        with smtplib.SMTP("127.0.0.1", self.sluice.port, timeout=60) as s:
            for i in range(0, len(recipients), 500):
                refused = s.sendmail("sender@here.example", list(recipients[i:i + 500]),
                                     b"X-Load-Id: m%d\r\nSubject: x\r\n\r\nbody\r\n" % i)
                assert refused == {}

    def taken(self, wanted=0):
        return taken_by(self.sink, wanted)

    def records(self, kind):
        rows = []
        for path in sorted(glob.glob(self.sluice.acct_pattern)):
            with open(path, newline="", errors="replace") as f:
                header = None
                for row in csv.reader(f):
                    if row and row[0] == "type":
                        header = row
                    elif row and row[0] == kind:
                        rows.append(dict(zip(header, row)))
        return rows

    def bounced(self):
        return {r["rcpt"]: r for r in self.records("b")}

    def stop(self):
        try:
            self.sluice.stop()
        finally:
            self.sluice.kill()
            self.sink.stop()


@pytest.fixture
def site(folder, nsd):  # noqa: F811
    made = []

    def make(*args, **kw):
        made.append(Site(folder, nsd, *args, **kw))
        return made[-1].start()
    yield make
    for s in made:
        s.stop()


def test_a_thousand_domains(site):
    records = "".join(f"d{i} MX 10 mx{i % 7}\n" for i in range(1000)) + "".join(f"mx{i} A 127.0.0.{i + 10}\n" for i in range(7))
    s = site([f"127.0.0.{i + 10}" for i in range(7)], {"test": records})
    wanted = [f"u@d{i}.test" for i in range(1000)]
    s.send(*wanted)
    s.sluice.wait_drained(60)
    assert sorted(s.taken(1000)) == sorted(wanted)

    def counted():
        "the resolver has counted all of them"
        resolver = s.sluice.stat()["resolver"]
        return resolver["state"] == "running" and resolver["answered"] >= 1000 and resolver["inflight"] == 0
    harness.wait_for(counted, 10)


def test_dead_first_mx(site):
    """The better host refuses connections: the other one gets the mail, without waiting for a retry of the queue."""
    s = site(["127.0.0.11"], {"test": "d MX 5 dead\ndead A 127.0.0.12\nd MX 10 live\nlive A 127.0.0.11\n"})
    s.send("u@d.test")
    s.sluice.wait_drained(20)
    assert list(s.taken(1)) == ["u@d.test"]
    assert s.bounced() == {}


def test_several_addresses_of_one_host(site):
    """C18: at least a second address is tried."""
    s = site(["127.0.0.21"], {"test": "d MX 5 h\nh A 127.0.0.20\nh A 127.0.0.21\nh A 127.0.0.22\n"})
    s.send("u@d.test")
    s.sluice.wait_drained(20)
    assert list(s.taken(1)) == ["u@d.test"]


def test_alias_and_implicit_mx(site):
    s = site(["127.0.0.31", "127.0.0.32"], {"test": "real MX 5 h\nh A 127.0.0.31\nalias CNAME real\nplain A 127.0.0.32\n"
                                                    "viaalias MX 5 hostalias\nhostalias CNAME h\n"})
    s.send("u@alias.test", "u@plain.test", "u@viaalias.test")
    s.sluice.wait_drained(20)
    assert sorted(s.taken(3)) == ["u@alias.test", "u@plain.test", "u@viaalias.test"]


@pytest.mark.parametrize("domain,status", [("nullmx.test", "5.1.10"), ("nothere.test", "5.1.2"), ("nomail.test", "5.1.2")])
def test_permanent_failures(site, domain, status):
    s = site(["127.0.0.41"], {"test": "nullmx MX 0 .\nnullmx A 127.0.0.41\nnomail TXT x\n"})
    s.send("u@" + domain)
    s.sluice.wait_drained(20)
    harness.wait_for(lambda: "u@" + domain in s.bounced(), 10)
    assert status in json.dumps(s.bounced()["u@" + domain])
    assert s.taken() == {} and len(s.bounced()) == 1


def test_null_mx_beside_others_is_ignored(site):
    s = site(["127.0.0.42"], {"test": "d MX 0 .\nd MX 10 h\nh A 127.0.0.42\n"})
    s.send("u@d.test")
    s.sluice.wait_drained(20)
    assert list(s.taken(1)) == ["u@d.test"]


@pytest.mark.parametrize("records,zones", [("", {"broken.test": None}), ("d.broken MX 5 nowhere\nd.broken A 127.0.0.43\n", {})])
def test_temporary_failures_stay_queued(site, records, zones):
    """SERVFAIL; and MX hosts of which none resolves (C15: never the implicit MX). The mail stays, with the reason."""
    s = site(["127.0.0.43"], {**zones, "test": records + "other A 127.0.0.43\n"})
    s.send("u@d.broken.test")
    harness.wait_for(lambda: s.sluice.stat()["resolver"]["answered"] >= 2, 30)
    assert s.sluice.queued() == 1 and s.taken() == {} and s.bounced() == {}
    queue = s.sluice.ask("show", "queue", "d.broken.test/{default}")["queue"][0]
    assert queue["rcp"] == 1
    assert "d.broken.test" in json.dumps(queue["event"]) or queue["blocked"]["by"] in ("dns", "retry"), queue


def test_dns_comes_back(site, nsd):  # noqa: F811
    """The name server is away when the mail comes; once it is back the mail goes."""
    s = site(["127.0.0.44"], {"test": "d MX 5 h\nh A 127.0.0.44\n"})
    nsd.stop()
    s.send("u@d.test")
    harness.wait_for(lambda: s.sluice.stat()["resolver"]["failed"] >= 1, 40)
    assert s.sluice.queued() == 1 and s.bounced() == {}
    nsd.start()
    s.sluice.wait_drained(60)
    assert list(s.taken(1)) == ["u@d.test"]


def test_equal_preferences_share(site):
    """Thirty domains with three equal hosts each: all hosts get some of the mail (a miss has p < 10^-4)."""
    hosts = "".join(f"h{i} A 127.0.0.{50 + i}\n" for i in range(3))
    records = hosts + "".join(f"d{n} MX 5 h{i}\n" for n in range(30) for i in range(3))
    s = site(["127.0.0.50", "127.0.0.51", "127.0.0.52"], {"test": records})
    s.send(*[f"u@d{n}.test" for n in range(30)])
    s.sluice.wait_drained(30)
    assert len(s.taken(30)) == 30
    s.sluice.wait_recorded([f"u@d{n}.test" for n in range(30)])
    delivered = collections.Counter(r["dlvDestinationIp"] for r in s.records("d"))
    assert sorted(delivered) == ["127.0.0.50", "127.0.0.51", "127.0.0.52"], delivered


def test_mail_does_not_come_back_to_us(folder, nsd):  # noqa: F811
    """C19: the best MX is our own listener: permanent, nothing is sent to ourselves."""
    nsd.zone("test", "d MX 5 me\nd MX 5 peer\nd MX 9 worse\nme A 127.0.0.1\npeer A 127.0.0.61\nworse A 127.0.0.62\n"
                     "e MX 5 better\ne MX 9 me\nbetter A 127.0.0.61\n")
    nsd.start()
    sluice = harness.Sluice(folder, domains=None, top=f'name-server = "{nsd.name_server}";')
    domains = 'domains = ( { name = "*"; default-smtp-port = %d; retry-after = "1s"; } );' % sluice.port
    sluice.text = sluice.text.replace('domains = ( { name = "*"; retry-after = "1s,2s"; retry-recipients-after = "1s"; } );', domains)
    assert domains in sluice.text
    sink = harness.Sink(folder, [f"127.0.0.{n}:{sluice.port}" for n in (61, 62)])
    try:
        with sluice:
            with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
                s.sendmail("a@here.example", ["u@d.test", "u@e.test"], b"X-Load-Id: m\r\nSubject: x\r\n\r\nbody\r\n")
            sluice.wait_drained(20)
            sluice.wait_recorded(["u@d.test", "u@e.test"])
            text = "".join(open(path).read() for path in glob.glob(sluice.acct_pattern))
            taken = taken_by(sink, 1)
    finally:
        sink.stop()
    assert list(taken) == ["u@e.test"]
    assert "point back to this host" in text
    assert len([line for line in text.splitlines() if line.startswith("r,")]) == 2  # nothing came in again


def test_resolver_dies(site):
    """A new one is started and asked again; nothing is lost."""
    records = "".join(f"d{i} MX 10 h\n" for i in range(200)) + "h A 127.0.0.70\n"
    s = site(["127.0.0.70"], {"test": records})
    first = s.sluice.pids("resolver")[0]
    os.kill(first, 9)
    s.send(*[f"u@d{i}.test" for i in range(200)])
    s.sluice.wait_drained(60)
    assert len(s.taken(200)) == 200
    assert s.sluice.pids("resolver")[0] != first


def test_queue_to(site):
    """Domains of one queue go where the queue's own name leads, as one transaction; recipients keep their addresses."""
    s = site(["127.0.0.61"], {"test": "third MX 5 h\nh A 127.0.0.61\n", "queue": "pair MX 5 mx\nmx A 127.0.0.61\n"},
             conf='domains = ( { name = "*"; default-smtp-port = PORT; retry-after = "1s"; bounce-after = "1h"; },'
                  ' { name = "[*.]both.example"; queue-to = "Pair.queue"; }, { name = "one.example"; queue-to = "pair.queue"; } );')
    s.send("a@one.example", "b@both.example", "c@x.both.example", "d@third.test")
    s.sluice.wait_drained(20)
    assert sorted(s.taken(4)) == ["a@one.example", "b@both.example", "c@x.both.example", "d@third.test"]
    assert s.bounced() == {}
    harness.wait_for(lambda: len(s.records("d")) == 4, 10)
    queues = {r["rcpt"]: r["queue"] for r in s.records("d")}
    assert queues == {"a@one.example": "pair.queue/{default}", "b@both.example": "pair.queue/{default}",
                      "c@x.both.example": "pair.queue/{default}", "d@third.test": "third.test/{default}"}
    assert {q["name"] for q in s.sluice.ask("show", "queues")["queue"]} == {"pair.queue/{default}", "third.test/{default}"}
