"""Back-off held against its words, what other files leave: twins one by one, thresholds, ways out of a wider scope, what is shown and refused."""
import collections
import datetime
import glob
import os
import subprocess
import time

import harness
import pytest
import smtp_peer
from test_backoff import IPS, TOO_MANY, world  # noqa: F401  (a fixture)

BACKOFF = '{ reply = "/too many/"; actions = [ "mode=backoff" ]; }'
WAITS = [('retry-after = "1s"; backoff-retry-after = "1s"; retry-recipients-after = "1s"',
          'retry-after = "1h"; backoff-retry-after = "1h"; retry-recipients-after = "1h"')]


def delivered(w):
    return len(w.peer.recipients())


# Limits -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin", [
    'backoff-max-msg-rate = "1/h"', 'backoff-max-connect-rate = "1/h"', 'backoff-max-data-volume-rate = "1/h"',
    'backoff-source-ip-max-msg-rate = "0/0 1/h"', 'backoff-source-ip-max-connect-rate = "0/0 1/h"', 'backoff-source-ip-max-data-volume-rate = "0/0 1/h"'])
def test_each_rate_has_a_twin_that_holds_in_back_off_alone(world, twin):  # noqa: F811
    w = world(rules=BACKOFF, domain=f"max-msg-per-connection = 1; {twin};")
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.send(*(f"r{i}@p.example" for i in range(12)), vmta="v")
    w.send("other@p.example", vmta="w")  # no twin holds there
    harness.wait_for(lambda: delivered(w) == 2, 10)
    time.sleep(1)
    blocked = w.queue("p.example/v")["blocked"]
    assert delivered(w) == 2 and blocked["by"] == "rate", blocked
    assert blocked["limit"].startswith(twin.split(" ")[0]) and blocked["config"].startswith(w.sluice.conf_path), blocked
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: delivered(w) == 13, 10)


def test_what_is_due_at_the_end_of_back_off_is_spread(world):  # noqa: F811
    w = world(rules=BACKOFF, domain='backoff-max-msg-rate = "1/h"; max-smtp-out = 20; backoff-to-normal-after = "5s";')
    w.say("pause", "queue", "p.example/v")
    w.send(*(f"r{i}@p.example" for i in range(900)), vmta="v")
    w.say("set", "queue", "p.example/v", "--mode=backoff")  # so many are there when it ends, however long they took
    w.say("resume", "queue", "p.example/v")
    blocked = set()

    def told():
        "of 899 an eighth a second"
        q = w.queue("p.example/v")
        blocked.add((q["blocked"]["by"], q["blocked"]["limit"]))
        return ("backoff", "recover 112.4/s") in blocked or delivered(w) == 900
    harness.wait_for(told, 20)
    assert ("backoff", "recover 112.4/s") in blocked, blocked
    assert w.queue("p.example/v")["modeEvent"][-1]["to"] == "normal"
    harness.wait_for(lambda: delivered(w) == 900, 60)
    harness.wait_for(lambda: len(w.sluice.records("d")) == 900, 20)
    at = sorted(int(r["grantStamp"]) for r in w.sluice.records("d"))
    assert at[301] - at[1] > 1000000, at[:302]  # the first of 300 went in back-off; without it they take 0.3 s
    harness.wait_for(lambda: "recover" not in {x["name"] for x in w.sluice.ask("show", "limits", "p.example/v")["limit"]}, 30)
    w.send("last@p.example", vmta="v")
    harness.wait_for(lambda: delivered(w) == 901, 10)


