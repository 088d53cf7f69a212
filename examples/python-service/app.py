"""A small web application that works on guides, and honours the Idempotency-Key.

    python3 app.py 8000        # port 0 takes a free one; the address is printed

POST /guides   {"title": "…", "fail_first": false}  ->  {"title": "…", "text": "…"}
GET  /calls    how often each key was really worked on: {"KEY": 1, …}
"""

import json
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATABASE = "guides.db"
# One piece of work at a time: a repeated request waits until the first one has stored
# its answer, and then finds it.
WORKING = threading.Lock()


def work(title):
    """The expensive part: what must not happen twice for one key."""
    return {"title": title, "text": f"# {title}\n\nWritten with care.\n"}


def answer_for(key, title):
    """The stored answer of a key, or a new one, stored together with the work."""
    with WORKING, sqlite3.connect(DATABASE) as db:  # one transaction
        row = db.execute("select answer from answers where key = ?", [key]).fetchone()
        if row:
            return json.loads(row[0])
        db.execute("insert into work (key) values (?)", [key])
        answer = work(title)
        db.execute("insert into answers values (?, ?)", [key, json.dumps(answer)])
        return answer


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        key = self.headers.get("Idempotency-Key")
        if self.path != "/guides" or not key:
            return self.reply(400, {"error": "POST /guides with an Idempotency-Key"})
        if body.get("fail_first") and self.headers.get("X-Dandori-Attempt") == "1":
            # Not now: nothing was done, and another attempt is welcome in a second.
            return self.reply(503, {"error": "busy"}, {"Retry-After": "1"})
        self.reply(200, answer_for(key, body["title"]))

    def do_GET(self):
        if self.path != "/calls":
            return self.reply(404, {"error": "no such page"})
        with sqlite3.connect(DATABASE) as db:
            rows = db.execute("select key, count(*) from work group by key").fetchall()
        self.reply(200, dict(rows))

    def reply(self, status, value, headers=None):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    with sqlite3.connect(DATABASE) as db:
        db.execute("create table if not exists work (key text not null)")
        db.execute(
            "create table if not exists answers (key text primary key, answer text not null)"
        )
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
