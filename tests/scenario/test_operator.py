"""What an operator relies on: exit statuses, files, signals, the fields of answers and records; doc/manual.md says no more and no less."""
import csv
import glob
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import stat
import subprocess
import sys

import harness
import pytest

BIN = os.path.join(harness.ROOT, "build/release/bin")
SLUICED = os.path.join(BIN, "sluiced")
NOBODY = 65534


def manual_rows(heading, columns):
    """Rows of the first table below a heading of the manual, as lists of cells."""
    with open(os.path.join(harness.ROOT, "doc/manual.md")) as f:
        text = f.read()
    section = re.split(r"^#+ ", text.split("\n" + heading + "\n", 1)[1], maxsplit=1, flags=re.M)[0]
    table = re.search(r"^\|.*\n\| --- .*\n((?:\|.*\n)+)", section, re.M).group(1)
    rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in table.splitlines()]
    assert all(len(r) == columns for r in rows), rows
    return rows


def words(cell):
    return re.findall(r"`([^`]*)`", cell)


def run(*args, **options):
    return subprocess.run(args, capture_output=True, text=True, timeout=60, **options)


# The manual against the programs -------------------------------------------------------------------------

def test_manual_has_every_command():
    text = run(os.path.join(BIN, "sluice"), "--help").stdout
    told = {}
    for line in text.splitlines():
        command = re.match(r"  ([a-z][-a-z ]*?(?: [\[A-Z].*?)?)  +\S", line)
        options = re.match(r" {30,}((?:\[--[^]]*\] ?)+)$", line)
        if command:
            last = command.group(1)
            told[last] = []
        elif options:
            told[last] = re.findall(r"\[(--[^]]*)\]", options.group(1))
    assert len(told) > 15
    assert {words(r[0])[0]: words(r[1]) for r in manual_rows("## Commands", 3)} == told


def test_manual_has_every_directive_that_is_built():
    page = run(SLUICED, "--print-manual").stdout
    built = {}
    for part in page[page.index(".SH DIRECTIVES"):page.index(".SH SEE ALSO")].split(".SS ")[1:]:
        rows = [row for row in part.split(".TP\n.B ")[1:] if not re.search(r";\s+not\s+supported\s+yet\.$", row.strip())]
        if rows:
            built[part.split("\n")[0].replace("\\-", "-")] = [r.split("\n")[0].replace("\\-", "-") for r in rows]
    assert len(built["domain"]) > 20
    assert {r[0]: words(r[1]) for r in manual_rows("## Directives that are built", 2)} == built


def test_readme_configuration_passes(folder):
    with open(os.path.join(harness.ROOT, "README.md")) as f:
        text = re.search(r"^```\n(host-name = .*?)^```", f.read(), re.M | re.S).group(1)
    path = os.path.join(folder, "sluice.conf")
    with open(path, "w") as f:
        f.write(text)
    done = run(SLUICED, "-t", "-c", path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == path + ": no errors\n"


# An instance with mail of every fate -----------------------------------------------------------------------

SCRIPT = """providers = ( { name = "p"; listen = [ "127.0.0.1:%d", "[::1]:%d" ]; rules = (
    { stage = "rcpt"; match = "bad*"; reply = "550 5.1.1 no \\"such\\" user, sorry"; },
    { stage = "rcpt"; match = "later*"; reply = "450 4.2.1 later"; } ); } );"""
LONG = "a-very-long-label-of-a-domain-name." * 3 + "example"


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("operator"))
    port, dead = harness.free_port(), harness.free_port()
    sink = harness.Sink(folder, script=SCRIPT % (port, port))
    domains = f"""domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; retry-after = "1h"; retry-recipients-after = "1h"; }},
  {{ name = "six.example"; smtp-hosts = "[::1]:{port}"; allow-destinations = [ "::1" ]; }},
  {{ name = "dead.example"; smtp-hosts = "[127.0.0.1]:{dead}"; }},
  {{ name = "slow.example";
    max-msg-rate = "1/h"; }} );"""
    vmtas = """virtual-mtas = ( { name = "mta1"; smtp-source-hosts = ( { ip = "127.0.0.41"; name = "out1.example"; } ); },
  { name = "mta6"; smtp-source-hosts = ( { ip = "::1"; name = "out6.example"; } ); } );
virtual-mta-pools = ( { name = "pool1"; virtual-mtas = [ "mta1" ]; } );"""
    with open(os.path.join(folder, "more.conf"), "w") as f:
        f.write('smtp-listeners = ( { address = "[::1]:%d"; } );\nacct-files = ( %s );\n' % (harness.free_port(), ", ".join(
            f'{{ path = "{folder}/{kind}/only-{kind}.csv"; records = "{kind}"; }}' for kind in ("d", "r", "tq"))))
    sluice = harness.Sluice(folder, sink_port=port, domains=domains, vmtas=vmtas, top='include = [ "more.conf" ];',
                            sources='sources = ( { match = "0/0"; always-allow-relaying = true; process-x-virtual-mta = true; '
                                    'process-x-job = true; process-x-envid = true; } );')
    try:
        sluice.start()
        send_one_of_each_fate(sluice)
        yield sluice
    finally:
        sluice.stop()
        sink.stop()
    shutil.rmtree(folder, ignore_errors=True)


