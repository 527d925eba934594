"""`sluice rules test`: which rules match, with file and line; what they do together; what is not a reply."""
import json
import os
import smtplib
import subprocess

import harness

SLUICE = os.path.join(harness.ROOT, "build/release/bin/sluice")
SLUICED = os.path.join(harness.ROOT, "build/release/bin/sluiced")
SHIPPED = os.path.join(harness.ROOT, "etc/sluice.conf")
CONF = r"""
providers = ( { name = "p"; mx = "*.p.example"; } );
domains = ( { name = "*"; smtp-pattern-list = "mine"; } );
smtp-pattern-lists = (
  { name = "mine"; then = "more"; rules = (
    { reply = "/^421 .*too many/"; category = "busy"; after = "3/10m";
      actions = [ "mode=backoff", "backoff-to-normal-after=2h" ]; },
    { reply = "/blocked/"; provider = "p"; actions = "disable-source-ip, reenable-after=4h"; },
    { reply = "/in (\\d+) minutes/"; stage = "rcpt"; actions = "wait-reply"; } ); },
  { name = "more"; rules = ( { reply = "/many/"; actions = [ "mode=normal", "skip-mx" ]; } ); } );
"""


def rules(conf, *words, stdin=""):
    return subprocess.run([SLUICE, "-c", conf, "rules", "test", *words], input=stdin, capture_output=True, text=True, timeout=60)


def asked(conf, *words, stdin=""):
    done = rules(conf, "--json", *words, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, ""), done
    answer = json.loads(done.stdout)
    assert answer["status"] == "success"
    return answer["data"]["reply"]


def write(folder, text):
    path = os.path.join(folder, "rules.conf")
    with open(path, "w") as f:
        f.write(text)
    return path


def test_text_file_and_standard_input(folder):
    conf = write(folder, CONF)
    reply = "421-4.7.0 Far\r\n421 4.7.0 too many\r\n"
    path = os.path.join(folder, "replies.txt")
    with open(path, "w", newline="") as f:
        f.write(reply)
    for words, stdin in ((["mine", path], ""), (["mine", "-"], reply), (["--list=mine", "421 4.7.0 Far too many"], "")):
        one, = asked(conf, *words, stdin=stdin)
        assert one["text"] == "421 4.7.0 Far too many" and one["category"] == "busy"
        assert [r["rule"] for r in one["rule"]] == [f"{conf}:6", f"{conf}:10"]
        assert one["rule"][0]["after"] == "3/10m" and one["rule"][1]["list"] == "more"
        # the earlier rule's mode stands
        assert one["actions"] == ["mode=backoff", "backoff-to-normal-after=2h", "skip-mx"]
    done = rules(conf, "--list=mine", "421 4.7.0 Far too many")
    assert done.returncode == 0 and f"{conf}:6" in done.stdout and "together: busy: mode=backoff" in done.stdout


def test_provider_stage_and_time(folder):
    conf = write(folder, CONF)
    text = "450 blocked, try in 7 minutes"
    assert asked(conf, "--list=mine", text)[0]["actions"] == []
    assert asked(conf, "--list=mine", "--provider=P", text)[0]["actions"] == ["disable-source-ip", "reenable-after=4h"]
    one, = asked(conf, "--list=mine", "--stage=rcpt", text)
    assert one["actions"] == ["wait-reply"] and one["waitSeconds"] == 420
    assert [one["list"] for one in asked(conf, text)] == ["mine", "more"]