@pytest.mark.parametrize("twin", ["backoff-max-smtp-out = 1", 'backoff-source-ip-max-smtp-out = "0/0 1"'])
def test_surplus_connections_end_behind_their_message(world, twin):  # noqa: F811
    w = world(rules=BACKOFF, domain=f"max-smtp-out = 6; {twin};")
    now, most, talks, full = set(), [], [], []

    def dot(talk, body):
        now.add(talk)
        talks.append((time.time(), talk))
        most.append((time.time(), len(now)))
        if not full and len(now) < 5:  # however slowly they come
            harness.wait_for(lambda: full or len(now) >= 5, 10)
        full.append(talk)
        time.sleep(0.1)
        now.discard(talk)
        return smtp_peer.usual
    w.peer.script["dot"] = dot
    w.say("pause", "queue", "p.example/v")
    w.send(*(f"r{i}@p.example" for i in range(150)), vmta="v")
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: most and max(n for _, n in most) >= 5, 10)
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    flipped = time.time()
    harness.wait_for(lambda: w.queue("p.example/v")["conn"] == 1, 10)
    settled = time.time()
    harness.wait_for(lambda: sum(at > settled for at, _ in most) >= 6, 20)
    late = [n for at, n in most if at > settled]
    assert max(late) == 1 and w.sluice.accounted("t") == {}, late
    # The message that each was at, and perhaps one that had its leave before.
    behind = collections.Counter(talk for at, talk in talks if at > flipped)
    assert sorted(behind.values())[-2:-1] <= [2], behind.values()
    ended = time.time()
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: delivered(w) == 150, 30)
    assert max(n for at, n in most if at > ended) > 1


def test_what_has_no_twin_stays_as_it_is(world):  # noqa: F811
    """A deferred recipient waits for retry-recipients-after, mail expires by bounce-after."""
    w = world(rules=BACKOFF, domain='bounce-after = "15s"; backoff-max-msg-rate = "15/h"; max-smtp-out = 1;',
              edits=[('retry-after = "1s"; backoff-retry-after = "1s"', 'retry-after = "1h"; backoff-retry-after = "1h"')])
    said = []
    w.peer.script["rcpt"] = lambda talk, line: "450 4.2.1 later" if said.append(1) or len(said) == 1 else smtp_peer.usual
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 12)  # not in an hour
    w.send("b@p.example", vmta="v")
    harness.wait_for(lambda: delivered(w) == 2, 12)
    w.send("c@p.example", vmta="v")  # the fourth attempt; a fifth of the fifteen are three
    harness.wait_for(lambda: "c@p.example" in w.sluice.accounted("b"), 60)
    assert delivered(w) == 2 and w.mode("p.example/v") == "backoff" and w.queue("p.example/v")["rcp"] == 0


def test_what_waits_for_a_step_of_its_recovery_is_told_so(world):  # noqa: F811
    w = world(rules=BACKOFF, domain='max-msg-rate = "20/s"; recover = "5%,10% every 1h";')
    w.say("pause", "queue", "p.example/v")
    w.send(*(f"r{i}@p.example" for i in range(40)), vmta="v")
    for mode in "backoff", "normal":
        w.say("set", "queue", "p.example/v", f"--mode={mode}")
    w.say("resume", "queue", "p.example/v")
    harness.wait_for(lambda: delivered(w) >= 1, 10)
    where = f"{w.sluice.conf_path}:{w.line_of('recover =')}"
    harness.wait_for(lambda: w.queue("p.example/v")["blocked"]["by"] == "backoff", 5)
    blocked = w.queue("p.example/v")["blocked"]
    assert (blocked["limit"], blocked["config"]) == ("recover 1/s", where) and blocked["until"] is not None
    limits = {(x["name"], x["value"]): x for x in w.sluice.ask("show", "limits", "p.example/v")["limit"]}
    assert ("recover", "1/s") in limits and ("max-msg-rate", "20/s") in limits
    assert w.mode("p.example/v") == "normal"
    # Whoever says once more that it is normal wants no steps either.
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: delivered(w) == 40, 10)
    assert len(w.queue("p.example/v")["modeEvent"]) == 2
    w.kill_scheduler()
    w.send(*(f"s{i}@p.example" for i in range(10)), vmta="v")
    harness.wait_for(lambda: delivered(w) == 50, 10)


# Rules ------------------------------------------------------------------------------------------------------------------------------------------


def refused(w):
    return sum(line.startswith("MAIL") for t in w.peer.talks for line in t.lines)


