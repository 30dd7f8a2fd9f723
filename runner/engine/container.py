"""One container of a job: what it is made of, what runs in it, and its end."""

from __future__ import annotations

import errno
import functools
import posixpath
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import anyio.to_thread
import msgspec
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream

from runner.engine import memory, mounts, processes
from runner.engine.allowances import Granted
from runner.engine.command_server import is_missing_shell
from runner.engine.connection import Connection, describe, known
from runner.engine.credentials import Logins
from runner.engine.errors import (
    CommandStartFailed,
    ContainerStartFailed,
    EngineError,
    EngineLost,
    ImagePlatformMismatch,
    MachineExhausted,
    NetworkUnavailable,
    WorkingFolderNotFound,
    first_line,
)
from runner.engine.exec import Command, CommandResult, Execution, OutputSink, Surroundings
from runner.engine.helper import FirstProcess
from runner.engine.limits import TMP_BYTES
from runner.engine.served import ServedExecution, Servers
from runner.engine.settings import EngineSettings
from runner.engine.stopping import Stop
from runner.engine.terminal import Terminal, Typed
from runner.engine.usage import Meter, Usage
from schema.definition import PullPolicy, Rights

WORKSPACE: Final = "/workspace"
MACHINE_WORDS: Final = (
    "no space left on device",
    "disk quota exceeded",
    "too many open files",
    "resource temporarily unavailable",
    "input/output error",
)
"""What the engine says when the machine is to blame."""
NETWORK_WORDS: Final = ("netavark", "iptables", "nftables", "cni", "aardvark", "slirp4netns", "pasta")
"""What the engine names when it cannot connect a container."""
REMOVAL_SECONDS: Final = 30.0
REMOVAL_TRIES: Final = 20
LOST_TRIES: Final = 3
WORD_BYTES_MAXIMUM: Final = 128 * 1024
WORDS_BYTES_MAXIMUM: Final = 2 * 1024 * 1024 - 64 * 1024
OWNER_LABEL: Final = "moonyard.owner"

CAPABILITIES: Final = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID",  # packages give files owners and modes
    "SETUID", "SETGID", "SETFCAP", "SYS_CHROOT",  # package managers drop their rights; some programs get some
    "KILL", "NET_BIND_SERVICE",  # tests start servers on low ports, and stop what runs as another user
)  # fmt: skip
"""What root in a container may do: enough to install packages and run servers, nothing that reaches the host."""


ContainerKind = Literal["default", "stage", "block", "warm", "service"]


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to make a container of."""

    image: str
    """As the user named it."""
    job: str
    attempt: int
    workspace: Path
    """The folder that is mounted at ``/workspace``."""
    env: dict[str, str] = {}
    network: str = "bridge"
    """Or "none"; a network of the engine's by its name."""
    networks: list[str] = []
    """Those of its job's services, in the place of "bridge"."""
    aliases: list[str] = []
    """Its names on the first of ``networks``, besides its own."""
    hosts: dict[str, str] = {}
    """Addresses by name, for names that have to be known whatever the engine's name server does."""
    command: list[str] | None = None
    """Of a service, what it runs; by default what its image says. It is the one kind that runs an image's own words."""
    memory: int | None = None
    """Bytes; what goes beyond is killed."""
    cpus: float | None = None
    user: str | None = None
    """Name or number, with a group after a colon or not; by default the image's own."""
    workdir: str | None = None
    """Where commands start, relative to the workspace."""
    entrypoint: list[str] | None = None
    """What each command is an argument of, as with an image's entrypoint: ``{"env", "-i"}`` runs ``env -i COMMAND``.

    The image's own entrypoint is never run: it would stand between a pipeline and the commands it names.
    """
    pull: PullPolicy | None = None
    """When its image is fetched; by default as the runner's owner says."""
    logins: Logins | None = None
    """The job's own credentials for registries."""
    read_only: bool = False
    """Nothing of its image can be written to: only the workspace, and what is in memory."""
    rights: Rights | None = None
    """What it asks for beyond what all have."""
    pipeline: str = ""
    """Its job's, which may be allowed something."""
    granted: Granted = Granted()
    """What it gets of that: the engine's to fill in."""
    kind: ContainerKind = "default"


