"""A finished fdatasync and commit before each 250; `make witness` is the long form with its negative controls."""
import pytest
import witness


@pytest.mark.parametrize("sessions", [1, 50])
def test_synced_before_acknowledged(sessions):
    acknowledged, (answers, bad, syncs, commits) = witness.watch(150, sessions, "release")
    assert acknowledged == answers == 150
    assert not bad, bad[:3]
    assert syncs > 0 and commits > 0
