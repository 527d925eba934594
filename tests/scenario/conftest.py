"""Fixtures: folders that go when the test passes, and programs that must be there."""
import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())


@pytest.fixture
def folder(request):
    path = tempfile.mkdtemp(prefix="sluice-test-")
    yield path
    report = getattr(request.node, "report_call", None)
    if report is not None and report.passed:
        shutil.rmtree(path, ignore_errors=True)
    else:
        print("left for a look: " + path)


@pytest.fixture
def kept():
    """kept(x) gives x back, and closes it behind the test."""
    made = []

    def keep(x):
        made.append(x)
        return x
    yield keep
    for x in made:
        x.close()


def program(name):
    """A peer that is missing is a failure, not a skip."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert path, f"{name} is not installed"
    return path
