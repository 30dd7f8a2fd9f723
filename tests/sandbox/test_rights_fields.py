"""What a pipeline file says its containers need beyond what all have: read whole, and refused with its line."""

from __future__ import annotations

import pytest

from sandbox.parent import WarmParent
from schema.definition import PipelineInvalid, Rights


async def load(fields: str) -> Rights | None:
    source = f'return {{ name = "p", stages = {{ {{ name = "s", script = function() end,\n{fields}\n}} }} }}'
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        return (await sandbox.load("p.lua", source, {})).stages[0].rights


async def test_all_fields_are_read():
    fields = """container = "x", privileged = true, mounts = { "/cache" }, devices = { "/dev/kvm", "/dev/net/tun" },
      capabilities = { "NET_ADMIN" }"""
    assert await load(fields) == Rights(
        privileged=True, mounts=["/cache"], devices=["/dev/kvm", "/dev/net/tun"], capabilities=["NET_ADMIN"]
    )
    assert await load('container = "x", privileged = false, mounts = {}') is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("privileged = true", "`privileged` of stage `s` is about the stage's own container, and it has none"),
        ('container = "x", privileged = "yes"', "`privileged` of stage `s` must be true or false, got `yes`"),
        ('container = "x", mounts = "/cache"', "`mounts` of stage `s` must be a list of up to 50 places in the con"),
        ('container = "x", mounts = { "cache" }', "is a list of places in the container, and `cache` is none"),
        ('container = "x", mounts = { "/etc:/cache" }', "is a list of places in the container, and `/etc:/cache` is"),
        ('container = "x", devices = { "/etc/passwd" }', "is a list of devices, and `/etc/passwd` is none"),
        ('container = "x", devices = { 5 }', "is a list of devices, and a number is none"),
        ('container = "x", capabilities = { "CAP_NET_ADMIN" }', "and `CAP_NET_ADMIN` is none"),
        (
            'container = "x", capabilities = { NET_ADMIN = true }',
            "must be a list of up to 50 capabilities, got a table",
        ),
        ('container = "x", privilege = true', "did you mean `privileged`?"),
    ],
)
async def test_what_does_not_fit_is_refused(fields: str, said: str):
    with pytest.raises(PipelineInvalid) as raised:
        await load(fields)
    assert said in raised.value.message
    assert "p.lua:" in raised.value.message