def send_one_of_each_fate(sluice):
    with smtplib.SMTP("127.0.0.1", sluice.port, local_hostname="client.example", timeout=60) as s:
        for rcpt, vmta in (("good@d.example", "mta1"), ("bad@d.example", "mta1"), ("later@d.example", "mta1"), ("pooled@d.example", "pool1"),
                           ("good@six.example", "mta6"), ("x@dead.example", "mta1"), ("one@slow.example", "mta1"),
                           ("two@slow.example", "mta1"), ("later@" + LONG, "")):
            head = f"X-Virtual-MTA: {vmta}\r\n" if vmta else ""
            s.sendmail("me@here.example", [rcpt], head + "X-Job: job-7\r\nX-Envid: env-9\r\nX-Load-Id: m\r\nSubject: x\r\n\r\nbody\r\n")

    def all_tried():
        "four delivered, one bounced, two deferred, one not connected"
        total = sluice.stat()["totals"]
        return (total["delivered"], total["bounced"], total["transient"], total["connect_failed"] > 0) == (4, 1, 2, True)
    harness.wait_for(all_tried, 15)


def records(sluice, pattern):
    rows, heads = [], []
    for path in sorted(glob.glob(os.path.join(sluice.folder, pattern))):
        with open(path, newline="") as f:
            text = f.read()
        assert "\n" not in text.replace("\r\n", "") and text.endswith("\r\n")
        read = csv.reader(text.splitlines())
        heads.append(next(read))
        rows += [dict(zip(heads[-1], r)) for r in read]
    return heads, rows


TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+0000$")
COLUMNS = {words(r[0])[0]: words(r[2]) for r in manual_rows("## Accounting", 3)}


def test_accounting_files(box):
    wait = harness.wait_for(lambda: len(records(box, "acct-*.csv")[1]) >= 17 and records(box, "acct-*.csv"), 10)
    heads, rows = wait
    assert all(set(head) == set(COLUMNS["d"]) | set(COLUMNS["r"]) | set(COLUMNS["tq"]) for head in heads)
    assert len(heads) <= 2  # of one day, or of two when it is midnight
    count = {k: sum(r["type"] == k for r in rows) for k in ("d", "b", "t", "tq", "r")}
    assert (count["d"], count["b"], count["t"], count["r"]) == (4, 1, 2, 9) and count["tq"] >= 1, count
    assert len({r["eventId"] for r in rows}) == len(rows)
    assert all(TIME.match(r["timeLogged"]) for r in rows)
    for r in rows:
        allowed = COLUMNS["d" if r["type"] in "dbt" else r["type"]] + (["userString"])
        assert not [k for k, v in r.items() if v != "" and k not in allowed], r


@pytest.mark.parametrize("kind", ["d", "r", "tq"])
def test_columns_of_a_file_of_one_type(box, kind):
    heads, rows = harness.wait_for(lambda: (lambda found: found[1] and found)(records(box, f"{kind}/only-{kind}-*.csv")), 10)
    assert all(head == COLUMNS[kind] for head in heads) and len(heads) <= 2
    assert {r["type"] for r in rows} == {kind}
    path = glob.glob(os.path.join(box.folder, kind, "*"))[0]
    assert re.search(rf"/only-{kind}-\d{{4}}-\d\d-\d\d-0000\.csv$", path)


