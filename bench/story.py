"""story: the demo's second part. A provider loses its patience, and what becomes of the mail for it.

moody.example gets the same flow by two virtual MTAs. Then it answers 421 to all that comes from the first one's address, and to more than 60 a
second from the other one's. Both queues go into back-off: the first one's mail is rerouted, the second one's rate is learned. Later it
takes everything again, and both come back. What is printed is what operators see: `sluice show queues`, each second.
"""
import json
import subprocess
import sys
import time

import rig
from rig import Failure

DOMAIN = "moody.example"
QUEUES = (DOMAIN + "/mta1", DOMAIN + "/mta2")
RATE, SECONDS = 200, 40  # of the flow, both together
CALM_AT = 26             # of etc/demo/sink.conf.in


class Story:
    def __init__(self, demo):
        self.demo = demo
        self.load = None
        self.before = {}    # queue: delivered, at the last line
        self.mode = dict.fromkeys(QUEUES, "normal")
        self.seen = set()   # of each queue, what was to be seen
        self.messages = RATE * SECONDS

    def ask(self):
        done = subprocess.run([rig.program("sluice"), "-c", self.demo.path("sluice.conf"), "show", "queues", DOMAIN + "/*", "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode not in (0, 1):
            raise Failure("sluice show queues: %s" % done.stdout)
        shown = {q["name"]: q for q in json.loads(done.stdout).get("data", {}).get("queue", ())} if done.returncode == 0 else {}
        return [shown.get(name) for name in QUEUES]

    def start(self):
        self.demo.sink.reload()  # its time begins
        with open(self.demo.path("story.json"), "w") as out:
            self.load = subprocess.Popen(
                rig.load_args("127.0.0.1:%d" % self.demo.listen, self.demo.path("story.ledger"), sessions=4, messages=self.messages, rate=RATE,
                              domains=DOMAIN, vmta="mta1,mta2", pipelining=True), stdout=out)

    def tell(self, now, q):
        """A queue that is in another mode than a moment ago."""
        if q["mode"] == self.mode[q["name"]]:
            return
        self.mode[q["name"]] = q["mode"]
        b = q["backoff"]
        if b is None:
            print("%5.1f s  %s is back to normal: %s" % (now, q["name"], q["modeEvent"][-1]["reason"]))
            return
        print("%5.1f s  %s is in back-off: %s\n         by the rule at %s" % (now, q["name"], b["reason"], b["rule"].split("/")[-1]))
        self.seen.add((q["name"], "reply" if b["reason"].startswith("421 ") else "none"))
        if b["rerouteTo"]:
            print("         its mail goes to %s" % b["rerouteTo"])
            self.seen.add((q["name"], "rerouted"))

    def line(self, now, queues, seconds):
        cells = []
        for name, q in zip(QUEUES, queues):
            if q is None:
                cells.append("%8s %8s %8s %-18s" % ("-", "-", "-", "-"))
                continue
            speed = (q["delivered"] - self.before.get(name, 0)) / seconds
            self.before[name] = q["delivered"]
            learned = q["backoff"] and q["backoff"]["learnedRate"]
            if learned:
                self.seen.add((name, "learned"))
            cells.append("%8.0f %8d %8d %-18s" % (speed, q["rcp"], q["transient"], q["mode"] + (" " + learned if learned else "")))
        print("%5.1f s %s %s" % (now, *cells), flush=True)

    def tell_all(self, patience):
        """Until all is sent, and both queues are normal again."""
        start = at = time.monotonic()
        print("\n%7s %-45s %-45s" % ("", QUEUES[0], QUEUES[1]))
        print("%7s %s" % ("", " ".join(["%8s %8s %8s %-18s" % ("sent/s", "waiting", "refused", "mode")] * 2)))
        while True:
            time.sleep(0.1)
            queues, now = self.ask(), time.monotonic()
            if self.demo.daemon.process.poll() is not None:
                raise Failure("sluiced ended, see %s" % self.demo.path("sluice.log"))
            for q in queues:
                if q is not None:
                    self.tell(now - start, q)
            if now - at >= 2:
                self.line(now - start, queues, now - at)
                at = now
            if self.load.poll() is not None and now - start > CALM_AT and all(q and q["mode"] == "normal" and q["rcp"] == 0 for q in queues):
                return
            if now - start > patience:
                print("it is not over after %d s" % patience)
                return

    def run(self, patience=80):
        print("\nA provider loses its patience. %d messages a second go to %s, half of them by each virtual MTA; after six seconds it answers\n"
              "421 to all from 127.0.0.21 and to more than 60 a second from 127.0.0.22, and after twenty more it takes everything again." % (RATE, DOMAIN))
        self.start()
        self.tell_all(patience)
        rig.stop(self.load)

    def verdict(self):
        """Each of what there was to see."""
        wanted = [("%s flipped, and showed the reply" % q, (q, "reply") in self.seen) for q in QUEUES] + [
            ("mail of %s was rerouted" % QUEUES[0], (QUEUES[0], "rerouted") in self.seen),
            ("the rate of %s was learned" % QUEUES[1], (QUEUES[1], "learned") in self.seen)] + [
            ("%s is back to normal" % q, self.mode[q] == "normal") for q in QUEUES]
        for what, so in wanted:
            if not so:
                print("  not seen: %s" % what, file=sys.stderr)
        return all(so for _, so in wanted)

    def close(self):
        if self.load:
            rig.stop(self.load)
