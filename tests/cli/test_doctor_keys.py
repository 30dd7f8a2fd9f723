"""``moonyard doctor`` on master keys, and ``moonyard secret key verify``: those in use, and copies of them."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

import psycopg
import pytest

from cli import secret_keys
from cli.checkups import master_keys as checkup
from orchestrator import master_keys
from schema.findings import Finding
from tests.cli.command import ROOT, Printed, argv, environment, moonyard

SECRET = "INSERT INTO moonyard.secrets (id, name, created_by) VALUES (%(id)s, %(name)s, 'me')"
VERSION = """
INSERT INTO moonyard.secret_versions
    (id, secret_id, number, readable, nonce, ciphertext, key_id, wrapped_nonce, wrapped_key, created_by)
VALUES (%(id)s, %(id)s, 1, true, %(nonce)s, 'any', %(key)s, %(nonce)s, %(wrapped)s, 'me')
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "secret.keys"
    path.write_text(master_keys.file_text(master_keys.generate()))
    path.chmod(0o600)
    return path


def ids(path: Path) -> list[str]:
    return master_keys.parse(path.read_text(), str(path)).ids


async def look(folder: Path, keys: Path | None = None, url: str | None = None) -> dict[str, Finding]:
    loaded = master_keys.MasterKeys() if keys is None else secret_keys.load(keys, None)
    found = await checkup.examine(loaded, folder / "state", url, None)
    for finding in found:
        assert finding.part == "secrets"
        assert finding.state == "ok" or (finding.why and finding.hint), finding
    return {finding.check: finding for finding in found}


async def verify(folder: Path, keys: Path, copy: Path) -> Printed:
    options = ("--secret-key-file", str(keys), "--state-folder", str(folder / "state"))
    return await moonyard("secret", "key", "verify", str(copy), *options, cwd=folder)


def store(url: str, key: str) -> None:
    """Have something stored under a key."""
    with psycopg.connect(url) as connection:
        named = {"id": uuid.uuid4(), "name": f"S{uuid.uuid4().hex[:8]}", "key": key}
        named |= {"nonce": bytes(12), "wrapped": bytes(48)}
        connection.execute(SECRET, named)
        connection.execute(VERSION, named)


async def test_without_keys_and_without_secrets_nothing_is_wrong(tmp_path: Path, database_url: str) -> None:
    found = await look(tmp_path, url=database_url)
    assert found["master keys"].text == "none are named here, and no secrets are stored"


async def test_without_keys_stored_secrets_are_lost(tmp_path: Path, database_url: str) -> None:
    store(database_url, "0123456789ab")
    found = await look(tmp_path, url=database_url)
    assert found["master keys"].state == "broken"
    assert "1 values are stored under the key 0123456789ab" in found["master keys"].text


async def test_a_key_that_values_are_under_and_that_is_not_here_is_broken(
    tmp_path: Path, database_url: str, keys: Path
) -> None:
    store(database_url, ids(keys)[0])
    store(database_url, "0123456789ab")
    found = await look(tmp_path, keys, database_url)
    assert found["master keys"].text.startswith("1 values are under the key 0123456789ab, and here is")


async def test_values_under_an_older_key_are_to_be_wrapped_anew(tmp_path: Path, database_url: str, keys: Path) -> None:
    store(database_url, ids(keys)[0])
    await moonyard("secret", "key", "generate", "--add", str(keys), cwd=tmp_path)
    await moonyard("secret", "key", "use", str(keys), ids(keys)[1], cwd=tmp_path)
    found = await look(tmp_path, keys, database_url)
    assert found["master keys"].state == "weak"
    assert "moonyard secret rewrap" in str(found["master keys"].hint)


@pytest.fixture
def readable_keys(keys: Path) -> Path:
    keys.chmod(0o644)
    return keys


async def test_a_file_of_keys_that_cannot_be_used_is_broken(tmp_path: Path, readable_keys: Path) -> None:
    options = ("--json", "--only=secrets", "--state-folder", str(tmp_path / "state"))
    done = await moonyard("doctor", *options, "--secret-key-file", str(readable_keys), cwd=tmp_path)
    assert done.code == 1
    [found] = done.lines
    assert (found["part"], found["state"]) == ("secrets", "broken")
    assert "can be read or changed by others" in found["text"]


async def test_a_copy_is_asked_for_until_one_was_read_and_again_with_a_new_key(tmp_path: Path, keys: Path) -> None:
    found = await look(tmp_path, keys)
    assert found["copy of the master keys"].state == "weak"
    assert "moonyard secret key verify" in str(found["copy of the master keys"].hint)
    copy = tmp_path / "copy.keys"
    shutil.copy(keys, copy)
    done = await verify(tmp_path, keys, copy)
    assert done.code == 0, done.stderr
    assert ids(keys)[0] in done.stdout
    found = await look(tmp_path, keys)
    assert found["copy of the master keys"].state == "ok"
    assert (tmp_path / "state" / "key-copies.toml").stat().st_mode & 0o777 == 0o600
    assert "moonyard_key_" not in (tmp_path / "state" / "key-copies.toml").read_text()
    await moonyard("secret", "key", "generate", "--add", str(keys), cwd=tmp_path)
    found = await look(tmp_path, keys)
    assert found["copy of the master keys"].text == f"nobody has shown one that has the key {ids(keys)[1]}"


async def test_a_copy_of_the_keys_that_up_made_needs_no_setting(tmp_path: Path, keys: Path) -> None:
    made = tmp_path / "state" / "secret.keys"
    made.parent.mkdir()
    shutil.copy(keys, made)
    options = ("--state-folder", str(tmp_path / "state"))
    done = await moonyard("secret", "key", "verify", str(keys), *options, cwd=tmp_path)
    assert done.code == 0, done.stderr
    done = await moonyard("secret", "key", "verify", str(made), *options, cwd=tmp_path)
    assert "is the master keys' file itself" in done.stderr


async def test_a_copy_that_is_none_is_refused_and_nothing_is_noted(tmp_path: Path, keys: Path) -> None:
    other = tmp_path / "other.keys"
    other.write_text(master_keys.file_text(master_keys.generate()))
    other.chmod(0o600)
    done = await verify(tmp_path, keys, other)
    assert done.code == 2
    assert f"the copy lacks the master key {ids(keys)[0]}" in done.stderr
    (tmp_path / "link.keys").hardlink_to(keys)
    done = await verify(tmp_path, keys, tmp_path / "link.keys")
    assert done.code == 2
    assert "is the master keys' file itself" in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_copy_may_come_by_stdin_and_the_keys_by_the_environment(tmp_path: Path, keys: Path) -> None:
    line = keys.read_text().splitlines()[-1]
    words = argv("secret", "key", "verify", "-", "--state-folder", str(tmp_path / "state"))
    done = subprocess.run(
        words,
        input=keys.read_text(),
        cwd=tmp_path,
        env=environment(MOONYARD_SECRET_KEYS=line),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert line not in done.stdout + done.stderr
    assert str(ROOT) not in done.stdout
