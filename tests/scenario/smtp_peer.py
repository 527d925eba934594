"""smtp_peer: an SMTP server whose every word a test decides; it keeps each byte that it hears, and when."""
import contextlib
import re
import socket
import struct
import threading
import time


class Gone(Exception):
    """The talk is over."""


usual = object()  # what a function of a script gives for the usual reply


class Talk:
    """One connection, seen from the peer."""

    def __init__(self, sock, number):
        self.sock = sock
        self.number = number
        self.client = sock.getpeername()[0]
        self.kept = b""  # read, not yet taken
        self.heard = b""  # everything
        self.lines = []  # commands, without their CRLF
        self.bodies = []  # wire form, with the final dot's line
        self.chunks = []  # what each recv() brought
        self.began = time.monotonic()
        self.ended = None

    def more(self):
        """One recv(); Gone at the end."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            raise Gone
        self.heard += data
        self.chunks.append(data)
        self.kept += data

    def quiet(self, seconds):
        """True when nothing comes for so long."""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(65536)
            self.heard += data
            self.kept += data
            return False
        except (TimeoutError, socket.timeout):
            return not self.kept
        except OSError:
            return False
        finally:
            self.sock.settimeout(30)

    def line(self):
        while b"\r\n" not in self.kept:
            self.more()
        line, self.kept = self.kept.split(b"\r\n", 1)
        self.lines.append(line.decode("latin-1"))
        return self.lines[-1]

    def body(self):
        text = b"\r\n" + self.kept
        while b"\r\n.\r\n" not in text:
            self.more()
            text = b"\r\n" + self.kept
        end = text.index(b"\r\n.\r\n") + 3
        body, self.kept = self.kept[:end], self.kept[end:]
        self.bodies.append(body)
        return body

    def say(self, reply):
        """A text gets its CRLF; bytes go as they are."""
        try:
            self.sock.sendall(reply if isinstance(reply, bytes) else reply.encode("latin-1") + b"\r\n")
        except OSError:
            raise Gone from None

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        raise Gone

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def hang(self):
        """Says nothing more until the client goes."""
        while True:
            self.more()


class Peer:
    """Listens. `script` maps stages to what is said there: a text, bytes, or a function of (talk, argument) that returns one of them
    or None when it has done everything (`usual`: what a good server says). Stages: greeting ehlo helo mail rcpt data dot rset quit. A dialogue of its own: `whole`."""

    USUAL = {"greeting": "220 peer.example ESMTP", "ehlo": "250-peer.example\r\n250-8BITMIME\r\n250-SIZE 0\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES",
             "helo": "250 peer.example", "mail": "250 2.1.0 ok", "rcpt": "250 2.1.5 ok", "data": "354 go on",
             "dot": "250 2.0.0 taken", "rset": "250 2.0.0 ok", "quit": "221 2.0.0 bye"}

    def __init__(self, address="127.0.0.1", port=0):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, port))
        self.listener.listen(200)
        self.port = self.listener.getsockname()[1]
        self.talks = []
        self.taken = []  # (sender, recipients, body) answered by 2xx at the dot
        self.script = {}
        self.whole = None
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.settimeout(30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                talk = Talk(sock, len(self.talks))
            except OSError:
                sock.close()
                continue
            self.talks.append(talk)
            threading.Thread(target=self.run, args=(talk,), daemon=True).start()

    def run(self, talk):
        try:
            (self.whole or self.serve)(talk)
        except (Gone, OSError):
            pass
        finally:
            talk.ended = time.monotonic()
            talk.sock.close()

    def at(self, talk, stage, argument="", before=None):
        """What is said at `stage`; the reply that went out, or None. `before` hears of a positive one before the client can."""
        reply = self.script.get(stage, self.USUAL[stage])
        if callable(reply):
            reply = reply(talk, argument)
        if reply is usual:
            reply = self.USUAL[stage]
        if before and positive(reply):
            before()
        if reply is not None:
            talk.say(reply)
        return reply

    def serve(self, talk):
        self.at(talk, "greeting")
        sender, rcpts = None, []
        while True:
            line = talk.line()
            verb = line.split(" ")[0].upper()
            if verb in ("EHLO", "HELO", "RSET"):
                self.at(talk, verb.lower(), line)
                sender, rcpts = None, []
            elif verb == "MAIL":
                if positive(self.at(talk, "mail", line)):
                    sender = path_of(line)
            elif verb == "RCPT":
                if positive(self.at(talk, "rcpt", line)):
                    rcpts.append(path_of(line))
            elif verb == "DATA":
                if str(self.at(talk, "data", rcpts)).startswith("3"):
                    body = talk.body()
                    message = (sender, rcpts, body)
                    self.at(talk, "dot", body, before=lambda: self.taken.append(message))
                sender, rcpts = None, []
            elif verb == "QUIT":
                self.at(talk, "quit")
                return
            else:
                talk.say("500 5.5.2 what?")

    def recipients(self):
        return sorted(r for _, rcpts, _ in self.taken for r in rcpts)

    def close(self):
        """The thread ends first: its next accept() would meet whatever has the descriptor's number then."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(10)
        self.listener.close()


def positive(reply):
    """The first reply of a text is a whole one of 2xx."""
    codes = set()
    for line in reply.split("\r\n") if isinstance(reply, str) else ():
        codes.add(line[:3])
        if line[3:4] != "-":
            return len(codes) == 1 and re.match(r"2\d\d( |$)", line) is not None
    return False


def path_of(line):
    return re.match(r"[^<]*<(.*)>", line).group(1)


def once(first, then=usual):
    """A stage's script: `first` at its first call, `then` at all others."""
    calls = []

    def say(talk, argument):
        calls.append(1)
        reply = first if len(calls) == 1 else then
        return reply(talk, argument) if callable(reply) else reply
    return say
