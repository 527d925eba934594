"""harness: a whole Sluice in a folder of its own, its sink and its load, for scenario, crash and witness tests."""
import csv
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "bench"))
import ledger  # noqa: E402  (the checker of bench/)
from ports import free_port  # noqa: E402,F401

ROLES = ("scheduler", "resolver", "recorder", "worker", "receiver")


PATIENCE = float(os.environ.get("SLUICE_TEST_PATIENCE", 4))  # a busy machine is this many times slower than one that is not


def wait_for(what, seconds=20, step=0.02):
    """Calls `what` until it gives something true; that, or AssertionError after `seconds` and the patience with short ones: no
    assertion about a time."""
    seconds = max(seconds, min(seconds * PATIENCE, 40))
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not so within {seconds} s: {getattr(what, '__doc__', None) or what}")
        time.sleep(step)


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(x) for x in f.read().split()]
    except OSError:
        return []


def comm_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def lives(pid):
    """A child of ours that is no zombie (an orphan's corpse may wait for init)."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return comm_of(pid).startswith("sl-") and f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def cpu_seconds(pid):
    """User and system time of a process and of its reaped children."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(x) for x in fields[11:15]) / os.sysconf("SC_CLK_TCK")


class Lines:
    """How many lines a growing file has: each look reads only what is new."""

    def __init__(self, path):
        self.path, self.read, self.lines = path, 0, 0

    def count(self):
        with open(self.path, "rb") as f:
            if f.seek(0, os.SEEK_END) < self.read:
                self.read = self.lines = 0
            f.seek(self.read)
            new = f.read()
        self.read += len(new)
        self.lines += new.count(b"\n")
        return self.lines


