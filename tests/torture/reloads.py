#!/usr/bin/python3
"""Reloads, graceful restarts and deaths of the master under load. The oracle stands outside: what sluice-load saw acknowledged
against what sluice-sink took and what the accounting says.
usage: reloads.py kills|restarts|reloads|deaths [-n N] [--seed S] [--keep]"""
import argparse
import calendar
import glob
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import crash  # noqa: E402
import harness  # noqa: E402
import ledger  # noqa: E402

SCRIPT = """providers = ( { name = "provider"; listen = [ "%(ip)s:%(a)d" ];
  features = [ "PIPELINING", "8BITMIME", "SIZE 52428800" ]; delay-ms = { dot = 3; };
  rules = ( { stage = "rcpt"; percent = 1.0; sticky = true; reply = "550 5.1.1 no such user"; },
            { stage = "rcpt"; percent = 2.0; first-attempts = 1; reply = "450 4.2.1 try later"; } ); } );
"""


class Scene:
    """A sluice between a load and a sink; `with` ends what was started, whatever happened."""

    def __init__(self, folder, seed, sessions=60, variant="release", script=SCRIPT, ports=None, load=("--reconnect", "--insist"), **more):
        self.folder, self.seed, self.sessions, self.variant = folder, seed, sessions, variant
        self.vmtas = more.get("vmtas", "")
        # An address of its own: a port of 127.0.0.1 may have been another test's a moment ago, whose mail still comes there.
        ip = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}.{random.randint(1, 250)}"
        self.ports = {**(ports or {"a": harness.free_port(ip)}), "ip": ip}
        self.sink = harness.Sink(folder, script=script % self.ports, variant=variant)
        hosts = (f'domains = ( {{ name = "*"; smtp-hosts = "[{ip}]:{self.ports["a"]}"; retry-after = "1s,2s"; '
                 'retry-recipients-after = "1s"; } );')
        self.sluice = harness.Sluice(folder, **{"domains": hosts, "workers": 2, "receivers": 2, "variant": variant, **more})
        self.load_args, self.load = load, None

    def __enter__(self):
        self.sluice.start()
        return self

    def begin(self, *args):
        self.load = harness.Load(self.folder, self.sluice.target, "-s", self.sessions, "--duration", 100000, "--size", "2k",
                                 "--domain-count", 20, "--seed", self.seed, *self.load_args, *args, variant=self.variant)
        harness.wait_for(lambda: self.load.acknowledged() > 200, 30)

    def more(self, messages=50, seconds=60):
        """Waits until so many more are acknowledged."""
        before = self.load.acknowledged()

        def flows():
            "mail is taken again"
            assert self.sluice.process.poll() is None, "sluiced ended:\n" + self.sluice.complaints()
            return self.load.acknowledged() >= before + messages
        harness.wait_for(flows, seconds)

    def finish(self, probes=False):
        """Ends the load, lets the queue drain, stops all; the checker's report. `probes`: other clients sent mail, too."""
        self.load.stop()
        summary = self.load.wait(120)
        self.sluice.wait_drained(120)
        sent = self.load.read()
        self.sluice.wait_recorded(sent.acked, 60)
        status = self.sluice.stop()
        assert status == 0, f"sluiced stopped with {status}"
        counters = self.sink.stop()
        taken, acct = self.sink.read(), self.sluice.acct()
        if probes:  # they were looked at one by one
            for witness in (taken.taken, acct.terminal):
                for rcpt in [r for r in witness if r.startswith("probe")]:
                    del witness[rcpt]
        report = ledger.check(sent, taken, acct)
        report.update(seed=self.seed, load=summary, sink=counters)
        return report

    def __exit__(self, kind, error, trace):
        if self.load is not None:
            self.load.stop()
        self.sink.stop()
        self.sluice.kill()
        if error is not None:
            print(f"left for a look: {self.folder}\n{self.sluice.complaints()[-4000:]}")


