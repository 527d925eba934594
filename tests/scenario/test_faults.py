"""Faults of disk and system in small; `tests/torture/faults.py STAGE` is the long form. This machine may be busy: what must be
back within 5 s is given more here."""
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "torture"))
import faults  # noqa: E402


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
