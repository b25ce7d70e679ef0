"""Gunicorn's settings, from the service's own (environment or .env): docs/settings.md has all of them.

gunicorn -c gunicorn.conf.py api.server:app
"""

import gc

gc.disable()  # until the master is ready: what is loaded is all kept, and looking through it takes a fifth of the start

import os
import shutil
import sys
import tempfile
from pathlib import Path

# For coloured tracebacks, which no log of this service has, structlog would load rich: a thirtieth of the start.
if "structlog" not in sys.modules:
    sys.modules["rich"] = None
    import structlog  # noqa: F401

    del sys.modules["rich"]
from gunicorn.systemd import sd_notify

from recommendation_service.core.config import load_settings
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.holding import hold
from recommendation_service.core.logging import configure_logging
from recommendation_service.core.machine import default_workers

try:
    _settings = load_settings()
except ConfigurationError as error:
    sys.exit("The service cannot start:\n" + "\n".join(f"- {problem}" for problem in error.problems))

configure_logging(_settings)
try:
    # Open as long as the master and, by inheritance, its workers live.
    _held = hold(_settings.data_dir, _settings.data_dir_wait_seconds)
except ConfigurationError as error:
    sys.exit(f"The service cannot start: {error}")
except OSError as error:
    # A disk that is full or may not be written to: what is there is served.
    sys.stderr.write(f"{_settings.data_dir} cannot be held: {error}\n")

# prometheus-client sees at its import that there are several processes; `claim` then says where they count.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(_settings.data_dir))
from recommendation_service.server.stopping import hear_stop_signals, hold_stop_signals, refuse_new_connections
from recommendation_service.telemetry import metrics_files

_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
_metrics_parent = _settings.data_dir.absolute() / "metrics"
try:
    _metrics_folder = metrics_files.claim(_metrics_parent)
except OSError as error:
    # A service on a full disk starts, serves what it has, and counts in memory.
    sys.stderr.write(f"no room for metrics in {_metrics_parent}: {error}\n")
    _metrics_folder = metrics_files.claim(Path(tempfile.mkdtemp(prefix="recs-metrics-", dir=_memory)))

bind = _settings.gunicorn_bind
workers = _settings.gunicorn_workers or default_workers()
worker_class = "recommendation_service.server.worker.Worker"
timeout = _settings.gunicorn_timeout
graceful_timeout = _settings.gunicorn_graceful_timeout
keepalive = _settings.gunicorn_keepalive
max_requests = _settings.gunicorn_max_requests
max_requests_jitter = max_requests // 10
preload_app = _settings.gunicorn_preload_app
loglevel = _settings.gunicorn_log_level
accesslog = None
errorlog = "-"
control_socket_disable = True  # it would be written to the home of a user who may have none
proc_name = "recommendation-service"
worker_tmp_dir = _memory  # heartbeats must not wait for a disk


_systemd = {}  # NOTIFY_SOCKET, where systemd waits to hear of readiness


def on_starting(server):
    _remove_spares()
    os.register_at_fork(after_in_parent=hear_stop_signals)
    server.log.info("Iniciando Gunicorn con %s workers", workers)
    server.log.info("Preload app: %s", preload_app)
    # Gunicorn would say READY=1 as soon as it listens, and feeds can be served only after the warm-up.
    if "NOTIFY_SOCKET" in os.environ:
        _systemd["NOTIFY_SOCKET"] = os.environ.pop("NOTIFY_SOCKET")


def when_ready(server):
    if preload_app:
        from recommendation_service.bootstrap import warm_up

        warm_up(server.app.wsgi())
    gc.enable()
    _lose_no_connection_at_a_stop(server)
    os.environ.update(_systemd)
    sd_notify("READY=1", server.log, unset_environment=True)  # unset: no worker has anything to say to systemd


def _lose_no_connection_at_a_stop(server):
    stop = server.handle_term

    def handle_term():
        # Unless another process listens on the same sockets: a master that replaces this one (USR2), or systemd.
        if server.reexec_pid == server.master_pid == 0 and not server.systemd:
            refuse_new_connections(server.LISTENERS)
        stop()

    server.handle_term = handle_term


def on_reload(server):
    gc.enable()  # this file was read again


def pre_fork(server, worker):
    # Until a worker has its own handlers, the master's would take a stop that is meant for it, and forget it.
    hold_stop_signals()


def post_fork(server, worker):
    try:
        metrics_files.reserve(_metrics_folder, worker.pid)
    except OSError as error:
        # Without room on the disk it serves all the same, and counts where nobody reads.
        server.log.error("no room for metrics, what worker %s counts is lost: %s", worker.pid, error)
        os.environ[metrics_files.WRITE_FOLDER] = tempfile.mkdtemp(
            prefix=f"recs-metrics-of-{server.pid}-{worker.pid}-", dir=_memory
        )


def child_exit(server, worker):
    _remove_spares(of=f"{server.pid}-{worker.pid}")
    try:
        metrics_files.merge_dead(_metrics_folder)
    except (OSError, ValueError, RuntimeError) as error:
        # Raised here, it would end the master. The next worker that ends brings another try.
        server.log.error("metrics of ended workers could not be merged: %s", error)


def _remove_spares(of="*"):
    """Where workers of a master, or one of them, counted; by default, of masters that were killed."""
    for spare in Path(_memory or tempfile.gettempdir()).glob(f"recs-metrics-of-{of}-*"):
        if of != "*" or not Path("/proc", spare.name.split("-")[3]).exists():
            shutil.rmtree(spare, ignore_errors=True)


def on_exit(server):
    _remove_spares(of=f"{server.pid}")
    if _metrics_folder.parent != _metrics_parent:
        shutil.rmtree(_metrics_folder.parent, ignore_errors=True)
