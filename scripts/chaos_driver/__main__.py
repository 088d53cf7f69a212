"""The command line of the chaos test."""

import argparse
import os
import random
import signal
import sys

from . import driver
from .graphs import ROOT
from .profiles import PROFILES


def main():
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=(
        "Runs real workers under injected faults and checks what is left. "
        "The last line of the output is JSON; the exit code is 0 without violations."))
    parser.add_argument("--profile", choices=sorted(PROFILES), required=True)
    parser.add_argument("--seed", type=int, default=None, help="repeats the projects and faults of a run")
    parser.add_argument(
        "--program", default=os.path.join(ROOT, "target", "release", "dandori"), help="the program to test")
    arguments = parser.parse_args()
    program = os.path.abspath(arguments.program)
    if not os.access(program, os.X_OK):
        parser.error(f"{program} is not there; build it with `cargo build --release`")
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    # An end by SIGTERM cleans up like one by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return driver.run(PROFILES[arguments.profile], seed, program)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
