"""rig: what the demo, the bench and scenario tests share: the programs as objects, CPU and disk counters.

Loopback only. Every process started here is ended here, by its id.
"""
import fcntl
import glob
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build/release/bin"))
CHANCE = random.SystemRandom()  # no seed of a test's own makes two take the same


class Failure(Exception):
    """Something outside of the measured matter went wrong; the text says what."""


def program(name):
    path = os.path.join(BIN, name)
    if not os.access(path, os.X_OK):
        raise Failure("%s is missing: run make first" % path)
    return path


def fill(template, to, **values):
    """Copies a template, each @NAME@ replaced; what is left over is an error."""
    with open(template) as f:
        text = f.read()
    for name, value in values.items():
        text = text.replace("@%s@" % name, str(value))
    left = [w for w in text.split("@") if w.isupper() and len(w) > 1]
    if left:
        raise Failure("%s: nothing for @%s@" % (template, left[0]))
    with open(to, "w") as f:
        f.write(text)
    return to


def begin(name):
    """How a template begins: an instance in @WORK@ that takes mail at @LISTEN@."""
    return """host-name = "mta.%s.example";
postmaster = "postmaster@%s.example";
spool = "@WORK@/spool";
run = "@WORK@/run";
log-file = "@WORK@/sluice.log";
workers = 2;
receivers = 1;
allow-destinations = [ "127.0.0.0/8" ];
smtp-listeners = ( { address = "127.0.0.1:@LISTEN@"; } );
sources = ( { match = "127.0.0.0/8"; always-allow-relaying = true; } );""" % (name, name)


def free_port(address="127.0.0.1"):
    """Below those that the kernel gives to whoever asks for none: nobody else's connection takes it before it is used, or while its owner restarts."""
    while True:
        port = CHANCE.randrange(15000, 32768)
        with socket.socket() as s:
            try:
                s.bind((address, port))
            except OSError:
                continue
            return port


def wait_for(what, condition, seconds, pause=0.05):
    """The first true value of condition(), or Failure after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure("no %s within %g s" % (what, seconds))
        time.sleep(pause)


def answers(address, port):
    try:
        with socket.create_connection((address, port), 1) as s:
            s.settimeout(2)
            return s.recv(3) == b"220"
    except OSError:
        return False


def stop(process, seconds=15):
    """SIGTERM, and after `seconds` SIGKILL; the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


class Sink:
    """sluice-sink, from a script or as a plain listener; `addresses` are where it listens."""

    def __init__(self, ledger, script=None, listen=("127.0.0.1:0",), more=(), detached=False):
        args = [program("sluice-sink"), "--ledger", ledger, *more]
        args += ["-f", script] if script else [x for a in listen for x in ("-l", a)]
        self.ledger = ledger
        # One that stays must not hold the pipe that somebody reads us through.
        errors = open(ledger + ".errors", "w") if detached else None
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                        text=True, start_new_session=detached)
        if errors:
            errors.close()
        line = self.process.stdout.readline()
        if not line:
            raise Failure("sluice-sink did not start")
        self.addresses = json.loads(line)["listening"]

    def stats(self, reset=False):
        self.process.send_signal(signal.SIGUSR2 if reset else signal.SIGUSR1)
        return json.loads(self.process.stdout.readline())

    def reload(self):
        """Reads the script again; raises when it was refused."""
        self.process.send_signal(signal.SIGHUP)
        return json.loads(self.process.stdout.readline())

    def close(self):
        """The final counters."""
        if self.process.poll() is None:
            self.process.terminate()
        out, _ = self.process.communicate(timeout=15)
        if self.process.returncode not in (0, -signal.SIGTERM):
            raise Failure("sluice-sink ended with status %d" % self.process.returncode)
        return json.loads(out.splitlines()[-1]) if out else {}


def load_args(target, ledger, **options):
    """sluice-load's command line; keyword names are its long options, True is a bare one."""
    args = [program("sluice-load"), "-t", target, "--ledger", ledger]
    for name, value in options.items():
        args.append("--" + name.replace("_", "-"))
        if value is not True:
            args.append(str(value))
    return args


