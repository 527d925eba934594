"""sluice-stat: reads shared memory only, asks nobody, and says the truth while everything else stands still."""
import json
import os
import re
import signal
import subprocess
import time

import harness
import pytest

from conftest import program


@pytest.fixture
def pair(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    sluice = harness.Sluice(folder, sink_port=port)
    try:
        sluice.start()
        yield sluice, sink
        for pid in [*sluice.pids(), sluice.master_pid()] if sluice.process.poll() is None else []:
            os.kill(pid, signal.SIGCONT)
        sluice.stop()
    finally:
        sluice.kill()
        sink.stop()


def stat(sluice, *args, **kw):
    return subprocess.run([sluice.bin("sluice-stat"), "-r", sluice.run_dir, *args], capture_output=True, text=True, timeout=20, **kw)


def send(sluice, folder, messages):
    load = harness.Load(folder, sluice.target, "-s", 4, "-m", messages, "--domain-count", 5)
    assert load.wait()["acknowledged"] == messages
    sluice.wait_drained()


def test_what_it_shows(pair, folder):
    sluice, sink = pair
    send(sluice, folder, 50)

    def counted():
        "the totals are in shared memory"
        got = sluice.stat()
        sums = [sum(row["delivered"] for row in got[rows]) for rows in ("queue", "worker")]
        return got if got["totals"]["delivered"] == 50 and sums == [50, 50] else None
    got = harness.wait_for(counted, 10)
    assert {"version", "bytes", "generation", "startedAt"} <= set(got["shm"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", got["shm"]["startedAt"])
    assert got["totals"]["received"] == 50
    for q in got["queue"]:
        assert set("name mode paused rcp conn msgRate attempted delivered transient bounced backoffReason nextDue".split()) <= set(q)
        assert q["mode"] == "normal" and q["paused"] is False and q["rcp"] == 0
    for s in got["source"]:
        assert set("ip queue msgRate connectRate limit used windowStart disabled".split()) <= set(s)
    workers = got["worker"]
    assert [w["slot"] for w in workers] == [0, 1]
    assert sorted(w["pid"] for w in workers) == sorted(sluice.pids("worker"))
    assert all(w["state"] == "running" and w["heartbeatMs"] < 5000 for w in workers)
    assert [r["pid"] for r in got["receiver"]] == sluice.pids("receiver")


def test_everything_stopped(pair, folder):
    """All processes are SIGSTOPped: the same answers, at once, and the heartbeats grow old."""
    sluice, sink = pair
    send(sluice, folder, 20)

    def shown():
        "totals and the rows of all five queues are published"
        got = sluice.stat()
        return got["totals"]["delivered"] == 20 and sum(q["delivered"] for q in got["queue"]) == 20
    harness.wait_for(shown, 10)
    for pid in [sluice.master_pid(), *sluice.pids()]:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.2)
    took = []
    for _ in range(20):
        began = time.monotonic()
        first = sluice.stat()
        took.append(time.monotonic() - began)
    print("20 answers, slowest %.0f ms" % (max(took) * 1000))
    assert max(took) < 2  # 200 ms, with tenfold slack
    text, prometheus = stat(sluice), stat(sluice, "--prometheus")
    assert first["totals"]["delivered"] == 20 and len(first["queue"]) == 5
    assert text.returncode == 0 and "delivered" in text.stdout and "worker" in text.stdout
    assert prometheus.returncode == 0 and "sluice_delivered_total 20\n" in prometheus.stdout
    time.sleep(0.3)
    second = sluice.stat()
    assert second["worker"][0]["heartbeatMs"] >= first["worker"][0]["heartbeatMs"] + 250


def test_opens_shared_memory_only(pair, folder):
    """Beyond what ld.so opens: RUN/shm/* read-only, no other file, no socket, no signal, nobody asked."""
    sluice, sink = pair
    trace = os.path.join(folder, "trace")
    for args in ([], ["--json"], ["--prometheus"]):
        done = subprocess.run([program("strace"), "-f", "-o", trace, "-e",
                               "trace=%file,%network,%process,open_by_handle_at,kill,tgkill,process_vm_readv,ptrace,shmat",
                               sluice.bin("sluice-stat"), "-r", sluice.run_dir, *args],
                              capture_output=True, text=True, timeout=30, env={"LANG": "de_DE.UTF-8", "PATH": "/usr/bin"})
        assert done.returncode == 0, done.stderr
        opened = 0
        for line in open(trace):
            call = re.match(r"\d+\s+(\w+)\((.*)", line)
            if not call or call.group(1) in ("execve", "exit_group", "arch_prctl", "access") or "/ld.so." in line:
                continue
            path = re.search(r'"([^"]*)"', call.group(2))
            if path and re.search(r"\.so(\.[0-9.]+)?$", path.group(1)):
                continue  # a library
            if call.group(1) in ("newfstatat", "fstat") and (not path or path.group(1) == ""):
                continue  # of an open descriptor
            if path and os.path.isdir(path.group(1)) and "/lib" in path.group(1) and "sluice" not in path.group(1):
                continue  # ld.so looks for a library
            assert path and path.group(1).startswith(sluice.run_dir + "/shm/"), line
            assert call.group(1) == "openat" and "O_RDONLY" in line, line
            opened += "= -1" not in line
        assert opened == 6  # scheduler, two workers, receiver, resolver, recorder


def test_prometheus_is_well_formed(pair, folder):
    sluice, sink = pair
    send(sluice, folder, 5)
    groups, kinds = set(), {}
    group = None
    for line in stat(sluice, "--prometheus").stdout.splitlines():
        if line.startswith("# HELP "):
            group = line.split()[2]
            assert group not in groups, "a metric's samples stand together"
            groups.add(group)
        elif line.startswith("# TYPE "):
            kinds[line.split()[2]] = line.split()[3]
        else:
            found = re.fullmatch(r'([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(?:,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? (\d+(?:\.\d+)?)', line)
            assert found and found.group(1) == group, line
            assert (kinds[group] == "counter") == group.endswith("_total")
    assert "sluice_queue_delivered_total" in groups and "sluice_worker_connections" in groups


def test_watch_and_usage(pair):
    sluice, sink = pair
    with subprocess.Popen([sluice.bin("sluice-stat"), "-r", sluice.run_dir, "--json", "-w", "0.1"], stdout=subprocess.PIPE, text=True) as p:
        pictures = [json.loads(p.stdout.readline()) for _ in range(3)]
        p.stdout.close()
        assert p.wait(10) != 0 or True
    assert all(x["shm"]["version"] == pictures[0]["shm"]["version"] for x in pictures)
    assert stat(sluice, "--nonsense").returncode == 2
    assert stat(sluice, "-w", "never").returncode == 2
    assert stat(sluice, "extra").returncode == 2
    assert stat(sluice, "--version").stdout.startswith("sluice-stat ")


def test_damaged_objects(pair, folder):
    """Cut, scribbled over, of another version: said on stderr, the rest is shown."""
    sluice, sink = pair
    run = os.path.join(folder, "copy")
    os.makedirs(os.path.join(run, "shm"))

    def copied(name):
        with open(os.path.join(sluice.run_dir, "shm", name), "rb") as f:
            return bytearray(f.read(4096))
    for name, change in (("worker-0", lambda b: b[:50]), ("worker-1", lambda b: b[:4] + b"\x63" + b[5:]), ("resolver", lambda b: b"x" * len(b)),
                         ("receiver-0", lambda b: b)):
        with open(os.path.join(run, "shm", name), "wb") as f:
            f.write(change(copied(name)))
    done = subprocess.run([sluice.bin("sluice-stat"), "-r", run, "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    got = json.loads(done.stdout)
    assert got["worker"] == [] and got["resolver"] is None and len(got["receiver"]) == 1 and got["totals"] == {}
    for word in ("worker 0", "worker 1", "resolver", "scheduler"):
        assert word in done.stderr
    nothing = subprocess.run([sluice.bin("sluice-stat"), "-r", folder + "/none", "--json"], capture_output=True, text=True, timeout=60)
    assert nothing.returncode == 1 and nothing.stdout == "" and "not found" in nothing.stderr


def test_a_dead_process_is_seen(pair):
    """A killed worker's slot is taken by a new one: the row has its pid."""
    sluice, sink = pair
    before = {w["slot"]: w["pid"] for w in sluice.stat()["worker"]}
    os.kill(before[1], signal.SIGKILL)

    def changed():
        "worker 1 has a new pid in shared memory"
        now = {w["slot"]: w for w in sluice.stat()["worker"]}
        return now[1]["pid"] != before[1] and now[1]["state"] == "running"
    harness.wait_for(changed, 20)
    assert {w["slot"]: w["pid"] for w in sluice.stat()["worker"]}[0] == before[0]
