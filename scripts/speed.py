"""Every figure of speed, beside the bare database in the same run.

    python3 scripts/speed.py target/release/dandori-benches [--rounds 5]

Prints lines `FIGURE speed line | what (limit) | measured`, as the tests do. Ratios depend on
the machine: nothing fails here, `MISSED` says so.
"""

import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from chaos_driver import graphs  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
ROUNDS = sys.argv[sys.argv.index("--rounds") + 1] if "--rounds" in sys.argv else "5"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def run(*arguments):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def throughput(store, shape, steps, *more, rounds=ROUNDS):
    told = run(
        *("throughput", "--store", store, "--shape", shape, "--steps", steps),
        *("--rounds", rounds, "--json", *more),
    )
    return json.loads(told)


def value(text, label):
    """The figure behind a label of what is printed for people."""
    return float(re.search(re.escape(label) + r"\s+([\d.]+)", text).group(1))


def tell(line, what, store, measured, holds=True):
    missed = "" if holds else "  MISSED"
    print(f"FIGURE speed {line} | {what}, {NAMES[store]} | {measured}{missed}", flush=True)


def figures(store):
    is_file = store == "sqlite"
    fanout = throughput(store, "fanout", 100_000)
    rate, ratio = fanout["steps_per_s"], fanout["ratio"]
    tell(
        1, "fan-out of 100,000 (0.30 of the floor, 31,000/s)", store,
        f"{ratio:.2f}, {rate:,.0f}/s", ratio >= 0.3 and rate > 31_000,
    )  # fmt: skip
    most = 2.5 if is_file else 2.0
    chain = throughput(store, "chain", 2_000)
    tell(
        2, f"hop of a chain of 2,000 ({most} commits)", store,
        f"{chain['ratio']:.2f}", chain["ratio"] <= most,
    )  # fmt: skip
    for kind, limit in ("noop", 0.25), ("call", 0):
        small = throughput(store, "projects", 40_000, "--kind", kind)
        tell(
            3, f"2,000 projects of 20 {kind} ({limit or 'no limit'})", store,
            f"{small['ratio']:.2f}, {small['steps_per_s']:,.0f}/s",
            small["ratio"] >= limit,
        )  # fmt: skip
    for kind, limit in ("noop", 6), ("call", 100):
        ratio = value(
            run("latency", "--store", store, "--kind", kind, "--rounds", ROUNDS), "ratio"
        )
        what = "6 commits" if kind == "noop" else "no limit"
        tell(
            3, f"submission to result of 3 {kind} ({what})", store,
            f"{ratio:.1f}", ratio <= limit,
        )  # fmt: skip

    few = throughput(store, "fanout", 50_000, "--stored", 10_000, rounds=3)
    many = throughput(store, "fanout", 50_000, "--stored", 1_000_000, rounds=3)
    kept = many["steps_per_s"] / few["steps_per_s"]
    tell(
        4, "rate with 1,000,000 finished steps against 10,000 (80 %)", store,
        f"{kept:.0%}", kept >= 0.8,
    )  # fmt: skip
    few = throughput(store, "fanout", 50_000, "--waiting", 10_000, rounds=3)
    many = throughput(store, "fanout", 50_000, "--waiting", 1_000_000, rounds=3)
    kept = many["steps_per_s"] / few["steps_per_s"]
    tell(
        4, "rate with 1,000,000 waiting steps against 10,000 (80 %)", store,
        f"{kept:.0%}", kept >= 0.8,
    )  # fmt: skip
    short, long = (throughput(store, "chain", of, rounds=3) for of in (200, 10_000))
    hop = long["hop_us"]["p50"] / short["hop_us"]["p50"]
    tell(
        4, "hop of a chain of 10,000 against one of 200 (the same)", store,
        f"{hop:.2f}", hop <= 1.25,
    )  # fmt: skip
    held = re.findall(r"^\s+(\d+)\s+(\d+)$", run("backlog", "--store", store), re.M)
    held = {int(steps): int(memory) for steps, memory in held}
    first, last = held[100_000], held[1_000_000]
    tell(
        4, "memory with 100,000 and 1,000,000 waiting steps (flat)", store,
        f"{first} MB, {last} MB", last <= 1.5 * first,
    )  # fmt: skip
    idle = run("idle", "--store", store, "--stored", 1_000_000)
    start = value(idle, "start, ms")
    tell(4, "start with 1,000,000 steps (2 s)", store, f"{start:.0f} ms", start <= 2_000)
    asked, cpu = value(idle, "statements/s"), value(idle, "CPU, %")
    if is_file:
        changed = value(idle, "files changed")
        quiet, limit = changed == 0, "nothing written"
        what = "nothing written" if quiet else "the file was written"
    else:
        quiet, limit = asked <= 1.1, "one query a second"
        what = f"{asked:.1f} queries/s"
    tell(
        6, f"an idle worker ({limit}, 0.5 % CPU)", store,
        f"{what}, {cpu:.2f} %", quiet and cpu <= 0.5,
    )  # fmt: skip
    library = os.path.join(graphs.folder(), "metamath-nf.json")
    if not os.path.exists(library):
        print("NOT RUN: the real graph of 10,448 tasks is not here")
        return
    for kind, limit in ("noop", 0.5), ("call", 0):
        graph = throughput(store, f"dag:{library}", 0, "--kind", kind)
        part = graph["steps_per_s"] / rate
        tell(
            7, f"a proof library of {kind} ({limit or 'no limit'} of the fan-out)", store,
            f"{part:.2f}, {graph['steps_per_s']:,.0f}/s", part >= limit,
        )  # fmt: skip


for database in NAMES:
    figures(database)
for steps in 100_000, 200_000:
    # Four processes on two cores: each round by itself says little.
    rounds = max(int(ROUNDS), 9)
    both = run("workers", "--shape", "fanout", "--steps", steps, "--rounds", rounds)
    ratio = value(both, "ratio")
    tell(
        5, f"two processes against one, {steps:,} steps (0.9)", "postgres",
        f"{ratio:.2f}", ratio >= 0.9,
    )  # fmt: skip