class Container:
    """A running container. Safe to use from several tasks at once."""

    def __init__(
        self,
        connection: Connection,
        container: DockerContainer,
        spec: ContainerSpec,
        facts: dict[str, Any],
        servers: Servers | None,
    ) -> None:
        # `facts` is the engine's own description, of which a few fields are read.
        self._connection = connection
        self._container = container
        self._spec = spec
        self._servers = servers
        self._environment: dict[str, str] = {}
        """What each command gets, where the container was made before its job was known."""
        self.id: str = container.id
        self.image = spec.image
        self.image_id: str = facts["Image"]
        self.digest: str | None = facts["ImageDigest"]
        """That of its image in the registry that it came from."""
        networks: dict[str, Any] = facts["NetworkSettings"]["Networks"] or {}
        self.addresses: dict[str, str] = {name: network["IPAddress"] for name, network in networks.items()}
        """By the names of its networks."""
        pid = int(facts["State"]["Pid"])
        self._had_ended = not facts["State"]["Running"] or pid == 0
        """Before it was looked at: a service may do so at once."""
        self._meter = Meter.of(pid, container.id)
        self._measured = 0
        """How many commands are being measured now."""
        self._is_shared = False
        """Whether some of them ran at the same time."""
        self._surroundings = Surroundings(
            connection=connection,
            container=container,
            image=spec.image,
            environment=_environment(facts),
            namespace=processes.Namespace.of(pid, container.id),
            kill_counter=memory.kill_counter(pid, container.id),
        )

    @property
    def first_process(self) -> int | None:
        """Its process id, where it is this machine's."""
        namespace = self._surroundings.namespace
        return None if namespace is None else namespace.first

    @property
    def has_ended(self) -> bool:
        """Whether its first process has ended, as far as this machine can tell."""
        namespace = self._surroundings.namespace
        return self._had_ended or (namespace is not None and namespace.is_over)

    async def exit_code(self) -> int | None:
        """Ask how its first process ended; None while it runs. The engine learns of the end a moment after it.

        :raises EngineError: when the engine does not tell.
        """
        await self._connection.ensure()
        try:
            async with self._connection.reaching(f"asking for the state of container {self.id[:12]}"):
                state = (await describe(self._container))["State"]
        except DockerError as error:
            raise EngineError(f"container {self.id[:12]} cannot be asked for: {first_line(error.message)}") from error
        return None if state["Running"] else int(state["ExitCode"])

    def attach(self) -> Stream:
        """Give a stream of what its first process says from here on."""
        return self._container.attach(stdout=True, stderr=True)

    @property
    def is_alive(self) -> bool:
        """Whether its command server lives, where it has one."""
        return self._servers is None or self._servers.is_alive

    @property
    def memory_limit(self) -> int | None:
        """What the kernel lets it use; None where there is no limit, or it is not known."""
        return memory.limit(self._surroundings.kill_counter)

    async def adopt(self, spec: ContainerSpec) -> None:
        """Make one that was made ahead a job's: from here on it has the job's workspace and variables.

        :raises OSError: when the workspace cannot be mounted into it.
        """
        namespace = self._surroundings.namespace
        if namespace is None:
            raise OSError(errno.ESRCH, "its processes are not on this machine")
        handle = namespace.handle
        await anyio.to_thread.run_sync(mounts.bind_into, handle, spec.workspace, WORKSPACE)
        self._spec = spec
        self._environment = spec.env
        self.image = self._surroundings.image = spec.image

    async def rename(self, name: str) -> None:
        """Give it another name in the engine's lists.

        :raises EngineError: when the engine does not do it.
        """
        try:
            async with self._connection.reaching(f"renaming container {self.id[:12]}"):
                await self._container.rename(name)  # pyright: ignore[reportUnknownMemberType]
        except DockerError as error:
            raise EngineError(f"container {self.id[:12]} could not be renamed: {first_line(error.message)}") from error

    async def end(self) -> bool:
        """Kill all that runs in it, without the engine; tell whether that is done. It is still to be removed."""
        self._surroundings.is_ended = True
        namespace = self._surroundings.namespace
        return namespace is not None and await namespace.end()

    @contextmanager
    def measuring(self) -> Generator[Usage]:
        """Measure what the block's command uses: known when the block is over, if it was alone in the container."""
        usage = Usage()
        if self._measured:
            self._is_shared = True
        self._measured += 1
        end = self._meter.start() if self._measured == 1 else None
        try:
            yield usage
        finally:
            if end is not None:
                end(usage)
            if self._is_shared:
                usage.cpu_seconds = usage.memory_peak_bytes = None
            self._measured -= 1
            if not self._measured:
                self._is_shared = False

    async def run(self, command: Command, output: OutputSink, stop: Stop | None = None) -> CommandResult:
        """Run a command to its end.

        Its output goes to ``output`` while it runs; how fast that takes it is how fast the command can write. A
        timeout, like a ``stop``, asks all that the command started to end, and after a time kills it; a cancelled call
        kills it at once. Nothing of it is left then. What a command leaves running in the background when it ends by
        itself lives on until the container is removed; output that comes after the command's end is not read.

        :raises CommandNotFound: (and its siblings) when the command cannot be started.
        :raises CommandTimeout: when it ran longer than it may.
        :raises CommandStopped: when it was asked to stop.
        :raises CommandLost: when something in the container killed what ran the command.
        :raises ContainerGone: when the container has stopped.
        :raises EngineLost: when the engine was lost meanwhile.
        """
        actual = self._prepared(command)
        if self._servers is not None:
            return await ServedExecution(self._surroundings, actual, output, stop, self._servers).run()
        await self._connection.ensure()
        return await Execution(self._surroundings, actual, output, stop).run()

    def terminal(self, command: Command, output: OutputSink, typed: Typed, *, kind: str | None) -> Terminal:
        """Prepare to run a command that somebody speaks with: where and as what any command of the container runs.

        :param kind: of the terminal, as TERM names it; None for plain streams.
        :raises CommandStartFailed: when it is too long.
        """
        return Terminal(self._surroundings, self._prepared(command), output, typed, kind)

    def _prepared(self, command: Command) -> Command:
        folder = _folder(self._spec.workdir or "", command.cwd or "")
        prefix = [word for word in self._spec.entrypoint or [] if word]
        env = self._environment | command.env
        actual = msgspec.structs.replace(command, argv=[*prefix, *command.argv], cwd=folder, env=env)
        _check_size(actual)
        return actual

    async def remove(self) -> None:
        """Remove the container with all that runs in it; one that is gone already counts as removed.

        :raises EngineError: when the engine does not do it.
        """
        self._surroundings.is_ended = True
        await self._connection.ensure()
        await remove(self._connection, self.id)
        self.close()

    def close(self) -> None:
        """Let go of what this process holds of it."""
        if self._servers is not None:
            self._servers.close()
        if self._surroundings.namespace is not None:
            self._surroundings.namespace.close()


