"""`sluiced -t`: every error of every file in one run, with its file and line; good files pass."""
import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SLUICED = os.path.join(ROOT, "build/release/bin/sluiced")

SAMPLE = r"""
host-name = "mta.example.com";
user = "sluice";                      # dropped to when started as root
spool = "/var/spool/sluice";          # queue, segments, event log, claim tables
run   = "/run/sluice";                # control socket, pid file, shm objects
log-file = "/var/log/sluice/sluice.log";   # or "stderr", "syslog"
workers = 4;  receivers = 1;
postmaster = "ops@example.com";
smtp-listeners = ( { address = "127.0.0.1:2525"; } );
http-listeners = ( { address = "127.0.0.1:8080"; } );
sources = ( { match = "127.0.0.0/8"; always-allow-relaying = true; process-x-virtual-mta = true;
              process-x-job = true; default-virtual-mta = "pool1"; } );
virtual-mtas = (
  { name = "mta1";
    smtp-source-hosts = ( { ip = "192.0.2.10"; name = "out1.example.com"; },
                          { ip = "192.0.2.11"; name = "out2.example.com"; weight = 3; max-msg-rate = "20000/h"; } );
    domains = ( { name = "gmail.com"; max-msg-rate = "1000/h";
                  backoff-reroute-to-virtual-mta = "mta2"; } ); },
  { name = "mta2"; smtp-source-hosts = ( { ip = "192.0.2.20"; name = "out3.example.com"; } ); } );
virtual-mta-pools = ( { name = "pool1"; virtual-mtas = [ "mta1", "mta2" ]; } );
domain-macros = ( { name = "yahoo"; domains = [ "yahoo.com", "ymail.com" ]; } );
domains = (
  { name = "$yahoo"; source-ip-max-msg-rate = [ "0.0.0.0/0 500/h" ]; source-ip-max-connect-rate = "0/0 10/m"; },
  { name = "*"; max-smtp-out = 20; smtp-pattern-list = "common"; backoff-max-msg-rate = "100/h";
    backoff-retry-after = "20m,1h"; backoff-to-normal-after = "2h"; backoff-notify = [ "ops@example.com" ]; } );
providers = ( { name = "google"; mx = [ "*.google.com", "*.googlemail.com" ]; max-msg-rate = "50000/h"; } );
smtp-pattern-lists = (
  { name = "common"; rules = (
      { reply = "/^421 .*too many/"; actions = [ "mode=backoff" ]; after = "3/10m"; },
      { reply = "/\\bblocked\\b/"; actions = [ "disable-source-ip", "reenable-after=4h" ]; } ); } );
acct-files = ( { path = "/var/log/sluice/acct.csv"; records = "d,b,t,tq,r"; } );
"""

# Each line that is wrong ends in a comment with what its message says.
MAIN = r"""
include = [ "conf.d/*.conf", "gone.conf" ];       #! gone.conf
host-name = [ "a.example", "not a host" ];        #! bad host names
workers = 0;                                      #! 0 is out of range 1..64
recievers = 2;                                    #! did you mean receivers?
total-max-smtp-in = 5000000000;                   #! does not fit into 32 bits
log-file = "stderr";
postmaster = "nobody";                            #! bad mail addresses
smtp-listeners = ( { address = "127.0.0.1:2525"; },
                   { address = "127.0.0.1:2525"; },     #! stands already in
                   { address = "127.0.0.1:99999"; } );  #! bad address and port
sources = ( { match = "127.0.0.0/33"; },          #! bad CIDR or name
            { match = "10.0.0.0/8";
              default-virtual-mta = "mta9"; } );  #! there is no virtual-mta or virtual-mta-pool "mta9"
"""
DOMAINS = r"""
domains = (
  { name = "a.example"; max-msg-rate = 1000; },   #! the bare integer 1000 has no unit
  { name = "b.example"; retry-after = "ten"; },   #! bad intervals
  { name = "c.example"; retry-upon-new-mail = "yes"; },  #! a string where a boolean is expected
  { name = "d.*.example"; },                      #! bad domain pattern
  { max-smtp-out = 5; },                          #! name is missing
  { name = "e.example"; max-smtp-out = 5;
    max-smtp-out = 6; },                          #! stands twice in this group
  { name = "*"; }
);
log-file = "syslog";                              #! log-file stands already in
"""
MTAS = r"""
domain-macros = ( { name = "x"; domains = [ "$y" ]; },
                  { name = "y"; domains = [ "$x" ]; } );   #! leads back
virtual-mtas = ( { name = "mta1"; } );
virtual-mta-pools = (
  { name = "p1"; virtual-mtas = [ "mta1" ]; domains = ( { name = "*"; } ); },
  { name = "p2"; virtual-mtas = [ "mta1" ]; domains = ( { name = "*"; } ); } );  #! which both have domains
acct-files = ( { path = "/tmp/a.csv"; records = "d,b" sync yes } );             #! syntax error
nonsense behind it
"""


def check(path):
    done = subprocess.run([SLUICED, "-t", "-c", path], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.splitlines()


def write(folder, name, text):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    return path


def test_twenty_errors_in_three_files(folder):
    main = write(folder, "sluice.conf", MAIN)
    wanted = []
    for path, text in ((main, MAIN), (write(folder, "conf.d/10-domains.conf", DOMAINS), DOMAINS),
                       (write(folder, "conf.d/20-mtas.conf", MTAS), MTAS)):
        for number, line in enumerate(text.splitlines(), 1):
            if "#!" in line:
                wanted.append((f"{path}:{number}: ", line.split("#!")[1].strip()))
    assert len(wanted) == 20
    code, lines = check(main)
    assert code == 2
    assert len(lines) == 20, "\n".join(lines)
    for line, (at, says) in zip(lines, wanted):
        assert line.startswith(at) and says in line, (line, at, says)


def test_sample_passes(folder):
    code, lines = check(write(folder, "sluice.conf", SAMPLE))
    assert code == 0
    assert [line for line in lines if not re.search(r":\d+: warning: ", line)] == []


def test_shipped_file_passes():
    assert check(os.path.join(ROOT, "etc/sluice.conf")) == (0, [])


def test_missing_file(folder):
    code, lines = check(os.path.join(folder, "none.conf"))
    assert code == 2 and len(lines) == 1 and "none.conf:1: " in lines[0]


def test_generated_sample_passes(folder):
    """With every setting that it shows in a comment put in force."""
    sample = subprocess.run([SLUICED, "--print-sample"], capture_output=True, text=True, timeout=60, check=True).stdout
    live = re.sub(r"^(\s*)#(?!include)(?=[a-z])", r"\1", sample, flags=re.M)
    assert live != sample
    for text in (sample, live):
        assert check(write(folder, "sluice.conf", text)) == (0, [])


def test_manual_is_clean(folder):
    """Where mandoc is installed, it finds nothing to say."""
    page = subprocess.run([SLUICED, "--print-manual"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert page.startswith(".TH SLUICE.CONF 5 ")
    path = write(folder, "sluice.conf.5", page)
    try:
        lint = subprocess.run(["mandoc", "-Tlint", path], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return
    assert lint.stdout + lint.stderr == ""