def test_a_threshold_counts_over_all_queues_of_its_scope_and_no_other(world):  # noqa: F811
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta"; after = "3/10m"; }', edits=WAITS)
    w.reply = "450 4.7.0 too many"
    w.angry.update((IPS["v"], IPS["w"]))
    for n, (queue, vmta) in enumerate((("p", "v"), ("p", "w"), ("q", "w"), ("q", "v")), 1):
        w.send(f"a@{queue}.example", vmta=vmta)
        harness.wait_for(lambda n=n: refused(w) == n, 10)
    time.sleep(0.5)
    assert w.in_backoff() == []  # two of each
    w.send("a@r.example", vmta="v")
    harness.wait_for(lambda: w.in_backoff() == ["p.example/v", "q.example/v", "r.example/v"], 10)


def test_firing_clears_the_count_and_what_is_old_does_not_count(world):  # noqa: F811
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; after = "2/8s"; }', edits=WAITS)
    w.reply = "450 4.7.0 too many"
    w.angry.add(IPS["v"])

    def once_more():
        n = refused(w)
        w.send(f"r{n}@p.example", vmta="v")
        harness.wait_for(lambda: refused(w) == n + 1, 10)
        harness.wait_for(lambda: w.sluice.log().count("reply=matched") == n + 1, 10)  # the scheduler was told
        return w.mode("p.example/v")
    assert once_more() == "normal"
    time.sleep(8.2)
    assert once_more() == "normal"
    assert once_more() == "backoff"
    w.say("set", "queue", "p.example/v", "--mode=normal")
    assert once_more() == "normal"
    assert once_more() == "backoff"


def test_before_mail_a_connection_counts_once(world):  # noqa: F811
    """EHLO and HELO are both refused, and count as one."""
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; after = "3/10m"; }', domain='backoff-max-connect-rate = "1/h";')
    w.peer.script["ehlo"], w.peer.script["helo"] = "502 5.5.1 too many", "550 5.7.0 too many"
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff", 20)
    time.sleep(2)
    assert [[line[:4] for line in t.lines[:2]] for t in w.peer.talks] == [["EHLO", "HELO"]] * 3


def test_each_rule_of_one_pattern_counts_for_itself(world):  # noqa: F811
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff" ]; after = "3/10m"; }, '
                    '{ reply = "/too many/"; actions = [ "defer-queue" ]; after = "2/10m"; dry-run = true; }', domain='backoff-max-msg-rate = "1/h";')
    w.reply = "450 4.7.0 too many"
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff", 20)
    time.sleep(2)
    assert refused(w) == 3


