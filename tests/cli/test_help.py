"""Help teaches, and what is typed wrong is told with what would be right; by the real command, as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS, moonyard

PROGRAM = Path(sys.executable).with_name("moonyard")


def commands(
    group: click.Group = moonyard, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands())


def typed(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Type a command in a folder without settings, as a user without settings."""
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder or "/nonexistent"), "LANG": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command_with_a_whole_sentence():
    shown = typed("--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    for name in COMMANDS:
        line = next(line for line in shown.stdout.splitlines() if line.split()[:1] == [name])
        assert line.endswith("."), line
        assert not line.endswith("..."), line


@pytest.mark.parametrize("path", [pytest.param(path, id=" ".join(path)) for path, _ in ALL])
def test_every_command_has_help_of_its_own(path: tuple[str, ...]):
    command = dict(ALL)[path]
    assert command.help
    assert not command.get_short_help_str(limit=64).endswith("..."), "its line in the list is cut"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts} of `moonyard {' '.join(path)}` has no help"


def test_help_of_a_command_is_shown_without_loading_the_server():
    shown = typed("submit", "-h", PYTHONPROFILEIMPORTTIME="1")
    assert "Usage: moonyard submit [OPTIONS] [PIPELINE]" in shown.stdout
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert not {"litestar", "uvicorn", "lupa", "alembic"} & loaded


def test_the_version_is_that_of_the_package():
    shown = typed("--version")
    assert shown.stdout.startswith("moonyard 0.")
    assert shown.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["runn"], "`runn` is not a command; did you mean `run`?"),
        (["frobnicate"], "`frobnicate` is not a command (there are: init, "),
        (["run"], "Missing argument 'FILE'"),
        (["submit", "hello", "--imput", "a=b"], "No such option"),
        (["jobs", "--state", "sleeping"], "'sleeping' is not one of 'queued', 'running'"),
        (["jobs", "--limit", "0"], "0 is not in the range 1<=x<=1000"),
        (["token", "create"], "Missing option '--name'"),
        (["up", "--port", "eighty"], "'eighty' is not a valid integer"),
        (["pipeline", "push"], "Missing argument 'FILES...'"),
        (["artifact", "get", "3"], "Missing argument 'NAME'"),
    ],
)
def test_a_usage_error_says_what_is_wrong_and_ends_with_2(arguments: list[str], told: str):
    shown = typed(*arguments)
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert told in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_misspelt_option_is_answered_with_the_right_one():
    assert "--input" in typed("submit", "hello", "--imput", "a=b").stderr


@pytest.mark.parametrize("given", ["name", "=value", ""])
def test_an_input_that_is_no_pair_is_refused(given: str):
    shown = typed("submit", "hello", "--input", given)
    assert shown.returncode == 2
    assert f"--input takes NAME=VALUE, got `{given}`" in shown.stderr


def test_an_input_given_twice_is_refused():
    shown = typed("submit", "hello", "--input", "a=1", "--input", "a=2")
    assert shown.returncode == 2
    assert "--input a is given twice" in shown.stderr


def test_a_pipeline_file_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path):
    (tmp_path / "build.lua").write_text("return {}")
    shown = typed("run", "biuld.lua", folder=tmp_path)
    assert shown.returncode == 2
    assert "error[file_not_found] pipeline file `biuld.lua` does not exist" in shown.stderr
    assert "build.lua" in shown.stderr
    assert shown.stdout == ""


def test_without_a_token_the_error_says_where_one_comes_from(tmp_path: Path):
    shown = typed("jobs", folder=tmp_path, MOONYARD_STATE_FOLDER=str(tmp_path))
    assert shown.returncode == 2
    assert "error[token_missing]" in shown.stderr
    assert "MOONYARD_TOKEN" in shown.stderr
    assert "moonyard up" in shown.stderr


