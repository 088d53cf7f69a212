"""Submits project.yaml, executes it, follows its events, and prints its output.

    python3 submit.py http://127.0.0.1:8000        # DANDORI names the program, if not in PATH
"""

import json
import os
import subprocess
import sys
from pathlib import Path

DANDORI = os.environ.get("DANDORI", "dandori")
DOCUMENT = Path(__file__).with_name("project.yaml")


def dandori(*arguments):
    return subprocess.Popen([DANDORI, *arguments, "--json"], stdout=subprocess.PIPE, text=True)


# Recorded: from here on the project survives any crash.
submitted = dandori("submit", str(DOCUMENT), "--input", f"service={sys.argv[1]}")
project = json.load(submitted.stdout)
if "error" in project:
    sys.exit(project["error"]["message"])
# Executed by a process of its own; started again, it goes on where it was.
worker = dandori("resume", project["id"])
for line in dandori("watch", project["id"]).stdout:
    event = json.loads(line)
    print(event["seq"], event["type"], event["step"] or "", event["error"] or "")
result = json.load(worker.stdout)
print(result["state"], json.dumps(result["output"], indent=2))
sys.exit(worker.wait())