class Sink:
    """sluice-sink on `listen` ("A:P", ...) or with a script (text)."""

    def __init__(self, folder, listen=(), script=None, variant="release", name="sink", extra=()):
        self.ledger_path = os.path.join(folder, name + ".ledger")
        self.connections_path = os.path.join(folder, name + ".connections")
        command = [os.path.join(ROOT, "build", variant, "bin/sluice-sink"), "--ledger", self.ledger_path,
                   "--connections-log", self.connections_path, *extra]
        if script is not None:
            path = os.path.join(folder, name + ".conf")
            with open(path, "w") as f:
                f.write(script)
            command += ["-f", path]
        for where in listen:
            command += ["-l", where]
        self.errors = open(os.path.join(folder, name + ".err"), "w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.listening = json.loads(self.process.stdout.readline())["listening"]
        self.ledger = Lines(self.ledger_path)

    def read(self):
        return ledger.Sink([self.ledger_path])

    def taken(self):
        return self.ledger.count()

    def stop(self):
        """Ends it; its final counters."""
        if self.process.poll() is None:
            self.process.terminate()
        out = self.process.communicate(timeout=60)[0].strip().splitlines()
        self.errors.close()
        return json.loads(out[-1]) if out else {}


class Load:
    """sluice-load in the background; wait() for its summary."""

    def __init__(self, folder, target, *args, name="load", variant="release"):
        self.ledger_path = os.path.join(folder, name + ".ledger")
        self.ledger = Lines(self.ledger_path)
        self.process = subprocess.Popen(
            [os.path.join(ROOT, "build", variant, "bin/sluice-load"), "-t", target, "--ledger", self.ledger_path, *map(str, args)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait(self, seconds=300):
        out, err = self.process.communicate(timeout=seconds)
        lines = out.strip().splitlines()
        assert lines, f"sluice-load said nothing: {err}"
        self.summary = json.loads(lines[-1])
        return self.summary

    def acknowledged(self):
        try:
            return self.ledger.count()
        except OSError:
            return 0

    def read(self):
        return ledger.Load([self.ledger_path])

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()


class Sluice:
    """One instance. `conf` is added to a small base configuration; keys of `top` replace its scalars."""

    def __init__(self, folder=None, conf="", variant="release", workers=2, receivers=1, domains=None, vmtas="",
                 sink_port=None, sources=None, acct="d,b,t,tq,r", wrapper=(), top="", spool=None, acct_folder=None, environment=None):
        self.folder = folder or tempfile.mkdtemp(prefix="sluice-test-")
        self.variant = variant
        self.wrapper = list(wrapper)
        self.port = free_port()
        self.environment = {**os.environ, **(environment or {})}
        self.spool = spool or os.path.join(self.folder, "spool")
        self.run_dir = os.path.join(self.folder, "run")
        self.log_path = os.path.join(self.folder, "sluice.log")
        self.conf_path = os.path.join(self.folder, "sluice.conf")
        acct_folder = acct_folder or self.folder
        self.acct_pattern = os.path.join(acct_folder, "acct*.csv")
        if domains is None:
            hosts = f'smtp-hosts = "[127.0.0.1]:{sink_port}"; ' if sink_port else ""
            domains = f'domains = ( {{ name = "*"; {hosts}retry-after = "1s,2s"; retry-recipients-after = "1s"; }} );'
        if sources is None:
            sources = ('sources = ( { match = "127.0.0.0/8"; always-allow-relaying = true; process-x-virtual-mta = true; '
                       'process-x-job = true; process-x-envid = true; } );')
        self.text = "\n".join([
            'host-name = "mta.test.example";', f'spool = "{self.spool}";', f'run = "{self.run_dir}";',
            f'log-file = "{self.log_path}";', f"workers = {workers};", f"receivers = {receivers};",
            'allow-destinations = [ "127.0.0.0/8" ];', top,
            f'smtp-listeners = ( {{ address = "127.0.0.1:{self.port}"; }} );',
            f'acct-files = ( {{ path = "{acct_folder}/acct.csv"; records = "{acct}"; }} );', sources, vmtas, domains, conf, ""])
        self.process = None

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def bin(self, name):
        return os.path.join(ROOT, "build", self.variant, "bin", name)

    def start(self, wait=True):
        os.makedirs(self.folder, exist_ok=True)
        with open(self.conf_path, "w") as f:
            f.write(self.text)
        self.stderr = open(os.path.join(self.folder, "stderr"), "ab")
        self.process = subprocess.Popen([*self.wrapper, self.bin("sluiced"), "-f", "-c", self.conf_path], stderr=self.stderr,
                                        stdout=self.stderr, stdin=subprocess.DEVNULL, env=self.environment)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=30):
        def answers():
            if self.process.poll() is not None:
                raise AssertionError("sluiced ended with %d:\n%s" % (self.process.returncode, self.complaints()))
            return self.sluice("show", "status", "--json").returncode == 0 and self.listens()
        wait_for(answers, seconds, 0.03)

    def listens(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as s:
                s.settimeout(2)
                return s.recv(4) == b"220 "
        except OSError:
            return False

    def complaints(self):
        text = ""
        for path in (os.path.join(self.folder, "stderr"), self.log_path):
            if os.path.exists(path):
                with open(path, errors="replace") as f:
                    text += f.read()[-6000:]
        return text

    def master_pid(self):
        """None once the instance has ended: behind a wrapper that is seen a moment before the wrapper's own end."""
        pid = self.process.pid
        if not self.wrapper:
            return pid

        def looked_for():
            "the wrapper started sluiced, or ended"
            found = [c for c in children_of(pid) if "sluiced" in comm_of(c) or "master" in comm_of(c)]
            return found or (self.process.poll() is not None and [None])
        return wait_for(looked_for)[0]

    def pids(self, role=None):
        """{pid: role} of the children, or the pids of one role in the order of their start."""
        found = {}
        for pid in children_of(self.master_pid() or self.process.pid):
            name = comm_of(pid)
            for r in ROLES:
                if r in name:
                    found[pid] = r
        return found if role is None else [p for p, r in sorted(found.items()) if r == role]

    def sluice(self, *words, seconds=40):
        return subprocess.run([self.bin("sluice"), "-c", self.conf_path, *words], capture_output=True, text=True, timeout=seconds)

    def ask(self, *words):
        """A reading command's data, as JSON."""
        done = self.sluice(*words, "--json")
        assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)["data"]

    def stat(self):
        done = subprocess.run([self.bin("sluice-stat"), "--json", "-r", self.run_dir], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def queued(self):
        return self.ask("show", "status")["totalRcp"]

    def wait_drained(self, seconds=60):
        def empty():
            "the queue is empty"
            try:
                return self.queued() == 0
            except (AssertionError, subprocess.TimeoutExpired):
                return False
        wait_for(empty, seconds, 0.1)

    def wait_recorded(self, recipients, seconds=20):
        """Until the accounting holds a terminal record of each of them."""
        def all_there():
            terminal = self.acct().terminal
            return all(r in terminal for r in recipients)
        wait_for(all_there, seconds, 0.2)

    def acct(self):
        return ledger.Acct(sorted(glob.glob(self.acct_pattern)))

    def records(self, kind):
        """The rows of that type, in the order of the accounting."""
        rows = []
        for path in sorted(glob.glob(self.acct_pattern)):
            with open(path, newline="") as f:
                rows += (r for r in csv.DictReader(f) if r["type"] == kind)
        return rows

    def accounted(self, kind):
        """{recipient: row} of that type."""
        return {r["rcpt"]: r for r in self.records(kind)}

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def stop(self, seconds=40):
        """Orderly; the exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None and (master := self.master_pid()):
            os.kill(master, signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("sluiced did not stop:\n" + self.complaints())
        self.stderr.close()
        return status

    def kill(self):
        """Everything at once, as a power failure would."""
        if self.process is None or self.process.poll() is not None:
            return
        pids = [pid for pid in (self.master_pid(), *self.pids()) if pid]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(60)
        wait_for(lambda: not any(os.path.exists(f"/proc/{p}") and "Z" not in open(f"/proc/{p}/stat").read().rsplit(")")[1][:3]
                                 for p in pids), 10)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, error, trace):
        try:
            self.stop()
        finally:
            if error is None:
                self.remove()
            else:
                print(f"left for a look: {self.folder}\n{self.complaints()}")
