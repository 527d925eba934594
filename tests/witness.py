#!/usr/bin/python3
"""The witness: strace sees, for every `250` after data, a finished fdatasync of the message's segment and the LMDB commit that
covers it. Negative controls (a build without the fdatasync, one that acknowledges early) must turn it red.

How a 250 is tied to its commit: the receiver's pwrite of the group carries the message id in the record header, the ACK comes
through shared memory, so the order is proved by time: for the record with id X, written at w to segment file f, there must be a
completed fdatasync(f) that began after w, and after its end an LMDB transaction (data pages written to data.mdb, synced, then the
meta page on the O_DSYNC descriptor or a further sync) that began and ended before the write of `250 2.0.0 ... X` began."""
import argparse
import os
import re
import shutil
import struct
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

STRACE = ["strace", "-f", "-v", "-ttt", "-T", "-y", "-xx", "-s", "96",
          "-e", "trace=pwrite64,pwritev,pwritev2,fdatasync,fsync,sendto,sendmsg,write,writev"]
LINE = re.compile(r"^(\d+)\s+(\d+\.\d+)\s+(.*)$")


def parse(path):
    """Finished calls: (begin, end, pid, name, arguments text). Unfinished ones are joined."""
    open_calls = {}
    for raw in open(path, errors="replace"):
        found = LINE.match(raw)
        if not found:
            continue
        pid, at, rest = int(found.group(1)), float(found.group(2)), found.group(3)
        if rest.endswith("<unfinished ...>"):
            open_calls[pid] = (at, rest[:-len("<unfinished ...>")])
            continue
        resumed = re.match(r"<\.\.\. (\w+) resumed>(.*)$", rest)
        if resumed:
            if pid not in open_calls:
                continue
            at, head = open_calls.pop(pid)
            rest = head + resumed.group(2)
        call = re.match(r"(\w+)\((.*)\)\s+=\s+(-?\d+).*<(\d+\.\d+)>$", rest)
        if call and not call.group(3).startswith("-"):
            yield at, at + float(call.group(4)), pid, call.group(1), call.group(2)


def unhex(text):
    """All quoted strings of the arguments, as bytes."""
    return [bytes.fromhex(s.replace("\\x", "")) for s in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', text)]


def plain_path(arguments):
    """The file behind the first descriptor, as -y prints it (-xx makes it hex too)."""
    found = re.match(r"\d+<((?:[^>\\]|\\x[0-9a-f]{2})*)>", arguments)
    if not found:
        return ""
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m.group(1), 16)), found.group(1))


def judge(path):
    """(number of 250s after data, list of those without their proof, fdatasyncs of segments, commits)."""
    written, syncs, data_writes, meta_ends, answers = {}, [], [], [], []
    for begin, end, _, name, arguments in parse(path):
        where = plain_path(arguments)
        if name in ("pwritev", "pwrite64", "pwritev2", "writev", "write") and where.endswith(".seg"):
            for chunk in unhex(arguments):
                # A record's header: magic, version, flags, epoch, message id.
                if len(chunk) >= 24 and chunk[:4] == struct.pack("<I", 0x3143524C):
                    written[struct.unpack_from("<Q", chunk, 16)[0]] = (end, where)
        elif name in ("fdatasync", "fsync"):
            if where.endswith(".seg"):
                syncs.append((begin, end, where))
            elif "data.mdb" in where:
                data_writes.append((begin, end))
        elif "data.mdb" in where and name == "pwrite64":
            # The meta page is written last, on a descriptor of its own that is O_DSYNC: page 0 or 1.
            offset = int(arguments.rsplit(",", 1)[1])
            if offset < 8192:
                meta_ends.append((begin, end))
        elif name in ("sendto", "sendmsg", "write", "writev") and ("socket:" in where or "TCP" in where):
            for chunk in unhex(arguments):
                for line in chunk.split(b"\r\n"):
                    found = re.match(rb"250 2\.\d\.\d .*?([0-9a-f]{16})", line)
                    if found:
                        answers.append((begin, int(found.group(1), 16)))
    bad = []
    for at, message in answers:
        if message not in written:
            bad.append((message, "no record was written"))
            continue
        wrote, segment = written[message]
        synced = [e for b, e, f in syncs if f == segment and b >= wrote and e <= at]
        if not synced:
            bad.append((message, "no finished fdatasync of its segment before the 250"))
            continue
        first = min(synced)
        committed = [e for b, e in meta_ends if b >= first and e <= at and
                     any(first <= db and de <= b for db, de in data_writes)]
        if not committed:
            bad.append((message, "no finished commit between its fdatasync and the 250"))
    return len(answers), bad, len(syncs), len(meta_ends)


def watch(messages, sessions, variant):
    folder = tempfile.mkdtemp(prefix="sluice-witness-")
    trace = os.path.join(folder, "trace")
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    sluice = harness.Sluice(folder, sink_port=port, workers=1, variant=variant, wrapper=[*STRACE, "-o", trace])
    try:
        sluice.start(wait=False)
        sluice.wait_ready(60)
        load = harness.Load(folder, sluice.target, "-s", sessions, "-m", messages, "--size", "2k")
        summary = load.wait(300)
        sluice.wait_drained(120)
        sluice.stop()
    finally:
        sink.stop()
        sluice.kill()
    result = judge(trace)
    shutil.rmtree(folder)
    return summary["acknowledged"], result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 200])
    options = parser.parse_args()
    failed = 0
    for variant, wanted in (("release", "green"), ("nosync", "red"), ("earlyack", "red")):
        for sessions in options.sessions if variant == "release" else options.sessions[-1:]:
            messages = options.messages if variant == "release" else max(100, options.messages // 5)
            acknowledged, (answers, bad, syncs, commits) = watch(messages, sessions, variant)
            colour = "green" if not bad and answers >= messages else "red"
            ok = colour == wanted and answers >= messages and acknowledged == messages
            failed += not ok
            print(f"{'ok' if ok else 'not ok'} - {variant}: {answers} answers at {sessions} sessions, {len(bad)} without proof ({colour}, "
                  f"wanted {wanted}), {syncs} segment syncs, {commits} commits" + (f", e.g. {bad[0][0]:016x}: {bad[0][1]}" if bad else ""),
                  flush=True)
    print("witness: " + ("FAILED" if failed else "passed"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
