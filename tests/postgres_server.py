"""A real PostgreSQL server of the tests' own: fresh data, a Unix socket, no network, and gone when the tests end.

`initdb` refuses to run as root, so under root everything of the server runs as an unprivileged user, in a directory
that this user owns. Commits are synced to disk as in production: the custodian refuses a server that does not.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

_ROLE = "custodian"
_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def find_binaries() -> Path | None:
    """Return the directory of the newest PostgreSQL server that is installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class PostgresServer:
    """One server. `database()` gives an empty database on it, and `reclaim()` takes back all that were given."""

    def __init__(self, within: Path | None = None) -> None:
        """Make a server whose files lie in a directory of its own within this one, or where temporary ones do."""
        binaries = find_binaries()
        if binaries is None:
            raise AssertionError("no PostgreSQL server is installed; on Debian and Ubuntu: apt install postgresql")
        self._binaries = binaries
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="aigovtool-postgres-", dir=within))
        if self._user is not None:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", "data", "-U", _ROLE, "-A", "trust", "-E", "UTF8", "--locale=C")
        self.process: subprocess.Popen[bytes] | None = None
        self._given: list[str] = []
        self._empty: list[str] = []
        self.start()

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, *arguments],
            cwd=self.directory,
            check=True,
            stdout=subprocess.DEVNULL,
            **self._identity(),
        )

    def start(self) -> None:
        """Start the server, which may have been killed, and wait until it takes connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "max_connections": "60",
            "shared_buffers": "32MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                # However the test run ends, the server ends with it; it is started by the main thread.
                ["setpriv", "--pdeathsig", "INT", self._binaries / "postgres", "-D", "data", *options],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._identity(),
            )
        # After a crash it first syncs every file that it has, which a busy disk lets it wait for.
        deadline = time.monotonic() + 240
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError((self.directory / "log").read_text()[-2000:])
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """End the server at once, as a crash would: every process of it, for each leads a group of its own."""
        if self.process is None:
            return
        parent = self.process.pid
        children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        for pid in [parent, *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)
        self.process = None
        # Their shared memory is free when the last of them is gone, and only then can a new server start.
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
            time.sleep(0.01)

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://{_ROLE}@/{database}?host={self.directory}"

    def database(self, *, kept: bool = False) -> str:
        """Return the address of an empty database, which is not taken back if it is to be kept."""
        name = self._empty.pop() if self._empty else self._new()
        if not kept:
            self._given.append(name)
        return self.url(name)

    def _new(self) -> str:
        name = f"ledger_{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def reclaim(self) -> None:
        """Empty the databases that were given, so that they can be given again.

        One for every test would be gigabytes, of which a server that was killed syncs every file before it answers.
        """
        while self._given:
            name = self._given.pop()
            with psycopg.connect(self.url(name), autocommit=True) as connection:
                connection.execute(_END_OTHERS)
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
                connection.execute(f"ALTER DATABASE {name} RESET ALL")
            self._empty.append(name)

    def close(self) -> None:
        """Stop the server and remove its data, which it need not write down any more."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
