"""Faults of disk and system in small; `tests/torture/faults.py STAGE` is the long form. This machine may be busy: what must be
back within 5 s is given more here."""
import ctypes
import os
import re
import signal
import smtplib
import sys
import time

import harness
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "torture"))
import faults  # noqa: E402

PIDFD_GETFD = 438


@pytest.mark.parametrize("stage", faults.STAGES, ids=lambda s: s[0])
def test_fault(folder, stage):
    name, function, small, _ = stage
    seed = int.from_bytes(os.urandom(3), "big")
    print(f"again: tests/torture/faults.py {name} --count {small} --seed {seed}")
    result = function(seed, small, faults.Plain(folder, slack=4.0))
    if result.get("skipped"):
        pytest.skip(result["skipped"])
    print({k: v for k, v in result.items() if k != "bad"})
    assert not result["bad"], result["bad"]


def switches(pid):
    """How often the main thread has left the processor by itself, which it does in each turn of its loop."""
    with open(f"/proc/{pid}/task/{pid}/status") as f:
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M).group(1))


def test_a_command_that_waits_for_the_disk_takes_no_turns(folder):
    """A pattern of many queues is more than one commit takes; between two slow ones the scheduler sleeps."""
    with harness.Sluice(folder, workers=1) as s:
        resolver, scheduler = s.pids("resolver")[0], s.pids("scheduler")[0]
        os.kill(resolver, signal.SIGSTOP)  # nothing else goes on
        with smtplib.SMTP("127.0.0.1", s.port) as c:
            assert c.sendmail("a@b.example", [f"c@d{i}.example" for i in range(2500)], b"x\r\n") == {}
        tracer = faults.Tracer(folder, [scheduler], "delay_enter=200000", "fdatasync")
        try:
            before = switches(scheduler)
            assert s.sluice("pause", "queue", "*/*").stdout.strip() == "matched 2500"
            took = switches(scheduler) - before
        finally:
            tracer.stop()
            os.kill(resolver, signal.SIGCONT)
        with open(tracer.path) as f:
            assert f.read().count("(DELAYED)") >= 3
        assert took < 1000, took  # thousands, when it asks again and again


def test_who_is_cut_off_from_the_scheduler_begins_anew(folder):
    """A channel that cannot be is given up, and with it the process: the scheduler has not seen it, and gives no other one."""
    with harness.Sluice(folder, workers=1, receivers=1) as s:
        for role in ("recorder", "resolver"):
            pid = s.pids(role)[0]
            fds = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            channel, = [fd for fd, what in fds.items() if "sluice-channel" in what]
            with open(f"/proc/{pid}/fd/{channel}", "r+b", buffering=0) as f:
                f.seek(64 + 128)  # how many messages the scheduler has put into the ring of this side
                f.write(b"\xff\xff\xff\xff")
            for bell in [fd for fd, what in fds.items() if "eventfd" in what]:
                copy = ctypes.CDLL(None).syscall(PIDFD_GETFD, os.pidfd_open(pid), bell, 0)
                assert copy >= 0
                os.write(copy, b"\1\0\0\0\0\0\0\0")
            harness.wait_for(lambda: s.pids(role) not in ([], [pid]), 10)
        s.wait_ready()


def test_a_full_ring_is_told_once_in_a_while(folder):
    """A stopped worker takes as many connections as its ring has room for; each of the others is tried again and again."""
    with harness.Sluice(folder, workers=1, sink_port=harness.free_port()) as s:
        worker = s.pids("worker")[0]
        os.kill(worker, signal.SIGSTOP)
        with smtplib.SMTP("127.0.0.1", s.port) as c:
            assert c.sendmail("a@b.example", [f"c@d{i}.example" for i in range(4600)], b"x\r\n") == {}

        def full():
            with open(s.log_path) as f:
                return [line for line in f if "ring=full" in line]
        harness.wait_for(full)
        time.sleep(0.5)
        assert len(full()) == 1 and " opens=" in full()[0]
        os.kill(worker, signal.SIGCONT)
        harness.wait_for(lambda: s.ask("show", "status")["traffic"]["connectFailed"] >= 4600)
