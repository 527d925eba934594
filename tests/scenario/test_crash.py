"""Twenty kills of all kinds of process under load; `make crash N=60` is the long form."""
import os

import crash


def test_twenty_kills(folder):
    seed = int.from_bytes(os.urandom(3), "big")
    print(f"again: tests/crash.py --kills 20 --seed {seed}")
    report = crash.campaign(20, seed, folder)
    crash.show(report)
    assert not crash.faults(report), crash.faults(report)
    assert min(report["kills"].values()) >= 3
    assert report["acknowledged"] > 1000