def load(target, ledger, **options):
    """Runs sluice-load to its end; its summary."""
    done = subprocess.run(load_args(target, ledger, **options), stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        raise Failure("sluice-load failed")
    return json.loads(done.stdout.splitlines()[-1])


def say(conf, *words):
    """What a command answers."""
    done = subprocess.run([program("sluice"), "-c", conf, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Failure("sluice %s: %s" % (" ".join(words), done.stdout))
    return done.stdout


class Daemon:
    """sluiced in the foreground with a configuration of ours; its output goes to `log`."""

    def __init__(self, conf, run_dir, address, port, log, meter=None, detached=False):
        self.run_dir, self.meter = run_dir, meter
        out = open(log, "ab")
        check = subprocess.run([program("sluiced"), "-t", "-c", conf], stdout=out, stderr=out)
        if check.returncode != 0:
            raise Failure("%s is refused, see %s" % (conf, log))
        self.process = subprocess.Popen(
            [program("sluiced"), "-f", "-c", conf], stdin=subprocess.DEVNULL, stdout=out,
            stderr=out, start_new_session=detached, preexec_fn=meter.enter if meter else None)
        out.close()
        try:
            wait_for("greeting of sluiced (see %s)" % log, lambda: self.up(address, port), 20)
        except Failure:
            stop(self.process)
            raise

    def up(self, address, port):
        if self.process.poll() is not None:
            raise Failure("sluiced ended with status %d" % self.process.returncode)
        return answers(address, port)

    def stat(self):
        """sluice-stat's JSON, or None while there is none."""
        done = subprocess.run([program("sluice-stat"), "--json", "-r", self.run_dir],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return None

    def close(self):
        return stop(self.process, 30)


def processes_below(root):
    """{pid: (name, [utime, stime, cutime, cstime])} of a process and its descendants, in ticks."""
    every = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as f:
                text = f.read()
        except OSError:
            continue
        fields = text[text.rindex(")") + 2:].split()
        every[int(path.split("/")[2])] = (int(fields[1]), text[text.index("(") + 1:text.rindex(")")],
                                          [int(x) for x in fields[11:15]])
    found = {}
    for pid in every:
        at = pid
        while at in every and at != root:
            at = every[at][0]
        if at == root:
            found[pid] = every[pid][1:]
    return found


class Meter:
    """CPU seconds of a process and all below it: a cgroup's account where one can be made, else the
    sum over /proc, with the children that were waited for."""

    def __init__(self, name, try_cgroup=True):
        self.group = self.root = None
        if not try_cgroup:
            return
        for base, file, scale in (("/sys/fs/cgroup/cpuacct", "cpuacct.usage", 1e9),
                                  ("/sys/fs/cgroup", "cpu.stat", 1e6)):
            path = os.path.join(base, "%s-%d" % (name, os.getpid()))
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.access(os.path.join(path, file), os.R_OK) and \
                    os.access(os.path.join(path, "cgroup.procs"), os.W_OK):
                self.group, self.file, self.scale = path, file, scale
                return
            os.rmdir(path)

    def enter(self):
        """In the child, before exec."""
        if self.group:
            with open(os.path.join(self.group, "cgroup.procs"), "w") as f:
                f.write("%d" % os.getpid())

    def seconds(self):
        if not self.group:
            ticks = 0
            for pid, (_, times) in processes_below(self.root).items():
                ticks += sum(times) if pid == self.root else times[0] + times[1]
            return ticks / os.sysconf("SC_CLK_TCK")
        with open(os.path.join(self.group, self.file)) as f:
            words = f.read().split()
        return int(words[words.index("usage_usec") + 1] if "usage_usec" in words else words[0]) / \
            self.scale

    def how(self):
        return "cgroup" if self.group else "/proc"

    def close(self):
        for _ in range(50 if self.group else 0):
            try:
                os.rmdir(self.group)
                return
            except OSError:
                time.sleep(0.1)  # a process of it is still ending


class Disk:
    """Counters of the block device under a path."""

    def __init__(self, path):
        dev = os.stat(path).st_dev
        node = os.path.realpath("/sys/dev/block/%d:%d" % (os.major(dev), os.minor(dev)))
        if os.path.exists(os.path.join(node, "partition")):
            node = os.path.dirname(node)  # flushes are counted by the whole device
        self.file = os.path.join(node, "stat")
        self.name = os.path.basename(node)

    def counts(self):
        """{writes, bytes, flushes}, or None where the kernel does not tell."""
        try:
            with open(self.file) as f:
                v = [int(x) for x in f.read().split()]
        except OSError:
            return None
        return {"writes": v[4], "bytes": v[6] * 512, "flushes": v[15] if len(v) > 15 else 0}


def settle_disk(disk, most=15.0):
    """What the last run left dirty is written before the next one is measured: a side must not pay for the other."""
    os.sync()
    end, before, calm = time.monotonic() + most, disk.counts(), 0
    while before is not None and calm < 3 and time.monotonic() < end:
        time.sleep(0.2)
        now = disk.counts()
        calm = calm + 1 if now["writes"] - before["writes"] < 20 else 0
        before = now


def raw_disk(directory, size, seconds=0.7):
    """Overwrites of a written file, `size` bytes and one fdatasync each: how many a second."""
    path = os.path.join(directory, "raw-disk-probe")
    block, room = os.urandom(size), 64 << 20
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for at in range(0, room, 1 << 20):
            os.pwrite(fd, bytes(1 << 20), at)
        os.fsync(fd)
        count, at, start = 0, 0, time.monotonic()
        while time.monotonic() - start < seconds:
            os.pwrite(fd, block, at)
            os.fdatasync(fd)
            count += 1
            at = at + size if at + 2 * size <= room else 0
        return count / (time.monotonic() - start)
    finally:
        os.close(fd)
        os.unlink(path)


_locks = []  # of the folders in use, until the program ends


def _lock(path, flags):
    """Is the lock on this file or folder ours now? A running sluiced holds the one on its run directory."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    _locks.append(fd)
    return True


def _take(path):
    """A folder that nobody uses, emptied; False when somebody does or it is not ours to empty."""
    try:
        if not _lock(path + ".lock", os.O_RDWR | os.O_CREAT):
            return False
        run = os.path.join(path, "run")
        if os.path.isdir(run):
            if not _lock(run, os.O_RDONLY | os.O_DIRECTORY):
                return False
            os.close(_locks.pop())
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.makedirs(path)
    except PermissionError:
        return False
    return True


def work_dir(name):
    """A fresh directory: $TMPDIR/NAME, or build/NAME in the tree; NAME-2 and so on while others use it,
    and one below /var/tmp when none can be had there."""
    base = os.environ.get("TMPDIR") or os.path.join(ROOT, "build")
    for path in [os.path.join(base, name)] + [os.path.join(base, "%s-%d" % (name, i)) for i in range(2, 10)]:
        if _take(path):
            return path
    return tempfile.mkdtemp(prefix="sluice-%s-" % name, dir="/var/tmp")
