"""Image names as people write them."""

from __future__ import annotations

import pytest

from runner.engine import names
from runner.engine.errors import ImageNotFound

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("alpine/git", "docker.io/alpine/git:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("quay.io/team/app:1", "quay.io/team/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"quay.io/app:1@{DIGEST}", f"quay.io/app:1@{DIGEST}"),
    ],
)
def test_a_short_name_means_what_it_means_with_docker(written: str, meant: str) -> None:
    assert names.full(written) == meant
    assert names.full(meant) == meant


@pytest.mark.parametrize("written", ["", " ", "UPPER/case", "a b", "alpine:", ":3", "a//b", "-x", "http://x/y", "a\n"])
def test_what_is_no_name_is_refused_with_examples(written: str) -> None:
    with pytest.raises(ImageNotFound, match="is no name that an image can have") as raised:
        names.full(written)
    assert "docker.io/library/rust" in str(raised.value.hint)


def test_the_map_finds_an_image_however_it_is_written() -> None:
    images = names.ImageMap({"docker.io/alpine/git:latest": "localhost/moonyard/git"})
    for written in ("alpine/git", "alpine/git:latest", "docker.io/alpine/git"):
        assert images.resolve(written) == "localhost/moonyard/git:latest"
    assert images.resolve("alpine/git:v2") == "docker.io/alpine/git:v2"


def test_the_map_rewrites_all_images_of_a_registry_or_of_a_part_of_it() -> None:
    images = names.ImageMap(
        {
            "docker.io/*": "registry.example:5000/hub/*",
            "docker.io/team/*": "localhost/ours/*",
            "docker.io/library/alpine:latest": "quay.io/alpine",
            "quay.io/*": "never.example/*",
        }
    )
    for written, meant in (
        ("debian", "registry.example:5000/hub/library/debian:latest"),
        (f"a/b@{DIGEST}", f"registry.example:5000/hub/a/b@{DIGEST}"),
        ("team/app:1", "localhost/ours/app:1"),
        ("alpine", "quay.io/alpine:latest"),
        ("alpine:3", "registry.example:5000/hub/library/alpine:3"),
        ("docker.example/app", "docker.example/app:latest"),
    ):
        assert images.resolve(written) == meant


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("docker.io/*", "registry.example"),
        ("docker.io/app", "registry.example/*"),
        ("*", "registry.example/*"),
        ("docker.io*", "registry.example/*"),
        ("library/*", "registry.example/*"),
        ("docker.io/*/app/*", "registry.example/*"),
        ("docker.io/*", "https://registry.example/*"),
    ],
)
def test_what_stands_for_no_images_is_refused_by_the_map(name: str, other: str) -> None:
    with pytest.raises(ImageNotFound, match=r"in the image map stands for no images|is no name that an image can"):
        names.ImageMap({name: other})


def test_a_name_that_is_too_long_after_the_map_is_refused() -> None:
    images = names.ImageMap({"docker.io/*": f"registry.example/{'a' * 230}/*"})
    with pytest.raises(ImageNotFound, match="is no name that an image can have"):
        images.resolve("some/image/of/them")
