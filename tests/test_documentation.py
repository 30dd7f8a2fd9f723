"""The documentation says what the code has: commands, options, settings, error codes, views, links and examples."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import plugins
from cli import settings
from cli.checks.findings import CODES
from cli.main import moonyard
from runner.modules import artifact
from sandbox import caches, definitions, registries, services
from sandbox.parent import WarmParent

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", CHECKOUT / "bench" / "README.md", *sorted(DOCS.glob("*.md"))]
EXAMPLES = sorted((CHECKOUT / "examples").glob("*.lua"))


def commands(group: click.Group = moonyard, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Give what stands under a heading, up to the next one of its rank or a higher one."""
    rank = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{rank}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no heading `{heading}`"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_its_options(name: str):
    text = section(page("cli.md"), f"### moonyard {name}")
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            for option in parameter.opts:
                assert f"`{option}" in text, f"`moonyard {name}` has {option}, and docs/cli.md does not say so"


def test_no_command_is_documented_that_does_not_exist():
    documented = set(re.findall(r"^### moonyard (.+)$", page("cli.md"), re.MULTILINE))
    assert documented == set(COMMANDS)


@pytest.mark.parametrize("name", settings.SETTINGS)
def test_every_setting_is_documented_in_its_three_forms(name: str):
    text = section(page("cli.md"), "## Settings")
    assert f"| `--{name.replace('_', '-')}` | `MOONYARD_{name.upper()}` | `{name}` |" in text


def test_every_environment_variable_that_is_read_is_documented():
    sources = [source for name in ("cli", "runner", "orchestrator") for source in (CHECKOUT / name).rglob("*.py")]
    read = {
        variable
        for source in sources
        for variable in re.findall(r'environ(?:\.get\(|\[)"(MOONYARD_\w+)"', source.read_text(encoding="utf-8"))
    }
    assert read
    assert {variable for variable in read if f"`{variable}`" not in page("cli.md")} == set()


def test_every_error_code_is_documented_and_no_other():
    patterns = (
        r'\bcode\s*=\s*"([a-z_]+)"',
        r'\braise\(\s*"([a-z_]+)"',
        r'\b\d{3}: "([a-z_]+)"',
        r'LOST: Final = "(\w+)"',
        r"\brefuse\(\s*'([a-z_]+)'",
        r"'code', '([a-z_]+)'",
    )
    folders = ("schema", "sandbox", "runner", "orchestrator", "cli", "plugins")
    sources = [
        source.read_text(encoding="utf-8")
        for folder in folders
        for source in (CHECKOUT / folder).rglob("*")
        if source.suffix in {".py", ".lua", ".sql"}
    ]
    raised = {code for source in sources for pattern in patterns for code in re.findall(pattern, source)}
    raised |= set(CODES)
    rows = [line.split("|")[1] for line in page("errors.md").splitlines() if line.startswith("| `")]
    documented = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    assert raised - documented == set()
    assert documented - raised == set()


def test_every_view_and_function_for_psql_is_documented():
    migrations = (CHECKOUT / "schema" / "migrations" / "sql").glob("*.sql")
    text = "\n".join(migration.read_text(encoding="utf-8") for migration in migrations)
    made = set(re.findall(r"CREATE VIEW (inspect\.\w+)", text)) | {"inspect.job", "inspect.log"}
    assert {name for name in made if f"`{name}" not in page("operations.md")} == set()


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("### artifact", artifact.SaveArguments.__struct_fields__),
        ("## The pipeline's fields", definitions.PIPELINE_FIELDS),
        ("### Inputs", definitions.INPUT_FIELDS),
        ("### Stages", definitions.STAGE_FIELDS),
        ("## Private images", registries.REGISTRY_FIELDS),
        ("## Caches", caches.CACHE_FIELDS),
        ("## Services", (*services.SERVICE_FIELDS, *services.READY_FIELDS)),
    ],
)
def test_every_field_and_argument_is_documented(heading: str, names: tuple[str, ...]):
    text = section(page("pipelines.md"), heading)
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(names) <= documented


def test_every_plugin_is_documented():
    for name in plugins.shipped():
        assert f"## {name}\n" in page("plugins.md")
        assert f"### Plugin {name}\n" in page("reference.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{path.name} links to {target}"


def documented_lines() -> list[tuple[str, str]]:
    """Find the lines of `moonyard` commands that a reader may copy."""
    found: list[tuple[str, str]] = []
    for path in PAGES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"    (?:MOONYARD_\w+=\S+ )?(moonyard [^─]+)$", line):
                found += [(path.name, part.strip()) for part in match[1].split("&&")]
    return found


@pytest.mark.parametrize(("name", "line"), documented_lines())
def test_commands_in_the_pages_are_ones_that_exist(name: str, line: str):
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = moonyard
    while words and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{name}: `{line}`"
        command, words = found, words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    if not words or words[0] == "[OPTIONS]":
        return
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in options | {"--help"}, f"{name}: `{line}`"


def test_make_targets_in_the_pages_exist():
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        used = re.findall(r"(?:^    |`)make ((?:[a-z-]+ ?)+)", text, re.MULTILINE)
        for target in " ".join(used).split():
            assert target in targets, f"{path.name}: make {target}"


def test_phony_targets_are_all_targets():
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_help_of_make_lists_every_target():
    done = subprocess.run(["make", "help"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^([a-z-]+):", makefile, re.MULTILINE):
        assert f"make {target} " in done.stdout


@pytest.mark.parametrize(
    ("name", "source"),
    [pytest.param(path.stem, path.read_text(encoding="utf-8"), id=path.name) for path in EXAMPLES],
)
async def test_every_example_loads_under_its_own_name(name: str, source: str):
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        definition = await sandbox.load(f"{name}.lua", source, plugins.shipped())
    assert definition.name == name
    assert definition.stages


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_says_what_it_shows_and_how_to_run_it(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("-- ")
    assert f"{path.stem}" in lines[1]
    assert "moonyard" in lines[1]


def lua_pipelines() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in PAGES:
        blocks = re.findall(r"```lua\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        found += [(path.name, block) for block in blocks if re.search(r"^return \{", block, re.MULTILINE)]
    return found


@pytest.mark.parametrize(("name", "source"), lua_pipelines())
async def test_every_pipeline_in_the_pages_loads(name: str, source: str):
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        definition = await sandbox.load(name, source, plugins.shipped())
    assert definition.stages


def test_the_readme_names_every_page():
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for path in DOCS.glob("*.md"):
        assert f"(docs/{path.name})" in readme


def test_the_licence_is_the_one_that_the_package_names():
    assert 'license = "Apache-2.0"' in (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    licence = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0" in licence


def test_help_names_the_first_steps():
    shown = CliRunner().invoke(moonyard, ["--help"]).output
    assert "moonyard run" in shown
    assert "moonyard up" in shown
