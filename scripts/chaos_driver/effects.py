"""The invariants that need the witness: what really ran, and when, against what was recorded.

Times of the witness and of the database are of one machine. An owner's idea of the time is
never ahead of the database's clock, so recorded times are lower bounds of real ones.
"""

import re
from collections import Counter, defaultdict

from .history import ATTEMPT_FAILED, LOST, STARTED, WAITING
from .invariants import Finding
from .profiles import LEASE

MS = 1_000
# Reading one clock in two processes.
CLOCK = 5 * MS
# A start is recorded at the latest 25 ms after it; the rest is what measuring may add.
UNRECORDED = 60 * MS
# From deciding to start something until it is seen outside, on a busy machine.
UNDER_WAY = 50 * MS
# How long a session may still suffer from a fault that is over: until it has noticed that
# it is dead, or has a connection again.
AFTERMATH = int((LEASE + 3) * 1_000_000)


class Effects:
    """Everything that the checks look things up in."""

    def __init__(self, projects, executions, faults):
        self.projects, self.executions, self.faults = projects, executions, faults
        self.numbers = {
            project.id: {node.name: no for no, node in project.nodes.items()}
            for project in projects.values()
        }
        self.of_step = defaultdict(list)
        for execution in executions:
            self.of_step[execution.project, execution.step].append(execution)
        self.of_process = defaultdict(list)

    def hitting(self, process):
        """The faults that hit a process, its link, or the database."""
        if process not in self.of_process:
            said = re.search(r"-(\d+)-\d+$", process)
            worker = int(said[1]) if said else None
            self.of_process[process] = [
                fault for fault in self.faults
                if fault.process == process
                or (fault.process is None and fault.worker in (None, worker))
            ]
        return self.of_process[process]

    def between(self, process, start, end):
        """The faults that could disturb a process in this time."""
        found = [
            fault for fault in self.hitting(process)
            if fault.start <= end and fault.end + (AFTERMATH if fault.kind != "kill" else 0) >= start
        ]
        # Its own death explains most.
        return sorted(found, key=lambda fault: fault.kind != "kill")

    def killed_at(self, process):
        return next((fault.start for fault in self.hitting(process) if fault.kind == "kill"), None)

    def step(self, execution):
        """The project and the number of the step of an execution."""
        project = self.projects.get(execution.project)
        return project, self.numbers.get(execution.project, {}).get(execution.step)

    def order(self):
        """I6: nothing starts before everything it needs has a recorded result."""
        found = Finding("I6", "no start before the recorded completion of every need")
        for execution in self.executions:
            project, no = self.step(execution)
            if no is None:
                continue
            for need in project.nodes[no].needs:
                node, row, at = project.nodes[need], project.steps.get(need), project.succeeded_at(need)
                early = at is None or execution.start < at - CLOCK
                found.check(not early, lambda e=execution, node=node, at=at:
                            f"{describe(e)} started at {e.start}, its need {node.name} succeeded at {at}")
                if early or node.kind != "http.request":
                    continue
                ended = any(
                    other.attempt == row.attempt and other.status == 200 and other.end <= execution.start
                    for other in self.of_step[project.id, node.name])
                found.check(ended, lambda e=execution, node=node:
                            f"{describe(e)} started before any accepted execution of {node.name} ended")
        return found

    def recorded(self):
        """I7: every effect has an attempt row; repetitions have a fault as their cause."""
        found = Finding("I7", "every effect has an attempt row, every repetition a fault")
        unrecorded, cut_off = 0, 0
        groups = defaultdict(list)
        for execution in self.executions:
            project, no = self.step(execution)
            row = project.steps.get(no) if project else None
            attempt = (no, execution.generation, execution.attempt)
            known = row is not None and (
                attempt in project.attempts or (
                    execution.generation == row.generation and execution.attempt == row.attempt))
            if not known and no is not None:
                killed = self.killed_at(execution.process)
                if killed is not None and killed - UNRECORDED <= execution.start <= killed + CLOCK:
                    known, unrecorded = True, unrecorded + 1
                elif self.between(execution.process, execution.start, execution.start + UNRECORDED):
                    known, cut_off = True, cut_off + 1
            found.check(known, lambda e=execution, row=row:
                        f"{describe(e)} by {e.process} has no attempt row, "
                        f"its step is {(row.state, row.attempt) if row else 'without a row'}")
            groups[execution.project, execution.step, *attempt[1:]].append(execution)
        extra = Counter()
        for group in groups.values():
            # Each repetition needs a fault of its own.
            used = []
            for execution, following in zip(group, group[1:]):
                causes = [
                    fault for fault in self.between(execution.process, execution.start, following.start)
                    if fault not in used
                ]
                # Begun before its process stood still, and taken over meanwhile: a fence stops a
                # late write, and not a late request.
                late = self._was_stopped(following) and following.connection < execution.connection
                found.check(causes or late, lambda e=execution, f=following:
                            f"{describe(e)} by {e.process} at {e.start} ran again by {f.process} "
                            f"at {f.start} without a fault of its own")
                used += causes[:1]
                extra[causes[0].kind if causes else "a request held by a stop" if late else "no fault"] += 1
        kinds = ", ".join(f"{count} by {kind}" for kind, count in sorted(extra.items()))
        found.notes.append(f"{sum(extra.values())} attempts ran twice{': ' + kinds if kinds else ''}")
        found.notes.append(f"{unrecorded} killed in their first moment and {cut_off} cut off without a row")
        lost = sum(event.kind == LOST for project in self.projects.values() for event in project.events)
        found.notes.append(
            f"{lost} lost with their session, {self._lost_without_a_fault()} of them without a fault on it")
        return found

    def _lost_without_a_fault(self):
        """Attempts whose session was held to be dead and was not disturbed: a busy machine."""
        count = 0
        for project in self.projects.values():
            for event in project.events:
                if event.kind != LOST or event.no not in project.nodes:
                    continue
                ran = [
                    e for e in self.of_step[project.id, project.nodes[event.no].name]
                    if e.attempt == event.attempt
                ]
                count += bool(ran) and not any(
                    self.between(e.process, e.start, event.at + AFTERMATH) for e in ran)
        return count

    def queues(self, serving):
        """A step runs only where its queue is served."""
        found = Finding("queues", "steps ran only on workers that serve their queue")
        for execution in self.executions:
            project, no = self.step(execution)
            if no is not None:
                queue = project.nodes[no].queue
                served = serving.get(execution.process, "").split(",")
                found.check(queue in served, lambda e=execution, queue=queue:
                            f"{describe(e)} of the queue {queue} ran on {e.process}")
        return found

    def times(self, calm):
        """I9: delays and retries never early, and punctual in a quiet time."""
        found = Finding("I9", "delays and retries are never early, and at most 2 s late without faults")
        latest, shortest = 0, None
        for project in self.projects.values():
            completed = {no: at for no in project.nodes if (at := project.succeeded_at(no)) is not None}
            begun = next((event.at for event in project.events if event.kind == 2), 0)
            failed_at = {}
            for event in project.events:
                if event.kind == ATTEMPT_FAILED:
                    failed_at[event.no] = event.at
                if event.kind != WAITING or event.until is None:
                    continue
                node = project.nodes.get(event.no)
                if node is None or node.kind != "http.request":
                    continue
                if event.attempt == 0:
                    since = max([completed.get(need, event.until) for need in node.needs], default=begun)
                    wait = int(node.delay * 1_000_000)
                else:
                    since, wait = failed_at.get(event.no, event.at), 200 * MS
                found.check(event.until >= since + wait, lambda p=project, node=node, event=event, since=since:
                            f"{p.id} {node.name}: waits until {event.until}, allowed from {since}")
                starts = [
                    e for e in self.of_step[project.id, node.name] if e.attempt == event.attempt + 1]
                for execution in starts[:1]:
                    late = execution.start - event.until
                    found.check(late >= -CLOCK, lambda e=execution, late=late:
                                f"{describe(e)} started {-late} us early")
                    if project.id == calm:
                        latest = max(latest, late)
                        found.check(late <= 2_000_000, lambda e=execution, late=late:
                                    f"{describe(e)} started {late / 1e6:.2f} s late in a quiet time")
                    if event.attempt:
                        shortest = self._wait_seen(execution, event.attempt, shortest)
        found.notes.append(f"latest in the quiet time {latest / 1e3:.0f} ms")
        if shortest is not None:
            found.notes.append(f"shortest wait of 200 ms seen outside {shortest / 1e3:.0f} ms")
        return found

    def _wait_seen(self, execution, attempt, shortest):
        """The shortest time between a failure and the next attempt, by the witness's clock."""
        ends = [
            e.end for e in self.of_step[execution.project, execution.step]
            if e.attempt == attempt and e.end is not None and e.end <= execution.start
        ]
        if not ends:
            return shortest
        waited = execution.start - max(ends)
        return waited if shortest is None else min(shortest, waited)

    def cancels(self, answered):
        """I10: once the cancel is recorded, nothing starts."""
        found = Finding("I10", "no start after a recorded cancel")
        asked = 0
        for project in self.projects.values():
            at = project.cancel_at
            if at is None:
                continue
            asked += 1
            begun = {
                (event.no, event.attempt) for event in project.events
                if event.kind == STARTED and event.at <= at
            }
            late = {
                (event.no, event.attempt) for event in project.events
                if event.kind == STARTED and event.at > at
            }
            found.check(not late, lambda p=project, late=late:
                        f"{p.id}: attempts recorded as started after the cancel: {sorted(late)[:5]}")
            for name, no in self.numbers[project.id].items():
                for execution in self.of_step[project.id, name]:
                    began = execution.start <= at + UNDER_WAY or (no, execution.attempt) in begun
                    found.check(began or self._was_stopped(execution), lambda e=execution, at=at:
                                f"{describe(e)} by {e.process} started {(e.start - at) / 1e3:.0f} ms "
                                "after the cancel")
        for cancel in answered:
            project = self.projects.get(cancel.id)
            if cancel.applied and project is not None:
                found.check(project.cancel_at is not None and project.state == "cancelled",
                            lambda cancel=cancel, p=project: f"{cancel.id}: answered as applied, is {p.state}")
        found.notes.append(f"{asked} projects cancelled while they ran")
        return found

    def _was_stopped(self, execution):
        """Whether its process stood still between the decision and the request."""
        return any(
            fault.kind == "stop" and fault.start <= execution.start <= fault.end + 3 * UNDER_WAY
            for fault in self.hitting(execution.process))


def describe(execution):
    return f"{execution.project} {execution.step} attempt {execution.attempt} (execution {execution.number})"
