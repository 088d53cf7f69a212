"""The work of a run: project documents made from shapes, and what is expected of each.

Every task is a call of the witness. Sleeps are scaled so that no path takes longer than
`LONGEST_PATH`; some tasks fail at first, some wait, some belong to a queue that only some
workers serve.
"""

import random
from dataclasses import dataclass, field

from . import graphs

LONGEST_PATH = 25_000
RETRY = {"max_retries": 3, "delay": "200ms", "retry_on": ["http_5xx", "connect", "timeout"]}
HEADERS = {"X-Process": "${{ secrets.CHAOS_PROCESS }}", "X-Session": "${{ worker.id }}"}


@dataclass
class Work:
    """A project to submit."""

    name: str
    document: dict
    # Steps that run when nothing is cancelled, and their longest path and sum in ms.
    steps: int
    path: int
    total: int
    # When it is submitted, in seconds from the beginning of the run.
    at: float = 0.0
    # Submitted again under its idempotency key, so many seconds later.
    again: list = field(default_factory=list)
    # How long after its submission it is cancelled.
    cancel_after: float | None = None


def _task(port, name, needs, milliseconds, fail=0):
    url = f"http://127.0.0.1:{port}/step?ms={milliseconds}&step={name}"
    if fail:
        url += f"&fail={fail}"
    task = {"kind": "http.request", "with": {"url": url, "headers": HEADERS}}
    if needs:
        task["needs"] = needs
    return task


def _document(name, tasks):
    return {
        "name": name,
        "defaults": {"kinds": {"http.request": {"retry": RETRY}}},
        "tasks": tasks,
    }


def _sleeps(rng, shape):
    """Milliseconds for each task, and the longest path."""
    longest = max((seconds or 0 for _, _, seconds in shape), default=0) or 1
    sleeps = {}
    for name, _, seconds in shape:
        drawn = rng.uniform(20, 1800) if seconds is None else 100 + 3000 * seconds / longest
        sleeps[name] = drawn
    path = _path(shape, sleeps)
    share = min(1.0, LONGEST_PATH / path)
    sleeps = {name: max(10, round(drawn * share)) for name, drawn in sleeps.items()}
    return sleeps, round(_path(shape, sleeps))


def _path(shape, sleeps):
    ends = {}
    for name, needs, _ in shape:
        ends[name] = sleeps[name] + max((ends[need] for need in needs), default=0)
    return max(ends.values())


def from_shape(rng, port, name, shape, delays=0, gpu=0.02):
    """A project of this shape; `delays` of its tasks wait a second before they start."""
    sleeps, path = _sleeps(rng, shape)
    tasks, waits = {}, 0
    for step, needs, _ in shape:
        tasks[step] = task = _task(port, step, needs, sleeps[step], int(rng.random() < 0.05))
        if rng.random() < gpu:
            task["queue"] = "gpu"
        if waits < delays and rng.random() < 0.3:
            task["delay"] = "1s"
            waits += 1
    return Work(name, _document(name, tasks), len(tasks), path + 1_000 * waits, sum(sleeps.values()))


def for_each(rng, port, name, items):
    """A project whose middle is a step for each item of a list."""
    sleeps = [rng.randint(20, 2_000) for _ in range(items)]
    middle = _task(port, "each", ["first"], "${{ item }}")
    middle.update({"for_each": sleeps, "window": 16})
    tasks = {
        "first": _task(port, "first", [], 50), "each": middle, "last": _task(port, "last", ["each"], 50),
    }
    total = sum(sleeps) + 100
    return Work(name, _document(name, tasks), items + 2, 100 + total // 8, total)


def calm(rng, port):
    """Delays and retries for a quiet time: without faults they must be punctual."""
    tasks = {}
    for n in range(12):
        tasks[f"wait{n}"] = _task(port, f"wait{n}", [], 20)
        tasks[f"wait{n}"]["delay"] = f"{rng.randint(200, 1800)}ms"
        tasks[f"again{n}"] = _task(port, f"again{n}", [f"wait{n}"], 20, 1 + n % 2)
    return Work("calm", _document("calm", tasks), len(tasks), 4_000, 40 * len(tasks))


def make(profile, seed, port):
    """All projects of a run in the order of their submission, and where shapes come from."""
    rng = random.Random(f"projects {seed}")
    works = [
        from_shape(rng, port, "chain-50", graphs.chain(50)),
        from_shape(rng, port, "fan-1-200-1", graphs.fan(200)),
        from_shape(rng, port, "diamonds-10", graphs.diamonds(10)),
        from_shape(rng, port, "layered-100", graphs.layered(rng, 100)),
        for_each(rng, port, "for-each-60", 60),
        from_shape(rng, port, "delays-a", graphs.layered(rng, 24, 4), delays=8, gpu=0.0),
        from_shape(rng, port, "delays-b", graphs.diamonds(6), delays=6),
        from_shape(rng, port, "gpu-30", graphs.layered(rng, 30, 5), gpu=0.4),
    ]
    real = graphs.real_graphs()
    number = 0
    while sum(work.steps for work in works) < profile.steps * 1.03:
        number += 1
        if real and number % 6:
            name, shape = real[rng.randrange(len(real))]
            shape = graphs.cut(shape, rng.randint(profile.piece // 3, profile.piece))
        else:
            name, shape = rng.choice([
                ("chain", graphs.chain(50)), ("fan", graphs.fan(60)), ("diamonds", graphs.diamonds(12)),
                ("layered", graphs.layered(rng, profile.piece)),
            ])
        works.append(from_shape(rng, port, f"{name}-{number}", shape, delays=rng.choice([0, 0, 0, 3])))
    for work in rng.sample(works, profile.twins):
        work.document["idempotency_key"] = f"{work.name} of {seed}"
        # Once together with the first time, once when it is under way or over.
        work.again = [rng.uniform(0.0, 0.1), rng.uniform(0.05, 0.14) * profile.seconds]
    for n in range(profile.cancels):
        shape = graphs.layered(rng, 80, 10)
        work = from_shape(rng, port, f"cancelled-{n}", shape, delays=4)
        work.cancel_after = rng.uniform(0.2, 4.0)
        works.append(work)
    rng.shuffle(works)
    # Almost to the end, so that there is work to be rescued when the faults are over.
    for place, work in enumerate(works):
        work.at = profile.seconds * 0.99 * (place + rng.random()) / len(works)
    return works, len(real)
