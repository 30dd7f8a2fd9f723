"""Which system calls containers may make: the engine's list, less what leads out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.engine import call_filter
from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from tests.engine.conftest import Said, run

SAMPLE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [
        {"names": ["read", "keyctl"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_NE"}]},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
    ],
}


def test_the_engines_list_stays_but_for_what_leads_out() -> None:
    narrowed = call_filter.narrowed(SAMPLE)
    assert narrowed["defaultAction"] == "SCMP_ACT_ERRNO"
    assert narrowed["syscalls"][:2] == [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, SAMPLE["syscalls"][2]]
    families = {rule["args"][0]["value"] for rule in narrowed["syscalls"][2:]}
    assert families == {1, 2, 10, 16, 17}
    assert all(rule["names"] == ["socket"] for rule in narrowed["syscalls"][2:])


async def test_the_list_is_kept_in_the_state_folder_and_containers_have_it(engine: Engine, spec: ContainerSpec) -> None:
    path = await engine._call_filter.get()
    assert path is not None
    assert path.parent == engine.settings.state_folder / "engine"
    assert not any("keyctl" in rule["names"] for rule in json.loads(path.read_text())["syscalls"])
    container = await engine.create_container(spec, Said())
    status = (await run(container, "cat", "/proc/self/status")).stdout.decode()
    assert "Seccomp:\t2" in status
    ordinary = await run(container, "sh", "-c", "echo x | cat; nc -l -p 1 -w 1 127.0.0.1; true")
    assert ordinary.stdout == b"x\n"


def test_what_the_machines_owner_says_of_the_list_counts(tmp_path: Path) -> None:
    conf = tmp_path / "containers.conf"
    conf.write_text("[engine]\n")
    assert call_filter.own_list(conf) in {None, *call_filter._DEFAULTS}
    conf.write_text('[containers]\nseccomp_profile = "/somewhere/else.json"\n')
    assert call_filter.own_list(conf) == Path("/somewhere/else.json")
    conf.write_text('[containers]\nseccomp_profile = "unconfined"\n')
    assert call_filter.own_list(conf) is None


async def test_a_list_that_cannot_be_read_leaves_the_engine_its_own(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "containers.conf"
    conf.write_text('[containers]\nseccomp_profile = "/none.json"\n')
    service = engine._connection.service
    if service is None:
        monkeypatch.setenv("CONTAINERS_CONF", str(conf))
    else:
        monkeypatch.setattr(service, "conf", conf)
    assert await call_filter.CallFilter(engine._connection, tmp_path).get() is None
