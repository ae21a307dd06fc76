"""The second wall: which tables have it, whom it binds, what it lets through, and what is said where it is not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, make_url, select, text
from sqlalchemy.exc import DBAPIError

from dev.home import ROOT
from dev.migrations import upgrade
from models import queries, rls, tenancy
from models.engine import make_async_engine, make_engine
from models.settings import Settings, load_settings
from models.tables import SCHEMA, api_keys, jobs, tenants
from tests.conftest import clean_environment, new_database, with_database
from tests.integration.ledger_support import Book
from web.database import Database

Work = Callable[[Database], Awaitable[Any]]


def run(settings: Settings, work: Work) -> Any:
    """Do something with the web's connections."""

    async def go() -> Any:
        engine = make_async_engine(settings, pool_size=2)
        try:
            return await work(Database(engine, settings.db_schema))
        finally:
            await engine.dispose()

    return asyncio.run(go())


def wall_of(engine: Engine, schema: str = SCHEMA) -> rls.Wall:
    with engine.connect() as connection:
        return rls.Wall(*connection.execute(rls.second_wall(schema)).one())


def test_every_table_of_tenants_has_a_policy_that_spares_its_owner(engine: Engine) -> None:
    statement = text(
        "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,"
        "       array_agg(p.polname::text) FILTER (WHERE p.oid IS NOT NULL) AS policies"
        " FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid"
        " WHERE c.relnamespace = 'callboard'::regnamespace AND c.relkind IN ('r', 'p') AND EXISTS ("
        "   SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)"
        " GROUP BY c.oid"
    )
    with engine.connect() as connection:
        found = {row.relname: tuple(row)[1:] for row in connection.execute(statement)}
    assert {"jobs", "api_keys", "web_sessions", "sign_in_links"} <= found.keys()
    assert found == dict.fromkeys(found, (True, False, [rls.POLICY]))


def test_the_web_is_nobody_that_policies_spare(settings: Settings, engine: Engine) -> None:
    async def ask(database: Database) -> Any:
        async with database.tenant("default") as connection:
            statement = text(
                "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolinherit, row_security_active('callboard.jobs')"
                ", (SELECT count(*) FROM pg_class WHERE relowner = r.oid)"
                " FROM pg_roles r WHERE rolname = current_user"
            )
            return (await connection.execute(statement)).one()

    wall = wall_of(engine)
    assert wall.fault is None
    assert not wall.blind  # workers, senders and maintenance
    assert tuple(run(settings, ask)) == (wall.role, False, False, False, False, True, 0)


def test_a_transaction_sees_its_tenant_only_and_leaves_nothing_behind(settings: Settings, book: Book) -> None:
    with book.engine.connect() as connection:
        for tenant in ("acme", "other"):
            tenancy.ensure_tenant(connection, tenant)
    for tenant in ("acme", "other", "other"):
        book.job(tenant_id=tenant)
    everything = select(jobs.c.tenant_id)

    async def ask(database: Database) -> None:
        for tenant, number in (("acme", 1), ("other", 2), ("default", 0), ("", 0), ('no"body', 0)):
            async with database.tenant(tenant) as connection:
                assert (await connection.execute(everything)).scalars().all() == [tenant] * number
        async with database.nobody() as connection:
            assert (await connection.execute(everything)).all() == []
        turns = [
            (tenant, (await connection.execute(everything)).scalars().all())
            async for tenant, connection in database.each_tenant(["acme", "other"])
        ]
        assert turns == [("acme", ["acme"]), ("other", ["other", "other"])]
        async with database._engine.connect() as connection:  # what the pool hands to whoever comes next
            statement = text("SELECT current_user, current_setting('callboard.tenant', true)")
            user, tenant = (await connection.execute(statement)).one()
            assert user != wall_of(book.engine).role
            assert not tenant

    run(settings, ask)


def test_nothing_is_written_for_another_tenant(settings: Settings, book: Book) -> None:
    with book.engine.connect() as connection:
        tenancy.ensure_tenant(connection, "acme")
    book.job(tenant_id="acme")

    async def ask(database: Database) -> None:
        async with database.tenant("default") as connection:
            assert (await connection.execute(jobs.update().values(queue="x"))).rowcount == 0
        with pytest.raises(DBAPIError, match="row-level security"):
            async with database.tenant("acme") as connection:
                await connection.execute(jobs.update().values(tenant_id="default"))
        with pytest.raises(DBAPIError, match="row-level security"):
            async with database.tenant("default") as connection:
                await connection.execute(tenancy.store_tenant(), {"tenant": "new"})
        with pytest.raises(DBAPIError, match="permission denied"):
            async with database.tenant("acme") as connection:
                await connection.execute(jobs.delete())

    run(settings, ask)
    assert [row["tenant_id"] for row in book.rows()] == ["acme"]


