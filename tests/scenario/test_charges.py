"""What was charged to limits survives the scheduler, the instance and the machine."""
import csv
import glob
import os
import signal
import time

import harness

PEER = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d" ]; features = [ "PIPELINING", "8BITMIME" ]; } );"""


def domains(port, **rates):
    return "domains = ( %s );" % ", ".join(
        f'{{ name = "{name}.example"; smtp-hosts = "[127.0.0.1]:{port}"; retry-after = "1s,2s"; max-msg-rate = "{rate}"; }}'
        for name, rate in rates.items())


def stamps(sluice, name):
    """Grant stamps of all attempts at that domain, in order."""
    at = []
    for path in glob.glob(sluice.acct_pattern):
        with open(path, newline="") as f:
            at += [int(r["grantStamp"]) for r in csv.DictReader(f)
                   if r["type"] in ("d", "b", "t") and (r["rcpt"] or "").endswith(f"@{name}.example") and r["grantStamp"]]
    return sorted(at)


def densest(at, window_us):
    most, first = 0, 0
    for i, t in enumerate(at):
        while at[first] < t - window_us:
            first += 1
        most = max(most, i - first + 1)
    return most


def kill_scheduler(sluice):
    pid = harness.wait_for(lambda: sluice.pids("scheduler"))[0]
    os.kill(pid, signal.SIGKILL)
    harness.wait_for(lambda: [p for p in sluice.pids("scheduler") if p != pid], 20)


def test_scheduler_killed_under_a_limit(folder):
    port = harness.free_port()
    sink = harness.Sink(folder, script=PEER % port)
    with harness.Sluice(folder, domains=domains(port, one="50/10s", two="1/4s")) as sluice:
        harness.Load(folder, sluice.target, "-m", 160, "--domains", "one.example", name="one").wait()
        harness.Load(folder, sluice.target, "-m", 6, "--domains", "two.example", name="two").wait()
        end = time.time() + 27
        while time.time() < end:
            time.sleep(2.2)
            kill_scheduler(sluice)
        time.sleep(2)
        one, two = stamps(sluice, "one"), stamps(sluice, "two")
        assert densest(one, 10_000_000) <= 50, densest(one, 10_000_000)
        assert densest(one, 1_000_000) <= 10, densest(one, 1_000_000)
        assert densest(two, 4_000_000) == 1, two
        # It is not by standing still.
        assert len(one) >= 50 and len(two) >= 3, (len(one), len(two))
    sink.stop()


def power_cut(sluice, boot, slots=True):
    """All processes die, another boot follows; without `slots`, the pages that were not synced are lost."""
    sluice.kill()
    if not slots:
        with open(os.path.join(sluice.spool, "charges"), "r+b") as f:
            size = os.fstat(f.fileno()).st_size
            f.truncate(4096)
            f.truncate(size)
    sluice.environment["SLUICE_TEST_BOOT_ID"] = boot
    sluice.start()


def reboot(folder, slots):
    port = harness.free_port()
    sink = harness.Sink(folder, script=PEER % port)
    rates = domains(port, short="10/5s", long="10/11m", hour="5/1h")
    with harness.Sluice(folder, domains=rates, environment={"SLUICE_TEST_BOOT_ID": "one"}) as sluice:
        for name in "short", "long", "hour":
            harness.Load(folder, sluice.target, "-m", 4, "--domains", f"{name}.example", name=name).wait()
        harness.wait_for(lambda: len(stamps(sluice, "short")) == 4 and len(stamps(sluice, "long")) == 2
                         and len(stamps(sluice, "hour")) == 1, 10)
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        power_cut(sluice, "two", slots)
        harness.Load(folder, sluice.target, "-m", 4, "--domains", "short.example", name="short2").wait()
        time.sleep(3.5)
        killed = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        kill_scheduler(sluice)  # neither makes it longer nor forgets it
        harness.wait_for(lambda: len(stamps(sluice, "short")) == 8, 20)
        after = stamps(sluice, "short")[4:]
        # Nobody knows what was charged before: nothing for one window, which no kill begins anew.
        assert before + 5_000_000 < after[0] < killed + 5_000_000, (before, killed, after)
        # The longer ones know: two of ten in 66 s, one of five in 6 min.
        assert len(stamps(sluice, "long")) == 2 and len(stamps(sluice, "hour")) == 1
        # What is long and new is open: all of the past is known.
        assert "limits=closed" not in sluice.log()
    sink.stop()


def test_reboot(folder):
    reboot(folder, slots=True)


def test_reboot_from_the_event_log_alone(folder):
    reboot(folder, slots=False)


def test_the_file_is_gone(folder):
    """Then all that the event log knows is counted."""
    port = harness.free_port()
    sink = harness.Sink(folder, script=PEER % port)
    with harness.Sluice(folder, domains=domains(port, short="2/1m", other="5/1m")) as sluice:
        harness.Load(folder, sluice.target, "-m", 4, "--domains", "short.example", name="short").wait()
        harness.wait_for(lambda: len(stamps(sluice, "short")) == 1, 10)
        sluice.kill()
        os.unlink(os.path.join(sluice.spool, "charges"))
        sluice.start()
        harness.Load(folder, sluice.target, "-m", 1, "--domains", "other.example", name="other").wait()
        harness.wait_for(lambda: len(stamps(sluice, "other")) == 1, 10)
        time.sleep(3)
        assert len(stamps(sluice, "short")) == 1
        assert os.path.exists(os.path.join(sluice.spool, "charges"))
    sink.stop()
