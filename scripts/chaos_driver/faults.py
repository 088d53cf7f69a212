"""Carries out the plan of faults, and records each one that really hit.

A fault counts only when it hit: the process was alive, the link had a connection, the lost
commit was one. What missed is tried again, until every count of the profile is reached or
the time is up.
"""

import signal
import sys
import threading
import time
from dataclasses import dataclass

from .cluster import DATABASE, DatabaseAway
from .profiles import LEASE, PARTITIONS


@dataclass
class Fault:
    """A fault that hit; times in wall microseconds.

    Kills and stops are of a process, partitions of a worker, whatever process it runs
    meanwhile, and the others of the database, which is everybody's.
    """

    kind: str
    process: str | None
    worker: int | None
    start: int
    end: int


def now():
    return time.time_ns() // 1000


def say(text):
    print(text, file=sys.stderr, flush=True)


class Faults:
    """The injector."""

    def __init__(self, cluster, proxy, workers):
        self.cluster, self.proxy, self.workers = cluster, proxy, workers
        self.hits, self.missed = [], []
        self.lock = threading.Lock()
        self.database = threading.Lock()

    def run(self, planned, began, seconds):
        """Injects everything; returns when the last fault has ended."""
        threads = []
        deadline = began + seconds * 1.5
        waiting = sorted(planned, key=lambda fault: fault.at)
        while True:
            with self.lock:
                # What missed comes again a moment later.
                for fault in self.missed:
                    fault.at = time.monotonic() - began + 0.5
                    waiting.append(fault)
                self.missed.clear()
            waiting.sort(key=lambda fault: fault.at)
            if not waiting:
                if not any(thread.is_alive() for thread in threads):
                    with self.lock:
                        if not self.missed:
                            return
            elif time.monotonic() > deadline:
                say(f"{len(waiting)} faults did not find their moment")
                break
            elif time.monotonic() - began >= waiting[0].at:
                thread = threading.Thread(target=self._inject, args=(waiting.pop(0),), daemon=True)
                thread.start()
                threads.append(thread)
                continue
            time.sleep(0.02)
        for thread in threads:
            thread.join()

    def _inject(self, fault):
        inject = {
            "kill": self._kill, "stop": self._stop, "restart": self._restart,
            "terminate": self._terminate,
        }.get(fault.kind, self._partition)
        if not inject(fault):
            with self.lock:
                self.missed.append(fault)

    def _hit(self, kind, start, process=None, worker=None):
        with self.lock:
            self.hits.append(Fault(
                kind, process.name if process else None, worker.number if worker else None,
                start, now()))
        return True

    def count(self, *kinds):
        with self.lock:
            return sum(fault.kind in kinds for fault in self.hits)

    def _kill(self, fault):
        # Now and then one that is cut off just then.
        worker = self.workers.running_under_partition(fault.coin) if fault.coin < 0.2 else None
        marked = worker is None
        if marked:
            worker, _ = self.workers.hit("kill", fault.coin)
        if worker is None:
            return False
        start = now()
        process = self.workers.kill(worker)
        if marked:
            self.workers.free(worker)
        return process is not None and self._hit("kill", start, process, worker)

    def _stop(self, fault):
        worker, process = self.workers.hit("stop", fault.coin)
        if worker is None:
            return False
        start = now()
        alive = self.workers.signal(process, signal.SIGSTOP)
        if alive:
            time.sleep(fault.seconds)
            alive = self.workers.signal(process, signal.SIGCONT)
        self.workers.free(worker)
        longer = now() - start > LEASE * 1_000_000
        return alive and longer and self._hit("stop", start, process, worker)

    def _restart(self, fault):
        with self.database:
            start = now()
            self.cluster.stop("immediate")
            time.sleep(fault.seconds)
            self.cluster.start()
            return self._hit("restart", start)

    def _terminate(self, fault):
        with self.database:
            start = now()
            try:
                rows = self.cluster.sql(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                    f" where datname = '{DATABASE}' and backend_type = 'client backend'"
                    " and pid <> pg_backend_pid()", database="postgres")
            except DatabaseAway:
                return False
            return int(rows[0][0]) > 0 and self._hit("terminate", start)

    def _partition(self, fault):
        worker, _ = self.workers.hit(fault.kind, fault.coin)
        if worker is None:
            return False
        start = now()
        met = self.proxy.order(worker.number, fault.kind, delay=0.2)["connections"] > 0
        if fault.kind in ("lose_reply", "lose_request"):
            met = self._wait_for_commit(worker, fault.seconds) and met
        elif met:
            time.sleep(fault.seconds)
        # Half of the holes end with everything delivered late, half with it lost.
        drop = fault.coin < 0.5 and fault.kind in ("black_hole", "hole_up", "hole_down")
        self.proxy.order(worker.number, "pass", drop=drop)
        self.workers.free(worker)
        return met and self._hit(fault.kind, start, worker=worker)

    def _wait_for_commit(self, worker, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.proxy.order(worker.number)["hits"]:
                return True
            time.sleep(0.05)
        return False

    def partitions(self):
        return self.count(*PARTITIONS)