def test_without_an_orchestrator_the_error_says_which_was_asked_and_why_it_failed(tmp_path: Path):
    shown = typed("jobs", "--orchestrator", "http://127.0.0.1:1", folder=tmp_path, MOONYARD_TOKEN="none")
    assert shown.returncode == 2
    assert "orchestrator http://127.0.0.1:1 is unreachable (" in shown.stderr
    assert "hint: Is it running, and is the address right? `moonyard up` starts one" in shown.stderr


def test_without_a_database_the_error_names_the_setting_in_all_its_forms(tmp_path: Path):
    for command in (["db", "check"], ["orchestrator"]):
        shown = typed(*command, folder=tmp_path, MOONYARD_STATE_FOLDER=str(tmp_path))
        assert shown.returncode == 2
        assert "error[setting_missing]" in shown.stderr
        assert "--database-url, MOONYARD_DATABASE_URL, or `database_url` in moonyard.toml" in shown.stderr


def test_an_unregistered_runner_is_told_how_to_register(tmp_path: Path):
    shown = typed("runner", "start", "--state-folder", str(tmp_path), folder=tmp_path)
    assert shown.returncode == 2
    assert "error[runner_not_registered]" in shown.stderr
    assert "moonyard runner register --orchestrator URL" in shown.stderr


def test_an_unknown_setting_in_the_file_is_refused_with_those_that_exist(tmp_path: Path):
    (tmp_path / "moonyard.toml").write_text("databse_url = 'postgresql:///x'\n")
    shown = typed("db", "check", folder=tmp_path)
    assert shown.returncode == 2
    assert "error[settings_invalid]" in shown.stderr
    assert "`databse_url`" in shown.stderr
    assert "database_url" in shown.stderr.partition("hint:")[2]


def test_a_settings_file_that_is_no_toml_is_told_with_its_path(tmp_path: Path):
    (tmp_path / "moonyard.toml").write_text("port = = 3\n")
    shown = typed("db", "check", folder=tmp_path)
    assert shown.returncode == 2
    assert str(tmp_path / "moonyard.toml") in shown.stderr
    assert "line 1" in shown.stderr


def test_an_image_map_that_is_no_table_of_names_is_refused(tmp_path: Path):
    (tmp_path / "moonyard.toml").write_text("[image_map]\nalpine = 3\n")
    (tmp_path / "a.lua").write_text("return { name = 'a', stages = { { name = 's', script = function() end } } }")
    shown = typed("run", "a.lua", folder=tmp_path, MOONYARD_STATE_FOLDER=str(tmp_path / "state"))
    assert shown.returncode == 2
    assert "`image_map`" in shown.stderr


@pytest.mark.parametrize(
    ("file", "variable", "flag", "used"),
    [
        ("http://127.0.0.1:2", None, None, "http://127.0.0.1:2"),
        ("http://127.0.0.1:2", "http://127.0.0.1:3", None, "http://127.0.0.1:3"),
        ("http://127.0.0.1:2", "http://127.0.0.1:3", "http://127.0.0.1:4", "http://127.0.0.1:4"),
    ],
)
def test_a_flag_goes_before_a_variable_and_a_variable_before_the_file(
    tmp_path: Path, file: str, variable: str | None, flag: str | None, used: str
):
    (tmp_path / "moonyard.toml").write_text(f'orchestrator = ["{file}"]\ntoken = "t"\n')
    environment = {} if variable is None else {"MOONYARD_ORCHESTRATOR": variable}
    arguments = [] if flag is None else ["--orchestrator", flag]
    shown = typed("jobs", *arguments, folder=tmp_path, **environment)
    assert f"orchestrator {used} is unreachable" in shown.stderr


def test_a_wrong_log_level_is_said_and_changes_nothing_else(tmp_path: Path):
    shown = typed("db", "check", folder=tmp_path, MOONYARD_LOG_LEVEL="loud", MOONYARD_STATE_FOLDER=str(tmp_path))
    assert "MOONYARD_LOG_LEVEL is `LOUD`, which is no level" in shown.stderr
    assert shown.returncode == 2