def test_who_asks_for_a_key_sees_that_key(settings: Settings, engine: Engine) -> None:
    with engine.connect() as connection:
        one, two = (tenancy.create_key(connection, "default") for _ in range(2))
    ids = [parts[0] for key in (one, two) if (parts := tenancy.split_key(key))]

    async def ask(database: Database) -> None:
        everything = select(api_keys.c.id)
        async with database.credentials([ids[0], 'odd"\\{id}']) as connection:
            assert (await connection.execute(everything)).scalars().all() == [ids[0]]
            assert (await connection.execute(select(jobs.c.id))).all() == []
            assert (await connection.execute(select(tenants.c.id))).all() == []
        async with database.credentials([]) as connection:
            assert (await connection.execute(everything)).all() == []
        async with database.operator() as connection:
            assert (await connection.execute(everything)).all() == []
            assert (await connection.execute(select(tenants.c.id))).scalars().all() == ["default"]

    run(settings, ask)


def test_a_block_that_fails_leaves_nothing(settings: Settings, engine: Engine) -> None:
    async def half(database: Database) -> None:
        async with database.operator() as connection:
            await connection.execute(tenancy.store_tenant(), {"tenant": "half"})
            await connection.execute(jobs.delete())

    async def ask(database: Database) -> None:
        with pytest.raises(DBAPIError, match="permission denied"):
            await half(database)
        async with database.operator() as connection:
            await connection.execute(tenancy.store_tenant(), {"tenant": "whole"})

    run(settings, ask)
    with engine.connect() as connection:
        assert connection.execute(tenancy.all_tenants()).scalars().all() == ["default", "whole"]


def test_a_connection_that_died_in_the_pool_is_replaced(settings: Settings, engine: Engine) -> None:
    async def ask(database: Database) -> None:
        async with database.nobody() as connection:
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        with engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        async with database.nobody() as connection:
            assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != pid

    run(settings, ask)


# -- where it cannot stand -------------------------------------------------------------------------------------------


@contextmanager
def somebody(postgres_url: str, *, may_create_roles: bool = False) -> Iterator[tuple[str, str]]:
    """An owner for whom nobody has made the web's role; what it made itself goes with it."""
    name, password = f"owner_{secrets.token_hex(4)}", "x"
    right = sql.SQL("CREATEROLE" if may_create_roles else "NOCREATEROLE")
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        role = sql.Identifier(name)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x' {}").format(role, right))
        admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        yield name, password
        for schema in (SCHEMA, "second"):
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(rls.web_role(schema, name))))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


@contextmanager
def installed(url: str, **variables: str) -> Iterator[Settings]:
    with clean_environment(DATABASE_URL=url, REDIS_URL="redis://127.0.0.1", **variables):
        upgrade()
        yield load_settings(_env_file=None)


def test_without_the_role_the_first_wall_stands_alone_until_it_is_made(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        somebody(postgres_url) as owner,
        new_database(postgres_url, owner) as url,
        installed(url) as settings,
        psycopg.connect(postgres_url, autocommit=True) as admin,
    ):
        engine = make_engine(settings, pool_size=0)
        wall = wall_of(engine)
        assert (wall.exists, wall.takeable) == (False, False)
        assert wall.fault is not None

        async def ask(database: Database) -> None:
            for _ in range(3):
                async with database.tenant("default") as connection:
                    assert (await connection.execute(text("SELECT current_user"))).scalar_one() == owner[0]
                    await connection.execute(queries.counts(), {"tenant": "default"})
                database._look_at = 0.0  # a minute later
            assert caplog.text.count("web.no_second_wall") == 1
            # What the message says, said by an administrator; and the next migration.
            statements = rls.role_statements(str(wall.role), member=rls.quoted(owner[0]))
            assert all(statement.partition(" TO ")[0] in str(wall.fault) for statement in statements)
            for statement in statements:
                admin.execute(statement.encode())
            assert wall_of(engine).fault is not None
            await asyncio.to_thread(upgrade)
            assert wall_of(engine).fault is None
            async with database.tenant("default") as connection:
                assert (await connection.execute(text("SELECT current_user"))).scalar_one() == wall.role

        run(settings, ask)
        engine.dispose()


