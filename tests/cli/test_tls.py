"""`moonyard` and an orchestrator that speaks TLS."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from tests.certificates import Authority
from tests.cli.command import moonyard
from tests.cli.test_service_log import SECONDS, saying


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.certify(tmp_path / "certificate.pem", tmp_path / "key.pem")
    return made


async def test_commands_and_runners_speak_to_an_orchestrator_by_tls(
    database_url: str, tmp_path: Path, authority: Authority, state_folder: Path, image_map: dict[str, str]
):
    assert image_map, "images are there"
    database = {"MOONYARD_DATABASE_URL": database_url}
    made = await moonyard("token", "create", "--name", "me", "--kind", "admin", cwd=tmp_path, **database)
    files = ("--tls-certificate", "certificate.pem", "--tls-key", "key.pem")
    json_log = {"MOONYARD_LOG_FORMAT": "json"}
    async with saying("orchestrator", "--port", "0", *files, cwd=tmp_path, **database, **json_log) as replica:
        listening = await replica.until("orchestrator listens on ", level="info")
        address = listening["message"].split()[-1]
        assert address.startswith("https://")
        known = {
            "MOONYARD_ORCHESTRATOR": address,
            "MOONYARD_TOKEN": made.stdout.strip(),
            "MOONYARD_TLS_CA": str(authority.path),
        }
        assert (await moonyard("jobs", "--json", cwd=tmp_path, **known)).code == 0
        unknown = await moonyard("jobs", cwd=tmp_path, **{**known, "MOONYARD_TLS_CA": ""})
        assert unknown.code == 2
        assert "its certificate was not accepted" in unknown.stderr
        assert "MOONYARD_TLS_CA" in unknown.stderr
        registration = await moonyard(
            "token", "create", "--kind", "registration", "--name", "one", cwd=tmp_path, **known
        )
        runner = {**known, "MOONYARD_REGISTRATION_TOKEN": registration.stdout.strip()}
        folder = ("--state-folder", str(state_folder))
        registered = await moonyard("runner", "register", "--name", "by-tls", *folder, cwd=tmp_path, **runner)
        assert registered.code == 0, registered.stderr
        async with saying("runner", "start", *folder, cwd=tmp_path, **runner, **json_log):
            with anyio.fail_after(SECONDS):
                states: list[str] = []
                while states != ["online"]:
                    found = await moonyard("runner", "list", "--json", cwd=tmp_path, **known)
                    states = [json.loads(line)["state"] for line in found.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-key", "key.pem"], "there is a `tls_key`, and no certificate to it"),
        (["--trusted-proxies", "proxy.example"], "`trusted_proxies` cannot be used: 'proxy.example'"),
        (["--trusted-proxies", "10.0.0.1/8"], "10.0.0.1/8 has host bits set"),
        (["--tls-certificate", "key.pem"], "the certificate key.pem cannot be used: they are no PEM files"),
        (["--tls-certificate", "none.pem"], "the certificate none.pem cannot be used: no such file or directory"),
    ],
)
async def test_settings_that_cannot_be_used_are_told(
    database_url: str, tmp_path: Path, authority: Authority, options: list[str], said: str
):
    ended = await moonyard("orchestrator", "--port", "0", *options, cwd=tmp_path, MOONYARD_DATABASE_URL=database_url)
    assert ended.code == 2
    assert said in " ".join(ended.stderr.split())
