"""Submitting and cancelling while everything breaks, by the command line.

Commands speak to the database directly. What fails was not acknowledged and is tried
again; what was acknowledged is remembered with its id, and held against the database in
the end.
"""

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass

# A command that answers nothing for so long is given up and tried again.
PATIENCE = 20


@dataclass
class Acknowledged:
    """A submission that was answered."""

    work: object
    id: str
    at: float


@dataclass
class Cancel:
    """A cancel that was answered."""

    id: str
    applied: bool
    code: int
    # Wall time of the answer in microseconds.
    at: int


class Submissions:
    """The threads that submit and cancel."""

    def __init__(self, program, url, folder):
        self.program, self.url, self.folder = program, url, folder
        self.acknowledged, self.cancels, self.broken = [], [], []
        self.refused = 0
        self.lock = threading.Lock()
        self.threads = []
        self.giving_up = threading.Event()

    def begin(self, works):
        began = time.monotonic()
        for number, work in enumerate(works):
            path = os.path.join(self.folder, f"project-{number}.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(work.document, file)
            times = [work.at] + [work.at + later for later in work.again]
            for place, at in enumerate(times):
                cancel = work.cancel_after if place == 0 else None
                self._later(began + at, self._submit_and_cancel, work, path, cancel)

    def _later(self, at, function, *arguments):
        def run():
            # Nothing depends on the exact moment, so a thread of its own may wait for it.
            if not self.giving_up.wait(max(0.0, at - time.monotonic())):
                function(*arguments)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def _command(self, *arguments):
        """Runs a command of the program; its exit code and what it said as JSON."""
        environment = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
        try:
            done = subprocess.run(
                [self.program, *arguments, "--json", "--database-url", self.url],
                cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return None, {}
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError:
            return done.returncode, {"stderr": done.stderr.strip()[-300:]}

    def submit(self, work, path):
        """Submits until it is acknowledged; the id."""
        while not self.giving_up.is_set():
            code, said = self._command("submit", path)
            if code == 0 and "id" in said:
                entry = Acknowledged(work, said["id"].removeprefix("prj_"), time.time())
                with self.lock:
                    self.acknowledged.append(entry)
                return entry.id
            with self.lock:
                self.refused += 1
                if code not in (None, 5):
                    # Not a database that is away: trying again would not help.
                    self.broken.append((work.name, code, said))
                    return None
            time.sleep(0.2)
        return None

    def _submit_and_cancel(self, work, path, cancel):
        project = self.submit(work, path)
        if project is None or cancel is None:
            return
        time.sleep(cancel)
        while not self.giving_up.is_set():
            code, said = self._command("cancel", f"prj_{project}")
            if code in (0, 2, 6):
                at = time.time_ns() // 1000
                with self.lock:
                    self.cancels.append(Cancel(project, bool(said.get("applied")), code, at))
                return
            if code not in (None, 5):
                with self.lock:
                    self.broken.append((f"cancel of {work.name}", code, said))
                return
            time.sleep(0.2)

    def wait(self, seconds):
        """Waits until everything was submitted; whether it was."""
        end = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        done = not any(thread.is_alive() for thread in self.threads)
        self.giving_up.set()
        return done