def test_refused(folder):
    conf = write(folder, CONF)
    for words in (["--list=none", "421 x"], ["--provider=none", "421 x"], ["--stage=none", "421 x"], ["gone.txt"], ["none", "421 x"]):
        done = rules(conf, *words)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stdout == "", done
    done = rules(conf, "-", stdin="421 too many\nwhat is this\n\x1b]0;x\n421-unfinished\n")
    assert done.returncode == 1 and done.stdout.count("not an SMTP reply") == 3 and "\x1b" not in done.stdout, done
    done = rules(write(folder, 'domains = ( { name = "*"; max-smtp-out = 5; } );'), "421 x")
    assert done.returncode == 1 and "there is no smtp-pattern-list" in done.stderr and done.stdout == "", done
    bad = write(folder, CONF.replace("blocked", "(blocked"))
    done = subprocess.run([SLUICED, "-t", "-c", bad], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"{bad}:8: " in done.stdout + done.stderr and "does not compile" in done.stdout + done.stderr
    assert rules(bad, "421 x").returncode == 1


def test_shipped_rules():
    one, = asked(SHIPPED, "--list=providers", "--provider=google",
                 "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail\n421-4.7.28 originating from your IP address.\n421 4.7.28 gsmtp")
    assert one["category"] == "rate-limit-ip" and one["actions"] == ["mode=backoff", "backoff-to-normal-after=1h"]
    assert len(one["rule"]) == 1 and "/etc/providers.conf:" in one["rule"][0]["rule"]


def configuration_in_memory(pid):
    """Bytes of the sealed configuration that this process holds."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if "sluice-conf" in os.readlink(path):
            return os.stat(path).st_size
    return 0


def test_an_instance_with_the_shipped_rules(folder):
    """What was compiled goes with the configuration: at the start, with a reload; an error keeps what was."""
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    shipped = os.path.join(harness.ROOT, "etc/providers.conf")
    domains = (f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; smtp-pattern-list = "mine"; }} );\n'
               'smtp-pattern-lists = ( { name = "mine"; then = "providers"; rules = ( { reply = "/a/"; actions = "skip-mx"; } ); } );')
    with harness.Sluice(folder, domains=domains, top=f'include = [ "{shipped}" ];') as sluice:
        pid = sluice.master_pid()
        before = configuration_in_memory(pid)
        assert before > len(sluice.text) + os.path.getsize(shipped) + 243
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@here.example", ["b@d.example"], b"Subject: x\r\n\r\nbody\r\n")
        harness.wait_for(lambda: sink.taken() >= 1)
        with open(sluice.conf_path, "w") as f:
            f.write(sluice.text.replace("/a/", "/(a/"))
        done = sluice.sluice("reload")
        assert done.returncode == 1 and f"{sluice.conf_path}:" in done.stdout and "does not compile" in done.stdout, done
        assert configuration_in_memory(pid) == before
        with open(sluice.conf_path, "w") as f:
            f.write(sluice.text.replace("/a/", "/(a)\\\\1/"))
        assert sluice.sluice("reload").returncode == 0
        assert configuration_in_memory(pid) != before
    sink.stop()


def configurations_mapped(pid):
    """Those that this process works by, or keeps for somebody."""
    with open(f"/proc/{pid}/maps") as f:
        return {line.split()[4] for line in f if "sluice-conf" in line}


def test_rules_go_with_the_last_connection_that_uses_them(folder):
    """An idle connection keeps the rules that it was opened with over two reloads, and nobody does when it has gone."""
    port = harness.free_port()
    sink = harness.Sink(folder, [f"127.0.0.1:{port}"])
    domains = (f'domains = ( {{ name = "*"; smtp-hosts = "[127.0.0.1]:{port}"; smtp-pattern-list = "l"; connection-idle-timeout = "1m"; }} );\n'
               'smtp-pattern-lists = ( { name = "l"; rules = ( { reply = "/a/"; actions = "skip-mx"; } ); } );')
    with harness.Sluice(folder, domains=domains, workers=2) as sluice:
        assert sluice.sluice("reload").returncode == 0  # the first configuration is kept for good
        with smtplib.SMTP("127.0.0.1", sluice.port, timeout=60) as s:
            s.sendmail("a@here.example", ["b@d.example"], b"Subject: x\r\n\r\nbody\r\n")
        harness.wait_for(lambda: sink.taken() >= 1)
        for _ in range(2):
            assert sluice.sluice("reload").returncode == 0
        workers = sluice.pids("worker")
        assert len(workers) == 2
        # The other worker keeps what every process does.
        harness.wait_for(lambda: len(configurations_mapped(workers[0]) ^ configurations_mapped(workers[1])) == 1)
        sink.stop()  # its connections end
        harness.wait_for(lambda: configurations_mapped(workers[0]) == configurations_mapped(workers[1]))