class Stuck:
    """A client that stays in the middle of a body."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.settimeout(10)
        for line in (b"", b"EHLO stuck.example\r\n", b"MAIL FROM:<a@stuck.example>\r\n", b"RCPT TO:<b@stuck.example>\r\n", b"DATA\r\n"):
            self.socket.sendall(line)
            reply = self.socket.recv(4096)
            assert reply[:1] in (b"2", b"3"), reply
        self.socket.sendall(b"Subject: half\r\n\r\nhalf a bo")

    def close(self):
        self.socket.close()


def master_kills(seed, n, folder, out=print, **scene):
    """kill -9 of the master, started again at once: how long until the first message of the next life is taken."""
    rng, moments, leave_s = random.Random(seed), [], []
    with Scene(folder, seed, **scene) as s:
        s.begin()
        for _ in range(n):
            time.sleep(rng.uniform(0.3, 1.0))
            stuck = Stuck(s.sluice.port)  # would keep its receiver for long
            pids = list(s.sluice.pids())
            moments.append(("master", crash.strike(s.sluice, "master", rng)))
            s.sluice.start(wait=False)
            leave_s.append(crash.children_left(s.sluice, pids))
            stuck.close()
            s.more()
        report = s.finish()
    report["leave_ms"] = [round(x * 1000) for x in leave_s]
    report["restart_ms"] = [round(x * 1000) for x in crash.restart_times(s.sink, moments).get("master", [])]
    return report


class Session:
    """One client's connection, for a message or many; ends never by itself."""

    def __init__(self, port, source=None):
        self.socket = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0) if source else None)
        self.socket.settimeout(20)
        self.file = self.socket.makefile("rb")
        assert self.reply().startswith("220"), "no greeting"
        assert self.say("EHLO session.example").startswith("250")

    def reply(self):
        line = self.file.readline().decode()
        assert line, "the connection was dropped"
        while line[3:4] == "-":
            line = self.file.readline().decode()
        return line

    def say(self, line):
        self.socket.sendall(line.encode() + b"\r\n")
        return self.reply()

    def begin(self, rcpt):
        """MAIL and RCPT; the answer to the latter."""
        assert self.say("MAIL FROM:<probe@session.example>").startswith("250")
        return self.say(f"RCPT TO:<{rcpt}>")

    def end(self, vmta=None):
        """DATA to the dot; its answer."""
        assert self.say("DATA").startswith("354")
        header = f"X-Virtual-MTA: {vmta}\r\n" if vmta else ""
        return self.say(header + "Subject: probe\r\n\r\nprobe\r\n.")

    def send(self, rcpt, vmta=None):
        assert self.begin(rcpt).startswith("250")
        assert self.end(vmta).startswith("250")

    def close(self):
        assert self.say("QUIT").startswith("221")
        self.socket.close()


TWO_SINKS = """providers = ( { name = "a"; listen = [ "%(ip)s:%(a)d" ]; delay-ms = { dot = 2; }; },
  { name = "b"; listen = [ "%(ip)s:%(b)d" ]; },
  { name = "slow"; listen = [ "%(ip)s:%(slow)d" ]; delay-ms = { dot = 60; }; } );
"""
LOAD_VMTAS = {"m1": "127.0.1.1", "m2": "127.0.1.2", "m3": "127.0.1.3"}
GENERATION_AT = 88  # in struct stat_header
BROKEN = ("unknown", "syntax", "listener", "reference", "include", "rate", "log", "type", "range", "twice")
RETRIES = (400, 900, 1700, 2600, 3500)


class Knocker:
    """Connects to a port again and again; each that the kernel calls connected has to be greeted."""

    def __init__(self, port):
        self.port, self.greeted, self.failed, self.refused = port, 0, [], threading.Event()
        self.threads = [threading.Thread(target=self.knock, daemon=True) for _ in range(4)]
        for t in self.threads:
            t.start()

    def knock(self):
        while not self.refused.is_set():
            try:
                s = socket.create_connection(("127.0.0.1", self.port), 5)
            except ConnectionRefusedError:
                self.refused.set()
                return
            except OSError:
                continue  # a SYN that went nowhere
            with s:
                try:
                    s.settimeout(10)
                    if s.recv(4) == b"220 ":
                        self.greeted += 1
                        continue
                    self.failed.append("closed")
                except OSError as e:
                    self.failed.append(repr(e))

    def check(self):
        assert self.refused.wait(20), "the removed listener does not refuse"
        for t in self.threads:
            t.join(20)
        assert self.greeted > 0 and not self.failed, (self.greeted, self.failed)


