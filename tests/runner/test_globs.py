"""Patterns of paths: what they name, and that no pattern takes long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.globs import Glob, Selection, fixed_part


def matches(pattern: str, path: str) -> bool:
    return Glob(pattern).matches(path.split("/"))


@pytest.mark.parametrize(
    ("pattern", "named", "others"),
    [
        ("*.txt", ["a.txt", ".txt", "ü.txt", "a\nb.txt"], ["a/b.txt", "a.txt/b", "atxt", "a.TXT"]),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b/b/c", "x/b/c"]),
        ("**/*.py", ["a.py", "a/b.py", "a/b/c.py"], ["a.pyc", "a.py/b"]),
        ("a/**", ["a", "a/b", "a/b/c"], ["b", "b/a"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["z", "a", "a/z/y"]),
        ("**", ["a", "a/b"], []),
        ("file?.[ch]", ["file1.c", "file2.h"], ["file.c", "file12.c", "file1.d"]),
        ("[!a]*", ["b", "ba"], ["a", "ab"]),
        ("{a,b/c}/*.{x,y}", ["a/1.x", "a/1.y", "b/c/1.x"], ["b/1.x", "a/1.z", "{a,b/c}/1.x"]),
        ("./a//b", ["a/b"], ["a"]),
        ("{x}", ["{x}"], ["x"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_a_pattern_names_paths_as_shells_do(pattern: str, named: list[str], others: list[str]) -> None:
    assert [path for path in named if not matches(pattern, path)] == []
    assert [path for path in others if matches(pattern, path)] == []


@pytest.mark.parametrize("pattern", ["", "/", "..", "a/../b", "x" * 5000, "x/" * 60, "{a,b}" * 7])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="it"):
        Glob(pattern)


def test_a_folder_that_is_left_out_is_left_out_with_all_in_it() -> None:
    selection = Selection(include=["src/**/*.c", "docs"], exclude=["**/build", "src/generated/**"])
    assert selection.has(("src", "a", "x.c"))
    assert selection.has(("docs",))
    assert not selection.has(("src", "build", "x.c"))
    assert not selection.has(("src", "generated", "x.c"))
    assert selection.may_have_below(("src",))
    assert selection.may_have_below(("src", "a"))
    assert not selection.may_have_below(("src", "build"))
    assert not selection.may_have_below(("other",))
    assert Selection().has(("anything",))


@pytest.mark.parametrize(
    ("pattern", "fixed"),
    [
        ("a/b/*.x", ["a", "b"]),
        ("*.x", []),
        ("a/b", ["a"]),
        ("a/{b,c}/d", ["a"]),
        ("a/{b/c,d}/e", []),
        ("./a//x", ["a"]),
    ],
)
def test_a_search_begins_where_the_pattern_opens(pattern: str, fixed: list[str]) -> None:
    assert fixed_part(pattern) == fixed


def test_no_pattern_takes_long_to_see_that_it_does_not_match() -> None:
    assert not matches("*a" * 100 + "b", "a" * 250)
    assert not matches("**/" * 49 + "b", "/".join("a" * 200))
    assert not matches("/".join(["**", "*a*"] * 25), "/".join(["b"] * 200))


NAMES = st.lists(st.sampled_from(["a", "b", "ab", "", ".", "x.y"]), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "?", "[ab]", "x.*"]), min_size=1, max_size=5), NAMES)
def test_what_matches_is_looked_for_in_all_folders_above(pattern: list[str], names: list[str]) -> None:
    parts = [name for name in names if name not in {"", "."}]
    glob = Glob("/".join(pattern))
    if parts and glob.matches(parts):
        assert all(glob.may_match_below(parts[:count]) for count in range(len(parts)))
        fixed = fixed_part("/".join(pattern))
        assert parts[: len(fixed)] == fixed
