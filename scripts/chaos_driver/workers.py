"""The worker processes: started, watched, started again, and stopped in the end.

A worker is a place with a link to the database; its processes follow one another, each
with a name that the steps carry to the witness. Owns the record of every process and why
it ended; whether a fault may hit a worker is answered here too.
"""

import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass


@dataclass
class Process:
    """One process of a worker."""

    name: str
    pid: int
    handle: subprocess.Popen
    killed: bool = False
    code: int | None = None


class Worker:
    """A place where worker processes run one after the other."""

    def __init__(self, number, url, queues):
        self.number, self.url, self.queues = number, url, queues
        self.process = None
        self.processes = []
        self.start_at = 0.0
        # What a running fault does to it: `stop`, or the name of a partition.
        self.fault = None


class Workers:
    """All workers of a run, watched by a thread."""

    def __init__(self, program, folder, options, seed, label="process"):
        self.program, self.folder, self.options = program, folder, options
        self.random = random.Random(f"workers {seed}")
        self.label = label
        self.workers = []
        self.lock = threading.RLock()
        self.ending = False
        self.surprises = []
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def add(self, url, queues):
        self.workers.append(Worker(len(self.workers), url, queues))

    def start(self):
        for worker in self.workers:
            self._start(worker)
        self.thread.start()

    def log(self, worker):
        return os.path.join(self.folder, f"{self.label}-{worker.number}.log")

    def _start(self, worker):
        name = f"chaos-{self.label}-{worker.number}-{len(worker.processes)}"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("DANDORI_")
        }
        environment.pop("DATABASE_URL", None)
        environment["DANDORI_LOG"] = os.environ.get("DANDORI_LOG", "warn")
        environment["DANDORI_SECRET_CHAOS_PROCESS"] = name
        with open(self.log(worker), "ab") as log:
            log.write(f"--- {name} {time.time():.6f}\n".encode())
            log.flush()
            handle = subprocess.Popen(
                [self.program, "worker", "--database-url", worker.url, "--queues", worker.queues,
                 *self.options],
                cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )
        worker.process = Process(name, handle.pid, handle)
        worker.processes.append(worker.process)

    def _watch(self):
        while not self.ending:
            with self.lock:
                for worker in self.workers:
                    self._look_after(worker)
            time.sleep(0.02)

    def _look_after(self, worker):
        process = worker.process
        if process is None:
            if time.monotonic() >= worker.start_at and not self.ending:
                self._start(worker)
            return
        code = process.handle.poll()
        if code is None:
            return
        process.code = code
        if not process.killed:
            self.surprises.append((process.name, code))
        worker.process = None
        worker.start_at = time.monotonic() + self.random.uniform(0.1, 1.2)

    def hit(self, wanted, coin):
        """A running worker without a fault on it, marked with this one; None if there is none."""
        with self.lock:
            free = [
                worker for worker in self.workers
                if worker.process is not None and not worker.process.killed
                and worker.fault is None and worker.process.handle.poll() is None
            ]
            if not free:
                return None, None
            worker = free[int(coin * len(free))]
            worker.fault = wanted
            return worker, worker.process

    def running_under_partition(self, coin):
        """A running worker that is cut off; death then leaves work on the way."""
        with self.lock:
            cut = [
                worker for worker in self.workers
                if worker.process is not None and not worker.process.killed
                and worker.fault not in (None, "stop", "kill")
            ]
            return cut[int(coin * len(cut))] if cut else None

    def kill(self, worker):
        """Kills the running process; whether one was alive."""
        with self.lock:
            process = worker.process
            if process is None or process.handle.poll() is not None:
                return None
            process.killed = True
            os.kill(process.pid, signal.SIGKILL)
            process.handle.wait()
            return process

    def signal(self, process, number):
        """Sends a signal; whether the process was alive."""
        with self.lock:
            if process.handle.poll() is not None:
                return False
            os.kill(process.pid, number)
            return True

    def free(self, worker):
        with self.lock:
            worker.fault = None

    def all_running(self):
        with self.lock:
            return all(worker.process is not None for worker in self.workers)

    def stop(self, seconds=30):
        """Stops all gracefully; the seconds it took and the processes that had to be killed."""
        self.ending = True
        if self.thread.is_alive():
            self.thread.join()
        began = time.monotonic()
        running = [worker.process for worker in self.workers if worker.process is not None]
        for process in running:
            if process.handle.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                os.kill(process.pid, signal.SIGTERM)
        stubborn = []
        for process in running:
            try:
                process.code = process.handle.wait(max(0.1, began + seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                stubborn.append(process.name)
                os.kill(process.pid, signal.SIGKILL)
                process.code = process.handle.wait()
        for worker in self.workers:
            worker.process = None
        return time.monotonic() - began, stubborn

    def panics(self):
        """Lines of the logs that tell of a panic."""
        lines = []
        for worker in self.workers:
            with open(self.log(worker), encoding="utf-8", errors="replace") as log:
                lines += [line.strip() for line in log if "panicked at" in line]
        return lines
