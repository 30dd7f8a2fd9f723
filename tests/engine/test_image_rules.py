"""Which images an owner allows, however a pipeline writes their names."""

from __future__ import annotations

import pytest

from runner.engine.errors import ImageNotFound, ImageRefused
from runner.engine.image_rules import ImageRules

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("alpine", "alpine"),
        ("alpine", "docker.io/library/alpine:3"),
        ("alpine", f"index.docker.io/library/alpine@{DIGEST}"),
        ("docker.io/library/*", "rust:1.80"),
        ("team/*", "docker.io/team/app"),
        ("*", "quay.io/any/thing"),
        ("*/app", "quay.io/team/app:2"),
        ("alpine:3.*", "alpine:3.20"),
        ("alpine:3.*", f"alpine:3.20@{DIGEST}"),
        ("quay.io/*", "QUAY.io/team/app"),
        ("registry.example:5000/a*", "registry.example:5000/app/x"),
    ],
)
def test_a_pattern_fits_an_image_however_it_is_written(pattern: str, image: str) -> None:
    ImageRules([pattern], []).check(image)
    with pytest.raises(ImageRefused) as raised:
        ImageRules([], [pattern]).check(image)
    assert f"`{image}` is not allowed on this runner: it fits `{pattern}` in its `images_denied`" in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("alpine", "alpinex"),
        ("alpine", "quay.io/library/alpine"),
        ("docker.io/library/*", "docker.io/library.example/x"),
        ("alpine:3.*", "alpine:4.1"),
        ("alpine:3.20", f"alpine@{DIGEST}"),
        ("quay.io/*", "quayxio.example/app"),
        ("a.b/c", "axb.c/c"),
    ],
)
def test_a_pattern_fits_nothing_else(pattern: str, image: str) -> None:
    ImageRules([], [pattern]).check(image)
    with pytest.raises(ImageRefused, match="it fits nothing in its `images_allowed`") as raised:
        ImageRules(["localhost/*", pattern], []).check(image)
    assert f"(`localhost/*`, `{pattern}`)" in str(raised.value)


def test_what_is_denied_is_not_allowed_by_another_pattern() -> None:
    rules = ImageRules(["docker.io/library/*"], ["*/alpine"])
    rules.check("debian")
    with pytest.raises(ImageRefused, match="images_denied"):
        rules.check("alpine:3")


def test_what_is_no_name_is_told_as_such() -> None:
    with pytest.raises(ImageNotFound, match="is no name that an image can have"):
        ImageRules(["*"], []).check("no name")
