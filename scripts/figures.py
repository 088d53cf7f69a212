"""Figures that need a process of their own: time and memory of hostile and huge documents.

    python3 scripts/figures.py target/release/dandori

Prints lines `FIGURE line | what | measured`, as the tests do.
"""

import json
import os
import subprocess
import sys
import tempfile

PROGRAM = os.path.abspath(sys.argv[1])
MIB = 1 << 20


def measure(folder, *arguments):
    """Runs the program; returns its exit code, seconds, and peak memory in MiB."""
    script = (
        "import resource, subprocess, sys, time\n"
        "began = time.monotonic()\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL).returncode\n"
        "took = time.monotonic() - began\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024\n"
        "print(code, took, peak)\n"
    )
    command = [sys.executable, "-c", script, PROGRAM, *arguments]
    said = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True).stdout
    code, took, peak = said.split()
    return int(code), float(took), float(peak)


def bombs():
    """Attacks that weigh 1 MiB and would expand or nest without end."""
    head = "tasks:\n  a:\n    kind: noop\n    with:\n"
    laughs = head + "      l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n"
    for level in range(1, 10):
        uses = ", ".join([f"*l{level - 1}"] * 10)
        laughs += f"      l{level}: &l{level} [{uses}]\n"
    yield "billion laughs", "yaml", laughs + "#" + "x" * (MIB - len(laughs) - 2)
    anchors = head + "      output:\n"
    yield "100,000 anchors", "yaml", anchors + "".join(
        f"      - &a{n} x\n" for n in range(60_000)
    )
    uses = head + "      big: &big [" + "0," * (MIB // 4) + "]\n"
    yield "large value used 90 times", "yaml", uses + "      all: [" + ", ".join(
        ["*big"] * 90
    ) + "]\n"
    yield "brackets", "yaml", head + "      output: " + "[" * MIB
    yield "braces", "yaml", head + "      output: " + "{a: " * (MIB // 4)
    blocks, level = "", 0
    while len(blocks) < MIB:
        blocks += " " * level + "k:\n"
        level += 1
    yield "nested blocks", "yaml", blocks
    yield "dashes", "yaml", head + "      output:\n        " + "- " * (MIB // 2)
    yield "nested JSON", "json", '{"tasks":' + "[" * MIB
    yield "nested JSON objects", "json", '{"a":' * (MIB // 5)


def graph(tasks):
    return json.dumps({"tasks": tasks})


def task(*needs):
    return {"kind": "noop", "needs": list(needs)}


def graphs():
    """The extremes that must be taken."""
    n = 100_000
    yield "chain of 100,000", graph(
        {f"c{i}": task(*([f"c{i - 1}"] if i else [])) for i in range(n)}
    ), False
    yield "fan-out of 100,000", graph(
        {"root": task(), **{f"w{i}": task("root") for i in range(n - 1)}}
    ), True
    yield "fan-in of 100,000", graph(
        {**{f"w{i}": task() for i in range(n - 1)}, "join": task(*[f"w{i}" for i in range(n - 1)])}
    ), True
    ladder = {"j0": task()}
    for i in range(1, 1001):
        ladder[f"l{i}"] = task(f"j{i - 1}")
        ladder[f"r{i}"] = task(f"j{i - 1}")
        ladder[f"j{i}"] = task(f"l{i}", f"r{i}")
    yield "ladder of 1,000 diamonds", graph(ladder), True
    yield "dense: 20 layers of 100", graph(
        {
            f"y{layer}_{i}": task(*([f"y{layer - 1}_{j}" for j in range(100)] if layer else []))
            for layer in range(20)
            for i in range(100)
        }
    ), True
    yield "complete: 500 tasks, all before", graph(
        {f"v{i}": task(*[f"v{j}" for j in range(i)]) for i in range(500)}
    ), True


def main():
    with tempfile.TemporaryDirectory() as folder:
        def write(name, text):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
            return name

        _, floor, base = measure(folder, "validate", write("small.yaml", "tasks: {a: {kind: noop}}"))
        worst_time, worst_peak = 0.0, 0.0
        for name, form, text in bombs():
            document = write(f"bomb.{form}", text)
            runs = [measure(folder, "validate", document) for _ in range(5)]
            # The median: a pause of the machine is not the reader's.
            code, took, peak = sorted(runs, key=lambda run: run[1])[2]
            if code != 3:
                print(f"NOT RUN: {name} ended with {code}")
            worst_time, worst_peak = max(worst_time, took - floor), max(worst_peak, peak - base)
        print(
            "FIGURE 6 | slowest and largest refusal of a 1 MiB bomb (100 ms, 32 MB)"
            f" | {worst_time * 1000:.0f} ms; {worst_peak:.1f} MB"
        )
        for name, text, to_the_end in graphs():
            document = write("graph.json", text)
            for old in os.listdir(folder):
                if old.startswith("dandori.db"):
                    os.remove(os.path.join(folder, old))
            code, took, peak = measure(folder, "submit", document)
            line = f"{took:.2f} s, {peak:.0f} MiB"
            assert code == 0, (name, code)
            if to_the_end:
                code, took, peak = measure(folder, "run", document)
                assert code == 0, (name, code)
                line += f"; {took:.2f} s, {peak:.0f} MiB"
            print(f"FIGURE 4 | {name}: submit; run to the end (10 s, 1 GiB) | {line}")


if __name__ == "__main__":
    main()
