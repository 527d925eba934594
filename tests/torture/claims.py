"""The claim tables as a dead process left them (layout: common/queue/claims.c), read only."""
import glob
import os
import struct

HEADER, SLOT, RESULTS_AT = 4096, 16384, 360
FREE, GRANTED, BEGUN, DOT_SENT, ANSWERED, RETURNED = range(6)
GRANT = struct.Struct("=QQQQIIIIIHH")  # word, lease, message, granted, queue, attempt, connection, source IP, generation, ordinal, recipients


def slots(path):
    """(state, recipients) of each slot that is not free."""
    try:
        with open(path, "rb") as f:
            f.seek(HEADER)
            while True:
                slot = f.read(SLOT)
                if len(slot) < SLOT:
                    return
                fields = GRANT.unpack_from(slot)
                if fields[0]:
                    yield fields[0] & 0xFF, fields[10]
    except FileNotFoundError:
        return


def count(spool, states=(DOT_SENT,), worker=None):
    """Recipients of the claims in one of these states, of one worker or of all."""
    pattern = "worker-*" if worker is None else f"worker-{worker:02}"
    return sum(n for path in glob.glob(os.path.join(spool, "claims", pattern)) for state, n in slots(path) if state in states)