def test_an_owner_who_may_create_roles_needs_nobody(postgres_url: str) -> None:
    with somebody(postgres_url, may_create_roles=True) as owner, new_database(postgres_url, owner) as url:
        roles = set()
        for schema in (SCHEMA, "second"):
            with installed(url, CALLBOARD_DB_SCHEMA=schema) as settings:
                engine = make_engine(settings, pool_size=0)
                wall = wall_of(engine, schema)
                assert wall.fault is None
                roles.add(wall.role)
                engine.dispose()
        assert roles == {rls.web_role(SCHEMA, owner[0]), rls.web_role("second", owner[0])}
        with psycopg.connect(url) as connection:  # one schema's role has no business in the other
            connection.execute(f"SET ROLE {rls.quoted(rls.web_role('second', owner[0]))}".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT FROM callboard.tenants")


def test_what_else_is_wrong_is_named(engine: Engine, postgres_url: str, database_url: str) -> None:
    role = rls.quoted(str(wall_of(engine).role))
    with (
        psycopg.connect(database_url, autocommit=True) as owner,
        psycopg.connect(postgres_url, autocommit=True) as admin,
    ):
        owner.execute("CREATE TABLE callboard.forgotten (tenant_id text)")
        assert "no policy on forgotten" in str(wall_of(engine).fault)
        upgrade()
        assert wall_of(engine).fault is None
        owner.execute(f"REVOKE SELECT ON callboard.jobs FROM {role}".encode())
        assert "lacks its grants" in str(wall_of(engine).fault)
        upgrade()
        assert wall_of(engine).fault is None
        try:
            admin.execute(f"ALTER ROLE {role} BYPASSRLS".encode())
            assert "BYPASSRLS" in str(wall_of(engine).fault)
        finally:
            admin.execute(f"ALTER ROLE {role} NOBYPASSRLS".encode())
        owner.execute("ALTER TABLE callboard.jobs DISABLE ROW LEVEL SECURITY")
        assert "no policy on jobs" in str(wall_of(engine).fault)
    assert wall_of(engine, "nowhere").role is None


def test_a_user_who_does_not_own_the_tables_is_named_blind(postgres_url: str, database_url: str) -> None:
    """A worker that is neither the owner nor a member of it would see no job."""
    name = f"app_{secrets.token_hex(4)}"
    statement = rls.second_wall(SCHEMA)
    with psycopg.connect(with_database(postgres_url, database_url.rpartition("/")[2]), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'".encode())
        try:
            admin.execute(f"GRANT USAGE ON SCHEMA callboard TO {name}".encode())
            url = with_database(database_url, database_url.rpartition("/")[2], name, "x")
            settings = load_settings(_env_file=None, database_url=url, redis_url="redis://127.0.0.1")
            engine = make_engine(settings, pool_size=0)
            with engine.connect() as connection:
                assert rls.Wall(*connection.execute(statement).one()).blind
            owner = rls.quoted(database_url.partition("://")[2].partition(":")[0])
            admin.execute(f"GRANT {owner} TO {name}".encode())
            with engine.connect() as connection:
                assert not rls.Wall(*connection.execute(statement).one()).blind
            engine.dispose()
        finally:
            admin.execute(f"DROP OWNED BY {name}".encode())
            admin.execute(f"DROP ROLE {name}".encode())


def test_the_how_to_says_what_the_code_says() -> None:
    page = (ROOT / "docs/how-to/row-level-security.md").read_text()
    for statement in rls.role_statements(rls.web_role(SCHEMA, "app"), member="app"):
        assert f"{statement};" in page


def test_a_role_for_reports_sees_rows_with_the_policy_of_the_how_to(book: Book, postgres_url: str) -> None:
    page = (ROOT / "docs/how-to/row-level-security.md").read_text()
    [policy] = [line for line in page.splitlines() if line.startswith("CREATE POLICY")]
    name = f"reports_{secrets.token_hex(4)}"
    book.job()
    place = make_url(postgres_url).set(database=book.engine.url.database).render_as_string(hide_password=False)
    with psycopg.connect(place) as admin:  # nothing of this is kept
        for statement in (
            f"CREATE ROLE {name}",
            f"GRANT USAGE ON SCHEMA callboard TO {name}",
            f"GRANT SELECT ON callboard.jobs TO {name}",
            f"SET LOCAL ROLE {name}",
        ):
            admin.execute(statement.encode())
        count = "SELECT count(*) FROM callboard.jobs"
        assert admin.execute(count).fetchone() == (0,)
        admin.execute("RESET ROLE")
        admin.execute(policy.replace("reports", name).encode())
        admin.execute(f"SET LOCAL ROLE {name}".encode())
        assert admin.execute(count).fetchone() == (1,)
        admin.rollback()


def test_names_of_roles_fit_and_differ() -> None:
    assert rls.web_role("callboard", "app") == "callboard_web_app"
    long = [rls.web_role("s" * 63, owner) for owner in ("a", "b")] + [rls.web_role("callboard", "ü" * 60)]
    assert len(set(long)) == 3
    assert all(len(name.encode()) <= 63 for name in long)


@pytest.mark.parametrize("owner", ["app", "a" * 60, "ü" * 31, 'od"d'])
def test_the_database_makes_the_same_name(postgres_url: str, owner: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        role = sql.Identifier(owner)
        admin.execute(sql.SQL("CREATE ROLE {}").format(role))
        schema = f"s_{secrets.token_hex(4)}"
        try:
            admin.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            table = sql.Identifier(schema, "jobs")
            admin.execute(sql.SQL("CREATE TABLE {} (id int)").format(table))
            admin.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, role))
            settings = load_settings(_env_file=None, database_url=postgres_url, redis_url="redis://127.0.0.1")
            made = make_engine(settings, pool_size=0)
            assert wall_of(made, schema).role == rls.web_role(schema, owner)
            made.dispose()
        finally:
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
            admin.execute(sql.SQL("DROP ROLE {}").format(role))
