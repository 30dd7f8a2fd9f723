"""How values of secrets are encrypted.

    value     ── AES-256-GCM, under a random key of this version alone ──>  ciphertext
    that key  ── AES-256-GCM, under the master key in use ───────────────>  wrapped key

Into both goes, as associated data, what the version is: the secret's id, scope and name, the version's number, and
whether scripts may read it; into the second the master key's id as well. A row that was copied over another's, given
another name, or made readable, opens no more.

A new master key needs only the wrapped keys made anew: the ciphertexts stay, and so does whatever reads them meanwhile.
"""

from __future__ import annotations

import secrets
from typing import Final
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.master_keys import MasterKey, MasterKeys
from orchestrator.problems import Conflict

NONCE_BYTES: Final = 12
KEY_BITS: Final = 256


class SecretDamaged(Conflict):
    """What is stored opens no more."""

    code = "secret_damaged"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What a value is the value of."""

    secret: UUID
    scope: str
    name: str
    version: int
    readable: bool

    @property
    def reference(self) -> str:
        return f"{self.scope}/{self.name}" if self.scope else self.name

    def bound(self, use: str, *more: str) -> bytes:
        return msgspec.json.encode([use, str(self.secret), self.scope, self.name, self.version, self.readable, *more])


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """A version's own key, under a master key."""

    key_id: str
    wrapped_nonce: bytes
    wrapped_key: bytes


class Sealed(Wrapped, frozen=True, kw_only=True):
    """A value as it is stored."""

    nonce: bytes
    ciphertext: bytes


def seal(subject: Subject, value: bytes, keys: MasterKeys) -> Sealed:
    """Encrypt a value.

    :raises SecretsUnavailable: when there is no master key.
    """
    data_key, nonce = AESGCM.generate_key(KEY_BITS), secrets.token_bytes(NONCE_BYTES)
    wrapped = _wrap(subject, data_key, keys.current)
    return Sealed(
        key_id=wrapped.key_id,
        wrapped_nonce=wrapped.wrapped_nonce,
        wrapped_key=wrapped.wrapped_key,
        nonce=nonce,
        ciphertext=AESGCM(data_key).encrypt(nonce, value, subject.bound("value")),
    )


def open_sealed(subject: Subject, sealed: Sealed, keys: MasterKeys) -> bytes:
    """Decrypt a value.

    :raises SecretsUnavailable: when the master key is not here.
    :raises SecretDamaged: when it is not what was stored for this subject.
    """
    data_key = _unwrap(subject, sealed, keys)
    try:
        return AESGCM(data_key).decrypt(sealed.nonce, sealed.ciphertext, subject.bound("value"))
    except InvalidTag:
        raise _damaged(subject) from None


def rewrap(subject: Subject, wrapped: Wrapped, keys: MasterKeys) -> Wrapped:
    """Put a version's key under the master key in use.

    :raises SecretsUnavailable: when the one that it is under is not here.
    :raises SecretDamaged: when it is not what was stored for this subject.
    """
    return _wrap(subject, _unwrap(subject, wrapped, keys), keys.current)


def _wrap(subject: Subject, data_key: bytes, master: MasterKey) -> Wrapped:
    nonce = secrets.token_bytes(NONCE_BYTES)
    wrapped = master.cipher.encrypt(nonce, data_key, subject.bound("key", master.id))
    return Wrapped(key_id=master.id, wrapped_nonce=nonce, wrapped_key=wrapped)


def _unwrap(subject: Subject, wrapped: Wrapped, keys: MasterKeys) -> bytes:
    master = keys.find(wrapped.key_id)
    try:
        return master.cipher.decrypt(wrapped.wrapped_nonce, wrapped.wrapped_key, subject.bound("key", master.id))
    except InvalidTag:
        raise _damaged(subject) from None


def _damaged(subject: Subject) -> SecretDamaged:
    return SecretDamaged(
        f"version {subject.version} of secret `{subject.reference}` is not what was stored under that name: its row "
        "was changed, or another's was put in its place",
        hint="Set the value anew (`moonyard secret set`), and find out who writes to the database.",
    )
