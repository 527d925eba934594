"""A disk with a volatile cache, as an nbdkit plugin (nbdkit python cut_disk.py image=F switch=F keep=P seed=N).

What is written stays in memory until a flush, as the standards allow a disk. When the power is cut, each 512-byte sector of each
write that was not flushed is in the image with probability `keep`; a later write of a sector may have made it and an earlier one
not, or the other way round. Then the process is gone. The switch is a mapped file, an int64: 0 off, N > 0 cuts at the N-th write or
flush from now, -1 at the next request of any kind. The second int64 says how many requests there were, the third, how many
sectors survived, the fourth, of how many."""
import mmap
import os
import random
import struct

import nbdkit

API_VERSION = 2
SECTOR = 512
options = {"keep": "0.5", "seed": "1"}
unflushed = []  # (offset, bytes, forced: written through)
image = size = switch = None


def config(key, value):
    options[key] = value


def config_complete():
    for key in ("image", "switch"):
        if key not in options:
            raise RuntimeError(f"{key}= is missing")


def after_fork():
    global image, size, switch
    image = os.open(options["image"], os.O_RDWR)
    size = os.fstat(image).st_size
    fd = os.open(options["switch"], os.O_RDWR)  # open() is nbdkit's here
    switch = mmap.mmap(fd, 4096)


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):  # noqa: A001  (nbdkit calls it so)
    return 1


def get_size(handle):
    return size


def can_write(handle):
    return True


def can_flush(handle):
    return True


def can_fua(handle):
    return nbdkit.FUA_NATIVE


def power_cut():
    dice = random.Random(int(options["seed"]))
    keep = float(options["keep"])
    kept = total = 0
    for offset, data, forced in unflushed:
        for at in range(0, len(data), SECTOR):
            total += 1
            if forced or dice.random() < keep:
                os.pwrite(image, data[at:at + SECTOR], offset + at)
                kept += 1
    struct.pack_into("=qq", switch, 16, kept, total)
    struct.pack_into("=q", switch, 0, 0)
    os._exit(0)


def tick(counts):
    left, seen = struct.unpack_from("=qq", switch, 0)
    struct.pack_into("=q", switch, 8, seen + 1)
    if left == 0 or (left > 0 and not counts):
        return
    if left <= 1:
        power_cut()
    struct.pack_into("=q", switch, 0, left - 1)


def pread(handle, buf, offset, flags):
    tick(False)
    n = len(buf)
    out = bytearray(os.pread(image, n, offset))
    for at, data, _ in unflushed:
        first, end = max(at, offset), min(at + len(data), offset + n)
        if first < end:
            out[first - offset:end - offset] = data[first - at:end - at]
    buf[:] = out


def pwrite(handle, buf, offset, flags):
    forced = bool(flags & nbdkit.FLAG_FUA)
    data = bytes(buf)
    if forced:
        os.pwrite(image, data, offset)
    unflushed.append((offset, data, forced))
    tick(True)


def flush(handle, flags):
    tick(True)
    for offset, data, _ in unflushed:
        os.pwrite(image, data, offset)
    unflushed.clear()
