"""``moonyard secret``: set, list, show and remove secrets; and the master keys that they are stored under."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.errors import MoonyardError
from schema.secrets import (
    VALUE_BYTES_MAXIMUM,
    GrantList,
    Secret,
    SecretList,
    SecretRemoved,
    SecretSet,
    SecretsRewrapped,
    SecretVersion,
)

REWRAP_SECONDS: Final = 600.0


@click.group()
def secret() -> None:
    """Store secrets, and see to the keys that they are under.

    `moonyard grant` lets pipelines have them.
    """


@secret.command("set", short_help="Store a value, typed or from stdin.")
@click.argument("name")
@click.option(
    "--readable/--environment-only",
    default=None,
    help="Whether scripts may read it, or it goes into commands' environments alone; by default as before, at first "
    "--readable.",
)
@click.option("--exact", is_flag=True, help="Keep a line's end that stdin has after a value of one line.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def set_secret(name: str, *, readable: bool | None, exact: bool, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Store a value as the newest version of the secret NAME, or PIPELINE/NAME for one that is a pipeline's alone.

    The value is typed when asked, or comes from stdin; never from an argument, which everybody on the machine can read.
    A value of one line is stored without the line's end that stdin has after it; one of several lines (a private key)
    as it came.

    \b
    moonyard secret set DEPLOY_TOKEN
    moonyard secret set SSH_KEY < id_ed25519
    """
    message = SecretSet(secret=name, value=_value(exact=exact), readable=readable)
    done = connection.ask(orchestrator, lambda client: client.post("/v1/secrets", Secret, message))
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        click.echo(f"secret {done.secret}  version {done.version}  {_kind(readable=done.readable)}")
    if done.warning is not None:
        click.echo(f"warning: of this value, {done.warning}", err=True)
    if not as_json and done.grants == 0:
        click.echo(f"hint: no pipeline has it yet: moonyard grant add {done.secret} PIPELINE", err=True)


@secret.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_secrets(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the secrets, never their values."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/secrets", SecretList)).secrets
    if as_json:
        print_json(found)
        return
    print_table(
        ["secret", "version", "kind", "set (UTC)", "by", "grants", "key"],
        [
            [
                row.secret,
                str(row.version),
                _kind(readable=row.readable),
                age(row.changed_at),
                row.changed_by,
                str(row.grants),
                row.key,
            ]
            for row in found
        ],
        "no secrets: `moonyard secret set NAME` stores one",
    )


@secret.command(short_help="Show a secret: its version and who may have it.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def show(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Show the secret NAME, or PIPELINE/NAME, with its grants; never its value."""

    async def ask(client: Client) -> tuple[Secret, GrantList]:
        found = await client.get(_path(name), Secret)
        return found, await client.get("/v1/grants", GrantList, query={"secret": name})

    found, grants = connection.ask(orchestrator, ask)
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(found) | {"granted": grants.grants}).decode())
        return
    click.echo(f"{click.style(found.secret, bold=True)}  version {found.version}  {_kind(readable=found.readable)}")
    click.echo(f"set {age(found.changed_at)} UTC by {found.changed_by}, under the master key {found.key}")
    click.echo("\ngranted to:" if grants.grants else "\ngranted to nobody: moonyard grant add SECRET PIPELINE")
    for held in grants.grants:
        narrowed = [f"stage {stage}" for stage in held.stages]
        narrowed += [f"input {key}={value}" for key, values in held.inputs.items() for value in values]
        narrowed += [f"runner {runner}" for runner in held.runners]
        waits = f"  waits for: moonyard grant confirm {held.waits_for[0]}" if held.waits_for else ""
        click.echo(f"  {held.pipeline}  {', '.join(narrowed)}".rstrip() + waits)


