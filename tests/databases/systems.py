"""Servers of other Debian releases, each in a folder of its own with all the libraries that it wants.

debootstrap unpacks them; nothing of them runs but the server, by that release's own loader. So the machine's packages
stay as they are, and a server of a newer C library runs on an older system.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


class SystemMissing(Exception):
    """A server cannot be had; the message says why."""


@dataclass(frozen=True)
class System:
    """A Debian release and the package that has the server's program there."""

    suite: str
    package: str
    program: str


MARIADB_OF_DEBIAN_13 = System("trixie", "mariadb-server-core", "mariadbd")
MYSQL_OF_DEBIAN_SID = System("sid", "mysql-server-core", "mysqld")

# What calls what: mariadb-install-db, a script, looks for these beside the server.
_TOOLS = ("my_print_defaults", "resolveip")


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "recommendation-service-databases"


def programs_of(system: System) -> Path:
    """A folder with the server's program, and for MariaDB mariadb-install-db, to stand first in a PATH.

    Made at the first call, some 400 MB. Raises SystemMissing.
    """
    folder = cache_folder() / f"{system.suite}-{system.package}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack(system, folder / "system")
        _wrap(system, folder)
        (folder / "complete").touch()
    return folder / "usr" / "bin"


def _unpack(system: System, target: Path) -> None:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise SystemMissing(f"{system.package} of Debian {system.suite} needs root and debootstrap")
    command = ["debootstrap", "--variant=minbase", f"--include={system.package}", system.suite, str(target)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    # A server's package may want to set up what only a running system has; its program is there all the same.
    if not (target / "usr" / "sbin" / system.program).exists():
        raise SystemMissing(f"debootstrap of {system.suite}: {(done.stdout + done.stderr)[-500:]}")


def _wrap(system: System, folder: Path) -> None:
    """Programs under usr/, which start those of the system by its own loader and with its own libraries."""
    unpacked = (folder / "system").resolve()
    machine = platform.machine()
    libraries = f"{unpacked}/usr/lib/{machine}-linux-gnu"
    (loader,) = Path(libraries).glob("ld-linux-*.so.*")
    usr = folder / "usr"
    for name in ("bin", "sbin"):
        (usr / name).mkdir(parents=True)
    (usr / "share").symlink_to(unpacked / "usr" / "share")
    start = f'exec {loader} --library-path {libraries} {unpacked}/usr/%s/%s "$@"'
    _script(usr / "bin" / system.program, f"{start % ('sbin', system.program)} --basedir={unpacked}/usr")
    if system.program == "mariadbd":
        (usr / "sbin" / "mariadbd").symlink_to("../bin/mariadbd")
        for tool in _TOOLS:
            _script(usr / "bin" / tool, start % ("bin", tool))
        _script(
            usr / "bin" / "mariadb-install-db",
            f'exec sh {unpacked}/usr/bin/mariadb-install-db "$@" --basedir={usr.resolve()}',
        )


def _script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
