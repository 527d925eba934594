"""Rules for replies: what a worker tells the scheduler of them, and what becomes of the mail that met them."""
import re
import smtplib

import harness
from smtp_peer import Peer, once, usual

RULES = '''smtp-pattern-lists = ( { name = "mine"; rules = (
  { reply = "/^421 4\\\\.7\\\\.0 /"; category = "rate-limit-ip"; actions = [ "defer-queue" ]; after = "1000/10m"; },
  { reply = "/too many/"; actions = [ "mode=backoff" ]; after = "1000/10m"; },
  { reply = "/wait (.*)/"; actions = [ "wait-reply" ]; after = "1000/10m"; },
  { reply = "/blocked/"; category = "ip-block"; actions = [ "skip-mx" ]; },
  { reply = "/never/"; category = "unknown-user"; actions = [ "bounce-rcpt" ]; } ); } );'''


def domains(port):
    return (f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; retry-after = "1s,2s"; retry-recipients-after = "1s"; '
            f'smtp-pattern-list = "mine"; }} );\n{RULES}')


def told(sluice):
    """[(queue, [lines of rules], text)] of what the scheduler was told, in order."""
    found = re.findall(r'queue=(\S+) reply=matched rules=(\S*) text="(.*)"$', sluice.log(), re.M)
    first = next(i for i, line in enumerate(sluice.text.split("\n"), 1) if "421 4" in line)
    return [(queue, [int(re.search(r":(\d+)", r).group(1)) - first for r in rules.split(",")], "again" in rules, text) for queue, rules, text in found]


def send(sluice, *rcpts):
    with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
        assert s.sendmail("a@here.example", list(rcpts), b"Subject: x\r\n\r\nbody\r\n") == {}


def categories(sluice, kind):
    return {rcpt: row["bounceCat"] for rcpt, row in sluice.accounted(kind).items()}


def test_one_reply_of_several_lines_by_three_rules(folder):
    peer = Peer()
    peer.script["mail"] = once("421-4.7.0 too many\r\n421-4.7.0 messages,\r\n421 4.7.0 wait 5 minutes")
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, "b@d.example")
        sluice.wait_drained()
        assert told(sluice) == [("d.example/{default}", [0, 1, 2], False, "421 4.7.0 too many messages, wait 5 minutes")]
        harness.wait_for(lambda: categories(sluice, "t").get("b@d.example") == "policy-related")
    peer.close()


def test_a_pipelined_transaction_is_told_once(folder):
    peer = Peer()
    refused = []

    def rcpt(talk, line):
        if len(refused) >= 47:
            return usual
        refused.append(line)
        return f"421 4.7.0 too many ({len(refused)})" if len(refused) <= 40 else f"450 4.2.1 wait {len(refused)} seconds"
    peer.script["rcpt"] = rcpt
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, *(f"r{i}@d.example" for i in range(50)))
        sluice.wait_drained()
        assert len(peer.recipients()) == 50 and len(refused) == 47
        texts = told(sluice)
        # The first reply tells of two rules, the first that says something new of a third; no other reply does.
        assert [(rules, again, text) for _, rules, again, text in texts] == [
            ([0, 1], False, "421 4.7.0 too many (1)"), ([2], False, "450 4.2.1 wait 41 seconds")], texts
    peer.close()


def test_mail_stays_by_a_5xx_and_goes_by_a_4xx_where_rules_say_so(folder):
    peer = Peer()
    peer.script["dot"] = once("550 5.7.1 you are blocked")
    peer.script["rcpt"] = lambda talk, line: "450 4.1.1 never" if "<x@" in line else usual
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, "x@d.example", "y@d.example")
        sluice.wait_drained()
        sluice.wait_recorded(["x@d.example", "y@d.example"])
        assert peer.recipients() == ["y@d.example"]
        assert len(peer.talks) >= 2  # skip-mx ended the first
        assert categories(sluice, "b") == {"x@d.example": "bad-mailbox"}
        assert categories(sluice, "t") == {"y@d.example": "spam-related"}
    peer.close()


def test_rules_come_and_go_with_a_reload(folder):
    peer = Peer()
    with harness.Sluice(folder, domains=domains(peer.port)) as sluice:
        send(sluice, "a@d.example")
        sluice.wait_drained()
        with open(sluice.conf_path, "w") as f:
            f.write(sluice.text.replace("/blocked/", "/2.0.0 taken/").replace('"skip-mx"', '"defer-queue"'))
        assert sluice.sluice("reload").returncode == 0
        send(sluice, "b@d.example")
        sluice.wait_drained()
        assert [(rules, text) for _, rules, _, text in told(sluice)] == [([3], "250 2.0.0 taken")]
        with open(sluice.conf_path, "w") as f:
            f.write(sluice.text.replace("/blocked/", "/nothing/"))
        assert sluice.sluice("reload").returncode == 0
        send(sluice, "c@d.example")
        sluice.wait_drained()
        assert len(peer.taken) == 3 and len(told(sluice)) == 1  # the rule is gone
    peer.close()


def test_a_search_without_an_end_is_no_match_and_told(folder):
    """Back-references, and a reply made for them: neither engine settles that in bounded time."""
    peer = Peer()
    peer.script["mail"] = once("450 4.7.0 " + "a" * 450 + "bc")
    rules = domains(peer.port).replace('"/too many/"', r'"/((a|b)+)+\\1c$/"')
    with harness.Sluice(folder, domains=rules) as sluice:
        send(sluice, "b@d.example")
        sluice.wait_drained()
        harness.wait_for(lambda: re.search(r"matching=given-up searches=1\b", sluice.log()))
        assert told(sluice) == []
    peer.close()
