"""How a pipeline's plugins are found, with those that they need, in versions that go together."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import anyio
import pytest

from plugins import folders, sources
from plugins.fetched import FetchedPlugins
from plugins.resolution import Catalogue, Installed, NoSources, Resolved, Shipped, resolve
from schema.errors import MoonyardError
from schema.plugins import PluginReference
from tests.plugins.made import Shelf, files, operation, plugin, write


def reference(text: str) -> PluginReference:
    name, at, wanted = text.partition("@")
    return PluginReference(name=name, range=wanted if at else None)


async def found(texts: list[str], *shelves: Shelf) -> Resolved:
    return await resolve([reference(text) for text in texts], Catalogue(shelves, NoSources()))


def told(resolved: Resolved) -> list[str]:
    return [f"{name} {one.plugin.version} from {one.origin}" for name, one in resolved.found.items()]


async def test_the_newest_release_that_fits_is_taken():
    shelf = Shelf(*(plugin("a", version=version) for version in ("1.0.0", "1.2.0", "1.10.0", "2.0.0", "3.0.0-rc.1")))
    for text, version in {"a": "2.0.0", "a@1": "1.10.0", "a@1.2": "1.2.0", "a@1.0.0": "1.0.0"}.items():
        assert told(await found([text], shelf)) == [f"a {version} from shelf"]
    problem = (await found(["a@4"], shelf)).problems["a"]
    assert problem.code == "plugin_unknown"
    assert problem.message == (
        "there is no version of plugin `a` that `a@4` takes (there are: 3.0.0-rc.1, 2.0.0, 1.10.0, 1.2.0, 1.0.0)"
    )


async def test_a_name_belongs_to_the_first_place_that_has_it():
    first, second = (
        Shelf(plugin("a", version="1.0.0"), origin="first"),
        Shelf(plugin("a", version="9.0.0"), origin="second"),
    )
    assert told(await found(["a"], first, second)) == ["a 1.0.0 from first"]
    assert (await found(["a@9"], first, second)).problems["a"].code == "plugin_unknown"


async def test_one_that_is_not_there_is_told_with_what_is_near():
    resolved = await found(["slak"], Shelf(plugin("slack"), plugin("git")))
    assert resolved.found == {}
    assert resolved.problems["slak"].message == "there is no plugin `slak`; did you mean `slack`? (plugins: git, slack)"


async def test_what_a_plugin_needs_comes_before_it_in_one_version_for_all():
    a = plugin("a", plugins=["b@1", "c"])
    shelf = Shelf(a, plugin("b", plugins=["c@1"]), plugin("c", version="1.4.0"), plugin("c", version="2.0.0"))
    chosen = await found(["a"], shelf)
    assert told(chosen) == ["c 1.4.0 from shelf", "b 1.0.0 from shelf", "a 1.0.0 from shelf"]
    assert told(await found(["a", "c@1.4.0"], shelf)) == told(chosen)
    assert [locked.sha256 for locked in chosen.lock][-1] == a.sha256


async def test_versions_that_do_not_go_together_and_circles_are_told():
    shelf = Shelf(
        plugin("a", plugins=["c@1"]), plugin("b", plugins=["a", "c@2"]), plugin("c"), plugin("c", version="2.0.0"),
        plugin("x", plugins=["y"]), plugin("y", plugins=["x"]), plugin("bad", plugins=["no good"]),
    )  # fmt: skip
    problem = (await found(["b"], shelf)).problems["b"]
    assert problem.code == "plugin_conflict"
    assert problem.message == "plugin `b` needs `c@2`, and the job has version 1.0.0 of plugin `c`"
    assert (await found(["x"], shelf)).problems["x"].message == "plugins need each other in a circle: x needs y needs x"
    assert (await found(["bad"], shelf)).problems["bad"].code == "plugin_invalid"
    both = await found(["x", "a"], shelf)
    assert list(both.found) == ["c", "a"]


async def test_a_folder_of_the_machine_has_plugins_under_their_names(tmp_path: Path):
    write(tmp_path / "mine", files("mine"))
    write(tmp_path / "other", files("another"))
    write(tmp_path / "no-plugin", {"README.md": "nothing"})
    place = Installed(tmp_path)
    assert await place.names() == ["mine", "other"]
    resolved = await resolve([reference("mine@1"), reference("other")], Catalogue([Shipped(), place], NoSources()))
    assert told(resolved) == ["mine 1.0.0 from folder"]
    assert "holds plugin `another`, and not `other`" in resolved.problems["other"].message
    with pytest.raises(MoonyardError, match="cannot be read"):
        await Installed(tmp_path / "none").names()


async def test_a_pipeline_says_where_a_plugin_is(tmp_path: Path):
    write(tmp_path / "plugins" / "mine", files("mine"))
    catalogue = sources.here(None, tmp_path)
    named = PluginReference(name="mine", folder="plugins/mine", range="1")
    resolved = await resolve([named], catalogue)
    assert told(resolved) == ["mine 1.0.0 from pipeline folder"]
    for wrong, words in {
        PluginReference(name="mine", folder="none"): "which does not exist",
        PluginReference(name="yours", folder="plugins/mine"): "holds plugin `mine`, and the pipeline calls it `yours`",
        PluginReference(name="mine", folder="plugins/mine", range="2"): "and `mine@2` was asked for",
    }.items():
        assert words in (await resolve([wrong], catalogue)).problems[wrong.name].message


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str]:
    """A git repository with a plugin in a folder of it, and the commit."""
    folder = tmp_path / "repository"
    write(folder / "deep" / "mine", files("mine", operation("return nil"), more={"README.md": "# Mine\n"}))
    write(folder, {"large.txt": "x" * 2_000_000})
    (folder / "link").symlink_to("/etc/passwd")
    script = "git init -q . && git add -A && git -c user.name=A -c user.email=a@b commit -q -m 1 && git rev-parse HEAD"
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return folder.as_uri(), done.stdout.strip()


async def test_a_plugin_is_fetched_from_a_commit_of_a_repository(repository: tuple[str, str], tmp_path: Path):
    url, commit = repository
    named = PluginReference(name="mine", git=url, commit=commit, folder="deep/mine")
    resolved = await resolve([named], sources.here(None, tmp_path))
    assert told(resolved) == [f"mine 1.0.0 from {url}@{commit} in deep/mine"]
    here = folders.read(tmp_path / "repository" / "deep" / "mine")
    assert resolved.found["mine"].plugin.sha256 == here.sha256


async def test_what_was_fetched_is_kept_and_no_more_than_so_many(
    repository: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url, commit = repository
    kept = FetchedPlugins(tmp_path / "kept")
    named = PluginReference(name="mine", git=url, commit=commit, folder="deep/mine")
    offline = sources.here(None, tmp_path, fetched=kept, fetches=False)
    problem = (await resolve([named], offline)).problems["mine"]
    assert (problem.code, kept.read(named)) == ("plugin_not_fetched", None)
    assert not (await resolve([named], sources.here(None, tmp_path, fetched=kept))).problems
    assert told(await resolve([named], offline)) == [f"mine 1.0.0 from {url}@{commit} in deep/mine"]
    other = PluginReference(name="mine", git=url, commit=commit, folder="deep")
    assert (await resolve([other], offline)).problems["mine"].code == "plugin_not_fetched"

    monkeypatch.setattr("plugins.fetched.KEPT_MAXIMUM", 3)
    for number in range(5):
        kept.keep(PluginReference(name="mine", git=url, commit=f"{number:040}"), {"init.lua": ""})
    assert len(list((tmp_path / "kept").iterdir())) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folder": None}, "holds more than a plugin"),
        ({"folder": "none"}, "cannot be fetched"),
        ({"commit": "0" * 40}, "cannot be fetched"),
        ({"git": "file:///nowhere/at/all"}, "cannot be fetched"),
        ({"git": "ext::sh -c true"}, "transport 'ext' not allowed"),
    ],
)
async def test_what_cannot_be_fetched_is_told_in_gits_words(
    repository: tuple[str, str], tmp_path: Path, change: dict[str, str | None], words: str
):
    url, commit = repository
    fields: dict[str, str | None] = {"git": url, "commit": commit, "folder": "deep/mine", **change}
    named = PluginReference(name="mine", **fields)
    problem = (await resolve([named], sources.here(None, tmp_path))).problems["mine"]
    assert words in problem.message


BOMB = """
set -e
git init -q .
blob=$(echo x | git hash-object -w --stdin)
tree=$(for i in 0 1 2 3 4 5 6 7 8 9; do printf '100644 blob %s\\tfile-%s\\n' $blob $i; done | git mktree)
for level in 1 2 3 4 5 6 7; do
  tree=$(for i in 0 1 2 3 4 5 6 7 8 9; do printf '040000 tree %s\\tfolder-%s\\n' $tree $i; done | git mktree)