@functools.lru_cache(maxsize=256)
def _folder(workdir: str, cwd: str) -> str:
    """Give the folder that a command starts in.

    :raises WorkingFolderNotFound: when what is relative to the workspace leads out of it.
    """
    given = posixpath.join(workdir, cwd)
    folder = posixpath.normpath(posixpath.join(WORKSPACE, given))
    if not given.startswith("/") and posixpath.commonpath([WORKSPACE, folder]) != WORKSPACE:
        raise WorkingFolderNotFound(
            f"folder `{given[:200]}` leads out of the workspace, which it is relative to",
            hint="A folder outside of it is named by its full path, as seen from inside the container.",
        )
    return folder


def check_environment(spec: ContainerSpec) -> None:
    """Refuse an environment that no process of a container could have: the engine would choke on it.

    :raises ContainerStartFailed: when it is too long.
    """
    if (excess := _excess(spec.command or [], spec.env)) is not None:
        raise ContainerStartFailed(
            f"container of image `{spec.image}` could not be made: its environment is too long ({excess})",
            hint="Give large data by a file in the workspace.",
        )


def _check_size(command: Command) -> None:
    if (excess := _excess(command.argv, command.env | command.secret_env)) is not None:
        raise CommandStartFailed(
            f"command `{command.argv[0][:100]}` could not be started: its arguments and environment are too long "
            f"({excess})",
            hint="Give large data by `stdin`, or by a file in the workspace.",
        )