def test_the_log_says_when_a_dry_run_would_have_fired(world):  # noqa: F811
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=2h" ]; after = "2/10m"; dry-run = true; }', edits=WAITS)
    w.reply = "450 4.7.0 too many"
    w.angry.add(IPS["v"])
    rule = f"{w.sluice.conf_path}:{w.line_of('/too many/')}"
    for n in range(1, 5):
        w.send(f"r{n}@p.example", vmta="v")
        harness.wait_for(lambda n=n: w.sluice.log().count(f"reply=matched rules={rule}(dry-run) ") == n, 10)
        fires = f'queue=p.example/v rule={rule} dry-run=fires actions="mode=backoff, backoff-to-normal-after=2h"'
        harness.wait_for(lambda n=n: w.sluice.log().count(fires) >= n // 2, 10)
        time.sleep(0.2)
        assert w.sluice.log().count(fires) == n // 2
    assert w.in_backoff() == []


def changes(w, domain):
    events = w.queue(f"{domain}.example/v")["modeEvent"]
    assert all(e["from"] != e["to"] and e["reason"] for e in events)
    return [e["to"] for e in events]


def in_a_wider_scope(world, ends, *more):  # noqa: F811
    """Two queues of one virtual MTA in its back-off, which a reply to the first is to end."""
    w = world(rules=", ".join(('{ reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta"; }',
                               '{ reply = "/welcome/"; actions = [ "mode=normal" ]; %s }' % ends, *more)))
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    w.say("pause", "queue", "q.example/v")
    assert w.in_backoff() == ["p.example/v", "q.example/v"]
    assert changes(w, "p") == changes(w, "q") == ["backoff"]
    w.reply = "450 4.2.0 welcome back, later"
    w.wait_mode("p.example/v", "normal")
    return w


def test_a_rule_ends_the_back_off_of_a_whole_scope(world):  # noqa: F811
    w = in_a_wider_scope(world, 'scope = "virtual-mta";')
    assert w.in_backoff() == [] and changes(w, "p") == changes(w, "q") == ["backoff", "normal"]
    w.kill_scheduler()
    w.say("pause", "queue", "q.example/v")
    assert w.in_backoff() == []


def test_a_rule_takes_its_own_queue_out_of_a_wider_scope_until_that_ends(world):  # noqa: F811
    w = in_a_wider_scope(world, "", '{ reply = "/all clear/"; actions = [ "mode=normal" ]; scope = "virtual-mta"; }')
    assert w.in_backoff() == ["q.example/v"] and changes(w, "p") == ["backoff", "normal"] and changes(w, "q") == ["backoff"]
    assert w.queue("p.example/v")["modeEvent"][-1]["reason"] == "450 4.2.0 welcome back, later"
    w.kill_scheduler()
    w.say("pause", "queue", "q.example/v")
    assert w.in_backoff() == ["q.example/v"]
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    assert w.in_backoff() == ["p.example/v", "q.example/v"] and changes(w, "p") == ["backoff", "normal", "backoff"]
    w.say("set", "queue", "p.example/v", "--mode=normal")
    assert w.in_backoff() == ["q.example/v"]
    w.reply = "450 4.2.0 all clear, later"
    w.wait_mode("q.example/v", "normal")
    w.reply = TOO_MANY
    harness.wait_for(lambda: w.in_backoff() == ["p.example/v", "q.example/v"], 15)


def test_rules_of_two_scopes_that_match_one_reply_both_count(world):  # noqa: F811
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=1h" ]; }, '
              '{ reply = "/too many m/"; actions = [ "mode=backoff" ]; scope = "virtual-mta"; after = "2/10m"; }, '
              '{ reply = "/welcome/"; actions = [ "mode=normal" ]; }, { reply = "/welcome back/"; actions = [ "mode=normal" ]; scope = "virtual-mta"; }')
    w.angry.add(IPS["v"])
    w.say("pause", "queue", "r.example/v")
    w.send("a@p.example", vmta="v")
    w.wait_mode("r.example/v", "backoff")
    w.kill_scheduler()
    w.say("pause", "queue", "r.example/v")
    p, r = (w.queue(f"{d}.example/v")["backoff"] for d in "pr")
    assert (p["scope"], p["rule"]) == ("queue", f"{w.sluice.conf_path}:{w.line_of('/too many/')}") and p["until"] is not None
    assert (r["scope"], r["until"]) == ("virtual-mta", None)
    w.reply = "450 4.2.0 welcome back, later"
    harness.wait_for(lambda: w.in_backoff() == [], 15)


def test_a_delivery_takes_its_queue_out_of_all_that_holds_it(world):  # noqa: F811
    w = world(rules=BACKOFF + ', { reply = "/too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta"; }', domain="backoff-to-normal-after-delivery = true;")
    w.angry.add(IPS["v"])
    w.say("pause", "queue", "q.example/v")
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: w.in_backoff() == ["p.example/v", "q.example/v"], 10)
    w.angry.clear()
    w.wait_mode("p.example/v", "normal")
    assert w.peer.recipients() == ["a@p.example"] and w.queue("p.example/v")["modeEvent"][-1]["reason"] == "a message was delivered"
    w.kill_scheduler()
    w.say("pause", "queue", "q.example/v")
    assert w.in_backoff() == ["q.example/v"]
    w.send("b@p.example", vmta="v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example", "b@p.example"], 10)


