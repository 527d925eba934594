#!/usr/bin/python3
"""mutants: does the test suite notice when the back-off code is broken? See README.md beside it.

usage: tests/mutants/run.py [--only NAME,...]
Prints a table; exit status 1 when a mutant survives, or a test is red without one.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TREE = os.path.join(ROOT, "build/mutants")
BUILD_SECONDS, TEST_SECONDS = 900, 240


class Mutant:
    def __init__(self, name):
        self.name, self.hunk, self.tests = name, [], []
        with open(os.path.join(HERE, name)) as f:
            lines = f.read().splitlines()
        self.why = lines[0][1:].strip()
        self.file = lines[1]
        for line in lines[2:]:
            if line[:1] in " -+":
                self.hunk.append((line[0], line[1:].strip()))
            else:
                self.tests.append(tuple(line.split(None, 1)))

    def apply(self, tree):
        """What the file was; ValueError when the line is not there, or not alone."""
        path = os.path.join(tree, self.file)
        with open(path) as f:
            text = f.read()
        old = [t for sign, t in self.hunk if sign in " -"]
        new = [t for sign, t in self.hunk if sign in " +"]
        found = list(re.finditer(r"^\s*" + r"\s*\n\s*".join(map(re.escape, old)) + r"\s*?$", text, re.M))
        if len(found) != 1:
            raise ValueError("its line is there %d times" % len(found))
        with open(path, "w") as f:
            f.write(text[:found[0].start()] + "\n" + "\n".join(new) + text[found[0].end():])
        return text


def restore(tree, mutant, text):
    with open(os.path.join(tree, mutant.file), "w") as f:
        f.write(text)


def run(command, seconds, cwd):
    try:
        done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds,
                              env={**os.environ, "SLUICE_TEST_PATIENCE": "1"})  # most of them are to fail
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        return 124, "no end after %d s: %s" % (seconds, (late.stdout or b"")[-400:])


def copy_tree():
    """What is built is taken along, with its times: only what a mutant touches is compiled."""
    shutil.rmtree(TREE, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for name in listed.splitlines():
        if os.path.isfile(os.path.join(ROOT, name)):
            os.makedirs(os.path.dirname(os.path.join(TREE, name)), exist_ok=True)
            shutil.copy2(os.path.join(ROOT, name), os.path.join(TREE, name))
    built = os.path.join(ROOT, "build/release")
    if os.path.isdir(built):
        shutil.copytree(built, os.path.join(TREE, "build/release"), copy_function=shutil.copy2)


def build(tests):
    units = ["build/release/unit/" + what for kind, what in tests if kind == "unit"]
    bins = ["bins"] if any(kind == "scenario" for kind, _ in tests) else []
    for targets in filter(None, (units, bins)):
        code, text = run(["make", "-s", "-j2", *targets], BUILD_SECONDS, TREE)
        if code != 0:
            return text
    return None


def test(kind, what):
    """True when it is green."""
    if kind == "unit":
        return run([os.path.join(TREE, "build/release/unit", what)], TEST_SECONDS, TREE)[0] == 0
    code, text = run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/scenario/" + what], TEST_SECONDS, TREE)
    if not re.search(r"\d (passed|failed)", text):
        raise RuntimeError("%s did not run: %s" % (what, text[-400:]))
    return code == 0


def judge(mutant):
    """The test that it turns red, or None; and how it went."""
    try:
        text = mutant.apply(TREE)
    except (ValueError, OSError) as e:
        return None, str(e)
    try:
        broken = build(mutant.tests)
        if broken is not None:
            return None, "does not build: " + " ".join(broken.split())[-300:]
        for kind, what in mutant.tests:
            if not test(kind, what):
                return what, ""
        return None, "survived"
    finally:
        restore(TREE, mutant, text)


def whole(mutants):
    """Without a mutant all of their tests are green; those that are not."""
    tests = sorted({t for m in mutants for t in m.tests})
    broken = build(tests)
    if broken is not None:
        raise RuntimeError("the tree does not build: " + broken[-2000:])
    return [what for kind, what in tests if not test(kind, what)]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", default="")
    a = p.parse_args()
    names = sorted(n for n in os.listdir(HERE) if "." not in n and os.path.isfile(os.path.join(HERE, n)))
    mutants = [Mutant(n) for n in names if not a.only or n in a.only.split(",")]
    began, survived = time.time(), 0
    copy_tree()
    red = whole(mutants)
    for what in red:
        print("not ok - red without a mutant: %s" % what)
    for m in mutants:
        at = time.time()
        killed, why = judge(m)
        survived += killed is None
        print("%-6s - %-36s %-72s %s (%.0f s)" % ("not ok" if killed is None else "ok", m.name, m.why,
                                                "red: " + killed if killed else why, time.time() - at), flush=True)
    print("%d mutants, %d survived, %.0f s" % (len(mutants), survived, time.time() - began))
    shutil.rmtree(TREE, ignore_errors=True)
    return 1 if survived or red or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