def _excess(argv: list[str], env: dict[str, str]) -> str | None:
    """Tell the size of what the kernel would not take (execve(2): MAX_ARG_STRLEN, a quarter of the stack in all)."""
    sizes = [len(word.encode(errors="surrogateescape")) + 1 for word in argv]
    sizes += [len(f"{name}={value}".encode(errors="surrogateescape")) + 1 for name, value in env.items()]
    if max(sizes, default=0) <= WORD_BYTES_MAXIMUM and sum(sizes) <= WORDS_BYTES_MAXIMUM:
        return None
    return f"{sum(sizes)} bytes, the longest {max(sizes)}; at most {WORDS_BYTES_MAXIMUM} and {WORD_BYTES_MAXIMUM}"


def _environment(facts: dict[str, Any]) -> dict[str, str]:
    variables: list[str] = facts["Config"].get("Env") or []
    return {name: value for name, _, value in (variable.partition("=") for variable in variables)}


def config(
    spec: ContainerSpec,
    resolved: str,
    settings: EngineSettings,
    owner: str,
    first: FirstProcess,
    call_filter: Path | None,
) -> dict[str, Any]:
    """Write a container's description in the engine's words.

    :param resolved: the image's full name after the image map.
    :param call_filter: the file with the system calls that it may make, or None for the engine's own.
    """
    cpus = settings.cpus if spec.cpus is None else spec.cpus
    granted = spec.granted
    host: dict[str, Any] = {  # the engine's own JSON
        "Binds": [*_own_binds(spec, first), *granted.binds],
        **_network_mode(spec),
        **_rights(granted, call_filter),
        "PidsLimit": settings.pids,
        "LogConfig": {"Type": "none"},
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": _in_memory(spec, settings),
    }
    memory_bytes = settings.memory_bytes if spec.memory is None else spec.memory
    if memory_bytes is not None:
        # With swap a container would get past its limit.
        host |= {"Memory": memory_bytes, "MemorySwap": memory_bytes}
    if cpus is not None:
        host |= {"NanoCpus": int(cpus * 1_000_000_000)}
    return {
        "Image": resolved,
        **_what_runs(spec, first),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "User": spec.user or "",
        "StopTimeout": 0,
        # What an image would have run again and again is no command of the job's, and takes a timer of the host's.
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": labels(owner, spec.job, spec.attempt, spec.kind),
        "HostConfig": host,
        **_endpoints(spec),
    }


def _own_binds(spec: ContainerSpec, first: FirstProcess) -> list[str]:
    # A service is no part of the job's files: what it writes, as whoever it is, does not get in their way.
    return [] if spec.kind == "service" else [f"{spec.workspace}:{WORKSPACE}:rw", *first.binds]


def _rights(granted: Granted, call_filter: Path | None) -> dict[str, Any]:
    if granted.privileged:
        return {"Privileged": True}
    options = [] if call_filter is None else [f"seccomp={call_filter}"]
    return {
        "CapDrop": ["ALL"],
        "CapAdd": [*CAPABILITIES, *granted.capabilities],
        "SecurityOpt": ["no-new-privileges", *options],
        "Devices": [
            {"PathOnHost": device, "PathInContainer": device, "CgroupPermissions": "rwm"} for device in granted.devices
        ],
    }


def _in_memory(spec: ContainerSpec, settings: EngineSettings) -> dict[str, str]:
    """List the folders that a container keeps in its memory: it is gone at once, and nobody's disk is full of it."""
    options = f"rw,exec,nosuid,nodev,mode=1777,size={settings.tmp_bytes or TMP_BYTES}"
    folders = ("/tmp", "/var/tmp", "/run") if spec.read_only else ("/tmp",) if settings.tmp_bytes else ()  # noqa: S108
    return dict.fromkeys(folders, options)


