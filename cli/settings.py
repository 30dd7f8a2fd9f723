"""Settings: each has one name, as a flag (``--state-folder``), an environment variable (``MOONYARD_STATE_FOLDER``)
and a key of the settings file (``state_folder``), which are asked in this order.

The settings file is ``moonyard.toml`` in the working folder, or else in the user's config folder. Secrets have no
flags: a command line can be read by everybody on the machine.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click
import platformdirs

from schema import sizes
from schema.errors import MoonyardError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FILE_NAME: Final = "moonyard.toml"
IMAGE_MAP_FILE: Final = Path(".moonyard") / "images.toml"
FILE_ONLY: Final = {"allow", "image_map", "redact", "tls_ca", "token"}
"""What the settings file has and no flag: tables, and what others are not to read."""
DEFAULT_ADDRESS: Final = "http://127.0.0.1:8400"


class SettingsInvalid(MoonyardError):
    """A settings file, or a setting in it, that cannot be used."""

    code = "settings_invalid"


def default_state_folder() -> Path:
    """Where Moonyard keeps its own files: of the system for root, of the user for anybody else."""
    return Path("/var/lib/moonyard") if os.geteuid() == 0 else platformdirs.user_state_path("moonyard")


def fetched_plugins() -> Path:
    """Where plugins that were fetched from git repositories are kept for this user."""
    return platformdirs.user_cache_path("moonyard") / "plugins"


def settings_file() -> Path | None:
    """Find the settings file."""
    for folder in (Path.cwd(), platformdirs.user_config_path("moonyard")):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return None


def file_settings() -> dict[str, Any]:
    """Read the settings file.

    :raises SettingsInvalid: when it is no TOML, or holds a setting that does not exist.
    """
    path = settings_file()
    if path is None:
        return {}
    settings = read_toml(path)
    unknown = sorted(set(settings) - set(SETTINGS) - FILE_ONLY)
    if unknown:
        raise SettingsInvalid(
            f"settings file {path} has unknown settings: {', '.join(f'`{name}`' for name in unknown)}",
            hint=f"There are: {', '.join(sorted([*SETTINGS, *FILE_ONLY]))}.",
        )
    return settings


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    :raises SettingsInvalid: when it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsInvalid(f"settings file {path} cannot be read: {_why(error)}") from error


def _why(error: Exception) -> str:
    return (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else str(error)


class SettingOption(click.Option):
    """An option that falls back to its environment variable, and then to the settings file."""

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        assert self.name is not None, "click names every option"
        value = file_settings().get(self.name)
        if value is None:
            return super().get_default(ctx, call=call)
        if self.multiple and isinstance(value, str):  # one of several may stand alone
            value = [value]
        try:
            self.type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise SettingsInvalid(
                f"`{self.name}` in settings file {settings_file()} cannot be used: {error.message.rstrip('.')}",
                hint=f"`{ctx.command_path} --help` says what it takes.",
            ) from error
        return value


class Size(click.ParamType[int]):
    """A number of bytes, or text such as ``512m``."""

    name = "size"

    def __init__(self, minimum: int = 0) -> None:
        self._minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            size = int(sizes.size_bytes(value) if isinstance(value, str) else value)
        except (ValueError, TypeError):
            self.fail(f'`{value}` is no size, such as "512m" or "20g"', param, ctx)
        if size < self._minimum:
            self.fail(f"{value} is less than {sizes.size_text(self._minimum)}", param, ctx)
        return size


class Setting:
    """How a setting is declared, once for all commands that take it."""

    def __init__(self, help: str, **options: Any) -> None:  # noqa: A002  # click's own word
        self.help = help
        self.options = options


SETTINGS: Final[dict[str, Setting]] = {
    "database_url": Setting("The Postgres that holds all state: postgresql://user@host/database."),
    "listen_url": Setting(
        "The Postgres itself, to LISTEN at, where database_url leads to a connection pooler; or `off`."
    ),
    "orchestrator": Setting(
        "An orchestrator's address; several may be given, the next is asked when one does not answer.", multiple=True
    ),
    "state_folder": Setting(
        "Where Moonyard keeps its own files on this machine.",
        type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
        default=default_state_folder,
        show_default="/var/lib/moonyard, or the user's state folder",
    ),
    "engine_socket": Setting("The container engine's socket; by default Podman's, or a private one that is started."),
    "default_image": Setting(
        "The image of the container that a stage without its own runs in.",
        default="docker.io/library/alpine:latest",
        show_default=True,
    ),
    "pull_policy": Setting(
        "When images are pulled: if they are missing, where a pipeline may say otherwise; always or never, for all.",
        type=click.Choice(["missing", "always", "never"]),
        default="missing",
        show_default=True,
    ),
    "auth_file": Setting(
        "The credentials of image registries, as `podman login` writes them; by default where Podman and Docker look.",
        type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    ),
    "images_allowed": Setting(
        "Which images pipelines may use: patterns such as `docker.io/library/*`; by default any.", multiple=True
    ),
    "images_denied": Setting("Which images pipelines may not use: patterns, as with images_allowed.", multiple=True),
    "http_allowed": Setting(
        "Where jobs may connect to by `http` although it is denied, or is this machine: addresses, networks, host "
        "names with `*`, each with a port or without.",
        multiple=True,
    ),
    "http_denied": Setting("Where jobs may not connect to by `http`, as with http_allowed.", multiple=True),
    "http_rate": Setting(
        "How often all jobs of a runner together may ask one host by `http`.", default="50/s", show_default=True
    ),
    "image_budget": Setting(
        "How much disk the images that were pulled here may take, such as 20g; by default there is no limit.",
        type=Size(1),
    ),
    "cache_budget": Setting(
        "How much disk the caches of jobs may take on a runner, packed.",
        type=Size(),
        default="10g",
        show_default=True,
    ),
    "cache_size": Setting(
        "The most that one cache of a job may take, packed.", type=Size(1), default="2g", show_default=True
    ),
    "cache_pipeline_budget": Setting(
        "The most that the caches of a pipeline may take together; those that were not used longest go.",
        type=Size(1),
        default="10g",
        show_default=True,
    ),
    "cache_days": Setting(
        "How many days a cache is kept after its last use.",
        type=click.FloatRange(0, min_open=True),
        default=14.0,
        show_default=True,
    ),
    "artifact_store": Setting(
        "An S3-compatible store for the contents of artifacts, caches and kept workspaces: s3://BUCKET or "
        "s3://BUCKET/PREFIX; by default Postgres."
    ),
    "artifact_endpoint": Setting("Where that store is, unless it is Amazon's: https://HOST."),
    "artifact_region": Setting("That store's region; by default us-east-1."),
    "plugin_folder": Setting(
        "A folder with plugins beside those that ship: a folder for each.",
        type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    ),
    "container_memory": Setting(
        "The memory of a container whose pipeline does not say; by default the machine's, less a tenth.",
        type=Size(8 * 1024 * 1024),
    ),
    "container_cpus": Setting(
        "How many processors a container may use whose pipeline does not say; by default all, fairly shared.",
        type=click.FloatRange(0.01, 1024),
    ),
    "container_pids": Setting(
        "How many processes and threads a container may have.",
        type=click.IntRange(16, 1_000_000),
        default=2048,
        show_default=True,
    ),
    "container_tmp": Setting(
        "The size of a container's /tmp, which is in its memory; 0 keeps it on disk.",
        type=Size(),
        default="1g",
        show_default=True,
    ),
    "warm_containers": Setting(
        "How many containers a runner may keep ready, made ahead of need; 0 makes each when it is asked for.",
        type=click.IntRange(0, 1000),
        default=4,
        show_default=True,
    ),
    "host": Setting("The address to listen on.", default="127.0.0.1", show_default=True),
    "port": Setting("The port to listen on.", type=click.IntRange(0, 65535), default=8400, show_default=True),
    "tls_certificate": Setting(
        "A PEM file with the certificate to speak TLS with, and those between it and its root; by default without TLS.",
        type=click.Path(path_type=Path, dir_okay=False, resolve_path=False),
    ),
    "tls_key": Setting(
        "A PEM file with the key of tls_certificate, unless that holds it.",
        type=click.Path(path_type=Path, dir_okay=False, resolve_path=False),
    ),
    "trusted_proxies": Setting(
        "Whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses or networks of proxies.", multiple=True
    ),
    "allowed_hosts": Setting(
        "The names by which an orchestrator may be asked (`Host`), without ports; by default any.", multiple=True
    ),
    "client_connections": Setting(
        "How many connections of clients an orchestrator takes; 0 for any number.",
        type=click.IntRange(0),
        default=20_000,
        show_default=True,
    ),
    "client_connections_per_address": Setting(
        "How many of them may be of one address; 0 for any number.",
        type=click.IntRange(0),
        default=12_000,
        show_default=True,
    ),
    "request_rate": Setting(
        "How many requests a second an orchestrator takes of one token; 0 for any number.",
        type=click.FloatRange(0),
        default=5000.0,
        show_default=True,
    ),
    "anonymous_rate": Setting(
        "How many requests a second without a valid token it takes of one address; 0 for any number.",
        type=click.FloatRange(0),
        default=100.0,
        show_default=True,
    ),
    "capacity": Setting(
        "How many jobs a runner runs at once.", type=click.IntRange(1, 1000), default=4, show_default=True
    ),
    "lease_seconds": Setting(
        "How long a runner may be silent before its jobs are queued again.",
        type=click.FloatRange(1, 3600),
        default=15.0,
        show_default=True,
    ),
    "keep_days": Setting(
        "How many days jobs are kept after they ended, with their logs and artifacts; by default for ever.",
        type=click.FloatRange(0, min_open=True),
    ),
    "keep_audit_days": Setting(
        "How many days rows of the audit are kept, 30 at least; by default for ever.", type=click.FloatRange(30)
    ),
    "drain_seconds": Setting(
        "How long running jobs may go on after a runner was told to stop.",
        type=click.FloatRange(0),
        default=600.0,
        show_default=True,
    ),
    "sandbox_require": Setting(
        "The walls around Lua without which a runner, or an orchestrator, does not start; by default none.",
        type=click.Choice(["namespaces", "empty root", "own user", "limits", "landlock", "seccomp"]),
        multiple=True,
    ),
    "shells": Setting(
        "Whether users may open shells in the containers of jobs that run here, with `moonyard shell`: yes or no.",
        type=click.BOOL,
        default=True,
        show_default="yes",
    ),
    "keep_on_failure_seconds": Setting(
        "How long a runner keeps the containers of a failed job at most, where it was submitted so; 0 forbids it.",
        type=click.FloatRange(0, 7 * 86400),
        default=3600.0,
        show_default=True,
    ),
    "keep_on_failure_count": Setting(
        "Of how many failed jobs a runner keeps the containers at once.",
        type=click.IntRange(1, 1000),
        default=4,
        show_default=True,
    ),
    "runner_token_days": Setting(
        "How many days a runner uses its token before it gets a new one by itself.",
        type=click.FloatRange(0, 3650, min_open=True),
        default=7.0,
        show_default=True,
    ),
    "secret_key_file": Setting(
        "A file with the master keys of secrets, the one in use first, that nobody but its owner may read.",
        type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    ),
    "secret_key_command": Setting("A command that prints the master keys of secrets: that of a vault, say."),
    "grant_versions": Setting(
        "Whether a version that is pushed later has the secrets that its pipeline was granted: once somebody confirms "
        "it, or at once (follow).",
        type=click.Choice(["confirm", "follow"]),
        default="confirm",
        show_default=True,
    ),
    "hook_body_size": Setting(
        "The most that one delivery to a webhook may have.", type=Size(1024), default="8m", show_default=True
    ),
    "shell_idle_seconds": Setting(
        "How long a shell may stay open in which nothing is typed and nothing said.",
        type=click.FloatRange(1),
        default=900.0,
        show_default=True,
    ),
    "shell_seconds": Setting(
        "How long any shell may stay open.", type=click.FloatRange(1), default=28800.0, show_default=True
    ),
    "oidc_issuer": Setting("An OpenID Connect provider by which people log in too: its issuer, an address."),
    "oidc_client_id": Setting("Who Moonyard is at that provider."),
    "oidc_client_secret_file": Setting(
        "A file with Moonyard's secret there, that nobody but its owner may read.",
        type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    ),
    "oidc_name": Setting("How the login page calls that provider.", default="your organisation", show_default=True),
    "oidc_claim": Setting("The claim that names the account.", default="email", show_default=True),
    "oidc_creates": Setting(
        "Whether a first login there makes an account that is not there yet: yes or no.",
        type=click.BOOL,
        default=False,
        show_default="no",
    ),
    "session_seconds": Setting(
        "How long a login holds.", type=click.FloatRange(60), default=1209600.0, show_default="14 days"
    ),
    "log_format": Setting(
        "How a service says what it does: text for people, or one JSON object a line.",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
    ),
    "replicas": Setting(
        "How many orchestrators `up` starts.", type=click.IntRange(1, 16), default=2, show_default=True
    ),
}


def setting(name: str) -> Callable[[Decorated], Decorated]:
    """Declare that a command takes a setting, under its one name."""
    declared = SETTINGS[name]
    return click.option(
        "--" + name.replace("_", "-"),
        name,
        cls=SettingOption,
        envvar="MOONYARD_" + name.upper(),
        show_envvar=True,
        help=declared.help,
        **declared.options,
    )


class FoundToken(NamedTuple):
    text: str
    origin: str
    """Where it was found, for messages: whoever has several wants to know which one was refused."""


def named_token() -> FoundToken | None:
    """Find the token that the user names: ``MOONYARD_TOKEN``, or that of the settings file."""
    if value := os.environ.get("MOONYARD_TOKEN", "").strip():
        return FoundToken(value, "MOONYARD_TOKEN")
    if value := file_settings().get("token"):
        return FoundToken(str(value), str(settings_file()))
    return None


def token_of_up() -> FoundToken | None:
    """Find the token that ``moonyard up`` left for this user."""
    if value := Credentials.of().token:
        return FoundToken(value, str(Credentials.path()))
    return None


def tls_ca() -> Path | None:
    """Find who certifies orchestrators: the PEM file in ``MOONYARD_TLS_CA``, or in the settings file.

    It has no flag: it goes with the addresses, and not with single commands.
    """
    value = os.environ.get("MOONYARD_TLS_CA", "").strip() or file_settings().get("tls_ca")
    return None if value is None else Path(str(value)).absolute()


class Credentials:
    """What ``moonyard up`` leaves for the commands of the same user: addresses and the admin token, in a 0600 file."""

    def __init__(self, addresses: list[str], token: str | None, database_url: str | None = None) -> None:
        self.addresses = addresses
        self.token = token
        self.database_url = database_url

    @staticmethod
    def path(state_folder: Path | None = None) -> Path:
        folder = state_folder or Path(os.environ.get("MOONYARD_STATE_FOLDER") or default_state_folder())
        return folder / "credentials.toml"

    @classmethod
    def of(cls, state_folder: Path | None = None) -> Credentials:
        path = cls.path(state_folder)
        if not os.access(path, os.R_OK):
            return cls([], None)
        values = read_toml(path)
        return cls(list(values.get("orchestrator", [])), values.get("token"), values.get("database_url"))

    def save(self, state_folder: Path | None = None) -> Path:
        path = self.path(state_folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        addresses = ", ".join(f'"{address}"' for address in self.addresses)
        write_private(
            path,
            f'# Written by `moonyard up`.\norchestrator = [{addresses}]\ntoken = "{self.token}"\n'
            f'database_url = "{self.database_url}"\n',
        )
        return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    nascent = path.with_name(f".{path.name}.new")
    nascent.unlink(missing_ok=True)
    create_private(nascent, text)
    nascent.rename(path)


def create_private(path: Path, text: str) -> None:
    """Make a file that only its owner can read.

    :raises FileExistsError: when something is there.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def image_map() -> dict[str, str]:
    """Collect the image map: of a checkout (``make images`` writes it), then of the settings file, which wins.

    :raises SettingsInvalid: when it is not a table of names to names.
    """
    merged: dict[str, str] = {}
    for path in (_checkout_map(Path(__file__).parent.parent), _checkout_map(Path.cwd())):
        if path is not None:
            merged |= _names(read_toml(path).get("image_map", {}), path)
    return merged | _names(file_settings().get("image_map", {}), settings_file())


def _checkout_map(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        if (folder / IMAGE_MAP_FILE).is_file():
            return folder / IMAGE_MAP_FILE
    return None


def _names(table: object, path: Path | None) -> dict[str, str]:
    match table:
        case dict():
            pairs: dict[object, object] = table  # pyright: ignore[reportUnknownVariableType]  # TOML is read untyped
            if all(isinstance(item, str) for pair in pairs.items() for item in pair):
                return {str(name): str(other) for name, other in pairs.items()}
        case _:
            pass
    raise SettingsInvalid(
        f"`image_map` in {path} has to be a table of image names to image names",
        hint='For instance: [image_map]\n"docker.io/library/alpine:latest" = "registry.example/alpine:3"',
    )
