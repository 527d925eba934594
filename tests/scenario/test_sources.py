"""Source IPs: each bound by its owner alone; shared only when there are fewer of them than workers."""
import collections
import os
import re
import signal
import time

import harness


def bound_by_pid(pids, port):
    """{local ip: set of pids} of established connections to the sink, from /proc."""
    inodes = {}
    for line in open("/proc/net/tcp"):
        f = line.split()
        if len(f) < 10 or f[3] != "01" or int(f[2].split(":")[1], 16) != port:
            continue
        raw = bytes.fromhex(f[1].split(":")[0])
        inodes[f[9]] = ".".join(str(b) for b in reversed(raw))
    found = collections.defaultdict(set)
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            inode = re.match(r"socket:\[(\d+)\]", target)
            if inode and inode.group(1) in inodes:
                found[inodes[inode.group(1)]].add(pid)
    return found


def run(folder, workers, ips, seconds=6):
    port = harness.free_port()
    sink = harness.Sink(folder, script='providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; delay-ms = { dot = 10; }; } );' % port)
    hosts = ", ".join('{ ip = "%s"; name = "h%d.example"; }' % (ip, i) for i, ip in enumerate(ips))
    vmtas = f'virtual-mtas = ( {{ name = "v"; smtp-source-hosts = ( {hosts} ); }} );'
    domains = f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; max-smtp-out = 64; max-msg-per-connection = 200; connection-idle-timeout = "2s"; }} );'
    sources = 'sources = ( { match = "127.0.0.0/8"; always-allow-relaying = true; default-virtual-mta = "v"; } );'
    sluice = harness.Sluice(folder, workers=workers, vmtas=vmtas, domains=domains, sources=sources)
    sluice.start()
    load = harness.Load(folder, sluice.target, "-s", 60, "--duration", 60, "--domain-count", 8)
    owners = collections.defaultdict(set)
    by_pid = {}
    samples = 0
    pids = sluice.pids("worker")
    end = time.time() + seconds
    while time.time() < end or (samples < 20 and time.time() < end + 50):
        for ip, who in bound_by_pid(pids, port).items():
            owners[ip] |= who
        samples += 1
        time.sleep(0.02)
    load.stop()
    load.wait()
    sluice.wait_drained()

    def all_counted():
        "the workers' own counters add up (they are published once a second)"
        by_pid.update({row["pid"]: row["delivered"] for row in sluice.stat()["worker"]})
        return sum(by_pid.values()) == len(load.read().acked)
    harness.wait_for(all_counted, 20)
    return sluice, sink, load, owners, by_pid, samples, port


def test_each_ip_at_its_owner(folder):
    ips = [f"127.0.1.{i}" for i in range(1, 9)]
    sluice, sink, load, owners, by_pid, samples, _ = run(folder, 4, ips)
    assert samples >= 20 and set(owners) == set(ips), (samples, owners)
    assert all(len(who) == 1 for who in owners.values()), owners
    total = sum(by_pid.values())
    assert total == len(load.read().acked) and len(by_pid) == 4
    assert min(by_pid.values()) > total / 40, by_pid  # a tenth of its share: others use the machine
    sluice.stop()
    sink.stop()


def test_fewer_ips_than_workers(folder):
    sluice, sink, load, owners, by_pid, samples, _ = run(folder, 4, ["127.0.1.1", "127.0.1.2"])
    assert set(owners) == {"127.0.1.1", "127.0.1.2"}
    assert all(len(who) <= 2 for who in owners.values()), owners
    total = sum(by_pid.values())
    assert len(by_pid) == 4 and min(by_pid.values()) > total / 40, by_pid
    sluice.stop()
    sink.stop()


def test_ips_of_a_dead_worker_are_used_again(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    hosts = ", ".join('{ ip = "127.0.1.%d"; name = "h%d.example"; }' % (i, i) for i in (1, 2))
    sluice = harness.Sluice(folder, workers=2, sink_port=port,
                            vmtas=f'virtual-mtas = ( {{ name = "v"; smtp-source-hosts = ( {hosts} ); }} );',
                            sources='sources = ( { match = "127.0.0.0/8"; always-allow-relaying = true; default-virtual-mta = "v"; } );')
    with sluice:
        load = harness.Load(folder, sluice.target, "-s", 20, "--duration", 4, "--rate", 400)
        time.sleep(1)
        os.kill(sluice.pids("worker")[0], signal.SIGKILL)
        killed = time.time()
        load.wait()
        sluice.wait_drained()
        harness.wait_for(lambda: sink.taken() >= len(load.read().acked), 10)
        first = {}
        for rows in sink.read().taken.values():
            for row in rows:
                ip = row.client.split(":")[0]
                if row.time_us / 1e6 > killed:
                    first[ip] = min(first.get(ip, 1e12), row.time_us / 1e6 - killed)
        assert set(first) == {"127.0.1.1", "127.0.1.2"}
        assert max(first.values()) < 10, first  # within a second, with tenfold slack
    sink.stop()
