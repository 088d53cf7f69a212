"""What happened, read back after a run: rows, packed events, plans, and the witness.

Owns the two stored forms that the checks need: events as `[kind, at, no, attempt, count,
extra?]` (a count stands for so many neighbouring steps), and plans as JSON. Judges nothing.
"""

import json
from dataclasses import dataclass, field

STARTED, WAITING, SUCCEEDED, LOST, ATTEMPT_FAILED = 20, 22, 23, 30, 31
CANCEL_REQUESTED = 5
# What ends a step, and how.
ENDS = {
    23: "succeeded", 24: "failed", 25: "upstream_failed", 26: "skipped", 27: "cancelled",
    28: "quarantined",
}
TERMINAL = ("succeeded", "failed", "cancelled")


@dataclass
class Event:
    """A line of history."""

    number: int
    kind: int
    at: int
    no: int
    attempt: int
    until: int | None = None


@dataclass
class Step:
    """A row of `steps`."""

    no: int
    generation: int
    attempt: int
    failures: int
    crashes: int
    state: str
    at: int
    first_child: int | None
    items: int | None
    output: bytes | None
    error: str
    digest: str


@dataclass
class Project:
    """A project with everything stored about it."""

    id: str
    name: str
    state: str
    epoch: int
    last_event: int
    mail: int
    counts: dict
    plan: str
    mailbox: int
    claims: int
    steps: dict = field(default_factory=dict)
    attempts: set = field(default_factory=set)
    events: list = field(default_factory=list)
    # The rows of `events` as (first, last, number of events in it).
    ranges: list = field(default_factory=list)
    # Of each step: name, numbers of needs, seconds of delay, most retries, kind, queue.
    nodes: dict = field(default_factory=dict)

    def succeeded_at(self, no):
        """When a step succeeded; None if it did not."""
        row = self.steps.get(no)
        if row is None:
            return None
        if no in self.nodes and self.nodes[no].kind == "for_each":
            # Its row stays `running`: that its items have ended follows from their rows.
            ends = [event.at for event in self.events if event.no == no and event.kind == SUCCEEDED]
            return ends[0] if ends else None
        return row.at if row.state == "succeeded" else None

    @property
    def cancel_at(self):
        return next((event.at for event in self.events if event.kind == CANCEL_REQUESTED), None)


@dataclass(frozen=True)
class Node:
    """A step of a plan."""

    name: str
    needs: tuple
    delay: float
    retries: int
    kind: str
    queue: str


@dataclass
class Execution:
    """What the witness saw of one execution of a step; times in microseconds."""

    number: int
    project: str
    step: str
    generation: int
    attempt: int
    process: str
    session: str
    start: int
    # The witness numbers connections as it accepts them.
    connection: int = 0
    end: int | None = None
    status: int | None = None


def _number(text):
    return int(text) if text else None


def _seconds(duration):
    if isinstance(duration, dict):
        return duration["secs"] + duration["nanos"] / 1e9
    return float(duration or 0)


def decode_events(first, body):
    """The events of a packed row."""
    number = first
    for kind, at, no, attempt, count, *extra in json.loads(body):
        until = (extra[0] or {}).get("until") if extra else None
        for offset in range(count):
            yield Event(number, kind, at, no + offset if no >= 0 else -1, attempt, until)
            number += 1


def decode_plan(body):
    """The nodes of a plan; bodies of `for_each` under their parent."""
    plan = json.loads(body)
    nodes, bodies = {}, {}
    for no, step in enumerate(plan["steps"]):
        policy = plan["policies"][step.get("policy", 0)]
        action = step["action"]
        kind = "join"
        if "run" in action:
            kind = action["run"]["kind"]
        elif "for_each" in action:
            kind = "for_each"
            bodies[no] = action["for_each"]["body"]
        retry = policy.get("retry") or {}
        nodes[no] = Node(
            step["name"], tuple(step.get("needs", ())), _seconds(policy.get("delay")),
            int(retry.get("max_retries", 0)), kind, policy.get("queue", "default"))
    return nodes, bodies


def _expand(project, bodies):
    """Adds the children of a `for_each`, whose body is one step here."""
    for parent, body in bodies.items():
        row = project.steps.get(parent)
        if row is None or row.first_child is None or len(body["steps"]) != 1:
            continue
        policy = body["policies"][body["steps"][0].get("policy", 0)]
        node = project.nodes[parent]
        for item in range(row.items or 0):
            # A child starts when the needs of its parent have ended.
            project.nodes[row.first_child + item] = Node(
                f"{node.name}[{item}]", node.needs, 0.0,
                int((policy.get("retry") or {}).get("max_retries", 0)),
                body["steps"][0]["action"]["run"]["kind"], policy.get("queue", "default"))


def read_projects(cluster, database):
    """All projects by id."""
    def sql(text):
        return cluster.sql(text, database=database, seconds=300)

    projects = {}
    for row in sql(
        "select id, name, state, epoch, last_event, mail, counts, encode(plan, 'hex'),"
        " (select count(*) from mailbox m where m.project = p.id),"
        " (select count(*) from claims c where c.project = p.id) from projects p order by id"
    ):
        projects[row[0]] = Project(
            row[0], row[1], row[2], int(row[3]), int(row[4]), int(row[5]), json.loads(row[6]),
            row[7], int(row[8]), int(row[9]))
    for row in sql(
        "select project, no, generation, attempt, failures, crashes, state, at, first_child,"
        f" items, encode(output, 'hex'), coalesce(error, ''), {DIGEST} from steps"
    ):
        projects[row[0]].steps[int(row[1])] = Step(
            *map(int, row[1:6]), row[6], int(row[7]), _number(row[8]), _number(row[9]),
            bytes.fromhex(row[10]) if row[10] else None, row[11], row[12])
    for row in sql("select project, no, generation, attempt from attempts"):
        projects[row[0]].attempts.add(tuple(map(int, row[1:4])))
    for row in sql("select project, first, last, encode(body, 'hex') from events order by project, first"):
        first, last = int(row[1]), int(row[2])
        events = list(decode_events(first, bytes.fromhex(row[3])))
        projects[row[0]].events += events
        projects[row[0]].ranges.append((first, last, len(events)))
    plans = {row[0]: row[1] for row in sql("select encode(hash, 'hex'), encode(body, 'hex') from plans")}
    decoded = {}
    for project in projects.values():
        if project.plan not in decoded:
            decoded[project.plan] = decode_plan(bytes.fromhex(plans[project.plan]))
        nodes, bodies = decoded[project.plan]
        project.nodes = dict(nodes)
        _expand(project, bodies)
    return projects


# What must not change of a step that has ended.
DIGEST = (
    "md5(generation || ' ' || attempt || ' ' || state || ' ' || at || ' '"
    " || coalesce(encode(output, 'hex'), '') || ' ' || coalesce(error, ''))"
)


def read_witness(path):
    """All executions in the order of their starts; a torn last line is left out."""
    executions = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break
            said = json.loads(line)
            if said["e"] == "start":
                project, step, generation = said["key"].split(":")
                executions[said["n"]] = Execution(
                    said["n"], project.removeprefix("prj_"), step, int(generation),
                    said["attempt"], said["process"], said["session"], said["t"],
                    said.get("connection", 0))
            else:
                executions[said["n"]].end = said["t"]
                executions[said["n"]].status = said.get("status")
    return sorted(executions.values(), key=lambda execution: execution.start)