class Settings:
    """What the configuration says just now; text() and extra() are its two files."""

    def __init__(self, rng, folder, ports, base):
        self.rng, self.folder, self.ports, self.base = rng, folder, ports, base
        self.extra_path = os.path.join(folder, "extra.conf")
        self.listener = None
        self.vmtas = {**LOAD_VMTAS, "keep1": "127.0.3.1", "keep2": "127.0.3.2", "moves": "127.0.3.1"}
        self.pool = ["m1", "m2"]
        self.out, self.retry, self.route, self.relay, self.acct, self.made = 3, 400, "a", True, None, 0

    def text(self):
        order = list(self.vmtas)
        self.rng.shuffle(order)  # source IPs get other numbers each time
        vmtas = ",\n".join(f'  {{ name = "{v}"; smtp-source-hosts = ( {{ ip = "{self.vmtas[v]}"; name = "{v}.test.example"; }} ); }}' for v in order)
        listeners = "".join(f', {{ address = "127.0.0.1:{p}"; }}' for p in ([self.listener] if self.listener else []))
        acct = f', {{ path = "{self.folder}/{self.acct}.csv"; records = "d"; }}' if self.acct else ""
        text = self.base.replace('"; } );\nacct-files', f'"; }}{listeners} );\nacct-files').replace('r"; } );\nsources', f'r"; }}{acct} );\nsources')
        assert (not self.listener or str(self.listener) in text) and (not acct or acct in text)
        relay = f'{{ match = "127.0.0.77/32"; always-allow-relaying = {"true" if self.relay else "false"}; }}'
        text = text.replace("sources = ( ", f"sources = ( {relay}, ")
        assert relay in text
        pool = ", ".join(f'"{v}"' for v in self.pool)
        return (f'include = [ "{self.extra_path}" ];\n{text}\nvirtual-mtas = (\n{vmtas} );\n'
                f'virtual-mta-pools = ( {{ name = "pool"; virtual-mtas = [ {pool} ]; }} );\n')

    def extra(self):
        return "\n".join([
            'domains = (',
            f'  {{ name = "narrow.example"; smtp-hosts = "[{self.ports["ip"]}]:{self.ports["slow"]}";',
            f'    max-smtp-out = {self.out}; }},',
            f'  {{ name = "route.example"; smtp-hosts = "[{self.ports["ip"]}]:{self.ports[self.route]}"; }},',
            f'  {{ name = "dead.example"; smtp-hosts = "[{self.ports["ip"]}]:{self.ports["dead"]}";',
            f'    retry-after = "{self.retry}s"; }} );', ''])