done
commit=$(git -c user.name=A -c user.email=a@b commit-tree -m 1 $tree)
git update-ref refs/heads/main $commit
echo $commit
"""


@pytest.fixture
def bomb(tmp_path: Path) -> tuple[str, str]:
    """A git repository of a few objects that has millions of files, and its commit."""
    folder = tmp_path / "bomb"
    folder.mkdir()
    done = subprocess.run(["sh", "-c", BOMB], cwd=folder, capture_output=True, text=True, check=True)
    return folder.as_uri(), done.stdout.strip()


async def test_a_few_objects_that_are_millions_of_files_are_not_listed(bomb: tuple[str, str], tmp_path: Path):
    named = PluginReference(name="mine", git=bomb[0], commit=bomb[1])
    problem = (await resolve([named], sources.here(None, tmp_path))).problems["mine"]
    assert "holds more than a plugin" in problem.message


async def test_who_reads_what_may_be_anybodys_asks_no_git_and_no_folder_elsewhere(
    repository: tuple[str, str], tmp_path: Path
):
    write(tmp_path / "near" / "mine", files("mine", operation("return nil")))
    write(tmp_path / "far", files("mine", operation("return nil")))
    catalogue = sources.here(None, tmp_path / "near", [tmp_path / "near"])
    assert not (await resolve([PluginReference(name="mine", folder="mine")], catalogue)).problems
    for wrong, words in {
        PluginReference(name="mine", folder="../far"): "which is out of reach here",
        PluginReference(name="mine", git=repository[0], commit=repository[1]): "nothing is fetched from one here",
    }.items():
        assert words in (await resolve([wrong], catalogue)).problems["mine"].message


async def test_a_machine_without_git_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    named = PluginReference(name="mine", git="https://example.org/x.git", commit="0" * 40)
    with anyio.fail_after(5):
        problem = (await resolve([named], sources.here(None, tmp_path))).problems["mine"]
    assert "there is no git on this machine" in problem.message
