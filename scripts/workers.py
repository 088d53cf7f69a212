"""Figures of many workers on PostgreSQL: recovery, throughput, queues, drains, an outage.

    python3 scripts/workers.py target/release/dandori

Prints lines `FIGURE line | what | measured`, as the tests do; exits 1 when something was
lost or ran where it must not.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = HERE
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

from chaos_driver.children import Witness  # noqa: E402
from chaos_driver.cluster import DATABASE, Cluster, DatabaseAway  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
FAILED = []


def check(holds, what):
    if not holds:
        FAILED.append(what)
        print(f"FAILED: {what}")


def figure(line, what, measured):
    print(f"FIGURE pg{line} | {what} | {measured}", flush=True)


class Place:
    """A database, a witness, and the workers on them."""

    def __init__(self, folder, cluster, database):
        self.cluster, self.database, self.folder = cluster, database, folder
        self.url = cluster.url(database)
        self.workers = {}
        cluster.create_database(database)
        cluster.migrate(PROGRAM, database)

    def worker(self, name, *options, queues="default", slots=8, lease="10s"):
        log = open(os.path.join(self.folder, f"{self.database}-{name}.log"), "ab")
        command = [PROGRAM, "worker", "--database-url", self.url, "--queues", queues,
                   "--concurrency", str(slots), "--lease", lease, "--crash-limit", "0", *options]
        environment = {**os.environ, "DANDORI_LOG": "warn"}
        self.workers[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            cwd=self.folder)
        return self.workers[name]

    def submit(self, document):
        path = os.path.join(self.folder, "project.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(document, file)
        said = subprocess.run([PROGRAM, "submit", path, "--json", "--database-url", self.url],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert said.returncode == 0, said.stderr
        return json.loads(said.stdout)["id"]

    def sql(self, text):
        return self.cluster.sql(text, database=self.database)

    def state(self, project):
        return self.sql(f"select state from projects where id = '{project[4:]}'")[0][0]

    def show(self, project):
        said = subprocess.run([PROGRAM, "show", project, "--json", "--database-url", self.url],
                              stdout=subprocess.PIPE, text=True)
        return json.loads(said.stdout)

    def wait(self, project, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.state(project) in ("succeeded", "failed", "cancelled"):
                    break
            except DatabaseAway:
                pass
            time.sleep(0.02)
        return self.state(project)

    def until(self, ask, seconds, what):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if ask():
                    return time.monotonic()
            except DatabaseAway:
                pass
            time.sleep(0.01)
        check(False, f"never within {seconds} s: {what}")
        return time.monotonic()

    def stop(self):
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                worker.kill()


def sleepers(count, milliseconds, queue=None):
    task = {"kind": "sleep", "with": {"for": f"{milliseconds}ms"}}
    if queue:
        task["queue"] = queue
    return {f"s{n}": dict(task) for n in range(count)}


def recovery(folder, cluster, witness, log, lease, tries):
    """From SIGKILL of a worker to the next start of the step it ran, at the witness."""
    place = Place(folder, cluster, f"recovery_{lease}s")
    took = []
    names = ["a", "b", "c"]
    for name in names:
        place.worker(name, lease=f"{lease}s")
    place.until(lambda: len(place.sql("select 1 from sessions")) == 3, 10, "three workers")
    # Who may judge others must have been well for a lease.
    time.sleep(lease + 1)
    for n in range(tries):
        url = f"http://127.0.0.1:{witness.port}/step?ms=60000&step=r{n}"
        project = place.submit({"tasks": {"a": {"kind": "http.request", "with": {"url": url}}}})
        started = lambda: starts(log, project)
        place.until(lambda: len(started()) == 1, 10, "the step starts")
        # Its start is on disk 25 ms later: a charge must find it.
        time.sleep(0.2)
        owner = place.sql("select s.process from projects p join sessions s on s.id = p.session"
                          f" where p.id = '{project[4:]}'")[0][0]
        name = next(name for name, it in place.workers.items() if str(it.pid) == owner)
        place.workers[name].kill()
        place.workers[name].wait()
        killed = time.time()
        place.until(lambda: len(started()) == 2, lease * 3 + 10, "it starts again")
        took.append(started()[1] - killed)
        place.worker(name, lease=f"{lease}s")
        subprocess.run([PROGRAM, "cancel", project, "--database-url", place.url],
                       stderr=subprocess.DEVNULL)
    place.stop()
    limit = {10: 13.0, 2: 3.5}[lease]
    check(max(took) <= limit, f"recovery with a lease of {lease} s within {limit} s")
    figure(4, f"SIGKILL to the next start, lease {lease} s ({limit} s), {tries} kills",
           f"p50 {statistics.median(took):.1f} s, worst {max(took):.1f} s")


def starts(log, project):
    """When steps of a project began, as the witness saw it."""
    found = []
    with open(log, encoding="utf-8") as file:
        for line in file:
            if project not in line or not line.endswith("\n"):
                continue
            entry = json.loads(line)
            if entry["e"] == "start":
                found.append(entry["t"] / 1e6)
    return found


def spread(folder, cluster):
    """One project of 1,000 steps of a second on 4 workers of 8 slots."""
    place = Place(folder, cluster, "spread")
    for name in "abcd":
        place.worker(name)
    place.until(lambda: len(place.sql("select 1 from sessions")) == 4, 10, "four workers")
    time.sleep(1.5)
    began = time.monotonic()
    project = place.submit({"tasks": sleepers(1000, 999)})
    state = place.wait(project, 120)
    took = time.monotonic() - began
    ideal = 1000 * 0.999 / 32
    check(state == "succeeded", f"the spread project is {state}")
    check(took <= 1.25 * ideal, "1,000 steps within 1.25 of the ideal time")
    place.stop()
    figure(5, "1,000 steps of 1 s on 4 x 8 slots, of the ideal time (1.25)",
           f"{took / ideal:.2f} ({took:.1f} s)")


def queues(folder, cluster):
    """Steps of a queue run only where it is served."""
    place = Place(folder, cluster, "queues")
    place.worker("a")
    place.worker("g", queues="gpu", slots=4)
    gpu = str(place.workers["g"].pid)
    tasks = {**sleepers(40, 100), **{f"g{n}": t for n, (_, t) in
                                     enumerate(sleepers(40, 100, "gpu").items())}}
    project = place.submit({"tasks": tasks})
    wrong = set()
    right = set()

    def look():
        rows = place.sql("select c.queue, s.process from claims c join sessions s on s.id = c.session"
                         " where c.state = 'claimed'")
        for queue, process in rows:
            (right if (queue == "gpu") == (process == gpu) else wrong).add((queue, process))
        return place.state(project) == "succeeded"

    place.until(look, 60, "the project of two queues ends")
    check(not wrong and right, f"steps ran where their queue is not served: {wrong}")
    place.stop()
    figure(5, "steps of queue gpu that ran elsewhere (0)", str(len(wrong)))


def joins(folder, cluster, notify):
    """A worker that joins takes work; one that drains loses nothing."""
    place = Place(folder, cluster, "joins_" + ("hints" if notify else "polling"))
    options = [] if notify else ["--no-notify"]
    place.worker("a", *options)
    place.worker("b", *options)
    project = place.submit({"tasks": sleepers(400, 500)})
    place.until(lambda: place.state(project) == "running", 10, "it begins")
    time.sleep(3)
    joined = place.worker("c", *options)
    session = place.until(
        lambda: place.sql(f"select 1 from sessions where process = {joined.pid}"), 10, "it joins")
    busy = place.until(
        lambda: place.sql("select 1 from claims c join sessions s on s.id = c.session"
                          f" where s.process = {joined.pid}"), 10, "it takes work")
    took, limit = busy - session, 1.0 if notify else 2.0
    check(took <= limit, f"a worker that joins takes work within {limit} s")
    drained = place.workers["b"]
    drained.send_signal(signal.SIGTERM)
    drained.wait(30)
    state = place.wait(project, 90)
    again = place.sql("select count(*) from attempts")[0][0]
    crashes = place.sql("select count(*) from steps where crashes > 0")[0][0]
    done = place.sql("select count(*) from steps where state = 'succeeded'")[0][0]
    check((state, done, crashes) == ("succeeded", "400", "0"),
          f"after a drain: {state}, {done} succeeded, {crashes} charged")
    place.stop()
    how = "with hints (1 s)" if notify else "on polling alone (2 s)"
    figure(5, f"a worker that joins takes work {how}", f"{took:.2f} s")
    figure(5, f"a worker drains in the middle {how.split(' (')[0]}: steps lost, run again",
           f"{400 - int(done)}, {again}")


def outage(folder, cluster):
    """The database is away for 10 s while steps run."""
    place = Place(folder, cluster, "outage")
    for name in "ab":
        place.worker(name)
    tasks = sleepers(400, 700)
    project = place.submit({"tasks": tasks})
    place.until(lambda: int(place.sql("select count(*) from steps where state = 'succeeded'")[0][0]) > 40,
                30, "work is under way")
    cluster.stop("immediate")
    time.sleep(10)
    cluster.start()
    back = time.monotonic()
    before = int(place.sql("select count(*) from steps where state = 'succeeded'")[0][0])
    resumed = place.until(
        lambda: place.sql("select max(started_at) > (extract(epoch from clock_timestamp()) * 1000000 - 300000)::bigint"
                          " from steps")[0][0] == "t", 30, "steps start again")
    state = place.wait(project, 120)
    failed = place.sql("select count(*) from steps where state <> 'succeeded'")[0][0]
    again = place.sql("select count(*) from attempts")[0][0]
    took = resumed - back
    check(state == "succeeded" and failed == "0", f"after the outage: {state}, {failed} not succeeded")
    check(took <= 5, "work resumes within 5 s")
    place.stop()
    figure(6, "an outage of 10 s: steps failed; run again; work resumes (5 s)",
           f"{failed}; {again}; {took:.1f} s after the server is back ({before} were done)")


def main():
    quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory(prefix="dandori-workers-") as folder:
        cluster = Cluster(folder)
        log = os.path.join(folder, "witness.log")
        witness = Witness(log)
        try:
            cluster.start()
            cluster.wait_until_ready()
            recovery(folder, cluster, witness, log, 2, 3 if quick else 10)
            if not quick:
                recovery(folder, cluster, witness, log, 10, 5)
                spread(folder, cluster)
            queues(folder, cluster)
            joins(folder, cluster, True)
            joins(folder, cluster, False)
            if not quick:
                outage(folder, cluster)
        finally:
            witness.end()
            cluster.remove()
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