def test_accounting_values(box):
    rows = {(r["type"], r["rcpt"] or r["queue"]): r for r in
            harness.wait_for(lambda: (lambda x: x if len(x) >= 17 else None)(records(box, "acct-*.csv")[1]), 10)}
    common = {"orig": "me@here.example", "srcType": "smtp", "srcMta": "client.example (127.0.0.1)", "jobId": "job-7", "envId": "env-9"}
    sent = {**common, "dlvType": "smtp", "dlvSourceIp": "127.0.0.41", "dlvDestinationIp": "127.0.0.1", "vmta": "mta1", "queue": "d.example/mta1",
            "dlvEsmtpAvailable": "PIPELINING,SIZE,8BITMIME,ENHANCEDSTATUSCODES", "maybeDup": "0"}
    for key, wanted in {
        ("d", "good@d.example"): {**sent, "dsnAction": "relayed", "dsnStatus": "2.0.0 (success)", "bounceCat": "success", "vmtaPool": ""},
        ("d", "pooled@d.example"): {**sent, "vmtaPool": "pool1"},
        ("d", "good@six.example"): {**common, "dlvSourceIp": "::1", "dlvDestinationIp": "::1", "queue": "six.example/mta6"},
        ("b", "bad@d.example"): {**sent, "dsnAction": "failed", "dsnStatus": "5.1.1 (bad destination mailbox address)",
                                 "dsnDiag": 'smtp;550 5.1.1 no "such" user, sorry', "bounceCat": "bad-mailbox"},
        ("t", "later@d.example"): {**sent, "dsnAction": "delayed", "dsnDiag": "smtp;450 4.2.1 later"},
        ("tq", "dead.example/mta1"): {"vmta": "mta1", "dlvSourceIp": "127.0.0.41", "dlvType": "smtp", "rcpt": ""},
        ("r", "good@d.example"): {**common, "rcvSourceIp": "127.0.0.1", "rcvDestinationIp": "127.0.0.1", "vmta": "mta1", "queue": ""},
        ("r", "pooled@d.example"): {"vmta": "pool1"},
    }.items():
        assert {k: rows[key][k] for k in wanted} == wanted, key
    assert rows["d", "good@d.example"]["dsnDiag"].startswith("smtp;250 ")
    assert int(rows["d", "good@d.example"]["grantStamp"]) > 0 and int(rows["d", "good@d.example"]["dlvSize"]) > 20


FIELDS = {r[0]: (words(r[1]), words(r[2])) for r in manual_rows("### Answers", 3)}


@pytest.mark.parametrize("command,answer", [
    ("show queues", "queue"), ("show topqueues", "queue"), ("show queue d.example/mta1", "queue"), ("show domains", "domain"), ("show vmtas", "vmta"),
    ("show sources", "source"), ("show workers", "worker"), ("show settings d.example/mta1", "setting"), ("list", "message")])
def test_fields_of_answers(box, command, answer):
    data = box.ask(*command.split())
    around, fields = FIELDS[answer]
    around = [w for w in around if w != "matching" or command != "show queue d.example/mta1"]
    assert set(data) == set(around)
    assert len(data[answer]) >= 1 and all(list(row) == fields for row in data[answer]), data


def test_queue_rows(box):
    rows = {q["name"]: q for q in box.ask("show", "queues")["queue"]}
    for q in rows.values():
        assert list(q["blocked"]) == FIELDS["blocked"][1] and q["backoff"] is None and q["mode"] == "normal" and q["modeEvent"] == []
        assert all(list(e) == FIELDS["event"][1] for e in q["event"])
    with open(box.conf_path) as f:
        line = next(n for n, text in enumerate(f, 1) if "max-msg-rate" in text)
    rate = rows["slow.example/mta1"]["blocked"]
    assert (rate["by"], rate["limit"], rate["config"]) == ("rate", "max-msg-rate 1/h", f"{box.conf_path}:{line}")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", rate["until"])
    dead = rows["dead.example/mta1"]
    assert dead["blocked"]["by"] == "retry" and dead["retryTime"] == dead["blocked"]["until"] and dead["event"][0]["type"] == "error"
    held = rows["d.example/mta1"]
    assert (held["rcp"], held["delivered"], held["bounced"], held["transient"], held["attempted"]) == (1, 2, 1, 1, 4)
    assert held["event"][0]["text"] in ("450 4.2.1 later", '550 5.1.1 no "such" user, sorry')
    assert dead["event"][0]["text"].startswith("connection refused")
    names = {r[0].strip("`") for r in manual_rows_of_blocked()}
    assert {q["blocked"]["by"] for q in rows.values()} <= names


