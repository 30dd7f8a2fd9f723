"""Plugin folders: what is one, what is refused, and the hash of all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import folders
from schema.plugins import BYTES_MAXIMUM, FILES_MAXIMUM, PluginInvalid
from tests.plugins.made import files, plugin, write

TEXTS = st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=6)


def test_a_folder_is_read_whole_but_for_what_is_hidden(tmp_path: Path):
    contents = files(more={"parts/other.lua": "return 1", "README.md": "# Mine", "tests/mine_test.lua": "-- none"})
    write(tmp_path, contents | {".git/config": "hidden", "parts/.cache": "hidden", "__pycache__/x": "passed over"})
    found = folders.read(tmp_path)
    assert dict(found.files) == contents
    assert (found.name, found.version) == ("mine", "1.0.0")
    assert set(found.code) == {"init.lua", "parts/other.lua"}
    assert found.sha256 == plugin(more={name: contents[name] for name in contents if "/" in name or "." in name}).sha256


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({}, "has no `plugin.toml`"),
        ({"plugin.toml": "name = "}, "is no TOML"),
        ({"plugin.toml": 'name = "a"'}, "it lacks the field `version`"),
        ({"plugin.toml": 'name = "a"\nversion = "1.0.0"\ndescription = "x"'}, "has no `init.lua`"),
        (files(modules="log"), "wrong: Expected a list, got text"),
        (files(nonsense=1), "there is no field `nonsense`"),
        (files(name="Mine"), "`Mine` cannot be a plugin's name"),
        (files(name="end"), "`end` cannot be a plugin's name"),
        (files(version="1.0"), "`version` is `1.0`, which is no version"),
        (files(version="1.0.0+build"), "which is no version"),
        (files(description=" "), "empty `description`"),
        (files(images=["a", "a"]), "names something twice"),
        (files(hosts=["a\nb"]), "which names nothing"),
        (files(more={"a/../b.lua": ""}), "which no plugin's file can be named"),
        (files(more={"/etc/passwd": ""}), "which no plugin's file can be named"),
        (files(more={"ä.lua": ""}), "which no plugin's file can be named"),
        (files(more={".hidden": ""}), "which no plugin's file can be named"),
        (files(more={"x.lua": "\0"}), "is not text"),
        (files(more={"x.lua": "\udc80"}), "is not text"),
        (files(more={"x.lua": "x" * BYTES_MAXIMUM}), f"a plugin has at most {BYTES_MAXIMUM}"),
        (files(more={f"x{number}.lua": "" for number in range(FILES_MAXIMUM)}), f"at most {FILES_MAXIMUM}"),
    ],
)
def test_what_is_no_plugin_is_refused_with_what_is_wrong(contents: dict[str, str], words: str):
    with pytest.raises(PluginInvalid) as raised:
        folders.from_files(contents)
    assert words in raised.value.message


def test_links_and_special_files_in_a_folder_are_refused(tmp_path: Path):
    write(tmp_path / "linked", files())
    (tmp_path / "linked" / "other.lua").symlink_to("/etc/passwd")
    with pytest.raises(PluginInvalid, match=r"has a link `other\.lua`"):
        folders.read(tmp_path / "linked")
    write(tmp_path / "piped", files())
    os.mkfifo(tmp_path / "piped" / "pipe")
    with pytest.raises(PluginInvalid, match="more than a plugin: at `pipe`"):
        folders.read(tmp_path / "piped")
    write(tmp_path / "binary", files())
    (tmp_path / "binary" / "x.lua").write_bytes(b"\xff")
    with pytest.raises(PluginInvalid, match="not UTF-8"):
        folders.read(tmp_path / "binary")
    with pytest.raises(PluginInvalid, match="cannot be read"):
        folders.read(tmp_path / "none")


@given(TEXTS, TEXTS)
def test_two_sets_of_files_have_the_same_hash_only_if_they_are_the_same(one: dict[str, str], other: dict[str, str]):
    assert (folders.tree_hash(one) == folders.tree_hash(other)) == (one == other)
    assert folders.tree_hash(dict(reversed(one.items()))) == folders.tree_hash(one)


def test_the_hash_is_over_paths_and_contents_with_their_lengths_as_documented():
    parts = (b"a.lua", b"x", b"b.lua", "ü".encode())
    written = b"moonyard plugin 1\n" + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert folders.tree_hash({"b.lua": "ü", "a.lua": "x"}) == hashlib.sha256(written).hexdigest()


def test_what_ships_is_there():
    assert "git" in folders.shipped()
    for name, found in folders.shipped().items():
        assert found.name == name
        assert found.manifest.license == "Apache-2.0"
        assert folders.README in found.files
        assert any(path.startswith(folders.TESTS) for path in found.files)
