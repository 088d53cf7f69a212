"""How much of everything: the profiles, and the plan of faults that a seed makes.

The seed fixes projects, faults and their order. It cannot fix how processes interleave, so
a repetition meets the same faults and not the same moments.
"""

import random
from dataclasses import dataclass

LEASE = 2.0
CONCURRENCY = 8
PARTITIONS = ("cut", "black_hole", "hole_up", "hole_down", "delay", "lose_reply", "lose_request")


@dataclass(frozen=True)
class Profile:
    """The size of a run, and how often each fault must really hit."""

    name: str
    workers: int
    steps: int
    # The largest piece taken of a real graph.
    piece: int
    # Over so many seconds the faults are spread, and so is the work.
    seconds: float
    kills: int
    stops: int
    restarts: int
    terminations: int
    # Of each kind of partition.
    partitions: int
    cancels: int
    twins: int


PROFILES = {
    "ci": Profile(
        name="ci", workers=6, steps=2_000, piece=110, seconds=115, kills=42, stops=11,
        restarts=3, terminations=4, partitions=2, cancels=6, twins=4),
    "long": Profile(
        name="long", workers=16, steps=50_000, piece=500, seconds=900, kills=320, stops=64,
        restarts=16, terminations=24, partitions=12, cancels=60, twins=30),
    # For trying the driver itself; it proves nothing.
    "smoke": Profile(
        name="smoke", workers=3, steps=300, piece=40, seconds=25, kills=4, stops=1,
        restarts=1, terminations=1, partitions=1, cancels=2, twins=1),
}


@dataclass
class Planned:
    """A fault to come: when, what, how long, and a coin for details."""

    at: float
    kind: str
    seconds: float
    coin: float


def plan_faults(profile, seed):
    """The faults in their order. Pieces of time are drawn so that none stays empty."""
    rng = random.Random(f"faults {seed}")
    kinds = ["kill"] * profile.kills + ["stop"] * profile.stops
    kinds += ["restart"] * profile.restarts + ["terminate"] * profile.terminations
    for kind in PARTITIONS:
        kinds += [kind] * profile.partitions
    rng.shuffle(kinds)
    first, last = 3.0, profile.seconds - 4.0
    piece = (last - first) / len(kinds)
    planned = []
    for number, kind in enumerate(kinds):
        at = first + (number + rng.random()) * piece
        if kind == "stop":
            seconds = LEASE + rng.uniform(0.5, 2.5)
        elif kind == "restart":
            # Mostly at once, sometimes away for longer than the lease.
            seconds = rng.choice([0.0, 0.2, 0.8, LEASE + 1.0])
        elif kind in ("lose_reply", "lose_request"):
            # How long a commit is waited for. At the very end there may be none left.
            seconds = 6.0
            at = min(at, first + 0.9 * (last - first))
        else:
            # Some shorter than the lease, some longer.
            seconds = rng.choice([rng.uniform(0.3, 1.5), rng.uniform(LEASE + 0.5, LEASE * 3.5)])
        planned.append(Planned(at, kind, seconds, rng.random()))
    return planned