def test_what_is_told_of_a_back_off_is_its_first_reply(world):  # noqa: F811
    w = world(rules='{ reply = "/too many/"; actions = [ "mode=backoff", "backoff-to-normal-after=1h" ]; }, { reply = "/slow/"; actions = [ "mode=backoff", "backoff-to-normal-after=2h" ]; }')
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    first = w.queue("p.example/v")["backoff"]
    w.reply = "450 4.7.0 slow down"
    harness.wait_for(lambda: w.queue("p.example/v")["backoff"]["until"] > first["until"], 10)
    w.kill_scheduler()
    now = w.queue("p.example/v")["backoff"]
    assert [now[k] for k in ("since", "reason", "rule", "sourceIp")] == [first[k] for k in ("since", "reason", "rule", "sourceIp")]


# Rerouting --------------------------------------------------------------------------------------------------------------------------------------


def test_rerouted_mail_keeps_its_due_time_and_is_accounted_where_it_went(world):  # noqa: F811
    w = world(rules=BACKOFF, domain='backoff-reroute-to-virtual-mta = "x"; backoff-max-msg-rate = "1/h";',
              edits=[('retry-recipients-after = "1s"', 'retry-recipients-after = "8s"')])
    w.peer.script["rcpt"] = lambda talk, line: "450 4.2.1 later" if talk.client == IPS["v"] else smtp_peer.usual
    w.send("late@p.example", vmta="v")
    harness.wait_for(lambda: "late@p.example" in w.sluice.accounted("t"), 10)
    due = w.sluice.ask("list", "--queue=p.example/v")["message"][0]["nextDue"]
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.send("soon@p.example", "more@p.example", vmta="v")
    harness.wait_for(lambda: delivered(w) == 2, 5)  # its twins say one an hour; they are the source's
    moved = w.sluice.ask("list", "--queue=p.example/x")["message"]
    assert [(m["rcpt"], m["nextDue"]) for m in moved] == [("late@p.example", due)]
    harness.wait_for(lambda: delivered(w) == 3, 15)
    assert w.mails[-1][1] >= datetime.datetime.fromisoformat(due.replace("Z", "+00:00")).timestamp() - 1
    harness.wait_for(lambda: len(w.sluice.accounted("d")) == 3, 10)
    rows = w.sluice.accounted("d")
    assert {(r["queue"], r["vmta"]) for r in rows.values()} == {("p.example/x", "x")}


# What is shown and refused ----------------------------------------------------------------------------------------------------------------------


def test_the_mode_and_its_reply_wherever_queues_are_shown(world):  # noqa: F811
    w = world(rules=BACKOFF)
    w.angry.add(IPS["v"])
    w.send("a@p.example", vmta="v")
    w.wait_mode("p.example/v", "backoff")
    reply = w.queue("p.example/v")["backoff"]["reason"]
    for words in (("show", "queues"), ("show", "queues", "*/v"), ("show", "topqueues"), ("show", "topqueues", "p.example/v"), ("show", "queue", "p.example/v")):
        lines = [line for line in w.say(*words).split("\n") if line.startswith("p.example/v ")]
        assert len(lines) == 1 and " backoff " in lines[0] and lines[0].endswith(reply), (words, lines)

    def row():
        return {q["name"]: q for q in w.sluice.stat()["queue"]}.get("p.example/v", {})
    harness.wait_for(lambda: (row().get("mode"), row().get("backoffReason")) == ("backoff", reply), 10)
    done = subprocess.run([w.sluice.bin("sluice-stat"), "--prometheus", "-r", w.sluice.run_dir], capture_output=True, text=True, timeout=60)
    assert any(line.startswith("sluice_queue_backoff{") and "p.example/v" in line and line.endswith(" 1") for line in done.stdout.split("\n")), done.stdout
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: (row().get("mode"), row().get("backoffReason")) != ("backoff", reply), 10)


