"""A private PostgreSQL cluster: made, started, crashed and removed.

It writes durably (`fsync`, `synchronous_commit`), listens on 127.0.0.1 and on a socket
beneath its folder, and trusts everybody, as nothing but the test can reach it. `initdb`
refuses root, so root hands the cluster to another user.
"""

import glob
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time

USER = "dandori"
DATABASE = "dandori"


class DatabaseAway(Exception):
    """A statement could not be carried out: the server is away or refused it."""


def free_port():
    """A port nobody listens on; somebody could take it before it is used, which fails loudly."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_programs():
    """The folder with `initdb` and `postgres`."""
    folders = []
    if shutil.which("pg_config"):
        said = subprocess.run(["pg_config", "--bindir"], stdout=subprocess.PIPE, text=True)
        folders.append(said.stdout.strip())
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    for folder in folders:
        if all(os.access(os.path.join(folder, name), os.X_OK) for name in ("initdb", "postgres")):
            return folder
    raise SystemExit("please install PostgreSQL (initdb and postgres): it is needed")


class Cluster:
    """The server and its folder."""

    def __init__(self, folder):
        self.programs = find_programs()
        self.folder = os.path.join(folder, "postgres")
        self.data = os.path.join(self.folder, "data")
        self.log = os.path.join(folder, "postgres.log")
        self.port = free_port()
        own = os.path.join(self.programs, "psql")
        self.psql = own if os.access(own, os.X_OK) else "psql"
        self.as_user = {}
        self.lock = threading.Lock()
        self.removed = False
        os.mkdir(self.folder, 0o700)
        if os.getuid() == 0:
            owner = self._unprivileged()
            self.as_user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            # The folder above belongs to root; the server must be able to pass through.
            os.chmod(folder, 0o711)
        self._initdb()

    @staticmethod
    def _unprivileged():
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
        raise SystemExit("neither the user postgres nor nobody exists: initdb refuses root")

    def _run(self, program, *arguments, **more):
        return subprocess.run(
            [os.path.join(self.programs, program), *arguments],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, **self.as_user, **more,
        )

    def _initdb(self):
        made = self._run(
            "initdb", "-D", self.data, "-U", USER, "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-instructions",
        )
        if made.returncode:
            raise SystemExit(f"initdb failed:\n{made.stdout}")
        settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": self.port,
            "unix_socket_directories": f"'{self.folder}'",
            "max_connections": 200,
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "autovacuum_naptime": "5s",
            "log_min_messages": "warning",
            "log_line_prefix": "'%m [%p] '",
        }
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def start(self, seconds=60):
        """Starts the server and waits until it takes statements."""
        # pg_ctl would keep the pipe of its output open in the server, so it gets none.
        command = [os.path.join(self.programs, "pg_ctl"), "-D", self.data, "-w", "-t", str(seconds),
                   "-l", os.path.join(self.folder, "server.log"), "start"]
        with self.lock:
            # A restart under way must not bring back what is being removed.
            if self.removed:
                return
            done = subprocess.run(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, **self.as_user,
            )
        if done.returncode:
            raise SystemExit(f"PostgreSQL did not start; see {self.folder}/server.log")

    def stop(self, mode):
        """Stops the server: `immediate` is a crash, `fast` a clean end."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def create_database(self, name):
        self.sql(f'create database "{name}"', database="postgres")

    def migrate(self, program, database):
        """Has the program prepare its schema."""
        done = subprocess.run(
            [program, "migrate", "--database-url", self.url(database)], cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(f"migrate ended with {done.returncode}: {done.stdout.strip()}")

    def url(self, database=DATABASE, port=None):
        return f"postgres://{USER}@127.0.0.1:{port or self.port}/{database}?sslmode=disable"

    def sql(self, text, database=DATABASE, seconds=30):
        """Carries out statements by psql; the rows, as lists of texts."""
        command = [
            self.psql, "-X", "-q", "-A", "-t", "-F", "\x1f", "-R", "\x1e", "-v", "ON_ERROR_STOP=1",
            "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-c", text,
        ]
        environment = {**os.environ, "PGCONNECT_TIMEOUT": "5", "PGSSLMODE": "disable",
                       "PGOPTIONS": "-c search_path=dandori,public"}
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, env=environment, timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise DatabaseAway(f"no answer within {seconds} s") from error
        if done.returncode:
            raise DatabaseAway(done.stderr.strip() or f"psql ended with {done.returncode}")
        text = done.stdout.rstrip("\n\x1e")
        return [row.split("\x1f") for row in text.split("\x1e")] if text else []

    def wait_until_ready(self, seconds=30):
        end = time.monotonic() + seconds
        while True:
            try:
                self.sql("select 1", database="postgres", seconds=5)
                return
            except DatabaseAway:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def amcheck(self, database=DATABASE):
        """What pg_amcheck finds: None where it cannot run, else the complaints."""
        program = os.path.join(self.programs, "pg_amcheck")
        if not os.access(program, os.X_OK):
            return None
        try:
            self.sql("create extension if not exists amcheck", database=database)
        except DatabaseAway:
            return None
        done = subprocess.run(
            [program, "--heapallindexed", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        return "" if done.returncode == 0 else done.stdout.strip() or "it failed"

    def dump(self, database, path):
        """Writes a database down for a look at it later, if pg_dump is there."""
        program = os.path.join(self.programs, "pg_dump")
        if os.access(program, os.X_OK):
            with open(path, "wb") as file:
                subprocess.run(
                    [program, "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database],
                    stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL)

    def keep_log(self):
        """Copies the log of the server out of its folder."""
        source = os.path.join(self.folder, "server.log")
        if os.path.exists(source):
            shutil.copyfile(source, self.log)

    def remove(self):
        """Stops the server whatever state it is in, and removes its folder."""
        with self.lock:
            self.removed = True
        if os.path.exists(os.path.join(self.data, "postmaster.pid")):
            self.stop("immediate")
        self.keep_log()
        shutil.rmtree(self.folder, ignore_errors=True)
