"""What looks like a credential is taken out although nobody delivered it, and what does not look like one stays."""

from __future__ import annotations

import base64
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.redaction.credentials import KINDS, Credentials, Kind, RedactInvalid, RedactSettings
from runner.redaction.redactor import Redaction
from schema.errors import MoonyardError

CHANCE = random.Random(11)  # noqa: S311  # the same examples each time


def some(alphabet: str, size: int) -> str:
    return "".join(CHANCE.choices(alphabet, k=size))


LETTERS = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
URL = LETTERS + "-_"
PEM = "\n".join(base64.b64encode(CHANCE.randbytes(48)).decode() for _ in range(12))
KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{PEM}\n-----END RSA PRIVATE KEY-----"
JWT = f"eyJ{some(URL, 33)}.eyJ{some(URL, 120)}.{some(URL, 42)}x"

# Made here: as they stand in a file, other tools would take them for real ones.
EXAMPLES = {
    "anthropic-key": "sk-ant-api03-" + some(URL, 92) + "AA",
    "authorization-header": some(LETTERS, 40),
    "age-key": "AGE-SECRET-KEY-1" + some("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    "aws-access-key": "AKIA" + some(string.ascii_uppercase + "234567", 16),
    "aws-secret-key": some(LETTERS + "/+", 40),
    "azure-storage-key": some(LETTERS, 86) + "==",
    "databricks-token": "dapi" + some(HEX, 32),
    "digitalocean-token": "dop_v1_" + some(HEX, 64),
    "docker-token": "dckr_pat_" + some(LETTERS, 27),
    "github-token": "ghp_" + some(LETTERS, 36),
    "github-fine-token": "github_pat_" + some(LETTERS, 22) + "_" + some(LETTERS, 59),
    "gitlab-token": "glpat-" + some(LETTERS, 20),
    "google-api-key": "AIza" + some(LETTERS, 35),
    "google-oauth-secret": "GOCSPX-" + some(LETTERS, 28),
    "huggingface-token": "hf_" + some(LETTERS, 34),
    "jwt": JWT,
    "linear-key": "lin_api_" + some(LETTERS, 40),
    "moonyard-token": "moonyard_runner_" + some(HEX, 72),
    "new-relic-key": "NRAK-" + some(string.ascii_uppercase, 27),
    "npm-token": "npm_" + some(LETTERS, 36),
    "openai-key": "sk-proj-" + some(LETTERS, 40) + "T3BlbkFJ" + some(LETTERS, 40),
    "postman-key": "PMAK-" + some(HEX, 24) + "-" + some(HEX, 34),
    "private-key": PEM,
    "pypi-token": "pypi-AgEIcHlwaS5vcmc" + some(LETTERS, 120),
    "sendgrid-key": "SG." + some(LETTERS, 22) + "." + some(LETTERS, 43),
    "shopify-token": "shpat_" + some(HEX, 32),
    "slack-token": "xoxb-" + some(string.digits, 12) + "-" + some(string.digits, 12) + "-" + some(LETTERS, 24),
    "slack-app-token": f"xapp-1-{some(string.ascii_uppercase, 11)}-{some(string.digits, 13)}-{some(HEX, 64)}",
    "slack-webhook": f"T{some(string.ascii_uppercase, 8)}/B{some(string.ascii_uppercase, 8)}/{some(LETTERS, 24)}",
    "stripe-key": "sk_live_" + some(LETTERS, 24),
    "terraform-token": some(LETTERS, 14) + ".atlasv1." + some(LETTERS, 67),
    "vault-token": "hvs." + some(LETTERS, 95),
    "url-password": some(LETTERS, 12),
}  # fmt: skip
AROUND = {
    "authorization-header": "> Authorization: Bearer {}",
    "aws-secret-key": 'AWS_SECRET_ACCESS_KEY="{}"',
    "azure-storage-key": "DefaultEndpointsProtocol=https;AccountName=x;AccountKey={};EndpointSuffix=y",
    "private-key": "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "slack-webhook": "https://hooks.slack.com/services/{}",
    "url-password": "cloning https://me:{}@git.example.org/x.git",
}


def test_every_kind_has_an_example():
    assert set(EXAMPLES) == {kind.name for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("around", ["{}", "token: {} (new)", '{{"value":"{}"}}', "export X={}"])
def test_a_credential_of_each_kind_is_taken_out(kind: Kind, around: str):
    name = kind.name
    line = around.format(AROUND.get(name, "{}").format(EXAMPLES[name])) + "\n"
    redaction = Redaction(Credentials(RedactSettings(on=["url-password"])))
    for shown in (redaction.text(line), chunked(redaction, line.encode(), 7), chunked(redaction, line.encode(), 1)):
        assert EXAMPLES[name] not in shown
        assert f"[secret: {name}]" in shown
        assert all(part not in shown for part in EXAMPLES[name].split("\n"))


def chunked(redaction: Redaction, data: bytes, size: int) -> str:
    stream = redaction.stream()
    parts = [stream.feed(data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join([*parts, stream.finish()]).decode()


@pytest.mark.parametrize(
    "line",
    [
        "ghp_ and glpat-short and npm_run_build_something",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.short.x",
        "sk_test_123 pk_live_" + "a" * 24,
        "AKIA" + "A" * 30,
        "the header authorization: none",
        "-----BEGIN PRIVATE KEY----- is how it begins, and what follows is a text",
        "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQsw\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----",
        "postgres://postgres:postgres@localhost/db",
        "hf_hub_download dapi dop_v1_ SG.a.b xoxb-",
        "4b825dc642cb6eb9a060e54bf8d69288fbee4904" * 3,
    ],
)
def test_what_only_resembles_one_stays(line: str):
    assert Redaction().text(line) == line
    assert chunked(Redaction(), line.encode(), 9) == line


@pytest.mark.parametrize("size", [1, 5, 64, 65, 10_000])
def test_a_private_key_is_taken_out_line_by_line_as_it_comes(size: int):
    shown = chunked(Redaction(), f"before\n{KEY}\nafter\n".encode(), size)
    assert all(line not in shown for line in PEM.split("\n"))
    assert shown.startswith("before\n-----BEGIN RSA PRIVATE KEY-----\n")
    assert shown.endswith("\n-----END RSA PRIVATE KEY-----\nafter\n")
    assert shown.count("\n") == KEY.count("\n") + 3


def test_a_private_key_with_headers_and_one_in_a_json_string_are_taken_out():
    headed = KEY.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,ABCDEF\n\n", 1)
    for text in (headed, KEY.replace("\n", "\\n"), KEY.replace("\n", "\r\n"), KEY.replace("\n", " ")):
        for size in (3, 10_000):
            shown = chunked(Redaction(), f"{{{text}}}\n".encode(), size)
            assert all(line not in shown for line in PEM.split("\n"))
            assert "-----END RSA PRIVATE KEY-----" in shown


def test_a_key_that_never_ends_takes_nothing_with_it_that_is_no_key():
    shown = chunked(
        Redaction(), f"-----BEGIN PRIVATE KEY-----\n{PEM}\nIt broke off; here is more.\nand more\n".encode(), 50
    )
    assert shown.endswith("It broke off; here is more.\nand more\n")
    assert PEM[:64] not in shown


def test_an_owners_own_pattern_counts_and_kinds_can_be_left_out():
    redaction = Redaction(
        Credentials(
            RedactSettings(patterns={"internal": r"itk_(?P<secret>[a-z0-9]{12})(?![a-z0-9])"}, off=["github-token"])
        )
    )
    github = EXAMPLES["github-token"]
    assert redaction.text(f"itk_abcdefghijkl {github}") == f"itk_[secret: internal] {github}"
    assert redaction.text("itk_abcdefghijklm") == "itk_abcdefghijklm"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (RedactSettings(off=["gihub"]), "`gihub`, which is no kind"),
        (RedactSettings(on=["everything"]), "no kind"),
        (RedactSettings(patterns={"x": "("}), "cannot be used"),
        (RedactSettings(patterns={"x": "a*"}), "fits an empty text"),
        (RedactSettings(patterns={"x": "a" * 2000}), "longer than"),
        (RedactSettings(patterns={"Not A Name": "abc"}), "no name"),
        (RedactSettings(patterns={"jwt": "abc"}), "no name"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: RedactSettings, words: str):
    with pytest.raises(RedactInvalid) as caught:
        Credentials(settings)
    error: MoonyardError = caught.value
    assert words in error.message
    assert error.code == "redact_invalid"


def test_nothing_is_looked_for_where_everything_is_off():
    redaction = Redaction(Credentials(RedactSettings(off=[kind.name for kind in KINDS if kind.is_on])))
    text = "\n".join([*EXAMPLES.values(), KEY])
    assert redaction.text(text) == text
    assert chunked(redaction, text.encode(), 100) == text


@given(st.binary(max_size=300))
def test_any_bytes_are_looked_through(data: bytes):
    assert isinstance(Redaction().data(b"-----BEGIN PRIVATE KEY-----\n" + data + b" ghp_ eyJ authorization: "), bytes)
