"""Loops of reroutes: told once, however many queues, and however long mail waits before it may go on."""
import subprocess
import time

import harness
import pytest
from test_backoff import World
from test_reroute import of_vmta, queued


@pytest.fixture
def world(folder, kept):
    return lambda **more: kept(World(folder, **more))


def test_a_loop_of_a_whole_scope_is_told_once_a_queue(world):
    w = world(rule='reply = "/^421 .*too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";',
              edits=[of_vmta("v", 'backoff-reroute-to-virtual-mta = "w";'), of_vmta("w", 'backoff-reroute-to-virtual-mta = "v";')])
    domains = [f"d{i}.example" for i in range(3)]
    for d in domains:
        w.say("pause", "queue", f"{d}/w")
        w.say("set", "queue", f"{d}/w", "--mode=backoff")
        w.say("pause", "queue", f"{d}/v")
    w.send(*(f"a@{d}" for d in domains), vmta="v")
    w.angry.add("127.0.0.2")
    w.send("a@p.example", vmta="v")
    w.wait_mode("d0.example/v", "backoff")
    time.sleep(1.5)
    log = w.sluice.log()
    assert [log.count(f"queue={d}/v reroute=loop") for d in domains] == [1, 1, 1]


def test_who_waits_for_mail_on_its_way_tells_of_a_loop_once(world):
    """w's mail goes to v, slowly; then v's would go by x to w, and from there back to x: it waits until w's has come."""
    w = world(rule='reply = "/^421 .*too many/"; actions = [ "mode=backoff" ]; scope = "virtual-mta";',
              edits=[of_vmta("w", 'backoff-reroute-to-virtual-mta = "v";'), of_vmta("v", 'backoff-reroute-to-virtual-mta = "x";'),
                     of_vmta("x", 'backoff-reroute-to-virtual-mta = "w";')])
    for q in "p.example/v", "p.example/w", "p.example/x":
        w.say("pause", "queue", q)
    w.send("a@p.example", vmta="v")
    harness.Load(w.sluice.folder, w.sluice.target, "-s", 10, "-m", 6000, "--domains", "p.example", "--vmta", "w").wait()
    w.angry.add("127.0.0.4")
    scheduler = str(w.sluice.pids("scheduler")[0])
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-p", scheduler, "-e", "trace=fdatasync", "-e",
                               "inject=fdatasync:delay_exit=500000"])
    try:
        harness.wait_for(lambda: "TracerPid:\t0\n" not in open(f"/proc/{scheduler}/status").read(), 10)
        w.say("set", "queue", "p.example/w", "--mode=backoff")
        w.say("set", "queue", "p.example/w", "--mode=normal")
        w.reload('backoff-reroute-to-virtual-mta = "v";', 'backoff-reroute-to-virtual-mta = "x";')
        w.say("set", "queue", "p.example/w", "--mode=backoff")
        w.send("a@q.example", vmta="x")
        w.wait_mode("q.example/x", "backoff")
        w.say("set", "queue", "p.example/v", "--mode=backoff")
        harness.wait_for(lambda: "queue=p.example/v reroute=waits to=p.example/w" in w.sluice.log(), 10)
        time.sleep(4)
    finally:
        tracer.terminate()
        tracer.wait(10)
    assert w.sluice.log().count("queue=p.example/v reroute=loop") == 1
    assert w.sluice.log().count("queue=p.example/v reroute=waits") == 1
    harness.wait_for(lambda: queued(w).get("p.example/w", 0) + queued(w).get("p.example/x", 0) > 6000, 60)
