"""Shapes of work: real dependency graphs where there are some, and generated ones.

A shape is a list of (name, names of needs, seconds or None), needs before dependents, the
names plain ASCII: they become names of steps, headers and parts of addresses. Real graphs
are JSON files with `tasks: [{id, needs, runtime_s}]` in the folder `open` of the one that
`DANDORI_DAGS` names, or of `dags` in a folder beside the repository.
"""

import glob
import json
import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def folder():
    beside = glob.glob(os.path.join(os.path.dirname(ROOT), "*", "dags"))
    dags = os.environ.get("DANDORI_DAGS") or next(iter(sorted(beside)), ROOT)
    return os.path.join(dags, "open")


def real_graphs():
    """The real graphs that hold no cycle: (name, shape), the smallest first."""
    graphs = []
    try:
        names = sorted(os.listdir(folder()))
    except OSError:
        return []
    for name in names:
        if name.endswith(".json"):
            with open(os.path.join(folder(), name), encoding="utf-8") as file:
                shape = _sorted(json.load(file)["tasks"])
            if shape is not None:
                graphs.append((name.removesuffix(".json"), shape))
    return sorted(graphs, key=lambda graph: len(graph[1]))


def _sorted(tasks):
    """Tasks in an order in which they could run; None where there is a cycle."""
    index = {task["id"]: number for number, task in enumerate(tasks)}
    missing = [len(task["needs"]) for task in tasks]
    dependents = [[] for _ in tasks]
    for number, task in enumerate(tasks):
        for need in task["needs"]:
            dependents[index[need]].append(number)
    names = _plain([task["id"] for task in tasks])
    ready = [number for number, count in enumerate(missing) if count == 0]
    shape = []
    # Breadth first: the first K tasks of the order are then a piece with edges, too.
    for number in ready:
        task = tasks[number]
        shape.append((names[number], [names[index[need]] for need in task["needs"]], task["runtime_s"]))
        for dependent in dependents[number]:
            missing[dependent] -= 1
            if missing[dependent] == 0:
                ready.append(dependent)
    return shape if len(shape) == len(tasks) else None


def _plain(ids):
    names, taken = [], set()
    for text in ids:
        name = base = re.sub(r"[^A-Za-z0-9._-]", "_", text)[-80:] or "task"
        number = 2
        while name in taken:
            name, number = f"{base}.{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def cut(shape, count):
    """The first tasks: their needs are among them, as the order is one of running.

    Half of the places go to the dependents of what was taken, so that a graph with a
    thousand roots does not shrink to a heap of tasks without edges.
    """
    if len(shape) <= count:
        return shape
    taken, names = [], set()
    roots = [task for task in shape if not task[1]][: max(1, count // 2)]
    for task in roots:
        taken.append(task)
        names.add(task[0])
    for task in shape:
        if len(taken) == count:
            break
        if task[1] and names.issuperset(task[1]):
            taken.append(task)
            names.add(task[0])
    return taken


def chain(count):
    return [(f"c{n}", [f"c{n - 1}"] if n else [], None) for n in range(count)]


def fan(width):
    middle = [(f"w{n}", ["out"], None) for n in range(width)]
    return [("out", [], None), *middle, ("in", [name for name, _, _ in middle], None)]


def diamonds(count):
    shape = [("j0", [], None)]
    for n in range(1, count + 1):
        before = f"j{n - 1}"
        shape += [
            (f"l{n}", [before], None), (f"r{n}", [before], None), (f"j{n}", [f"l{n}", f"r{n}"], None),
        ]
    return shape


def layered(rng, count, layers=8):
    """Tasks in layers, each needing one to three of the layer before."""
    shape, before = [], []
    for layer in range(layers):
        size = count // layers + (layer < count % layers)
        here = []
        for n in range(size):
            needs = rng.sample(before, min(len(before), rng.randint(1, 3))) if before else []
            here.append(f"y{layer}_{n}")
            shape.append((here[-1], needs, None))
        before = here
    return shape
