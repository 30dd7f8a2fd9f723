"""What a runner's owner lets containers have beyond what all have: for whom it holds, and what is refused as a rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.engine import allowances
from runner.engine.allowances import Allowance, Allowances
from runner.engine.errors import RightsRefused
from schema.definition import Rights

BUILDER = "registry.example/builder"
RULES = Allowances(
    [
        Allowance(images=[f"{BUILDER}:*"], mounts=["/var/cache/build:/cache:ro", "/srv/data:/data"]),
        Allowance(pipelines=["release*"], devices=["/dev/kvm"], capabilities=["NET_ADMIN"]),
        Allowance(images=["alpine"], pipelines=["trusted"], privileged=True),
    ]
)


def test_what_one_or_several_rules_allow_is_given() -> None:
    asked = Rights(mounts=["/cache", "/cache", "/data"], devices=["/dev/kvm"], capabilities=["NET_ADMIN"])
    granted = RULES.grant(f"{BUILDER}:1", "release-all", asked)
    assert granted.binds == ["/var/cache/build:/cache:ro", "/srv/data:/data:rw"]
    assert granted.devices == ["/dev/kvm"]
    assert granted.capabilities == ["NET_ADMIN"]
    assert not granted.privileged
    assert RULES.grant("docker.io/library/alpine:3", "trusted", Rights(privileged=True)).privileged


@pytest.mark.parametrize(
    ("image", "pipeline", "asked", "words"),
    [
        ("alpine", "other", Rights(privileged=True), "`privileged`"),
        ("debian", "trusted", Rights(privileged=True), "`privileged`"),
        ("registry.example/builder-too", "p", Rights(mounts=["/cache"]), "mounts `/cache`"),
        (BUILDER, "p", Rights(mounts=["/cache", "/var/cache/build", "/"]), "mounts `/var/cache/build`, `/`"),
        (BUILDER, "prerelease", Rights(devices=["/dev/kvm"]), "devices `/dev/kvm`"),
        (BUILDER, "release", Rights(capabilities=["SYS_ADMIN", "NET_ADMIN"]), "capabilities `SYS_ADMIN`"),
    ],
)
def test_what_no_rule_allows_is_refused_with_the_rule_that_would(
    image: str, pipeline: str, asked: Rights, words: str
) -> None:
    with pytest.raises(RightsRefused, match=f"may not have {words} on this runner") as raised:
        RULES.grant(image, pipeline, asked)
    assert f"pipeline `{pipeline}`" in raised.value.message
    assert raised.value.hint is not None
    assert f'[[allow]] images = ["{image}"]' in raised.value.hint


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"privileged": True}, "names no `images` and no `pipelines`"),
        ({"images": ["a"]}, "allows nothing"),
        ({"images": [""], "privileged": True}, "an empty pattern"),
        ({"images": ["a"], "privilege": True}, "unknown field `privilege`"),
        ({"images": "a", "privileged": True}, "Expected `array`"),
        ({"images": ["a"], "devices": ["kvm"]}, "`kvm` is no device"),
        ({"images": ["a"], "devices": ["/dev/../etc"]}, "is no device"),
        ({"images": ["a"], "devices": ["/dev"]}, "is no device"),
        ({"images": ["a"], "capabilities": ["CAP_SYS_ADMIN"]}, "`CAP_SYS_ADMIN` is no capability"),
        ({"images": ["a"], "capabilities": ["ALL,"]}, "is no capability"),
        *(
            ({"images": ["a"], "mounts": [mount]}, "is no mount such as")
            for mount in (
                "/srv",
                "srv:/data",
                "/srv:data",
                "/srv:/data:rx",
                "/srv:/data:ro:z",
                "/srv/../etc:/data",
                ":",
            )
        ),
        *(
            ({"images": ["a"], "mounts": [f"/srv:{target}"]}, "has its use in a container already")
            for target in ("/", "/workspace", "/workspace/deep", "/.moonyard/x", "/proc", "/dev/shm")  # noqa: S108
        ),
        *(
            ({"images": ["a"], "mounts": [f"{source}:/data:ro"]}, "is the machine itself")
            for source in ("/", "//", "/proc", "/sys/fs", "/dev/disk")
        ),
    ],
)
def test_a_rule_that_no_owner_can_have_meant_is_refused(rule: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        allowances.read([rule], [])


def test_no_mount_leads_to_what_the_runner_keeps(tmp_path: Path) -> None:
    state, socket, link = tmp_path / "lib" / "state", tmp_path / "run" / "podman.sock", tmp_path / "link"
    (state / "owners").mkdir(parents=True)
    link.symlink_to(state)
    for source in (state, state / "owners", state.parent, tmp_path, link, socket, socket.parent, link / "owners"):
        with pytest.raises(ValueError, match="no container is to see"):
            allowances.read([{"images": ["*"], "mounts": [f"{source}:/data:ro"]}], [state, socket])
    [rule] = allowances.read([{"images": ["*"], "mounts": [f"{state}-not:/data"]}], [state, socket])
    assert [mount.source for mount in rule.written_mounts] == [f"{state}-not"]
