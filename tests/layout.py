#!/usr/bin/python3
"""The three layout checks: floors, pure, headers. Usage: layout.py BUILD_DIR. Prints TAP-like lines."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FORBIDDEN = re.compile(
    r"^(read|write|pread|pwrite|readv|writev|open|open64|openat|close|socket|connect|accept4?|send|recv|sendto|recvfrom|"
    r"sendmsg|recvmsg|sendfile|time|clock_gettime|gettimeofday|nanosleep|poll|select|epoll_.*|mdb_.*|log_.*|clock_.*|"
    r"event_base_.*|event_new|fopen|fprintf|printf|getenv|random|rand)$")


def floors():
    table, pure = {}, []
    for line in open(os.path.join(ROOT, "doc/floors.txt")):
        line = line.split("#")[0].split()
        if not line:
            continue
        if line[0] == "pure":
            pure.append(line[1])
        else:
            table[line[1]] = int(line[0])
    return table, pure


def folder_of(path, table):
    best = None
    for folder in table:
        if path.startswith(folder + "/") and (best is None or len(folder) > len(best)):
            best = folder
    return best


def sources(table):
    for folder in sorted(table):
        top = os.path.join(ROOT, folder)
        if not os.path.isdir(top):
            continue
        for name in sorted(os.listdir(top)):
            if name.endswith((".c", ".h")):
                yield folder, folder + "/" + name


def check_floors(table):
    bad = []
    for folder, path in sources(table):
        for number, line in enumerate(open(os.path.join(ROOT, path), errors="replace"), 1):
            found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not found:
                continue
            other = folder_of(found.group(1), table)
            if other is None:
                bad.append(f"{path}:{number}: include of a folder that is on no floor: {found.group(1)}")
            elif other != folder and table[other] >= table[folder]:
                bad.append(f"{path}:{number}: {folder} (floor {table[folder]}) may not see {other} (floor {table[other]})")
    return bad


def check_pure(pure, build):
    bad = []
    for folder in pure:
        top = os.path.join(build, "obj", folder)
        names = sorted(os.listdir(top)) if os.path.isdir(top) else []
        objects = [n for n in names if n.endswith(".o")]
        sources_of = os.path.join(ROOT, folder)
        if not os.path.isdir(sources_of) or not any(n.endswith(".c") for n in os.listdir(sources_of)):
            continue
        if not objects:
            bad.append(f"{folder}: no objects under {top}")
        for name in objects:
            out = subprocess.run(["nm", "-u", os.path.join(top, name)], capture_output=True, text=True, check=True).stdout
            for line in out.splitlines():
                symbol = line.split()[-1].split("@")[0]
                if FORBIDDEN.match(symbol):
                    bad.append(f"{folder}/{name}: names {symbol}")
    return bad


def check_headers(table, flags):
    bad = []
    for _, path in sources(table):
        if not path.endswith(".h"):
            continue
        run = subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-I.", *flags, "-Wall", "-Wextra", "-fsyntax-only", "-x", "c", "-"],
                             input=f'#include "{path}"\n', capture_output=True, text=True, cwd=ROOT)
        if run.returncode != 0 or run.stderr:
            bad.append(f"{path}: {run.stderr.splitlines()[0] if run.stderr else 'does not compile alone'}")
    return bad


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build/release")
    table, pure = floors()
    flags = subprocess.run(["pkg-config", "--cflags", "libconfig", "libevent_core", "lmdb", "jansson", "smartcols"],
                           capture_output=True, text=True).stdout.split()
    failed = 0
    for name, bad in (("floors", check_floors(table)), ("pure", check_pure(pure, build)), ("headers", check_headers(table, flags))):
        print(f"{'not ok' if bad else 'ok'} - layout {name}")
        for line in bad:
            print("  " + line)
        failed += bool(bad)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
