"""Twenty flipped bits, three cut files and three zeroed pages; tests/torture/flips.py is the long form."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../torture"))
import flips  # noqa: E402


def test_twenty_flips(folder):
    seed = int.from_bytes(os.urandom(3), "big")
    print(f"again: tests/torture/flips.py --flips 20 --cuts 3 --zeros 3 --messages 200 --seed {seed}")
    os.makedirs(os.path.join(folder, "source"))
    cases = flips.campaign(folder, 20, 3, 3, 200, seed, jobs=4)
    print(flips.table(cases))
    assert [c for c in cases if c["bad"]] == []
    # Damage that is never told is damage that was never done.
    assert sum(c["class"] != "harmless" for c in cases) >= 3
