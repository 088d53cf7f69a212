"""Looks at the database while it runs, for what the end alone does not show.

An epoch must never fall, an owner changes only with a higher epoch, event numbers never
fall, an ended project stays as it is, and an ended step is never altered.
"""

import threading
import time

from .cluster import DATABASE, DatabaseAway
from .history import DIGEST, TERMINAL

STEP_ENDS = "('succeeded', 'failed', 'upstream_failed', 'skipped', 'cancelled', 'quarantined')"


class Sampler:
    """A thread that samples until it is told to end."""

    def __init__(self, cluster, period):
        self.cluster, self.period = cluster, period
        self.projects, self.steps = {}, {}
        self.samples = self.missed = 0
        self.ownership, self.altered = [], []
        self.owners = set()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self.thread.start()

    def end(self):
        self.ending.set()
        self.thread.join()

    def _run(self):
        while not self.ending.wait(self.period):
            try:
                self._sample()
                self.samples += 1
            except DatabaseAway:
                self.missed += 1

    def _sample(self):
        for row in self.cluster.sql(
            "select id, epoch, session, last_event, state from projects", database=DATABASE,
        ):
            project, epoch, session, last_event, state = row
            self._compare(project, int(epoch), session, int(last_event), state)
        # Rows of the last seconds: each is met several times, and all again at the end.
        since = (time.time_ns() // 1000) - 15_000_000
        for project, no, digest in self.cluster.sql(
            f"select project, no, {DIGEST} from steps where state in {STEP_ENDS} and at > {since}",
            database=DATABASE,
        ):
            known = self.steps.setdefault((project, int(no)), digest)
            if known != digest:
                self.altered.append(f"step {no} of {project} changed after its end")

    def _compare(self, project, epoch, session, last_event, state):
        if session:
            self.owners.add(session)
        before = self.projects.get(project)
        self.projects[project] = (epoch, session, last_event, state)
        if before is None:
            return
        old_epoch, old_session, old_event, old_state = before
        if epoch < old_epoch:
            self.ownership.append(f"{project}: epoch fell from {old_epoch} to {epoch}")
        if session and session != old_session and epoch <= old_epoch:
            self.ownership.append(
                f"{project}: the owner changed from {old_session or 'none'} to {session} within epoch {epoch}")
        if last_event < old_event:
            self.ownership.append(f"{project}: last event fell from {old_event} to {last_event}")
        if old_state in TERMINAL and state != old_state:
            self.altered.append(f"{project}: changed from {old_state} to {state}")