def labels(owner: str, job: str, attempt: int, kind: str) -> dict[str, str]:
    """Write on a thing of the engine's whose it is."""
    return {OWNER_LABEL: owner, "moonyard.job": job, "moonyard.attempt": str(attempt), "moonyard.kind": kind}


def _networks(spec: ContainerSpec) -> list[str]:
    return [] if spec.network == "none" else spec.networks


def _network_mode(spec: ContainerSpec) -> dict[str, Any]:
    networks = _networks(spec)
    if not networks:
        return {"NetworkMode": spec.network}
    return {
        "NetworkMode": networks[0],
        "ExtraHosts": [f"{name}:{address}" for name, address in spec.hosts.items()],
    }


def _endpoints(spec: ContainerSpec) -> dict[str, Any]:
    networks = _networks(spec)
    if not networks:
        return {}
    endpoints: dict[str, Any] = {network: {} for network in networks}
    endpoints[networks[0]] = {"Aliases": spec.aliases}
    return {"NetworkingConfig": {"EndpointsConfig": endpoints}}


def _what_runs(spec: ContainerSpec, first: FirstProcess) -> dict[str, Any]:
    if spec.kind == "service":
        return {} if spec.command is None else {"Cmd": spec.command}
    return {"Entrypoint": first.command[:1], "Cmd": first.command[1:], "WorkingDir": WORKSPACE}


def start_failure(spec: ContainerSpec, message: str) -> EngineError:
    """Tell why a container did not start."""
    reason = first_line(message)
    text = message.lower()
    what = f"container of image `{spec.image}` could not be started"
    if any(word in text for word in MACHINE_WORDS):
        return MachineExhausted(
            f"{what}: {reason}",
            hint="Is there room on the disk of the engine's images, and are its limits high enough?",
        )
    if spec.network != "none" and any(word in text for word in NETWORK_WORDS):
        return NetworkUnavailable(
            f"{what}: this machine's engine cannot connect it to a network: {reason}",
            hint="Install netavark, aardvark-dns and iptables (and slirp4netns where Podman runs without root), "
            'or run it without a network (`network = "none"`).',
        )
    if spec.kind != "service" and is_missing_shell(message):
        return ContainerStartFailed(
            f"{what}: the image has no /bin/sh, and this machine has no catatonit: {reason}",
            hint="Install catatonit on the runner's machine: it lets images without a shell run.",
        )
    if "exec format error" in text:
        return ImagePlatformMismatch(f"{what}: what it begins with is for another kind of processors: {reason}")
    if "unable to find user" in text or "no matching entries in passwd" in text:
        return ContainerStartFailed(f"{what}: it knows no user `{spec.user}`: {reason}")
    return ContainerStartFailed(f"{what}: {reason}")


async def remove(connection: Connection, container: str) -> None:
    """Remove a container by id or name, whatever its state; one that is not there counts as removed.

    :raises EngineError: when the engine does not do it.
    """
    doing = f"removing container {container[:12]}"
    for tries_left in range(LOST_TRIES, -1, -1):
        try:
            await connection.ensure()
            async with connection.reaching(doing, REMOVAL_SECONDS):
                await _remove(connection, container)
            break
        except DockerError as error:
            raise EngineError(f"{doing} failed: {first_line(error.message)}") from error
        except EngineLost:
            # An engine that died meanwhile has removed nothing, or half of it, and its successor does the rest.
            if not tries_left:
                raise
            await anyio.sleep(0.1)
    await anyio.to_thread.run_sync(processes.end_monitors, container)


async def _remove(connection: Connection, container: str) -> None:
    for tries_left in range(REMOVAL_TRIES, -1, -1):
        try:
            await known(connection.docker, container).delete(force=True, v=True)
        except DockerError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return
            # Somebody else removes it just now, or Podman meets its own clean-up: that passes.
            if error.status not in {HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR} or not tries_left:
                raise
            await anyio.sleep(0.1)
        else:
            return
