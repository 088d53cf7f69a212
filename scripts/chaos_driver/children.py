"""The processes beside the workers: witness and fault proxy, seen from the driver.

Both end with their standard input, so that they cannot outlive the driver.
"""

import json
import subprocess
import sys
import threading


class Child:
    """A Python module of this package in a process of its own."""

    def __init__(self, module, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # Ctrl-C in a terminal is for the driver, which ends its children in order.
            start_new_session=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the {module} did not start")
        self.hello = json.loads(line)

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Witness(Child):
    """The service that the steps call."""

    def __init__(self, log):
        super().__init__("witness", log)
        self.log = log
        self.port = self.hello["port"]


class Proxy(Child):
    """The links between workers and database."""

    def __init__(self, database_port, count):
        super().__init__("proxy", database_port, count)
        self.ports = self.hello["ports"]
        self.lock = threading.Lock()

    def order(self, link, mode=None, **more):
        """Sets the mode of a link, or only asks; the answer counts connections and hits."""
        with self.lock:
            order = {"link": link, **more}
            if mode is not None:
                order["mode"] = mode
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
