"""The claim tables as a dead process left them (layout: common/queue/claims.c), read only."""
import contextlib
import glob
import os
import struct

HEADER, SLOT = 4096, 16384
FREE, GRANTED, BEGUN, DOT_SENT, ANSWERED, RETURNED = range(6)
GRANT = struct.Struct("=QQQQIIIIIHH")  # word, lease, message, granted, queue, attempt, connection, source IP, generation, ordinal, recipients


class Tables:
    """The tables of a spool, opened now: what the page cache holds of them can be read when their disk has gone.
    A file system that has shut itself down (xfs, btrfs) gives some of it no more."""

    def __init__(self, spool, worker=None):
        pattern = "worker-*" if worker is None else f"worker-{worker:02}"
        self.files = [os.open(path, os.O_RDONLY) for path in sorted(glob.glob(os.path.join(spool, "claims", pattern)))]
        self.sizes = {fd: 0 for fd in self.files}
        self.used = {fd: 0 for fd in self.files}  # slots below were seen in use
        self.look()

    def look(self):
        """While the disk is there: which slots are in use."""
        self.count(())

    def count(self, states):
        """Recipients of the claims in one of these states."""
        return sum(n for fd in self.files for state, n in self._slots(fd) if state in states)

    def _slots(self, fd):
        """(state, recipients) of each slot that is not free."""
        with contextlib.suppress(OSError):  # a table grows with the claims in it
            self.sizes[fd] = max(self.sizes[fd], os.fstat(fd).st_size)
        for i, at in enumerate(range(HEADER, self.sizes[fd] - SLOT + 1, SLOT)):
            try:
                fields = GRANT.unpack(os.pread(fd, GRANT.size, at))
            except OSError:
                # Nobody has touched it, or what it said is lost: then it may have said that the dot is out.
                if i < self.used[fd]:
                    yield DOT_SENT, 1
                continue
            if fields[0]:
                self.used[fd] = max(self.used[fd], i + 1)
                yield fields[0] & 0xFF, fields[10]

    def close(self):
        for fd in self.files:
            os.close(fd)
        self.files = []


def count(spool, states=(DOT_SENT,), worker=None):
    """The same at once."""
    tables = Tables(spool, worker)
    try:
        return tables.count(states)
    finally:
        tables.close()
