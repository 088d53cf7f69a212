"""A step that brings down every worker it meets, beside innocent ones.

In a database of its own, with the default limit of crashes: the step must end quarantined,
and nothing else may be blamed for it.
"""

import json
import os
import time

from .cluster import DatabaseAway
from .history import read_projects
from .invariants import Finding
from .profiles import CONCURRENCY
from .submissions import Submissions
from .projects import HEADERS, Work
from .workers import Workers

DATABASE = "crash_limit"
SECONDS = 90


def document(port):
    calls = {
        f"innocent{n}": {
            "kind": "http.request",
            "with": {"url": f"http://127.0.0.1:{port}/step?ms={400 + 100 * n}", "headers": HEADERS},
        } for n in range(6)
    }
    # The parent of the shell is the worker itself.
    poison = {"kind": "shell.run", "with": {"argv": ["sh", "-c", "kill -9 $PPID"]}}
    return {"name": "crash-limit", "tasks": {"poison": poison, **calls}}


def run(cluster, program, folder, port, seed, lease):
    """The finding, and the workers for their logs."""
    found = Finding("I8b", "a step that kills its workers is quarantined, and nothing else")
    cluster.create_database(DATABASE)
    url = cluster.url(DATABASE)
    cluster.migrate(program, DATABASE)
    workers = Workers(
        program, folder, ["--concurrency", str(CONCURRENCY), "--lease", lease, "--allow-shell"],
        seed, label="crash")
    for _ in range(2):
        workers.add(url, "default")
    began = time.monotonic()
    try:
        workers.start()
        path = os.path.join(folder, "crash-limit.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(document(port), file)
        submissions = Submissions(program, url, folder)
        project = submissions.submit(Work("crash-limit", {}, 7, 0, 0), path)
        while project and time.monotonic() - began < SECONDS and not _ended(cluster, project):
            time.sleep(0.2)
    finally:
        workers.stop()
    project = read_projects(cluster, DATABASE).get(project)
    if project is None:
        found.check(False, lambda: f"it was not accepted: {submissions.broken}")
        return found, workers
    for no, node in project.nodes.items():
        row = project.steps.get(no)
        wanted = "quarantined" if node.name == "poison" else "succeeded"
        found.check(row is not None and row.state == wanted, lambda node=node, row=row:
                    f"{node.name} is {row and (row.state, row.crashes)}")
    found.check(project.state == "failed", lambda: f"the project is {project.state}")
    deaths = sum(code == -9 for _, code in workers.surprises)
    # The first death may come before the start is recorded, and is not charged then.
    found.check(3 <= deaths <= 4, lambda: f"{deaths} workers died of it")
    found.notes.append(f"{deaths} workers died, {time.monotonic() - began:.1f} s")
    return found, workers


def _ended(cluster, project):
    try:
        rows = cluster.sql(
            f"select 1 from projects where id = '{project}' and finished_at is not null",
            database=DATABASE)
    except DatabaseAway:
        return False
    return bool(rows)
