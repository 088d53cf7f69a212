"""What passes on a connection to PostgreSQL: frames of the protocol, version 3.

Owns the question whether a statement on its way commits something. It reads what a client
sends (simple queries and prepared statements) and whether a server has answered; it never
changes a byte.
"""

import re

COMMENT = re.compile(r"\A(\s+|--[^\n]*\n|/\*.*?\*/)*", re.S)
WRITES = ("with", "insert", "update", "delete", "merge")


def classify(text):
    """`begin`, `commit`, `rollback`, `write` or `other`."""
    text = COMMENT.sub("", text).lower()
    word = re.match(r"[a-z]*", text).group()
    if word in ("begin", "start"):
        return "begin"
    if word in ("commit", "end"):
        return "commit"
    if word in ("rollback", "abort"):
        return "rollback"
    if word in WRITES:
        # A beat of a session is a write that nobody would miss.
        changes = re.search(r"\b(insert|update|delete)\b", text)
        return "write" if changes and "beat" not in text else "other"
    return "other"


class Frames:
    """Cuts a stream of bytes into frames (kind, body); the first of a client has no kind."""

    def __init__(self, startup=False):
        self.rest = b""
        self.startup = startup

    def feed(self, data):
        self.rest += data
        at, rest = 0, self.rest
        while True:
            head = 4 if self.startup else 5
            if len(rest) - at < head:
                break
            length = int.from_bytes(rest[at + head - 4:at + head], "big")
            end = at + head - 4 + length
            if len(rest) < end:
                break
            kind = b"" if self.startup else rest[at:at + 1]
            yield kind, rest[at + head:end], rest[at:end]
            # After the answer to a request for TLS the startup frame follows; other
            # requests of this form (cancel) are the only frame of their connection.
            self.startup = self.startup and rest[at + 4:at + 8] in (
                b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30")
            at = end
        self.rest = rest[at:]


class Watcher:
    """Follows what a client sends, and tells which frame completes a commit."""

    def __init__(self):
        self.frames = Frames(startup=True)
        self.statements = {}
        self.pending = []
        self.in_transaction = False

    def feed(self, data):
        """Yields (frame, whether it makes the server commit something)."""
        for kind, body, frame in self.frames.feed(data):
            yield frame, self._commits(kind, body)

    def _commits(self, kind, body):
        if kind == b"Q":
            return self._carry_out([classify(_text(body))])
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            self.statements[name] = classify(_text(rest))
        elif kind == b"B":
            name = body.partition(b"\0")[2].partition(b"\0")[0]
            self.pending.append(self.statements.get(name, "other"))
        elif kind == b"S":
            done, self.pending = self.pending, []
            return self._carry_out(done)
        return False

    def _carry_out(self, classes):
        commits = False
        for word in classes:
            if word == "begin":
                self.in_transaction = True
            elif word in ("commit", "rollback"):
                commits |= word == "commit" and self.in_transaction
                self.in_transaction = False
            elif word == "write" and not self.in_transaction:
                commits = True
        return commits


def _text(body):
    return body.partition(b"\0")[0].decode("utf-8", "replace")
