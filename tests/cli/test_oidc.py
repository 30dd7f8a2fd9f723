from __future__ import annotations

import pytest

from cli.oidc import NAMES, OidcOptions
from cli.settings import SettingsInvalid


def options(issuer: str, monkeypatch: pytest.MonkeyPatch) -> OidcOptions:
    monkeypatch.setenv("MOONYARD_OIDC_CLIENT_SECRET", "hush hush")
    given = {"oidc_issuer": issuer, "oidc_client_id": "moonyard", "oidc_name": "Example", "oidc_claim": "email"}
    return OidcOptions(dict.fromkeys(NAMES) | given | {"oidc_creates": False})


@pytest.mark.parametrize("issuer", ["http://idp.example", "idp.example", "http://127.0.0.1.evil.example", "ftp://x"])
def test_an_identity_provider_is_asked_by_tls_alone(issuer: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SettingsInvalid, match="whoever is on the way"):
        options(issuer, monkeypatch).settings()


@pytest.mark.parametrize("issuer", ["https://idp.example/realms/one", "http://127.0.0.1:9000", "http://[::1]:9000"])
def test_one_on_this_machine_may_do_without(issuer: str, monkeypatch: pytest.MonkeyPatch):
    found = options(issuer, monkeypatch).settings()
    assert found is not None
    assert found.issuer == issuer
