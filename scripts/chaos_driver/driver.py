"""One run from beginning to end: sets the stage, injects, waits, judges, cleans up."""

import json
import os
import random
import shutil
import sys
import tempfile
import time

from . import crash_limit, invariants, projects
from .children import Proxy, Witness
from .cluster import DATABASE, Cluster, DatabaseAway
from .effects import Effects
from .faults import Faults, say
from .history import read_projects, read_witness
from .invariants import Finding
from .profiles import CONCURRENCY, LEASE, PARTITIONS, plan_faults
from .sampler import Sampler
from .submissions import Submissions
from .workers import Workers

LEASE_OPTION = f"{LEASE:g}s"


class Run:
    """The state of a run; `close` removes whatever it started."""

    def __init__(self, profile, seed, program):
        self.profile, self.seed, self.program = profile, seed, program
        self.began = time.monotonic()
        self.folder = tempfile.mkdtemp(prefix="dandori-chaos-")
        self.closing = []
        self.findings = []

    def close(self, keep):
        while self.closing:
            try:
                self.closing.pop()()
            except Exception as error:  # The rest must still be removed.
                say(f"while cleaning up: {error}")
        if keep:
            say(f"logs are kept in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def say(self, text):
        say(f"{time.monotonic() - self.began:6.1f} s  {text}")

    def stage(self):
        """Database, witness, proxy and workers."""
        profile = self.profile
        self.cluster = Cluster(self.folder)
        self.closing.append(self.cluster.remove)
        self.cluster.start()
        self.cluster.create_database(DATABASE)
        self.url = self.cluster.url()
        self.cluster.migrate(self.program, DATABASE)
        self.witness = Witness(os.path.join(self.folder, "witness.jsonl"))
        self.closing.append(self.witness.end)
        self.proxy = Proxy(self.cluster.port, profile.workers)
        self.closing.append(self.proxy.end)
        self.workers = Workers(
            self.program, self.folder,
            ["--concurrency", str(CONCURRENCY), "--lease", LEASE_OPTION, "--crash-limit", "0"],
            self.seed)
        for number, port in enumerate(self.proxy.ports):
            queues = "default,gpu" if number % 2 == 0 else "default"
            self.workers.add(self.cluster.url(port=port), queues)
        self.closing.append(lambda: self.workers.stop(5))
        self.workers.start()

    def work(self):
        """Submits, injects faults, and waits until all is quiet."""
        profile = self.profile
        works, real = projects.make(profile, self.seed, self.witness.port)
        shapes = f"{real} real graphs and generated ones" if real else "generated graphs only: no real ones found"
        self.say(f"seed {self.seed}: {len(works)} projects, {sum(w.steps for w in works)} steps, {shapes}")
        self.sampler = Sampler(self.cluster, 0.5 if profile.workers < 10 else 1.0)
        self.closing.append(self.sampler.end)
        self.submissions = Submissions(self.program, self.url, self.folder)
        self.closing.append(self.submissions.giving_up.set)
        self.faults = Faults(self.cluster, self.proxy, self.workers)
        self.submissions.begin(works)
        self.sampler.start()
        self.faults.run(plan_faults(profile, self.seed), time.monotonic(), profile.seconds)
        self.say("faults are over: " + ", ".join(
            f"{self.faults.count(kind)} {kind}" for kind in ("kill", "stop", "restart", "terminate", *PARTITIONS)))
        self.cluster.wait_until_ready()
        if not self.submissions.wait(profile.seconds + 60):
            raise SystemExit("submissions did not come to an end")
        self._become_quiet(works)
        self._calm()
        self.sampler.end()
        seconds, stubborn = self.workers.stop()
        self.say(f"workers stopped in {seconds:.1f} s")
        if stubborn:
            self.findings.append(Finding(
                "stop", "workers end within 30 s of SIGTERM", len(self.workers.workers), stubborn))

    def _open(self):
        rows = self.cluster.sql(
            "select id from projects where finished_at is null or mail > 0"
            " union select project from claims union select project from mailbox", database=DATABASE)
        return {row[0] for row in rows}

    def _become_quiet(self, works):
        """I15: everything ends soon after the faults."""
        found = Finding("I15", "all quiet within two leases and the time of the work")
        by_id = {entry.id: entry.work for entry in self.submissions.acknowledged}
        began = time.monotonic()
        left = self._open()
        open_works = [by_id[project] for project in left if project in by_id]
        path = max((work.path for work in open_works), default=0) / 1e3
        share = sum(work.total for work in open_works) / 1e3 / (self.profile.workers * CONCURRENCY)
        # Ten seconds for starting again, for retries, and for a slow machine.
        bound = 2 * LEASE + path + share + 10
        self.say(f"{len(left)} projects are open, they may take {bound:.0f} s")
        while left and time.monotonic() - began < 3 * bound:
            time.sleep(0.25)
            try:
                left = self._open()
            except DatabaseAway:
                continue
        took = time.monotonic() - began
        found.check(not left and took <= bound, lambda: f"{took:.1f} s, open: {sorted(left)[:5]}")
        found.notes.append(f"{took:.1f} s of {bound:.1f} s for {len(open_works)} projects")
        self.quiet = found

    def _calm(self):
        """Delays and retries without faults."""
        work = projects.calm(random.Random(self.seed), self.witness.port)
        path = os.path.join(self.folder, "calm.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(work.document, file)
        self.submissions.giving_up.clear()
        self.calm = self.submissions.submit(work, path)
        end = time.monotonic() + 30
        while self._open() and time.monotonic() < end:
            time.sleep(0.1)

    def judge(self):
        """Evaluates the invariants."""
        self.say("the crash limit")
        blamed, crashing = crash_limit.run(
            self.cluster, self.program, self.folder, self.witness.port, self.seed, LEASE_OPTION)
        self.say("reading back")
        stored = read_projects(self.cluster, DATABASE)
        executions = [
            execution for execution in read_witness(self.witness.log)
            if not execution.process.startswith("chaos-crash-")
        ]
        entries = self.submissions.acknowledged
        effects = Effects(stored, executions, self.faults.hits)
        serving = {
            process.name: worker.queues for worker in self.workers.workers for process in worker.processes
        }
        profile = self.profile
        least = {
            "kill": profile.kills, "stop": profile.stops, "restart": profile.restarts,
            "terminate": profile.terminations, **{kind: profile.partitions for kind in PARTITIONS},
        }
        self.steps = sum(
            row.state == "succeeded" and project.nodes[row.no].kind == "http.request"
            for project in stored.values() for row in project.steps.values() if row.no in project.nodes)
        counted = {kind: self.faults.count(kind) for kind in least}
        progress = invariants.progress(
            stored, entries, {**counted, "steps": self.steps}, {**least, "steps": profile.steps}, executions)
        self.findings += [
            *invariants.acknowledged(stored, entries),
            invariants.results(stored, self.sampler, executions),
            *invariants.ownership(self.sampler),
            effects.order(),
            effects.recorded(),
            invariants.attempts(stored),
            blamed,
            effects.times(self.calm),
            effects.cancels(self.submissions.cancels),
            invariants.counts(stored),
            self._amcheck(),
            self.quiet,
            progress,
            effects.queues(serving),
            self._processes(crashing),
        ]

    def _amcheck(self):
        found = Finding("I14", "pg_amcheck finds nothing")
        said = self.cluster.amcheck()
        if said is None:
            found.notes.append("NOT RUN: pg_amcheck or its extension is missing")
        else:
            found.check(not said, lambda: said[:500])
        return found

    def _processes(self, crashing):
        """Nothing of the driver's own was refused, and no worker panicked."""
        found = Finding("processes", "commands are accepted, workers do not panic")
        started = sum(len(worker.processes) for worker in self.workers.workers)
        found.checked = started
        found.offenders += [f"{name} ended with {code}: {said}" for name, code, said in self.submissions.broken]
        found.offenders += self.workers.panics() + crashing.panics()
        exits = self.workers.surprises
        found.notes.append(
            f"{started} processes, {len(exits)} ended by themselves"
            + (f" with {sorted({code for _, code in exits})}" if exits else "")
            + f"; {self.submissions.refused} commands were tried again")
        return found

    def write_evidence(self):
        """Leaves what was injected, and the database, beside the logs."""
        self.cluster.dump(DATABASE, os.path.join(self.folder, "database.sql"))
        with open(os.path.join(self.folder, "faults.jsonl"), "w", encoding="utf-8") as file:
            for fault in self.faults.hits:
                file.write(json.dumps(vars(fault)) + "\n")

    def summary(self):
        """The last line."""
        return {
            "workers": self.profile.workers, "steps": self.steps, "kills": self.faults.count("kill"),
            "stops": self.faults.count("stop"), "restarts": self.faults.count("restart"),
            "terminations": self.faults.count("terminate"), "partitions": self.faults.partitions(),
            "violations": sum(len(found.offenders) for found in self.findings), "seed": self.seed,
            "seconds": round(time.monotonic() - self.began, 1),
        }


def run(profile, seed, program):
    """A whole run; the exit code."""
    stage, keep = Run(profile, seed, program), True
    try:
        stage.stage()
        stage.work()
        stage.judge()
        for found in stage.findings:
            print("\n".join(found.lines()))
        summary = stage.summary()
        keep = summary["violations"] > 0
        if keep:
            stage.write_evidence()
            say(f"again: scripts/chaos --profile {profile.name} --seed {seed} --program {program}")
    finally:
        stage.close(keep)
    print(json.dumps(summary))
    sys.stdout.flush()
    return 1 if keep else 0
