# The service as an image: locked dependencies, compiled kernels, an ordinary user, nothing to fetch at its start.
#
#   docker build --tag registry.example.com/recommendation-service:0.1.0 .
#   docker run --publish 5005:5005 --env MYSQL_HOST=db.internal --env MYSQL_USER=recs --env MYSQL_PASSWORD \
#       --env MYSQL_DB=interacpedia --volume recs-data:/var/lib/recommendation-service \
#       registry.example.com/recommendation-service:0.1.0
#
# Settings come from the environment: docs/settings.md. The root file system may be read-only where /tmp, DATA_DIR and
# NUMBA_CACHE_DIR are writable, the last one filled with what the image has there: Numba wants to write where it
# reads machine code. deploy/kubernetes/ does both.

FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /app

RUN ["python", "-m", "venv", "/app/.venv"]
COPY requirements.lock ./
# Wheels only: to build a package from source, pip would fetch a build backend that no hash covers.
RUN ["/app/.venv/bin/python", "-m", "pip", "install", "--quiet", "--no-input", "--require-hashes", \
     "--only-binary=:all:", "--requirement", "requirements.lock"]

COPY api/ api/
COPY recommendation_service/ recommendation_service/
COPY gunicorn.conf.py ./
RUN ["/app/.venv/bin/python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", \
     "api", "recommendation_service"]

# Kernels for any x86-64 or arm64 machine, whatever machine builds the image: the final stage says the same to Numba,
# which would compile for the machine that it is on otherwise, half a minute at each start. A feed takes as long
# with them as with kernels for the very machine (docs/capacity.md).
ENV NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/var/cache/recommendation-service
RUN ["/app/.venv/bin/python", "-c", \
     "from recommendation_service.feed.compilation import compile_kernels; compile_kernels()"]


FROM python:3.11-slim-bookworm

RUN groupadd --gid 10001 recs \
    && useradd --no-log-init --uid 10001 --gid recs --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin recs \
    && install --directory --owner=recs --group=recs /var/lib/recommendation-service

# Root's, so that the service cannot change its own code; only data and kernels are the service's.
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /var/cache/recommendation-service /var/cache/recommendation-service

# Two workers: Gunicorn would count the cores of the whole machine, however few the container may use.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/var/cache/recommendation-service \
    DATA_DIR=/var/lib/recommendation-service \
    GUNICORN_BIND=0.0.0.0:5005 \
    GUNICORN_WORKERS=2
WORKDIR /app
USER 10001:10001
EXPOSE 5005

# Alive, not ready: a container without a catalog yet must not be restarted for that.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/app/.venv/bin/python", "-S", "-c", \
         "import http.client as h; c = h.HTTPConnection('127.0.0.1', 5005, timeout=3); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

CMD ["/app/.venv/bin/python", "-m", "gunicorn", "-c", "gunicorn.conf.py", "api.server:app"]
