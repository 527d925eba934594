"""The judge of limits finds what is planted, the list of cells holds every pair, and a few cells hold live."""
import os
import sys

import harness

sys.path.insert(0, os.path.join(harness.ROOT, "tests/rates"))
import cells  # noqa: E402
import check  # noqa: E402


def test_judge_finds_what_is_planted():
    for seed in range(2):
        assert not check.selftest(seed)


def test_cells_hold_every_pair():
    seed, listed = cells.read()
    messages = [c for c in listed if c["measure"] == "msg"]
    assert len(messages) == cells.CELLS and not cells.missing(messages)
    assert all(cells.allowed(c) for c in messages)
    with open(cells.FILE) as f:
        assert f.read() == cells.text(seed)  # the printed seed makes it again
    # One that is not there is missed.
    assert cells.missing(messages[:-1])
