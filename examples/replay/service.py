#!/usr/bin/env python3
"""A language model that answers at once, and refuses quizzes, posters and summaries until the
file named by its second argument is there. Prints its port, and appends a line for each answer
to the file named by its first."""

import hashlib
import http.server
import json
import pathlib
import sys

ANSWERS, REPAIRED = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])


class Model(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        subject = prompt.split(":")[0]
        broken = subject in ("A quiz", "A poster", "A summary") and not REPAIRED.exists()
        if broken:
            return self.answer(400, {"error": {"message": f"no template for: {subject}"}})
        with ANSWERS.open("a") as answers:
            answers.write(subject + "\n")
        text = f"{subject}, in {hashlib.sha256(prompt.encode()).hexdigest()[:8]} words"
        self.answer(200, {
            "model": "tiny",
            "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(text)},
        })

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
print(server.server_address[1], flush=True)
server.serve_forever()
