"""Signatures of webhooks: the vectors that forges and Standard Webhooks document, and what is near to them."""

from __future__ import annotations

import base64

import pytest

from orchestrator.hooks import signatures
from orchestrator.hooks.signatures import DeliveryExpired
from orchestrator.hooks.throttle import FAILURES_MAXIMUM, KEPT_MAXIMUM, Throttle
from schema.hooks import HookKind

# https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_DIGEST = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

# https://github.com/standard-webhooks/standard-webhooks
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_TIME = 1614265330
STANDARD = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(STANDARD_TIME),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
KINDS: tuple[HookKind, ...] = ("github", "gitlab", "gitea", "generic")


def test_the_vector_that_github_documents():
    headers = {"x-hub-signature-256": f"sha256={GITHUB_DIGEST}"}
    assert signatures.wrong("github", [GITHUB_SECRET], headers, GITHUB_BODY, 0) is None
    assert signatures.wrong("github", ["another", GITHUB_SECRET], headers, GITHUB_BODY, 0) is None


def test_gitea_sends_the_same_digest_bare():
    for name in ("x-gitea-signature", "x-forgejo-signature"):
        assert signatures.wrong("gitea", [GITHUB_SECRET], {name: GITHUB_DIGEST}, GITHUB_BODY, 0) is None


def test_the_vector_of_standard_webhooks():
    for kind in ("generic", "gitlab"):
        assert signatures.wrong(kind, [STANDARD_SECRET], STANDARD, STANDARD_BODY, STANDARD_TIME) is None


def test_gitlab_sends_its_older_token_as_it_is():
    assert signatures.wrong("gitlab", [STANDARD_SECRET], {"x-gitlab-token": STANDARD_SECRET}, b"", 0) is None
    assert signatures.wrong("gitlab", [STANDARD_SECRET], {"x-gitlab-token": STANDARD_SECRET[:-1]}, b"", 0) is not None


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("github", {}),
        ("github", {"x-hub-signature-256": GITHUB_DIGEST}),
        ("github", {"x-hub-signature-256": f"sha256={GITHUB_DIGEST.upper()}"}),
        ("github", {"x-hub-signature-256": f"sha256={GITHUB_DIGEST[:-1]}"}),
        ("github", {"x-hub-signature-256": "sha256="}),
        ("github", {"x-hub-signature-256": "sha256=\xff\u0000"}),
        ("github", {"x-hub-signature": f"sha1={GITHUB_DIGEST[:40]}"}),  # the older one, which is not looked at
        ("gitea", {"x-gitea-signature": ""}),
        ("gitea", {"x-gitea-signature": f"sha256={GITHUB_DIGEST}"}),
        ("gitea", {"x-hub-signature-256": f"sha256={GITHUB_DIGEST}"}),
        ("gitlab", {}),
        ("gitlab", {"x-gitlab-token": ""}),
        ("gitlab", {"x-gitlab-token": GITHUB_DIGEST}),
        # With a signature that is wrong, the token does not help.
        ("gitlab", STANDARD | {"x-gitlab-token": STANDARD_SECRET}),
        ("generic", {"x-gitlab-token": STANDARD_SECRET}),
        ("generic", STANDARD),
    ],
)
def test_what_is_not_signed_is_told_apart(kind: HookKind, headers: dict[str, str]):
    known = [STANDARD_SECRET] if kind in {"gitlab", "generic"} else [GITHUB_SECRET]
    body = b"another body"
    if kind in {"github", "gitea"}:
        body = GITHUB_BODY
    assert signatures.wrong(kind, known, headers, body, STANDARD_TIME) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_another"},
        {"webhook-timestamp": str(STANDARD_TIME + 1)},
        {"webhook-signature": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        {"webhook-signature": "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        {"webhook-signature": ""},
    ],
)
def test_id_time_and_version_are_signed_too(change: dict[str, str]):
    assert signatures.wrong("generic", [STANDARD_SECRET], STANDARD | change, STANDARD_BODY, STANDARD_TIME) is not None


def test_a_sender_that_rotates_signs_with_both_and_one_is_enough():
    both = STANDARD | {"webhook-signature": f"v1,{'A' * 43}= v1a,zzz {STANDARD['webhook-signature']}"}
    assert signatures.wrong("generic", [STANDARD_SECRET], both, STANDARD_BODY, STANDARD_TIME) is None
    many = STANDARD | {"webhook-signature": "v1,x " * 100 + STANDARD["webhook-signature"]}
    assert signatures.wrong("generic", [STANDARD_SECRET], many, STANDARD_BODY, STANDARD_TIME) is not None


@pytest.mark.parametrize("seconds", [-301, 301, 10**6])
def test_a_delivery_of_another_time_is_refused_though_it_is_signed(seconds: int):
    assert signatures.wrong("generic", [STANDARD_SECRET], STANDARD, STANDARD_BODY, STANDARD_TIME + 299) is None
    with pytest.raises(DeliveryExpired):
        signatures.wrong("generic", [STANDARD_SECRET], STANDARD, STANDARD_BODY, STANDARD_TIME + seconds)


def test_a_time_that_is_none_is_refused_though_it_is_signed():
    secret = signatures.new_secret()
    for timestamp in ("", "now", "٣", "1" * 400, "-5", "1e3"):
        right = signatures._standard_signature(secret, "x", timestamp, b"")  # nobody signs so but here
        headers = {"webhook-id": "x", "webhook-timestamp": timestamp, "webhook-signature": f"v1,{right}"}
        with pytest.raises(DeliveryExpired):
            signatures.wrong("generic", [secret], headers, b"", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_signed_here_is_right_for_its_secret_and_body_alone(kind: HookKind):
    secret, other = signatures.new_secret(), signatures.new_secret()
    headers = signatures.signed(kind, secret, b"body", delivery="d", event="push", now=1000.9)
    assert signatures.wrong(kind, [secret], headers, b"body", 1000) is None
    assert signatures.wrong(kind, [other], headers, b"body", 1000) is not None
    assert signatures.wrong(kind, [], headers, b"body", 1000) is not None
    assert signatures.wrong(kind, [secret], headers, b"bodY", 1000) is not None


def test_secrets_are_as_standard_webhooks_and_gitlab_want_them():
    made = {signatures.new_secret() for _ in range(10)}
    assert len(made) == 10
    for secret in made:
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


def test_an_address_has_to_wait_after_so_many_failures_and_no_other():
    throttle = Throttle()
    for _ in range(FAILURES_MAXIMUM):
        assert throttle.wait("hook", "192.0.2.1") == 0
        throttle.note("hook", "192.0.2.1")
    assert 0 < throttle.wait("hook", "192.0.2.1") <= 60
    assert throttle.wait("hook", "192.0.2.2") == 0
    assert throttle.wait("other", "192.0.2.1") == 0


def test_what_is_counted_has_a_bound():
    throttle = Throttle()
    for number in range(KEPT_MAXIMUM + 100):
        throttle.note(str(number), "192.0.2.1")
    assert len(throttle._failures) == KEPT_MAXIMUM
