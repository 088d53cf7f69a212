"""The invariants that the store alone answers: what was recorded, and how it hangs together.

A `Finding` is the verdict on one invariant: how much was looked at, what contradicts it,
and notes that are no contradiction. What the witness is needed for is in `effects`.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from .history import ATTEMPT_FAILED, ENDS, LOST, STARTED, TERMINAL

SHOWN = 8
# A step between two attempts: the latest one is over.
BETWEEN = ("waiting", "ready")


@dataclass
class Finding:
    """The verdict on one invariant."""

    name: str
    says: str
    checked: int = 0
    offenders: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def check(self, holds, offender):
        """Counts one more; `offender` makes the text, only where it does not hold."""
        self.checked += 1
        if not holds:
            self.offenders.append(offender())

    def lines(self):
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        if not self.offenders:
            return [f"{self.name} ok {self.checked} checked: {self.says}{notes}"]
        lines = [
            f"{self.name} VIOLATED {len(self.offenders)} times, {self.checked} checked: {self.says}{notes}"]
        lines += [f"    {offender}" for offender in self.offenders[:SHOWN]]
        if len(self.offenders) > SHOWN:
            lines.append(f"    and {len(self.offenders) - SHOWN} more")
        return lines


def acknowledged(projects, entries):
    """I1 and I2."""
    exists = Finding("I1", "every acknowledged submission exists and has ended")
    once = Finding("I2", "one project for each idempotency key")
    ids = defaultdict(set)
    names = Counter(project.name for project in projects.values())
    for entry in entries:
        project = projects.get(entry.id)
        exists.check(
            project is not None and project.state in TERMINAL,
            lambda entry=entry, project=project:
                f"{entry.id} {entry.work.name}: {project.state if project else 'gone'}")
        if key := entry.work.document.get("idempotency_key"):
            ids[key, entry.work.name].add(entry.id)
    for (key, name), found in ids.items():
        once.check(
            len(found) == 1 and names[name] == 1,
            lambda key=key, name=name, found=found: f"{key!r}: ids {sorted(found)}, {names[name]} projects")
    known = {entry.id for entry in entries}
    unknown = [project.id for project in projects.values() if project.id not in known]
    if unknown:
        exists.notes.append(f"{len(unknown)} recorded without an acknowledgement")
    return [exists, once]


def results(projects, sampler, executions):
    """I3: one accepted result for each step, of an execution that took place, never altered."""
    found = Finding("I3", "at most one accepted result of each step, never altered")
    found.offenders += sampler.altered
    by_number = {execution.number: execution for execution in executions}
    for project in projects.values():
        ends, starts = defaultdict(list), Counter()
        for event in project.events:
            if event.kind in ENDS:
                ends[event.no].append(event)
            elif event.kind == STARTED:
                starts[event.no, event.attempt] += 1
        for (no, attempt), count in starts.items():
            found.check(count == 1, lambda p=project, no=no, attempt=attempt, count=count:
                        f"{p.id} step {no}: attempt {attempt} started {count} times in its history")
        for no, events in ends.items():
            row = project.steps.get(no)
            end = ENDS[events[0].kind]
            fits = len(events) == 1 and (row is None or _stays(project, row, end) or (
                row.state == end and row.attempt in (events[0].attempt, 0)))
            found.check(fits, lambda p=project, no=no, events=events, row=row:
                        f"{p.id} step {no}: row {row and (row.state, row.attempt)}, ended as "
                        f"{[(ENDS[event.kind], event.attempt) for event in events]}")
        for row in project.steps.values():
            if row.state in ENDS.values():
                found.check(row.no in ends, lambda p=project, row=row:
                            f"{p.id} step {row.no}: {row.state} without an event")
            _result_was_seen(found, project, row, by_number)
    for (project, no), digest in sampler.steps.items():
        row = projects[project].steps.get(no) if project in projects else None
        found.check(row is not None and row.digest == digest, lambda project=project, no=no:
                    f"{project} step {no}: changed after its end was seen")
    found.notes.append(f"{len(sampler.steps)} sampled while it ran")
    return found


def _stays(project, row, end):
    """Whether the row of an ended step rightly says something else: it is not written again.

    The end of a `for_each` follows from its items, and a step that was cancelled between two
    attempts from the cancel.
    """
    node = project.nodes.get(row.no)
    if node is not None and node.kind == "for_each" and row.state == "running":
        return True
    return end == "cancelled" and row.state in BETWEEN


def _result_was_seen(found, project, row, by_number):
    node = project.nodes.get(row.no)
    if node is None or node.kind != "http.request" or row.state != "succeeded" or not row.output:
        return
    number = ((json.loads(row.output) or {}).get("json") or {}).get("execution")
    execution = by_number.get(number)
    fits = execution is not None and (
        execution.project == project.id and execution.step == node.name and execution.attempt == row.attempt
        and execution.status == 200)
    found.check(fits, lambda: f"{project.id} {node.name} attempt {row.attempt}: "
                f"its result names execution {number}, which was {execution}")


def ownership(sampler):
    """I4 and I5, from samples taken while it ran."""
    found = Finding("I4", "owners change only with a higher epoch (samples)")
    epochs = Finding("I5", "epochs and event numbers never fall (samples)")
    for text in sampler.ownership:
        (epochs if " fell " in text else found).offenders.append(text)
    found.checked = epochs.checked = sampler.samples
    found.notes.append(f"{len(sampler.owners)} owners seen")
    epochs.notes.append(f"{sampler.missed} samples failed while the database was away")
    return [found, epochs]


def attempts(projects):
    """I8: attempts within the limit, each of them accounted for."""
    found = Finding("I8", "failures within the limit, every attempt but the last one recorded as over")
    for project in projects.values():
        over = Counter()
        for event in project.events:
            if event.kind in (LOST, ATTEMPT_FAILED):
                over[event.no] += 1
        for row in project.steps.values():
            node = project.nodes.get(row.no)
            if node is None or node.kind != "http.request":
                continue
            found.check(row.failures <= node.retries + 1, lambda p=project, row=row, node=node:
                        f"{p.id} {node.name}: {row.failures} failures, {node.retries} retries")
            expected = row.attempt if row.state in BETWEEN else max(0, row.attempt - 1)
            found.check(over[row.no] == expected, lambda p=project, row=row, node=node, over=over:
                        f"{p.id} {node.name}: attempt {row.attempt}, but {over[row.no]} are over")
            missing = [n for n in range(1, row.attempt) if (row.no, row.generation, n) not in project.attempts]
            found.check(not missing, lambda p=project, node=node, missing=missing:
                        f"{p.id} {node.name}: no rows of the attempts {missing}")
    return found


def counts(projects):
    """I13: counts equal a recount, events are gap-free, ended projects leave nothing behind.

    The recount folds the ends in the history: they name every step, also those that ended
    without a row (cancelled before a start).
    """
    found = Finding("I13", "counts equal a recount, events are gap-free, nothing is left behind")
    for project in projects.values():
        upto = 0
        for first, last, number in project.ranges:
            found.check(first == upto + 1 and number == last - first + 1,
                        lambda p=project, first=first, last=last, number=number, upto=upto:
                        f"{p.id}: events {first} to {last} hold {number} and follow {upto}")
            upto = last
        found.check(upto == project.last_event, lambda p=project, upto=upto:
                    f"{p.id}: events end at {upto}, last event is {p.last_event}")
        if project.state not in TERMINAL:
            continue
        states = {event.no: ENDS[event.kind] for event in project.events if event.kind in ENDS}
        recount = Counter(states.get(no, "without an end") for no in project.nodes)
        found.check(dict(recount) == {k: v for k, v in project.counts.items() if v},
                    lambda p=project, recount=recount: f"{p.id} {p.name}: counts {p.counts}, recount {dict(recount)}")
        for row in project.steps.values():
            over = row.state in ENDS.values() or _stays(project, row, states.get(row.no))
            found.check(over, lambda p=project, row=row:
                        f"{p.id} step {row.no}: {row.state} in an ended project")
        left = (project.mail, project.mailbox, project.claims)
        found.check(left == (0, 0, 0), lambda p=project, left=left:
                    f"{p.id}: ended with mail {left[0]}, {left[1]} messages, {left[2]} claims")
    return found


def progress(projects, entries, counted, least, executions):
    """I16: the run says something: most projects succeeded, and every fault really hit."""
    found = Finding("I16", "95 % of the projects that nobody cancelled succeeded, every fault really hit")
    cancelled = {entry.id for entry in entries if entry.work.cancel_after is not None}
    rest = [project for project in projects.values() if project.id not in cancelled]
    succeeded = sum(project.state == "succeeded" for project in rest)
    found.check(rest and succeeded >= 0.95 * len(rest), lambda: f"{succeeded} of {len(rest)} succeeded")
    others = [p for p in rest if p.state != "succeeded"]
    for project in others[:SHOWN // 2]:
        found.notes.append(f"{project.id} {project.name} {project.state}{_why(project)}")
    for kind, number in least.items():
        found.check(counted[kind] >= number, lambda kind=kind, number=number:
                    f"{kind}: {counted[kind]} of at least {number}")
    sessions = {execution.session for execution in executions}
    found.check(len(sessions) >= 2, lambda: f"only {len(sessions)} sessions executed anything")
    found.notes.append(f"{succeeded} of {len(rest)} projects succeeded, {len(sessions)} sessions executed")
    return found


def _why(project):
    """The first failure of a project, for people."""
    failed = [row for row in project.steps.values() if row.state in ("failed", "quarantined")]
    if not failed:
        return ""
    first = min(failed, key=lambda row: row.at)
    node = project.nodes.get(first.no)
    return f" ({node.name if node else first.no} attempt {first.attempt}: {first.error[:200]})"
