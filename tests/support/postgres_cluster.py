"""A real PostgreSQL server for tests: a private cluster in a folder of its own, gone when the tests end.

The server runs as an unprivileged user (it refuses root), listens on a Unix socket in a folder that nobody else
may enter, and on loopback only if asked to. It is a child of the test process and ends with it, even if that is
killed. The CA's role owns its databases and has no other right.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
from memory_folders import ON_DISK
from psycopg import sql

BINARIES = Path("/usr/lib/postgresql")
"""Where Debian keeps the servers, one folder per major version."""

ROLE = "vtpm_ca"
"""The role that the CA connects as."""

_ADMIN = "cluster_admin"
_START_S = 60
_STOP_S = 30

_SMALL = {
    "max_connections": "300",
    "shared_buffers": "'48MB'",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "jit": "off",
}
_NOT_DURABLE = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "bgwriter_lru_maxpages": "0",
    # It may lie in memory.
    "max_wal_size": "'128MB'",
}

_EMPTY = """\
DO $$
DECLARE item record;
BEGIN
    PERFORM pg_terminate_backend(pid, {wait}) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    SET LOCAL lock_timeout = '10s';
    SET LOCAL session_replication_role = replica;
    FOR item IN SELECT tablename AS name FROM pg_tables
                WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM public.%I', item.name);
    END LOOP;
    FOR item IN SELECT sequencename AS name FROM pg_sequences WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER SEQUENCE public.%I RESTART', item.name);
    END LOOP;
    INSERT INTO epochs VALUES (1, repeat('5a', 32), '2026-11-23T00:00:00Z', 'emptied for the next test');
END $$""".replace("{wait}", str(_STOP_S * 1000))


def binary(name: str) -> Path:
    """A program of the newest installed server, for example ``initdb``."""
    versions = sorted(BINARIES.iterdir(), key=lambda path: int(path.name)) if BINARIES.is_dir() else []
    if not versions:
        raise RuntimeError("no PostgreSQL server is installed; scripts/setup dev installs Debian's")
    return versions[-1] / "bin" / name


def _unprivileged() -> list[str]:
    """The start of a command that must not run as root."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PostgresCluster:
    """A running server.

    Args:
        durable: whether commits are flushed to the disk. Tests of durability need it, others save the time.
        tcp: whether it listens on 127.0.0.1 too, where it asks for a password.
        settings: more lines of postgresql.conf, values as they stand there.
    """

    def __init__(
        self, *, durable: bool = True, tcp: bool = False, settings: dict[str, str] | None = None
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pg", dir=ON_DISK if durable else None))
        self.password = secrets.token_hex(12)
        self.port = _free_port() if tcp else 5432
        self._tcp = tcp
        self._process: subprocess.Popen[bytes] | None = None
        self._emptying: dict[str, psycopg.Connection] = {}
        self._counter = 0
        try:
            self._make({**_SMALL, **({} if durable else _NOT_DURABLE), **(settings or {})}, sync=durable)
            self.start()
            self.admin(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}'")
        except BaseException:
            self.close()
            raise

    def _make(self, settings: dict[str, str], *, sync: bool) -> None:
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.log.touch()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        command = [
            *_unprivileged(), binary("initdb"), "-D", self.data, "-U", _ADMIN, "-E", "UTF8", "--locale=C",
            "--auth-local=trust", "--auth-host=scram-sha-256", "--no-instructions",
            *([] if sync else ["--no-sync"]),
        ]  # fmt: skip
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True, timeout=_START_S)
        lines = {
            "listen_addresses": "'127.0.0.1'" if self._tcp else "''",
            "port": str(self.port),
            "unix_socket_directories": f"'{self.directory}'",
            **settings,
        }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in lines.items())

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        command = [
            "setpriv", "--pdeathsig", "QUIT", *_unprivileged()[1:], binary("postgres"), "-D", self.data,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait()

    def _wait(self) -> None:
        ready = [binary("pg_isready"), "-q", "-h", self.directory, "-p", str(self.port), "-t", "1"]
        for _ in range(_START_S * 20):
            if subprocess.run(ready, check=False, timeout=10).returncode == 0:
                return
            try:
                # The process's end is the only thing worth waiting for between two looks.
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        raise RuntimeError("the server does not start: " + self.log.read_text()[-2000:])

    def stop(self, *, how: int = signal.SIGINT) -> None:
        """Stop the server: SIGTERM waits for sessions, SIGINT ends them, SIGQUIT is a crash of the server."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_S)

    def restart(self, *, how: int = signal.SIGINT) -> None:
        """Stop and start again; all sessions are lost."""
        self.stop(how=how)
        self.start()

    def admin(self, statement: str, database: str = "postgres") -> list[tuple]:
        """Run a statement as the superuser; returns its rows."""
        with self._admin(database) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _admin(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.directory), port=self.port, user=_ADMIN, dbname=database, autocommit=True
        )

    def url(self, database: str, *, tcp: bool = False) -> str:
        """The URL of a database, by Unix socket or by TCP with the password in it."""
        if tcp:
            return f"postgresql+psycopg://{ROLE}:{self.password}@127.0.0.1:{self.port}/{database}"
        return f"postgresql+psycopg://{ROLE}@/{database}?host={self.directory}&port={self.port}"

    def new_database(self, template: str | None = None) -> str:
        """Make a database, empty or as a copy of another one; returns its name."""
        self._counter += 1
        name = f"t{self._counter}"
        statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(ROLE), sql.Identifier(template or "template0")
        )
        with self._admin("postgres") as connection:
            connection.execute(statement)
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, with the sessions that are still in it."""
        if name in self._emptying:
            self._emptying.pop(name).close()
        with self._admin("postgres") as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def disconnect(self, name: str) -> None:
        """End all sessions of a database but ours, as a failover does, and wait until they have ended."""
        with self._admin("postgres") as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = %s AND usename <> %s",
                (_STOP_S * 1000, name, _ADMIN),
            )

    def empty(self, name: str) -> None:
        """End all sessions of a database and remove its rows, but for the schema's version; numbers count anew.

        Much cheaper than a new database. The session that does it stays: a new one would learn the tables anew.
        """
        if name not in self._emptying:
            self._emptying[name] = self._admin(name)
        self._emptying[name].execute(_EMPTY)

    def close(self) -> None:
        """Stop the server and remove its folder."""
        for connection in self._emptying.values():
            connection.close()
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