BAD = r'''host-name = "a.example";
providers = ( { name = "google"; mx = "*.google.com"; } );
virtual-mtas = ( { name = "v"; smtp-source-hosts = ( { ip = "192.0.2.1"; name = "v.example"; } ); } );
smtp-pattern-lists = ( { name = "l"; rules = (
  { reply = "/a/"; actions = [ "mode=backoff", "mode=normal" ]; },
  { reply = "/b/"; actions = [ "skip-mx", "bounce-queue" ]; },
  { reply = "/c/"; actions = [ "backoff-to-normal-after=1h" ]; },
  { reply = "/d/"; actions = [ "defer-queue", "reenable-after=1h" ]; },
  { reply = "/e/"; actions = [ "mode=backoff", "for=1h" ]; },
  { reply = "/f/"; actions = [ "mode=backoff", "mode=backoff" ]; },
  { reply = "/g/"; actions = [ "mode=backof" ]; },
  { reply = "/(h/"; actions = [ "mode=backoff" ]; },
  { reply = "/i/"; actions = [ "mode=backoff" ]; provider = "goggle"; },
  { reply = "/j/"; actions = [ "mode=backoff" ]; scope = "domain"; },
  { reply = "/k/"; actions = [ "mode=backoff" ]; after = "5"; },
  { reply = "/l/"; actions = [ "mode=backoff" ]; recover = "50%,25% every 10m"; },
  { reply = "/m/"; category = "nothing-done"; } ); } );
domains = (
  { name = "a"; backoff-reroute-to-virtual-mta = "w"; },
  { name = "b"; reroute-to-virtual-mta = "w"; },
  { name = "c"; smtp-pattern-list = "m"; },
  { name = "d"; backoff-max-msg-rate = 100; },
  { name = "e"; backoff-use-source = [ "192.0.2.1",
                                       "192.0.2.99" ]; } );
'''
WRONG = {5: "exclude each other", 6: "exclude each other", 7: "works only behind mode=backoff", 8: "works only behind disable-source-ip",
         9: "works only behind reduce-connections", 10: "stands twice", 11: 'did you mean "mode=backoff"', 12: "does not compile", 13: 'did you mean "google"',
         14: "none of queue, source-ip, virtual-mta, provider", 15: "bad threshold", 16: "bad recovery", 17: "actions is missing", 19: "no virtual-mta or virtual-mta-pool",
         20: "no virtual-mta or virtual-mta-pool", 21: "no smtp-pattern-list", 22: "has no unit", 24: "192.0.2.99"}


def test_what_contradicts_itself_or_names_what_is_not_there_is_an_error_with_its_line(folder):
    path = os.path.join(folder, "bad.conf")
    with open(path, "w") as f:
        f.write(BAD)
    done = subprocess.run([os.path.join(harness.ROOT, "build/release/bin/sluiced"), "-t", "-c", path], capture_output=True, text=True, timeout=60)
    told = dict(line[len(path) + 1:].split(": ", 1) for line in (done.stdout + done.stderr).split("\n") if line.startswith(path))
    assert done.returncode == 2 and {int(n) for n in told} == set(WRONG), done.stdout + done.stderr
    for line, text in WRONG.items():
        assert text in told[str(line)], (line, told[str(line)])


