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
