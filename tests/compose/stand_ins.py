"""Images that stand in for the well-known ones of compose.yaml and of the Containerfile, made of Debian packages.

For machines that reach the Debian archive and a package index, but no image registry. The one for Python has Moonyard's
wheels in it, and is told to look nowhere else: the Containerfile runs as it stands, without a network.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPE_LABEL: Final = "moonyard.compose-recipe"
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POSTGRES_ENTRYPOINT: Final = r"""#!/bin/sh
set -eu
data=/var/lib/postgresql/data
programs=$(echo /usr/lib/postgresql/*/bin)
mkdir -p "$data" /run/postgresql
chown -R postgres "$data" /run/postgresql
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
if [ ! -s "$data/PG_VERSION" ]; then
    (umask 077; printf %s "$POSTGRES_PASSWORD" >/run/password)
    chown postgres /run/password
    as_postgres "$programs/initdb" -D "$data" --encoding UTF8 --username "$POSTGRES_USER" --pwfile=/run/password \
        --auth-host=scram-sha-256 --auth-local=trust >/dev/null
    rm /run/password
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    as_postgres "$programs/pg_ctl" -D "$data" -w -o "-h ''" start >/dev/null
    as_postgres "$programs/createdb" --username "$POSTGRES_USER" "$POSTGRES_DB"
    as_postgres "$programs/pg_ctl" -D "$data" -w -m fast stop >/dev/null
fi
exec setpriv --reuid postgres --regid postgres --clear-groups "$programs/postgres" -D "$data" -h '*'
"""


class StandIn(msgspec.Struct, frozen=True, kw_only=True):
    packages: str
    hook: str
    """A script of ``sh``: ``$tree`` is the image's root, ``$given`` a folder with what is to be put into it."""
    changes: list[str]


STAND_INS: Final = {
    "python": StandIn(
        packages="python3,python3-pip,ca-certificates,libseccomp2",
        hook="""
        ln -s /usr/bin/python3 "$tree/usr/local/bin/python"
        rm -f "$tree"/usr/lib/python3*/EXTERNALLY-MANAGED
        cp -r "$given/wheels" "$tree/wheels"
        printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' >"$tree/etc/pip.conf"
        rm -rf "$tree"/etc/apt/sources.list "$tree"/etc/apt/sources.list.d/*
        """,
        changes=['CMD ["python3"]'],
    ),
    "postgres": StandIn(
        packages="postgresql",
        hook='install -m 755 "$given/entrypoint" "$tree/usr/local/bin/docker-entrypoint.sh"',
        changes=['ENTRYPOINT ["docker-entrypoint.sh"]', "STOPSIGNAL SIGINT"],
    ),
    "haproxy": StandIn(
        packages="haproxy",
        hook='mkdir -p "$tree/usr/local/etc/haproxy"',
        changes=['CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]', "STOPSIGNAL SIGUSR1"],
    ),
}


def image(name: str) -> str:
    return f"localhost/moonyard/compose-{name}:latest"


def build() -> None:
    """Make those that are missing, or were made by another recipe."""
    label = _recipe()
    listing = ["podman", "images", "--filter", f"label={RECIPE_LABEL}={label}", "--format", "{{.Repository}}:{{.Tag}}"]
    standing = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    missing = {name: stand_in for name, stand_in in STAND_INS.items() if image(name) not in standing}
    with tempfile.TemporaryDirectory(prefix="moonyard-compose-") as folder:
        given = Path(folder)
        if "python" in missing:
            _download(given / "wheels")
        (given / "entrypoint").write_text(POSTGRES_ENTRYPOINT, encoding="utf-8")
        for name, stand_in in missing.items():
            _build(name, stand_in, given, label)


def _recipe() -> str:
    parts = [Path(__file__).read_bytes(), (ROOT / "requirements.lock").read_bytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _download(wheels: Path) -> None:
    # The build backend is no dependency: the well-known image comes with one, Debian's pip with an older one.
    for what in (["--require-hashes", "--no-deps", "-r", str(ROOT / "requirements.lock")], ["setuptools>=80", "wheel"]):
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), *what]
        subprocess.run(argv, check=True)


def _build(name: str, stand_in: StandIn, given: Path, label: str) -> None:
    tar = given / f"{name}.tar"
    hook = given / f"{name}-hook"
    hook.write_text(f'set -eu\ntree=$1 given="{given}"\n{stand_in.hook}\n', encoding="utf-8")
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"),
            *("--skip=chroot/start-stop-daemon", f"--include={stand_in.packages}"),
            *(f'--customize-hook=sh {hook} "$1"', "bookworm", str(tar)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    changes = [f"ENV PATH={SEARCH_PATH}", f"LABEL {RECIPE_LABEL}={label}", *stand_in.changes]
    options = [word for change in changes for word in ("--change", change)]
    subprocess.run(["podman", "import", "--quiet", *options, str(tar), image(name)], check=True, capture_output=True)
    tar.unlink()
    sys.stderr.write(f"built {image(name)}\n")


def packages_are_there() -> bool:
    """See that the programs are there, installing them where that is possible."""
    wanted = ("podman=podman", "mmdebstrap=mmdebstrap", "podman-compose=podman-compose")
    return subprocess.run([ROOT / "scripts" / "debian-packages", *wanted], check=False).returncode == 0 and all(
        shutil.which(pair.partition("=")[0]) for pair in wanted
    )
