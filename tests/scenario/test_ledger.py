#!/usr/bin/python3
"""The checker checked: each kind of harm, planted in clean ledgers, must be found, and alone."""
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../bench"))
import ledger  # noqa: E402

HEAD = "type,timeLogged,orig,rcpt,queue,eventId,grantStamp,maybeDup\r\n"


class Ledgers:
    """Three clean recipients: a and b delivered, c bounced."""

    def __init__(self):
        self.load = ["1 i-%s %s@x h%s 10" % (r, r, r) for r in "abc"]
        self.sink = ["2 p 127.0.0.1:9 i-%s %s@x h%s 10 s@y" % (r, r, r) for r in "ab"]
        self.acct = ["%s,t,s@y,%s@x,x/v,%d,0,0" % (t, r, i)
                     for i, (t, r) in enumerate((("d", "a"), ("d", "b"), ("b", "c")))]

    def check(self, queued=()):
        with tempfile.TemporaryDirectory() as d:
            paths = [os.path.join(d, name) for name in ("load", "sink", "acct")]
            for path, lines in zip(paths, (self.load, self.sink, self.acct)):
                with open(path, "w", newline="") as f:
                    f.write(HEAD if path == paths[2] else "")
                    f.write("".join(x + "\n" for x in lines))
            return ledger.check(ledger.Load(paths[0]), ledger.Sink(paths[1]),
                                ledger.Acct([paths[2]]), queued)


class Findings(unittest.TestCase):
    def found(self, ledgers, *words, queued=()):
        report = ledgers.check(queued)
        self.assertEqual([w for w in ledger.VERDICT if report[w]], sorted(words, key=ledger.VERDICT.index))
        self.assertEqual(report["ok"], not words)
        return report

    def test_clean(self):
        report = self.found(Ledgers())
        self.assertEqual((report["acknowledged"], report["taken"], report["bounced"]), (3, 2, 1))

    def test_lost(self):
        t = Ledgers()
        del t.sink[0], t.acct[0]
        self.found(t, "lost", "missing")
        self.found(t, queued=["a@x"])

    def test_claimed(self):
        t = Ledgers()
        del t.sink[0]
        self.found(t, "lost", "claimed")

    def test_missing(self):
        t = Ledgers()
        del t.acct[1]
        self.found(t, "missing", "unaccounted")

    def test_corrupt(self):
        for field in (3, 5):
            t = Ledgers()
            f = t.sink[0].split(" ")
            f[field] += "0"
            t.sink[0] = " ".join(f)
            self.found(t, "corrupt")

    def test_duplicate(self):
        t = Ledgers()
        t.sink.append(t.sink[0])
        self.assertEqual(self.found(t, "unexplained_duplicates")["duplicates"], 1)
        t.acct[0] = t.acct[0][:-1] + "1"
        self.assertEqual(self.found(t)["duplicates"], 1)

    def test_orphan(self):
        t = Ledgers()
        del t.load[0]
        self.found(t, "orphans")
        t.load.append("unknown 1 i-a a@x ha 10")
        self.found(t)

    def test_unanswered_is_not_taken(self):
        t = Ledgers()
        t.sink[0] = "unanswered " + t.sink[0]
        self.found(t, "lost", "claimed")

    def test_contrary(self):
        t = Ledgers()
        t.sink.append("2 p 127.0.0.1:9 i-c c@x hc 10 s@y")
        self.found(t, "contrary", "unaccounted")

    def test_doubled_and_repeated(self):
        t = Ledgers()
        t.acct.append(t.acct[0])
        self.found(t, "doubled", "repeated_ids")

    def test_cut_line(self):
        t = Ledgers()
        t.load.append("1 i-d d@x")  # the kill came here
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "l")
            with open(path, "w") as f:
                f.write("\n".join(t.load))
            self.assertEqual(len(ledger.Load(path).acked), 3)


class Hash(unittest.TestCase):
    def test_vectors(self):
        data = bytes(i * 7 & 255 for i in range(300))
        for text, want in ((b"", "ef46db3751d8e999"), (b"a", "d24ec4f1a98c6e5b"),
                           (b"abc", "44bc2cf5ad770999"), (data[:299], "97d58f8d184d41ae"), (data[:63], "219110bf13e2fa26")):
            self.assertEqual(ledger.xxh64(text), want)


if __name__ == "__main__":
    unittest.main()
