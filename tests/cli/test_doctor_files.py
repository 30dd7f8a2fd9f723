"""``moonyard doctor`` on files with credentials: those of this user, and who else can read or replace them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Line, Printed, moonyard


async def doctor(folder: Path, *options: str, **more: str) -> Printed:
    return await moonyard(
        *("doctor", "--json", "--only=files", "--state-folder", str(folder / "state"), *options),
        cwd=folder,
        HOME=str(folder / "home"),
        XDG_CONFIG_HOME=str(folder / "home" / ".config"),
        **more,
    )


def of(printed: Printed, path: Path) -> Line:
    [line] = [line for line in printed.lines if line["check"] == str(path)]
    assert line["state"] == "ok" or (line["why"] and line["hint"]), line
    return line


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


async def test_files_that_only_their_owner_reads_are_fine(tmp_path: Path, files: dict[str, Path]) -> None:
    done = await doctor(tmp_path)
    assert done.code == 0, done.stderr
    for path in files.values():
        assert of(done, path)["state"] == "ok"
    assert {line["part"] for line in done.lines} == {"files"}


@pytest.mark.parametrize("name", ["up", "runner", "keys", "login", "registries", "settings"])
async def test_a_file_that_others_can_read_is_weak(tmp_path: Path, files: dict[str, Path], name: str) -> None:
    files[name].chmod(0o644)
    done = await doctor(tmp_path)
    assert done.code == 0
    found = of(done, files[name])
    assert found["state"] == "weak"
    assert found["text"] == "it can be read by others than its owner (its mode is 0644)"
    assert f"chmod 600 {files[name]}" in found["hint"]
    assert "moonyard_admin_x" not in done.stdout
    assert all(of(done, path)["state"] == "ok" for other, path in files.items() if other != name)


async def test_a_file_that_others_can_write_is_told_as_that(tmp_path: Path, files: dict[str, Path]) -> None:
    files["runner"].chmod(0o660)
    assert "can be changed by others" in of(await doctor(tmp_path), files["runner"])["text"]


async def test_a_folder_in_which_others_can_replace_a_file_is_weak(tmp_path: Path, files: dict[str, Path]) -> None:
    files["runner"].parent.chmod(0o777)
    found = of(await doctor(tmp_path), files["runner"].parent)
    assert found["state"] == "weak"
    assert "put files of theirs in the place" in found["why"]
    files["runner"].parent.chmod(0o1777)  # as /tmp: nobody removes what is another's
    assert str(files["runner"].parent) not in {line["check"] for line in (await doctor(tmp_path)).lines}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('database_url = "postgresql://me:word@db.example/moonyard"', "`database_url`"),
        ('database_url = "postgresql://me@db.example/moonyard"', None),
        ('port = 8400\ntoken = ""', None),
    ],
)
async def test_a_settings_file_counts_when_it_holds_something_that_is_secret(
    tmp_path: Path, text: str, names: str | None
) -> None:
    path = tmp_path / "moonyard.toml"
    path.write_text(text)
    path.chmod(0o644)
    done = await doctor(tmp_path)
    if names is None:
        assert [line["text"] for line in done.lines] == ["there are none with credentials here"]
    else:
        assert names in of(done, path)["why"]


async def test_a_key_file_that_is_named_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "other.keys"
    path.write_text("")
    path.chmod(0o640)
    assert of(await doctor(tmp_path, "--secret-key-file", str(path)), path)["state"] == "weak"
    assert of(await doctor(tmp_path, MOONYARD_AUTH_FILE=str(path)), path)["state"] == "weak"
