"""The judge of limits finds what is planted, the list of cells holds every pair, and a few cells hold live."""
import os
import sys

import harness
import pytest

sys.path.insert(0, os.path.join(harness.ROOT, "tests/rates"))
import cells  # noqa: E402
import check  # noqa: E402
import run  # noqa: E402

# Few windows on a machine that does other things: that the limit is used is looked at in `make bench-rates`.
USE = 80
# Nor does it hear each word within 50 ms: what is exact are the stamps of the log.
run.SINK_SHORTER_US = 250000


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


@pytest.mark.parametrize("number,rate,rcpts,peer", [(1, "10/s", "7", "lockstep"), (2, "500/s", "50", "pipelining")])
def test_small_cells(number, rate, rcpts, peer):
    cell = {"measure": "msg", "rate": rate, "rcpts": rcpts, "workers": "2", "sources": "3", "peer": peer, "scope": "queue",
            "company": "alone"}
    plan = run.Plan(200 - number, cell, 3)
    plan.limits = [limit._replace(use=USE) for limit in plan.limits]
    good, lines = run.run_cell(plan)
    print("\n".join(lines))
    assert good, lines


@pytest.mark.parametrize("kill", [False, True])
def test_flips_in_a_cell(kill):
    """Queues go into back-off and come back while the cell runs: its rate holds, and in back-off the twin; also over kills."""
    assert run.flips("release", 10, kill)