class Reloads:
    """Good and broken configurations in turn; each good one has to be seen to work."""

    def __init__(self, scene, rng, ports):
        self.scene, self.rng, self.sluice, self.ports = scene, rng, scene.sluice, ports
        self.settings = Settings(rng, scene.folder, ports, self.sluice.text)
        self.generation = 1
        self.old = None          # a session on the extra listener
        self.n_probes = 0
        self.counts = {}

    def rcpt(self, domain):
        self.n_probes += 1
        return f"probe{self.n_probes}@{domain}"

    def write(self, text=None, extra=None):
        for path, content in ((self.settings.extra_path, extra or self.settings.extra()), (self.sluice.conf_path, text or self.settings.text())):
            with open(path + ".new", "w") as f:
                f.write(content)
            os.rename(path + ".new", path)

    def reload(self):
        """By the socket's name: a broken file does not tell it."""
        return subprocess.run([self.sluice.bin("sluice"), "-s", os.path.join(self.sluice.run_dir, "control.sock"), "reload"],
                              capture_output=True, text=True, timeout=60)

    def shown_generation(self):
        return self.sluice.stat()["shm"]["generation"]

    def taken(self, rcpt):
        """The sink's row of a probe."""
        def there():
            "the probe arrives"
            return self.scene.sink.read().taken.get(rcpt)
        return harness.wait_for(there, 30, 0.1)[0]

    # Good ones ---------------------------------------------------------------------------------
    def good(self, change):
        check = getattr(self, "change_" + change)()
        self.write()
        if self.rng.random() < 0.2:
            os.kill(self.sluice.master_pid(), signal.SIGHUP)
            harness.wait_for(lambda: self.shown_generation() == self.generation + 1, 20)
            harness.wait_for(lambda: f"reload=done generation={self.generation + 1} " in self.sluice.log(), 20)
        else:
            done = self.reload()
            assert done.returncode == 0, (change, done)
            assert done.stdout.endswith(f"reloaded: generation {self.generation + 1}\n"), done
        self.generation += 1
        assert self.shown_generation() == self.generation
        check()
        self.counts[change] = self.counts.get(change, 0) + 1

    def change_listener(self):
        s = self.settings
        if s.listener is None:
            s.listener = harness.free_port()

            def check():
                self.old = Session(s.listener)  # at once
                self.old.send(self.rcpt("d1.example"))
            return check
        port, s.listener = s.listener, None
        assert self.old.begin(self.rcpt("d2.example")).startswith("250")

        knocker = Knocker(port)

        def check_gone():
            knocker.check()
            assert self.old.end().startswith("250")  # begun before, ended after
            self.old.send(self.rcpt("d3.example"))
            self.old.close()
        return check_gone

    def change_vmta(self):
        s = self.settings
        s.made += 1
        name, ip = f"v{s.made}", f"127.0.2.{s.made % 250 + 1}"
        for gone in [v for v in s.vmtas if v.startswith("v")][:-2]:
            del s.vmtas[gone]
        s.vmtas[name] = ip

        def check():
            rcpt = self.rcpt("d4.example")
            self.idle.send(rcpt, name)
            assert self.taken(rcpt).client.startswith(ip + ":"), (self.taken(rcpt), ip)
        return check

    def change_source(self):
        """Both addresses stay in use, but this virtual MTA has the other one now, and its idle connection the old one."""
        s = self.settings
        rcpt = self.rcpt("d9.example")
        self.idle.send(rcpt, "moves")
        assert self.taken(rcpt).client.startswith(s.vmtas["moves"] + ":")
        s.vmtas["moves"] = "127.0.3.2" if s.vmtas["moves"] == "127.0.3.1" else "127.0.3.1"

        def check():
            rcpt = self.rcpt("d9.example")
            self.idle.send(rcpt, "moves")
            assert self.taken(rcpt).client.startswith(s.vmtas["moves"] + ":")
        return check

    def change_pool(self):
        s = self.settings
        s.pool = self.rng.sample(sorted(LOAD_VMTAS), self.rng.choice((1, 2, 3)))
        want = {LOAD_VMTAS[v] for v in s.pool}

        def check():
            rcpts = [self.rcpt("d5.example") for _ in range(len(want) * 2)]
            for rcpt in rcpts:
                self.idle.send(rcpt, "pool")
            assert {self.taken(r).client.rpartition(":")[0] for r in rcpts} == want
        return check

    def change_max_smtp_out(self):
        s = self.settings
        s.out = self.rng.choice([n for n in (1, 2, 4) if n != s.out])

        def check():
            rows = {row["name"]: row for row in self.sluice.ask("show", "settings", "narrow.example/{default}")["setting"]}
            assert (rows["max-smtp-out"]["value"], rows["max-smtp-out"]["file"], rows["max-smtp-out"]["line"]) == (str(s.out), s.extra_path, 3)
            rcpts = [self.rcpt("narrow.example") for _ in range(s.out * 3)]
            for rcpt in rcpts:
                self.idle.send(rcpt)
            seen = []
            while not seen or not all(r in self.scene.sink.read().taken for r in rcpts):
                seen.append(self.sluice.ask("show", "queue", "narrow.example/{default}")["queue"][0]["conn"])
                assert len(seen) < 2000, "the probes do not arrive"
            assert max(seen) <= s.out, (seen, s.out)
        return check

    def change_retry(self):
        s = self.settings
        s.retry = self.rng.choice([x for x in RETRIES if x != s.retry])

        def check():
            name = "dead.example/{default}"
            if self.sluice.sluice("schedule", name).returncode != 0:
                self.idle.send(self.rcpt("dead.example"))

            def waits():
                "the queue is in retry for as long as the new retry-after says"
                row = self.sluice.ask("show", "queue", name)["queue"]
                at = row[0]["retryTime"] if row else None
                if not at:
                    return False
                at = calendar.timegm(time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S"))
                return abs(at - time.time() - s.retry) < 60
            harness.wait_for(waits, 20, 0.1)
        return check

    def change_route(self):
        s = self.settings
        s.route = "b" if s.route == "a" else "a"

        def check():
            rcpt = self.rcpt("route.example")
            self.idle.send(rcpt)
            assert self.taken(rcpt).provider == s.route
        return check

    def change_rule(self):
        s = self.settings
        begun = s.relay
        if begun:
            assert self.ruled.begin(self.rcpt("d6.example")).startswith("250")
        s.relay = not s.relay

        def check():
            if begun:  # what was begun under the old rules ends under them
                assert self.ruled.say(f"RCPT TO:<{self.rcpt('d6.example')}>").startswith("250")
                assert self.ruled.end().startswith("250")
            reply = self.ruled.begin(self.rcpt("d6.example"))
            assert reply.startswith("250" if s.relay else "550 5.7.1"), reply
            assert self.ruled.say("RSET").startswith("250")
        return check

    def change_acct(self):
        s = self.settings
        was, s.acct = s.acct, None if s.acct else f"second{self.generation}"

        def check():
            rcpt = self.rcpt("d7.example")
            self.idle.send(rcpt)
            harness.wait_for(lambda: rcpt in self.sluice.acct().terminal, 30, 0.1)
            second = ledger.Acct(sorted(glob.glob(os.path.join(s.folder, (s.acct or was) + "*.csv"))))
            assert (rcpt in second.terminal) == (s.acct is not None)
        return check

    # Broken ones -------------------------------------------------------------------------------
    def broken(self, kind):
        """Text, extra text, file and line of the error, and a word of the message."""
        s, main = self.settings, self.sluice.conf_path
        text, extra = s.text(), s.extra()
        line = text.count("\n") + 1
        add = {
            "unknown": ("no-such-directive = 1;", "unknown directive no-such-directive"),
            "type": ('total-max-smtp-out = [ 7 ];', "total-max-smtp-out"),
            "range": ("total-max-smtp-in = 0;", "total-max-smtp-in"),
            "syntax": ("postmaster = ;", "syntax error"),
            "twice": ('host-name = "again.example";', "host-name"),
        }
        if kind in add:
            return text + add[kind][0] + "\n", extra, main, line, add[kind][1]
        if kind == "include":
            return text.replace("extra.conf", "missing.conf"), extra, main, 1, "missing.conf"
        if kind == "rate":
            return text, extra.replace("max-smtp-out = ", "max-msg-rate = 1"), s.extra_path, 3, "max-msg-rate"
        if kind == "log":
            at = text.index("log-file")
            broken = text.replace(self.sluice.log_path, main + "/log")  # below a file
            return broken, extra, main, text.count("\n", 0, at) + 1, "log-file"
        line = extra.count("\n") + 1
        if kind == "reference":
            extra += 'virtual-mta-pools = ( { name = "other"; virtual-mtas = [ "nowhere" ]; } );\n'
            return text, extra, s.extra_path, line, "nowhere"
        extra += f'smtp-listeners = ( {{ address = "{self.ports["ip"]}:{self.ports["a"]}"; }} );\n'
        return text, extra, s.extra_path, line, "cannot listen"

    def bad(self, kind):
        text, extra, path, line, word = self.broken(kind)
        self.write(text, extra)
        if self.rng.random() < 0.2:
            before = self.sluice.log().count("reload=refused generation=")
            os.kill(self.sluice.master_pid(), signal.SIGHUP)
            harness.wait_for(lambda: self.sluice.log().count("reload=refused generation=") > before, 20)
            said = self.sluice.log().rsplit("reload=begun", 1)[1]
        else:
            done = self.reload()
            assert done.returncode == 1 and done.stderr.count("\n") == 1, (kind, done)
            assert f"{path}:{line}: " in done.stderr, (kind, line, done.stderr)
            said = done.stdout
        assert any(f"{path}:{line}: " in x and word in x for x in said.splitlines()), (kind, line, word, said)
        assert self.shown_generation() == self.generation, kind
        self.counts["broken_" + kind] = self.counts.get("broken_" + kind, 0) + 1

    def run(self, n):
        before = {pid: descriptors(pid) for pid in [self.sluice.master_pid(), *self.sluice.pids()]}
        self.idle = Session(self.sluice.port)
        self.ruled = Session(self.sluice.port, "127.0.0.77")
        changes = [x[len("change_"):] for x in dir(self) if x.startswith("change_")]
        plan = [("bad", BROKEN[i // 2 % len(BROKEN)]) if i % 2 else ("good", changes[i // 2 % len(changes)]) for i in range(n)]
        self.rng.shuffle(plan)
        self.write()  # its own first configuration
        assert self.reload().returncode == 0
        self.generation += 1
        for step, kind in plan:
            half = Session(self.sluice.port)  # begun before the reload, ended after it
            assert half.begin(self.rcpt("d8.example")).startswith("250")
            getattr(self, step)(kind)
            assert half.end().startswith("250")
            half.close()
            if step == "bad":
                self.write()  # a crash must not find the broken one
        self.idle.close()
        self.ruled.close()
        if self.old is not None and self.settings.listener is not None:
            self.old.close()

        def kept():
            "no process holds on to descriptors"
            return all(descriptors(pid) <= n + 12 for pid, n in before.items() if comm_is(pid, "receiver") or comm_is(pid, "worker")) and \
                all(descriptors(pid) <= n + 3 for pid, n in before.items() if not comm_is(pid, "receiver") and not comm_is(pid, "worker"))
        harness.wait_for(kept, 10, 0.2)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def comm_is(pid, word):
    return word in harness.comm_of(pid)


def sources_kept(sluice, vmtas):
    """Deliveries that did not leave from their virtual MTA's address."""
    wrong = []
    for rows in sluice.acct().terminal.values():
        for row in rows:
            want = vmtas.get(row["queue"].partition("/")[2])
            if row["type"] == "d" and want is not None and row["dlvSourceIp"] != want:
                wrong.append((row["rcpt"], row["queue"], row["dlvSourceIp"]))
    return wrong


def reloads(seed, n, folder, out=print, sessions=40, variant="release", rate=400):
    """n reloads under load, half of them broken. No connection is dropped, what is broken is refused with file and line, what is
    good is seen to work, and the ledger is clean."""
    rng = random.Random(seed)
    ports = {name: harness.free_port() for name in ("a", "b", "slow", "dead")}
    with Scene(folder, seed, sessions=sessions, variant=variant, script=TWO_SINKS, ports=ports, load=("--vmta", "m1,m2,m3", "--rate", rate),
               vmtas="virtual-mtas = ( %s );" % ", ".join(
                   f'{{ name = "{v}"; smtp-source-hosts = ( {{ ip = "{ip}"; }} ); }}' for v, ip in LOAD_VMTAS.items())) as s:
        s.sluice.text = s.sluice.text.replace(s.vmtas, "")
        s.begin()
        r = Reloads(s, rng, s.ports)
        r.run(n)
        s.more()
        s.sluice.sluice("delete", "--queue=dead.example/{default}")
        report = s.finish(probes=True)
        report["wrong_source"] = sources_kept(s.sluice, LOAD_VMTAS)
    report["reloads"] = r.counts
    load, sink = report["load"], report["sink"]["total"]
    report["dropped"] = {k: v for k, v in {
        "lost_connections": load["lost_connections"], "connect_failures": load["connect_failures"], "returned": load["returned"],
        "refused": load["refused"], "reconnected": load["connects"] - sessions, "unanswered": sink["unanswered"],
        "lost_in_data": sink["lost_in_data"]}.items() if v}
    return report


def graceful_restarts(seed, n, folder, out=print, **scene):
    """Stopped in good order under load and started again, by turns with `sluice stop`, SIGTERM, and SIGTERM into a reload:
    nothing is lost, nothing is sent twice."""
    rng, stop_ms, start_ms = random.Random(seed), [], []
    with Scene(folder, seed, **scene) as s:
        s.begin()
        for i in range(n):
            time.sleep(rng.uniform(0.3, 1.0))
            stuck = Stuck(s.sluice.port) if i == 0 else None  # would keep its receiver for long
            began = time.monotonic()
            if i % 3 == 0:
                done = s.sluice.sluice("stop")
                assert done.returncode == 0, done
            else:
                if i % 3 == 2:
                    os.kill(s.sluice.master_pid(), signal.SIGHUP)
                    time.sleep(rng.uniform(0, 0.01))
                os.kill(s.sluice.master_pid(), signal.SIGTERM)
            status = s.sluice.process.wait(40)
            assert status == 0, f"sluiced stopped with {status}"
            stop_ms.append(round((time.monotonic() - began) * 1000))
            if stuck is not None:
                stuck.close()
            assert "drained-too-long" not in s.sluice.log(), "a process had to be killed"
            began = time.monotonic()
            s.sluice.start()
            start_ms.append(round((time.monotonic() - began) * 1000))
            s.more()
        report = s.finish()
    report.update(stop_ms=stop_ms, start_ms=start_ms, twice=report["duplicates"],
                  late={k: v for k, v in (("stop_ms", stop_ms), ("start_ms", start_ms)) if max(v) > 30000})
    return report


def deaths_in_reloads(seed, n, folder, out=print, **scene):
    """kill -9 of any process in the midst of a reload: who comes back works by what the others work by."""
    rng = random.Random(seed)
    kinds = ("scheduler", "worker", "receiver", "resolver", "recorder")
    with Scene(folder, seed, **scene) as s:
        s.begin()
        generation = 1
        for i in range(n):
            s.sluice.text += "# another byte\n"
            with open(s.sluice.conf_path, "w") as f:
                f.write(s.sluice.text)
            victim = rng.choice(s.sluice.pids(kinds[i % len(kinds)]))
            os.kill(s.sluice.master_pid(), signal.SIGHUP)
            time.sleep(rng.uniform(0, 0.006))
            os.kill(victim, signal.SIGKILL)

            def over():
                "the reload is done, by all"
                log = s.sluice.log()
                return log.count("reload=done") + log.count("reload=refused generation") == i + 1
            harness.wait_for(over, 30)
            generation += "reload=done" in s.sluice.log().rsplit("reload=begun", 1)[1]

            def agreed():
                "all work by the same configuration"
                return len(s.sluice.pids()) == 7 and generations(s.sluice) == {generation}
            harness.wait_for(agreed, 30, 0.1)
            s.more()
        report = s.finish()
    report["reloads"] = {"done": generation - 1, "refused": n - generation + 1}
    return report


def generations(sluice):
    """By which configurations its processes work, as their objects in shared memory say (stat.h: the header)."""
    found = set()
    for path in glob.glob(os.path.join(sluice.run_dir, "shm", "*")):
        with open(path, "rb") as f:
            found.add(struct.unpack_from("<Q", f.read(128), GENERATION_AT)[0])
    return found


def show(report, out=print):
    for key in ("seed", "acknowledged", "taken", "bounced", "unknown", "lost", "corrupt", "missing", "duplicates",
                "unexplained_duplicates", "orphans", "doubled", "contrary", "unaccounted", "claimed", "repeated_ids"):
        out(f"  {key:24} {report[key]}")
    if report.get("reloads"):
        out("  reloads: " + ", ".join(f"{k} {n}" for k, n in sorted(report["reloads"].items())))
    for key in ("leave_ms", "restart_ms", "stop_ms", "start_ms"):
        if report.get(key):
            out(f"  {key:24} median {statistics.median(report[key]):.0f}, most {max(report[key])} of {len(report[key])}")
    if report["examples"]:
        out(f"examples: {report['examples']}")


# Duplicates must each be flagged: sent again because a dot was out without a synced event.
FAULTS = ("lost", "corrupt", "missing", "unexplained_duplicates", "orphans", "doubled", "contrary", "unaccounted", "repeated_ids",
          "dropped", "wrong_source", "twice", "late")


def faults(report):
    return {k: report[k] for k in FAULTS if report.get(k)}


def stage(function, say):
    """As the torture driver calls it."""
    def run(seed, count, out):
        report = function(seed, count, out.folder, out)
        row = {k: report[k] for k in ("acknowledged", "lost", "corrupt", "missing", "doubled", "duplicates")}
        row["flagged"] = report["duplicates"] - report["unexplained_duplicates"]
        figures = {k: f"median {statistics.median(v):.0f}, most {max(v)}" for k in ("stop_ms", "start_ms") if (v := report.get(k))}
        return {"bad": faults(report), "rows": [row], **figures}
    run.__doc__ = say
    return run


# The small forms of these are in tests/scenario, hence no count in make check.
STAGES = [("reloads", stage(reloads, "Reloads under load, half of them broken."), 0, 200),
          ("restarts", stage(graceful_restarts, "Graceful restarts under load."), 0, 20),
          ("deaths_in_reloads", stage(deaths_in_reloads, "kill -9 in the middle of reloads."), 0, 60)]


def main():
    what = {"kills": master_kills, "reloads": reloads, "restarts": graceful_restarts, "deaths": deaths_in_reloads}
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=sorted(what))
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="sluice-reloads-")
    print(f"again: tests/torture/reloads.py {options.what} -n {options.n} --seed {options.seed}", flush=True)
    report = what[options.what](options.seed, options.n, folder)
    show(report)
    bad = faults(report)
    print(f"{options.what}: " + ("passed" if not bad else f"FAILED {bad}"))
    if not bad and not options.keep:
        shutil.rmtree(folder)
    else:
        print("left in " + folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
