"""gitlab-ci-local: runs a .gitlab-ci.yml on this machine, here with the same Podman and the same image."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.engine import environment, image, podman
from bench.peers import installed
from bench.peers.installed import PeerMissing

VERSION: Final = "4.56.0"
HELPER_IMAGE: Final = "docker.io/firecow/gitlab-ci-local-util:latest"
"""The image that it copies files with; ours stands in where it lacks, having `sh`, `chown` and `chmod`."""
RUN_SECONDS_MAXIMUM: Final = 120.0
PIPELINE: Final = """
{job}:
  image: {image}
  script:
    - /bin/true
"""


class Project:
    """A folder with a pipeline of one job."""

    def __init__(self, program: Path, folder: Path, job: str) -> None:
        self._program = program
        self._folder = folder
        self._job = job
        self.version = VERSION

    def run(self) -> float:
        """Run the job; give the milliseconds of the whole command.

        :raises PeerMissing: when it fails.
        """
        started = time.perf_counter()
        done = subprocess.run(
            [
                str(self._program),
                "--container-executable",
                "podman",
                "--pull-policy",
                "if-not-present",
                self._job,
            ],
            cwd=self._folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS_MAXIMUM,
            check=False,
        )
        milliseconds = (time.perf_counter() - started) * 1000
        if done.returncode != 0:
            raise PeerMissing(f"gitlab-ci-local failed: {(done.stderr or done.stdout).strip()[-300:]}")
        return milliseconds


@contextmanager
def project() -> Generator[Project]:
    """Have a project that was run once, so that its first-time work is done.

    :raises PeerMissing: when the program cannot be had, or its run fails.
    """
    installed.debian("rsync", "rsync")  # it copies the project by it
    program = installed.npm("gitlab-ci-local", VERSION, "gitlab-ci-local")
    job = f"bench{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as name, _helper_image(), _nothing_left(job):
        folder = Path(name)
        (folder / ".gitlab-ci.yml").write_text(PIPELINE.format(job=job, image=image()), encoding="utf-8")
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        for arguments in (
            ["init", "--quiet", "--initial-branch=main"],
            ["add", "--all"],
            [*identity, "commit", "--quiet", "--message=bench"],
            ["remote", "add", "origin", "https://localhost/bench/bench.git"],
        ):
            subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
        made = Project(program, folder, job)
        made.run()
        yield made


@contextmanager
def _nothing_left(job: str) -> Generator[None]:
    """Remove what it leaves of each run: it ends before its own clean-up has."""
    try:
        yield
    finally:
        for volume in podman("volume", "ls", "--quiet", "--filter", f"name=gcl-{job}-").splitlines():
            podman("volume", "rm", "--force", volume)  # with the containers that have it


@contextmanager
def _helper_image() -> Generator[None]:
    if HELPER_IMAGE in podman("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
        yield
        return
    podman("tag", image(), HELPER_IMAGE)
    try:
        yield
    finally:
        podman("untag", image(), HELPER_IMAGE)  # with one name alone, podman would take all names away
