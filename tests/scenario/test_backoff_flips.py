"""A queue that flips under load, a few times; bench/late.py is the long form."""
import os
import subprocess

import harness


def test_no_message_leaves_at_the_old_limits(folder):
    command = ["/usr/bin/python3", os.path.join(harness.ROOT, "bench/late.py"), "--flips", "5", "--slack", "10", "--seconds", "90"]
    for _ in range(3):  # the machine may stand still in one of five flips
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400, env={**os.environ, "TMPDIR": folder})
        print(done.stdout)
        if done.returncode == 0 or "too few" in done.stdout:
            break
    # A machine that has no time for 500 a second has measured nothing.
    assert done.returncode == 0 or "too few" in done.stdout, done.stdout
    assert "flips, " in done.stdout
