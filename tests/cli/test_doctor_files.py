"""``moonyard doctor`` on files with credentials: those of this user, and who else can read or replace them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.checkups import files as files_checkup
from schema.findings import Finding
from tests.cli.command import moonyard


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose files are all below one folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)


def look(folder: Path, *, auth_file: Path | None = None, key_file: Path | None = None) -> dict[str, Finding]:
    found = files_checkup.examine(folder / "state", auth_file=auth_file, key_file=key_file)
    for finding in found:
        assert finding.part == "files"
        assert finding.state == "ok" or (finding.why and finding.hint), finding
    return {finding.check: finding for finding in found}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files with credentials, as the commands that write them leave them."""
    made = {
        "up": tmp_path / "state" / "credentials.toml",
        "runner": tmp_path / "state" / "runner.toml",
        "keys": tmp_path / "state" / "secret.keys",
        "login": tmp_path / "home" / ".config" / "moonyard" / "login.toml",
        "registries": tmp_path / "home" / ".config" / "containers" / "auth.json",
        "settings": tmp_path / "moonyard.toml",
    }
    for path in made.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o600)
    made["settings"].write_text('token = "moonyard_admin_x"\n')
    return made


def test_files_that_only_their_owner_reads_are_fine(tmp_path: Path, files: dict[str, Path]) -> None:
    found = look(tmp_path)
    assert set(found) == {str(path) for path in files.values()}
    assert {finding.state for finding in found.values()} == {"ok"}


@pytest.mark.parametrize("name", ["up", "runner", "keys", "login", "registries", "settings"])
def test_a_file_that_others_can_read_is_weak(tmp_path: Path, files: dict[str, Path], name: str) -> None:
    files[name].chmod(0o644)
    found = look(tmp_path)
    weak = found.pop(str(files[name]))
    assert weak.state == "weak"
    assert weak.text == "it can be read by others than its owner (its mode is 0644)"
    assert f"chmod 600 {files[name]}" in str(weak.hint)
    assert {finding.state for finding in found.values()} == {"ok"}


def test_a_file_that_others_can_write_is_told_as_that(tmp_path: Path, files: dict[str, Path]) -> None:
    files["runner"].chmod(0o660)
    assert "can be changed by others" in look(tmp_path)[str(files["runner"])].text


def test_a_folder_in_which_others_can_replace_a_file_is_weak(tmp_path: Path, files: dict[str, Path]) -> None:
    folder = files["runner"].parent
    folder.chmod(0o777)
    assert "put files of theirs in the place" in str(look(tmp_path)[str(folder)].why)
    folder.chmod(0o1777)  # as /tmp: nobody removes what is another's
    assert str(folder) not in look(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('database_url = "postgresql://me:word@db.example/moonyard"', "In it is `database_url`"),
        ('token = "moonyard_admin_x"\nlisten_url = "postgresql://me:word@db.example/"', "`token` and `listen_url`"),
        ('database_url = "postgresql://me@db.example/moonyard"', None),
        ('port = 8400\ntoken = ""', None),
    ],
)
def test_a_settings_file_counts_when_it_holds_something_that_is_secret(
    tmp_path: Path, text: str, why: str | None
) -> None:
    path = tmp_path / "moonyard.toml"
    path.write_text(text)
    path.chmod(0o644)
    found = look(tmp_path)
    if why is None:
        assert [finding.text for finding in found.values()] == ["there are none with credentials here"]
    else:
        assert why in str(found[str(path)].why)


def test_files_that_are_named_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text("")
    path.chmod(0o640)
    assert look(tmp_path, key_file=path)[str(path)].state == "weak"
    assert look(tmp_path, auth_file=path)[str(path)].state == "weak"
    (tmp_path / "moonyard.toml").write_text(f'tls_key = "{path}"')
    assert look(tmp_path)[str(path)].state == "weak"


async def test_the_command_tells_of_files_and_never_what_is_in_them(tmp_path: Path, files: dict[str, Path]) -> None:
    files["settings"].chmod(0o644)
    done = await moonyard("doctor", "--json", "--only=files", "--state-folder", str(tmp_path / "state"), cwd=tmp_path)
    assert done.code == 0, done.stderr
    found = {line["check"]: line for line in done.lines}
    assert found[str(files["settings"])]["state"] == "weak"
    assert "moonyard_admin_x" not in done.stdout + done.stderr
