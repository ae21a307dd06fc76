# syntax=docker/dockerfile:1
# One image for all of Callboard's processes: migrations, web, workers, cron (see docker-compose.yml).
#
# It was linted (tests/unit/test_deployment.py) and its commands were run one by one without Docker; no image was
# built from it yet.

FROM ghcr.io/astral-sh/uv:0.9 AS uv

FROM python:3.13-slim-trixie AS build
WORKDIR /build
COPY --from=uv /uv /usr/local/bin/uv
COPY pyproject.toml uv.lock ./
# What production needs of the lock, with hashes: no test, no development server, no installer.
RUN uv export --frozen --no-emit-project --no-default-groups --no-annotate --no-header --output-file requirements.txt \
        --extra worker --extra web --extra cron --extra data --extra dashboard \
    && python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r requirements.txt

FROM python:3.13-slim-trixie
RUN groupadd --system --gid 10001 callboard \
    && useradd --system --uid 10001 --gid callboard --no-create-home --home-dir /nonexistent callboard
WORKDIR /app
COPY --from=build /venv /venv
COPY alembic.ini ./
COPY alembic/ alembic/
COPY models/ models/
COPY actors/ actors/
COPY web/ web/
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    CALLBOARD_ENV=production
RUN python -m compileall -q /app
USER 10001:10001
# Without a shell in between, so that the signal reaches the process that knows what to do with it.
STOPSIGNAL SIGTERM
EXPOSE 8000
CMD ["dramatiq", "actors", "-p", "1", "--worker-shutdown-timeout", "25000"]