def manual_rows_of_blocked():
    with open(os.path.join(harness.ROOT, "doc/manual.md")) as f:
        table = f.read().split("| by | what |\n| --- | --- |\n")[1].split("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


def test_blocked_names_are_those_of_the_code():
    with open(os.path.join(harness.ROOT, "scheduler/control_show.c")) as f:
        table = re.search(r"wait_names\[\] = \{(.*?)\};", f.read(), re.S).group(1)
    assert set(re.findall(r'"(\w+)"', table)) == {r[0].strip("`") for r in manual_rows_of_blocked()}


def test_sorting_and_choice(box):
    def names(*options):
        return [q["name"] for q in box.ask("show", "queues", *options)["queue"]]
    every = names()
    assert every == sorted(every) and len(every) >= 5
    assert names("--maxitems=2") == every[:2]
    assert names("--errors") == [n for n in every if not n.startswith(("slow", "six"))]
    assert names("d.example/*") == ["d.example/mta1"] and names("*/mta6") == ["six.example/mta6"]
    assert names("--mode=backoff") == [] and names("--paused") == []
    rcp = [q["rcp"] for q in box.ask("show", "topqueues")["queue"]]
    assert rcp == sorted(rcp, reverse=True)
    assert box.sluice("show", "queues", "--sort=nonsense").returncode == 2
    assert [m["rcpt"] for m in box.ask("list", "--rcpt=*@dead.example")["message"]] == ["x@dead.example"]
    assert box.ask("list", "--jobId=nojob")["message"] == [] and len(box.ask("list", "--jobId=job-7")["message"]) >= 4


def test_tables_read_well(box):
    """Aligned, no column missing a value, long names whole in a pipe."""
    for command in ("show queues", "show topqueues", "show domains", "show sources", "list"):
        text = box.sluice(*command.split()).stdout
        lines = text.split("\n\n")[0].splitlines()
        starts = [m.start() for m in re.finditer(r"\S+", lines[0])]
        assert len(lines) >= 3
        for line in lines:
            assert len(line.split()) >= len(starts), (command, line)
            assert all(at == 0 or line[at - 1] == " " or line[at] == " " for at in starts), (command, line)
    assert LONG + "/{default}" in box.sluice("show", "queues").stdout
    text = run(os.path.join(BIN, "sluice-stat"), "-r", box.run_dir).stdout
    assert LONG + "/{default}" in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    usual = [line for line in text.splitlines() if LONG not in line and not line.startswith("queue ")]
    assert max(map(len, usual)) <= 140


def test_fields_of_statistics(box):
    data = box.stat()
    wanted = {words(r[0])[0]: words(r[1]) for r in manual_rows("## Statistics", 2)}
    assert list(data) == list(wanted)
    for name, value in data.items():
        for row in value if isinstance(value, list) else [value]:
            assert list(row) == wanted[name], name
    # The whole agrees with what was sent.
    total = data["totals"]
    assert (total["received"], total["delivered"], total["bounced"], total["transient"]) == (9, 4, 1, 2)
    assert total["queued_rcpt"] == 4 and sum(q["rcp"] for q in data["queue"]) == 4


def test_delete_is_accounted(box):
    with smtplib.SMTP("127.0.0.1", box.port, timeout=60) as s:
        s.sendmail("me@here.example", ["gone@dead.example"], "X-Virtual-MTA: mta1\r\nX-Load-Id: m\r\nSubject: x\r\n\r\nbody\r\n")
    harness.wait_for(lambda: box.ask("list", "--rcpt=gone@dead.example")["message"], 5)
    before = box.stat()["totals"]["bounced"]
    assert box.ask("delete", "--queue=dead.example/*", "--rcpt=gone@dead.example") == {"matched": 1, "busy": 0, "notRead": 0}
    box.wait_recorded(["gone@dead.example"])
    row = box.acct().terminal["gone@dead.example"][0]
    assert (row["type"], row["dsnAction"]) == ("b", "failed") and "deleted" in row["dsnDiag"]
    total = harness.wait_for(lambda: (lambda t: t["deleted"] == 1 and t)(box.stat()["totals"]), 5)
    assert total["bounced"] == before


# sluiced ---------------------------------------------------------------------------------------------------

def configuration(folder, port=None, text=""):
    path = os.path.join(folder, "sluice.conf")
    with open(path, "w") as f:
        f.write(f"""spool = "{folder}/data/spool"; run = "{folder}/data/run"; log-file = "{folder}/logs/deep/sluice.log"; workers = 1;
smtp-listeners = ( {{ address = "127.0.0.1:{port or harness.free_port()}"; }} );
acct-files = ( {{ path = "{folder}/acct/deep/acct.csv"; records = "d,b"; move-to = "{folder}/acct/done"; }} );
{text}""")
    return path


def log_of(folder):
    with open(os.path.join(folder, "logs/deep/sluice.log")) as f:
        return f.read()


@pytest.mark.parametrize("make,args,status,says", [
    ("bad", ["-t"], 2, r"^\S+sluice.conf:4: .*no-such-directive"), ("bad", [], 2, r"^\S+sluice.conf:4: "), ("syntax", ["-t"], 2, r"^\S+:5: syntax error"),
    ("missing", [], 2, r"missing.conf:1: "), ("good", ["--nonsense"], 1, "usage"), ("good", ["surplus"], 1, "surplus"), ("good", ["-t"], 0, "^$"),
    ("busy", [], 1, "cannot listen on"), ("busy", ["-f"], 1, "cannot listen on"), ("spool", [], 1, "cannot use the spool")])
def test_exit_status(folder, make, args, status, says):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = configuration(folder, taken.getsockname()[1] if make == "busy" else None,
                             {"bad": 'no-such-directive = 1;\n', "syntax": 'postmaster = ;\n'}.get(make, ""))
        if make == "syntax":
            with open(path, "a") as f:
                f.write("\n")
        if make == "missing":
            path = os.path.join(folder, "missing.conf")
        if make == "spool":
            os.makedirs(os.path.join(folder, "data"))
            open(os.path.join(folder, "data/spool"), "w").close()
        done = run(SLUICED, "-c", path, *args)
    assert done.returncode == status, done
    if make == "syntax":
        says = r"^\S+sluice.conf:\d+: syntax error"
    assert re.search(says, done.stderr, re.M), done.stderr
    assert not os.path.exists(os.path.join(folder, "data/run/sluiced.pid"))


def test_life_of_a_daemon(folder):
    """In the background, from a strict umask and a relative path; directories are made; the second one is refused."""
    configuration(folder)
    sluice = [os.path.join(BIN, "sluice"), "-c", "sluice.conf"]
    strict = {"cwd": folder, "preexec_fn": lambda: os.umask(0o077)}
    done = run(SLUICED, "-c", "sluice.conf", **strict)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with open(os.path.join(folder, "data/run/sluiced.pid")) as f:
        pid = int(f.read())
    try:
        assert os.readlink(f"/proc/{pid}/exe") == os.path.realpath(SLUICED) and os.getsid(pid) != os.getsid(0)
        assert [os.path.realpath(f"/proc/{pid}/fd/{n}") for n in (0, 1, 2)] == ["/dev/null"] * 3
        for part in ("logs/deep", "acct/deep", "acct/done"):
            assert stat.S_IMODE(os.stat(os.path.join(folder, part)).st_mode) == 0o750, part
        assert stat.S_IMODE(os.stat(os.path.join(folder, "data/run/control.sock")).st_mode) == 0o660
        assert stat.S_IMODE(os.stat(os.path.join(folder, "data/run/sluiced.pid")).st_mode) & 0o444 != 0
        second = run(SLUICED, "-c", "sluice.conf", cwd=folder)
        assert second.returncode == 1 and "in use by another sluiced" in second.stderr
        os.kill(pid, signal.SIGHUP)
        harness.wait_for(lambda: "reload=done generation=2" in log_of(folder), 10)
        assert run(*sluice, "show", "status", cwd=folder).returncode == 0
        # An error in the file does not keep the operator out, as long as `run` can be read.
        with open(os.path.join(folder, "sluice.conf")) as f:
            text = f.read()
        for wrong, status in (("no-such-directive = 1;\n", 0), ("postmaster = ;\n", 1)):
            with open(os.path.join(folder, "sluice.conf"), "w") as f:
                f.write(text + wrong)
            done = run(*sluice, "show", "status", cwd=folder)
            assert done.returncode == status and done.stderr.count("\n") == status, done
        assert "-s SOCKET" in done.stderr
        assert run(sluice[0], "-s", os.path.join(folder, "data/run/control.sock"), "show", "status").returncode == 0
        with open(os.path.join(folder, "sluice.conf"), "w") as f:
            f.write(text)
        done = run(*sluice, "stop", cwd=folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
        assert not os.path.exists(f"/proc/{pid}/exe")
    finally:
        if os.path.exists(f"/proc/{pid}/exe"):
            os.kill(pid, signal.SIGKILL)
    assert sorted(os.listdir(os.path.join(folder, "data/run"))) == ["shm"]
    done = run(*sluice, "show", "status", cwd=folder)
    assert done.returncode == 3 and done.stderr.count("\n") == 1


def test_notification(folder):
    path = os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        s.settimeout(10)
        daemon = subprocess.Popen([SLUICED, "-f", "-c", configuration(folder)], env={**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"})
        try:
            def next_but_watchdog():
                while (said := s.recv(4096)) == b"WATCHDOG=1":
                    pass
                return said
            assert next_but_watchdog().decode().split("\n") == ["READY=1", f"MAINPID={daemon.pid}"]
            assert s.recv(4096) == b"WATCHDOG=1"
            daemon.terminate()
            assert next_but_watchdog() == b"STOPPING=1"
            assert daemon.wait(30) == 0
        finally:
            if daemon.poll() is None:
                daemon.kill()


@pytest.mark.parametrize("where", ["stderr", "syslog"])
def test_log_elsewhere(folder, where):
    path = configuration(folder)
    with open(path) as f:
        text = re.sub(r'log-file = "[^"]*"', f'log-file = "{where}"', f.read())
    with open(path, "w") as f:
        f.write(text)
    daemon = subprocess.Popen([SLUICED, "-f", "-c", path], stderr=subprocess.PIPE, text=True)
    command = [os.path.join(BIN, "sluice"), "-c", path]
    try:
        harness.wait_for(lambda: run(*command, "show", "status").returncode == 0, 10)
        assert run(*command, "stop").returncode == 0
        err = daemon.communicate(timeout=30)[1]
    finally:
        if daemon.poll() is None:
            daemon.kill()
    assert daemon.returncode == 0
    if where == "stderr":
        assert re.search(r"^<6>master\[\d+\]: ready$", err, re.M) and re.search(r"^<6>master\[\d+\]: stopped ", err, re.M)
    else:
        assert not re.search(r"^<\d>", err, re.M) and err == ""


def as_user(folder):
    """A place that others may enter, and the program there; the tree may lie where they may not go."""
    os.chmod(folder, 0o755)
    shutil.copy(SLUICED, os.path.join(folder, "sluiced"))
    return os.path.join(folder, "sluiced")


def test_not_root(folder):
    """Starts without `user` being there, with a remark; writes only where it may."""
    program = as_user(folder)
    path = configuration(folder, text='user = "nosuchuser";\n')
    def drop():
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    daemon = subprocess.Popen([program, "-f", "-c", path], preexec_fn=drop)
    try:
        harness.wait_for(lambda: os.path.exists(os.path.join(folder, "data/run/control.sock")) and "master[%d]: ready\n" % daemon.pid in log_of(folder), 10)
        assert "user=nosuchuser cannot be changed to: not started as root" in log_of(folder)
        daemon.terminate()
        assert daemon.wait(30) == 0
    finally:
        if daemon.poll() is None:
            daemon.kill()


def test_started_as_root(folder):
    """Becomes `user`, who owns all that was made; what it cannot write is told; an unknown user is refused."""
    if os.getuid() != 0:
        pytest.skip("not root")
    program = as_user(folder)
    path = configuration(folder, text='user = "nobody";')
    with open(path) as f:
        text = f.read().replace("acct-files = (", 'acct-files = ( { path = "%s/closed/acct.csv"; records = "t"; },' % folder)
    with open(path, "w") as f:
        f.write(text)
    os.mkdir(os.path.join(folder, "closed"))
    done = run(program, "-c", path)
    assert done.returncode == 0
    assert done.stderr.startswith("sluiced: warning: accounting cannot be written into %s/closed: " % folder) and done.stderr.count("\n") == 1
    with open(os.path.join(folder, "data/run/sluiced.pid")) as f:
        pid = int(f.read())
    try:
        for p in [pid, *harness.children_of(pid)]:
            assert os.stat(f"/proc/{p}").st_uid in (NOBODY, 0)  # not dumpable: root's in /proc
            with open(f"/proc/{p}/status") as f:
                status = f.read()
            assert re.search(rf"^Uid:\s+{NOBODY}\s+{NOBODY}\s+{NOBODY}\s+{NOBODY}$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M)
        for part in ("logs/deep", "logs/deep/sluice.log", "acct/deep", "data/run", "data/spool", "data/run/control.sock"):
            assert os.stat(os.path.join(folder, part)).st_uid == NOBODY, part
        assert os.stat(os.path.join(folder, "closed")).st_uid == 0
    finally:
        os.kill(pid, signal.SIGTERM)
        harness.wait_for(lambda: not os.path.exists(f"/proc/{pid}/exe"), 30)
    with open(path, "w") as f:
        f.write(text.replace('"nobody"', '"nosuchuser"'))
    done = run(program, "-c", path)
    assert (done.returncode, done.stderr) == (1, "sluiced: there is no user `nosuchuser`\n")


# Around ----------------------------------------------------------------------------------------------------

def test_install(folder):
    """Everything in its place and readable, whatever the umask."""
    done = run("make", "-s", "install", "prefix=/usr", f"DESTDIR={folder}/root", cwd=harness.ROOT, preexec_fn=lambda: os.umask(0o077))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {os.path.relpath(os.path.join(top, name), folder + "/root/usr"): stat.S_IMODE(os.stat(os.path.join(top, name)).st_mode)
             for top, _, names in os.walk(folder + "/root") for name in names}
    programs = ["sbin/sluiced", "bin/sluice", "bin/sluice-stat", "bin/sluice-sink", "bin/sluice-load"]
    others = ["share/man/man5/sluice.conf.5", "share/sluice/sluice.conf", "share/sluice/sluice.conf.sample", "share/sluice/sluice.service",
              "share/sluice/providers.conf",
              *("share/doc/sluice/" + n for n in ("README.md", "INSTALL", "LICENSE", "manual.md"))]
    assert found == {**{p: 0o755 for p in programs}, **{p: 0o644 for p in others}}
    with open(folder + "/root/usr/share/sluice/sluice.service") as f:
        assert "\nExecStart=/usr/sbin/sluiced -f -c /etc/sluice/sluice.conf\n" in f.read()
    assert run(folder + "/root/usr/sbin/sluiced", "-t", "-c", folder + "/root/usr/share/sluice/sluice.conf").returncode == 0


@pytest.mark.parametrize("name", ["sluiced", "sluice", "sluice-stat", "sluice-sink", "sluice-load"])
def test_help_and_version(name):
    for option, says in (("--help", "usage: " + name), ("--version", name + " ")):
        done = run(os.path.join(BIN, name), option)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(says), (option, done)


def test_work_folders_are_not_shared(folder, monkeypatch):
    """A second demo takes another folder, and one that a daemon lives in is left alone."""
    monkeypatch.setenv("TMPDIR", folder)
    take = [sys.executable, "-c", "import sys; sys.path.insert(0, 'bench'); import rig; print(rig.work_dir('demo'), flush=True); sys.stdin.read()"]
    first = subprocess.Popen(take, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=harness.ROOT)
    assert first.stdout.readline().strip() == folder + "/demo"
    second = subprocess.run(take, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=harness.ROOT)
    assert second.stdout.strip() == folder + "/demo-2"
    first.communicate()
    os.mkdir(folder + "/demo/run")
    import fcntl
    held = os.open(folder + "/demo/run", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    third = subprocess.run(take, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=harness.ROOT)
    os.close(held)
    assert third.stdout.strip() == folder + "/demo-2" and os.path.isdir(folder + "/demo/run")
    fourth = subprocess.run(take, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=harness.ROOT)
    assert fourth.stdout.strip() == folder + "/demo" and os.listdir(folder + "/demo") == []
