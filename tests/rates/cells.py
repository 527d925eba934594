#!/usr/bin/python3
"""cells: which combinations `make bench-rates` runs: 24 that hold every pair of values that may meet, and a few for
connection and volume rates.

    cells.py [SEED] > cells.txt      a new list; without a seed one is thrown, and printed in its first line
"""
import itertools
import os
import random
import sys

FACTORS = {
    "rate": ("1/s", "10/s", "500/s", "5000/s", "100/m"),
    "rcpts": ("1", "7", "50"),                           # of each message
    "workers": ("1", "2", "4"),
    "sources": ("1", "3", "20"),                         # IPs
    "peer": ("pipelining", "lockstep"),
    "scope": ("queue", "source", "vmta", "provider"),
    "company": ("alone", "together"),                    # together: limits of all four scopes, this one the narrowest
}
NAMES = tuple(FACTORS)
CELLS = 24
# Rates that are not of messages, one a line, by hand: they meet the rest of the code at the same places.
MORE = """
connect 10/s    1  2 1  pipelining queue    alone
connect 500/s   1  2 3  pipelining provider together
connect 100/m   1  1 3  lockstep   source   alone
volume  1000k/s 7  2 3  pipelining queue    alone
volume  1000k/s 1  1 1  lockstep   vmta     together
volume  40k/2s  1  2 1  pipelining provider alone
"""
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cells.txt")


def allowed(cell):
    """One recipient a message is no way to 5000 a second."""
    return not (cell.get("rate") == "5000/s" and cell.get("rcpts") == "1")


def pairs_of(cell):
    return {((a, cell[a]), (b, cell[b])) for a, b in itertools.combinations(NAMES, 2)}


def all_pairs():
    return {((a, x), (b, y)) for a, b in itertools.combinations(NAMES, 2) for x in FACTORS[a] for y in FACTORS[b]
            if allowed({a: x, b: y})}


def candidate(rng, left):
    """A cell grown from a pair that is missing, each further value the one that adds most."""
    (a, x), (b, y) = rng.choice(sorted(left))
    cell = {a: x, b: y}
    rest = [n for n in NAMES if n not in cell]
    rng.shuffle(rest)
    for name in rest:
        def gain(value, name=name):
            trial = {**cell, name: value}
            new = sum(tuple(sorted(((name, value), (o, v)), key=lambda p: NAMES.index(p[0]))) in left for o, v in cell.items())
            return (allowed(trial), new, rng.random())
        cell[name] = max(FACTORS[name], key=gain)
    return cell


def generate(seed):
    """CELLS cells with all pairs, or None when this seed finds none."""
    rng = random.Random(seed)
    for _ in range(200):
        left, cells = all_pairs(), []
        while left and len(cells) < CELLS:
            best = max((candidate(rng, left) for _ in range(30)), key=lambda c: len(pairs_of(c) & left))
            cells.append(best)
            left -= pairs_of(best)
        if not left:
            while len(cells) < CELLS:
                cells.append(candidate(rng, all_pairs()))
            return cells
    return None


def text(seed):
    cells = generate(seed)
    if cells is None:
        return None
    lines = ["# seed %d; made by tests/rates/cells.py: not to be edited" % seed,
             "# measure rate rcpts workers sources peer scope company"]
    order = [[FACTORS[n].index(c[n]) for n in NAMES] for c in cells]
    lines += [" ".join(["msg"] + [c[n] for n in NAMES]) for _, c in sorted(zip(order, cells), key=lambda p: p[0])]
    lines += [" ".join(l.split()) for l in MORE.strip().splitlines()]
    return "\n".join(lines) + "\n"


def read(path=FILE):
    """(seed, [{measure, rate, ...}])"""
    cells, seed = [], None
    with open(path) as f:
        for line in f:
            if line.startswith("# seed"):
                seed = int(line.split()[2].rstrip(";"))
            elif not line.startswith("#"):
                cells.append(dict(zip(("measure",) + NAMES, line.split())))
    return seed, cells


def missing(cells):
    """Pairs that no cell has."""
    left = all_pairs()
    for c in cells:
        left -= pairs_of(c)
    return left


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else None
    while True:
        s = seed if seed is not None else random.SystemRandom().randrange(1 << 32)
        made = text(s)
        if made:
            sys.stdout.write(made)
            return 0
        if seed is not None:
            print("seed %d finds no %d cells with all pairs" % (seed, CELLS), file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