@secret.command(short_help="List the versions of a secret.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def versions(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the versions of the secret NAME, or PIPELINE/NAME: jobs get the newest."""
    found: list[SecretVersion] = (
        connection.ask(orchestrator, lambda client: client.get(_path(name), Secret)).versions or []
    )
    if as_json:
        print_json(found)
        return
    print_table(
        ["version", "kind", "set (UTC)", "by", "key"],
        [
            [str(row.number), _kind(readable=row.readable), age(row.created_at), row.created_by, row.key]
            for row in found
        ],
        "no versions",
    )


@secret.command(short_help="Remove a secret, or one version of it.")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Only this version: the one before is the newest then.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def remove(name: str, *, version: int | None, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Remove the secret NAME, or PIPELINE/NAME, with all its versions and grants.

    What was delivered is not taken back.
    """
    path = _path(name) + ("" if version is None else f"?version={version}")
    done = connection.ask(orchestrator, lambda client: client.delete(path, SecretRemoved))
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    elif version is not None:
        click.echo(f"version {version} of secret {name} removed")
    else:
        click.echo(f"secret {name} removed  versions {done.versions}  grants {done.grants}")


@secret.command(short_help="Put all values under the master key in use.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def rewrap(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Put all values under the master key that the orchestrators use, while they go on. Then an old key can go."""
    done = connection.ask(
        orchestrator, lambda client: client.post("/v1/secret-keys/rewrap", SecretsRewrapped, seconds=REWRAP_SECONDS)
    )
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        click.echo(f"{done.rewrapped} {_versions(done.rewrapped)} put under the master key {done.key}")
    if done.left:
        raise MoonyardError(
            f"{done.left} {_versions(done.left)} stored under master keys that the orchestrator does not have",
            code="secret_key_unknown",
            hint="Give the orchestrators the older keys as well, after the one in use, and run this again.",
        )


@secret.group()
def key() -> None:
    """Make master keys, and put them in order.

    They are in a file, which the setting `secret_key_file` of the orchestrators names.
    """


@key.command(short_help="Make a master key, in a file for you alone.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--add", is_flag=True, help="Add it to a file of keys, after the others: known, and not in use yet.")
def generate(file: Path, *, add: bool) -> None:
    """Make a master key in FILE, which is new and readable by you alone.

    Keep a copy of it, where the database's backup is not: without the key nobody reads the secrets again, with both
    anybody does.
    """
    from orchestrator import master_keys

    line = master_keys.generate()
    if add:
        text = master_keys.read_file(file)
        known = master_keys.parse(text, str(file)).ids
        settings.write_private(file, f"{text.rstrip()}\n{line}\n")
        click.echo(
            f"master key {master_keys.parse(line, 'the new key').current.id}  added to {file}, after {known[-1]}"
        )
        return
    try:
        settings.create_private(file, master_keys.file_text(line))
    except FileExistsError as error:
        raise MoonyardError(
            f"{file} is there already, and a key that is written over is lost",
            code="secret_key_unusable",
            hint="Name another file, or add a key to that one with --add.",
        ) from error
    except OSError as error:
        raise MoonyardError(
            f"the master key cannot be written to {file}: {(error.strerror or str(error)).lower()}",
            code="secret_key_unusable",
        ) from error
    click.echo(f"master key {master_keys.parse(line, 'the new key').current.id}  written to {file}")
    click.echo("hint: `secret_key_file` names it to the orchestrators. Keep a copy of it in a safe place.", err=True)


@key.command("list", short_help="List the master keys in a file, by their ids.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def list_keys(file: Path) -> None:
    """List the master keys in FILE by their ids, the one in use first; never the keys."""
    from orchestrator import master_keys

    for place, known in enumerate(master_keys.parse(master_keys.read_file(file), str(file)).ids):
        click.echo(f"{known}  {'in use' if place == 0 else 'known'}")


@key.command(short_help="Put a master key first: new values come under it.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("key_id", metavar="ID")
def use(file: Path, key_id: str) -> None:
    """Put the master key ID first in FILE. Orchestrators that are started from then on store new values under it."""
    from orchestrator import master_keys

    lines = master_keys.read_file(file).splitlines()
    known = {line.strip(): master_keys.parse(line, str(file)).ids[0] for line in lines if master_keys.is_key(line)}
    chosen = [line for line, known_id in known.items() if known_id == key_id]
    if not chosen:
        raise MoonyardError(
            f"{file} has no master key {key_id}",
            code="secret_key_unusable",
            hint=f"It has: {', '.join(known.values()) or 'none'}.",
        )
    others = [line for line in known if line not in chosen]
    comments = [line for line in lines if not master_keys.is_key(line)]
    settings.write_private(file, "\n".join([*comments, *chosen, *others]) + "\n")
    click.echo(f"master key {key_id}  is in use in {file}; the orchestrators read it when they start")


@key.command(short_help="See that a copy of the master keys is one.")
@click.argument("copy", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@settings.setting("secret_key_file")
@settings.setting("secret_key_command")
@settings.setting("state_folder")
def verify(copy: Path, *, secret_key_file: Path | None, secret_key_command: str | None, state_folder: Path) -> None:
    """See that COPY, or stdin for `-`, has all the master keys that are in use or known here, or that `up` made.

    It is noted in the state folder, so that `moonyard doctor` does not remind you of it until there is a new key.

    \b
    moonyard secret key verify /media/safe/secret.keys
    ssh backup.example cat secret.keys | moonyard secret key verify -
    """
    from cli import key_copies, secret_keys
    from orchestrator import master_keys

    if secret_key_file is None and secret_key_command is None:
        secret_key_file = secret_keys.of_up(state_folder)
    here = secret_keys.load(secret_key_file, secret_key_command)
    if not here.ids:
        raise MoonyardError(
            "there are no master keys to compare a copy with",
            code="setting_missing",
            hint="Give --secret-key-file, or what else names them to the orchestrators.",
        )
    if str(copy) == "-":
        copied = master_keys.parse(sys.stdin.read(master_keys.TEXT_BYTES_MAXIMUM), "stdin")
    else:
        if secret_key_file is not None and copy.exists() and copy.samefile(secret_key_file):
            raise MoonyardError(
                f"{copy} is the master keys' file itself",
                code="secret_key_unusable",
                hint="A copy is another file, in another place.",
            )
        copied = master_keys.parse(master_keys.read_file(copy), f"the copy {copy}")
    lacking = [known for known in here.ids if known not in copied.ids]
    if lacking:
        raise MoonyardError(
            f"the copy lacks the master key {', '.join(lacking)}",
            code="secret_key_unknown",
            hint=f"It has: {', '.join(copied.ids)}. Make a new copy.",
        )
    path = key_copies.note(state_folder, here.ids)
    click.echo(f"the copy has the master keys {', '.join(here.ids)}  noted in {path}")


def _value(*, exact: bool) -> bytes:
    if sys.stdin.isatty():
        typed: str = click.prompt("value", hide_input=True, confirmation_prompt=True, err=True)
        return typed.encode(errors="surrogateescape")
    value = sys.stdin.buffer.read(VALUE_BYTES_MAXIMUM + 3)
    if not exact:
        line = value.removesuffix(b"\n").removesuffix(b"\r")
        if b"\n" not in line:
            value = line
    if not value:
        raise MoonyardError(
            "stdin holds no value",
            code="secret_value_invalid",
            hint="Type it when asked, in a terminal; or give it by a pipe or a file: moonyard secret set NAME < FILE",
        )
    return value


def _versions(count: int) -> str:
    return "version was" if count == 1 else "versions were"


def _path(name: str) -> str:
    return f"/v1/secrets/{connection.in_path('secret', name)}"


def _kind(*, readable: bool) -> str:
    return "readable" if readable else "environment only"