def test_the_shipped_configuration_has_no_error_and_no_warning():
    done = subprocess.run([os.path.join(harness.ROOT, "build/release/bin/sluiced"), "-t", "-c", os.path.join(harness.ROOT, "etc/sluice.conf")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "warning" not in done.stdout + done.stderr, done.stdout + done.stderr


def test_an_empty_string_takes_back_what_a_wider_name_says(world):  # noqa: F811
    old = 'ip = "127.0.0.2"; name = "v.example"; } );'
    assert IPS["v"] in old
    w = world(rules=BACKOFF, domain='backoff-reroute-to-virtual-mta = "x"; backoff-notify = "ops@here.example"; recover = "auto"; backoff-use-source = "127.0.0.3";',
              edits=[(old, old + ' domains = ( { name = "p.example"; backoff-reroute-to-virtual-mta = ""; smtp-pattern-list = ""; backoff-notify = ""; '
                      'recover = ""; backoff-use-source = ""; reroute-to-virtual-mta = ""; } );')])
    for q in "p.example/v", "q.example/v":
        w.say("set", "queue", q, "--mode=backoff")
    assert w.queue("p.example/v")["backoff"]["rerouteTo"] is None and w.queue("q.example/v")["backoff"]["rerouteTo"] == "q.example/x"
    w.send("a@p.example", "b@q.example", vmta="v")
    harness.wait_for(lambda: w.carried.get("a@p.example") == IPS["v"], 10)
    w.say("set", "queue", "*/*", "--mode=normal")
    w.angry.add(IPS["v"])
    w.send("c@p.example", "d@q.example", vmta="v")
    w.wait_mode("q.example/v", "backoff")
    harness.wait_for(lambda: w.queue("p.example/v")["attempted"] >= 2, 10)
    assert w.mode("p.example/v") == "normal"


def test_mail_that_waits_for_the_sources_of_back_off_says_so(world):  # noqa: F811
    """They belong to another virtual MTA."""
    w = world(rules=BACKOFF, domain=f'backoff-use-source = [ "{IPS["w"]}" ];')
    w.say("set", "queue", "p.example/v", "--mode=backoff")
    w.send("a@p.example", vmta="v")
    harness.wait_for(lambda: w.queue("p.example/v")["blocked"]["by"] == "sources", 10)
    assert w.queue("p.example/v")["blocked"]["limit"] == f"backoff-use-source {IPS['w']}"
    w.say("set", "queue", "p.example/v", "--mode=normal")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 10)


def test_an_empty_list_takes_back_the_sources_of_a_wider_name(world):  # noqa: F811
    domain = f'backoff-use-source = [ "{IPS["w"]}" ];'
    w = world(rules=BACKOFF, domain=domain, edits=[(domain, domain + ' }, { name = "p.example"; backoff-use-source = [];')])
    for q in "p.example/v", "q.example/v":
        w.say("set", "queue", q, "--mode=backoff")
    w.send("a@p.example", "b@q.example", vmta="v")
    harness.wait_for(lambda: w.peer.recipients() == ["a@p.example"], 10)
    assert w.queue("q.example/v")["blocked"]["by"] == "sources"


def test_a_disabled_source_names_its_rule_and_what_an_operator_said_of_it_stays(world):  # noqa: F811
    w = world(rules='{ reply = "/blocked/"; actions = [ "disable-source-ip", "reenable-after=1h" ]; }')
    w.angry.update((IPS["v"], IPS["w"]))
    w.reply = "421 4.7.1 blocked"

    def disabled(queue):
        return [(d["by"], d["rule"], d["until"] is None) for d in w.sluice.ask("show", "disabled", "sources", queue)["disabledSource"]]
    w.send("a@p.example", vmta="v")
    where = f"{w.sluice.conf_path}:{w.line_of('/blocked/')}"
    harness.wait_for(lambda: disabled("p.example/v") == [("rule", where, False)], 10)
    said = []

    def mail(talk, line):  # the operator is faster than the reply
        if talk.client == IPS["w"] and not said:
            said.append(w.say("disable", "source", IPS["w"], "p.example/w", "--reenable-after=10m"))  # the rule's hour is longer
        return w.reply
    w.peer.script["mail"] = mail
    w.send("b@p.example", vmta="w")
    harness.wait_for(lambda: w.sluice.log().count("reply=matched") == 2, 10)
    time.sleep(0.3)
    assert disabled("p.example/w") == [("operator", None, False)]
    events = b"".join(open(path, "rb").read() for path in glob.glob(w.sluice.spool + "/events/*.log"))
    assert events.count(f"disabled source {IPS['v']} by {where}".encode()) == 1 and f"disabled source {IPS['w']}".encode() not in events
    w.kill_scheduler()
    assert disabled("p.example/v") == [("rule", where, False)] and disabled("p.example/w") == [("operator", None, False)]
