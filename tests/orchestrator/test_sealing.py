"""What is stored of a value: nothing without the master key, and nothing in another's place."""

from __future__ import annotations

import base64
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import master_keys, sealing
from orchestrator.master_keys import MasterKeys, MasterKeyUnusable, SecretsUnavailable
from orchestrator.sealing import SecretDamaged, Subject
from schema.ids import uuid7
from schema.secrets import LINE_BYTES_MINIMUM, PLAIN_BYTES_MINIMUM, looked_for, weakness

FIRST, SECOND = master_keys.generate(), master_keys.generate()
KEYS = master_keys.parse(FIRST, "a test")
SUBJECT = Subject(secret=uuid7(), scope="", name="TOKEN", version=1, readable=True)
VALUES = st.binary(min_size=1, max_size=300).filter(lambda value: b"\0" not in value)


@given(value=VALUES)
def test_what_was_sealed_opens_and_shows_nothing(value: bytes):
    sealed = sealing.seal(SUBJECT, value, KEYS)
    assert sealing.open_sealed(SUBJECT, sealed, KEYS) == value
    stored = b"".join(part for part in msgspec.structs.astuple(sealed) if isinstance(part, bytes))
    if len(value) > 3:
        for form in (value, base64.b64encode(value).rstrip(b"=")[:-1], value.hex().encode()):
            assert form not in stored
    again = sealing.seal(SUBJECT, value, KEYS)
    assert (again.ciphertext, again.nonce, again.wrapped_key) != (sealed.ciphertext, sealed.nonce, sealed.wrapped_key)


@pytest.mark.parametrize(
    "other",
    [
        {"secret": uuid7()},
        {"name": "OTHER"},
        {"scope": "build"},
        {"version": 2},
        {"readable": False},
        {"scope": "TOKEN", "name": ""},
    ],
    ids=str,
)
def test_a_row_in_anothers_place_does_not_open(other: dict[str, UUID | str | int]):
    sealed = sealing.seal(SUBJECT, b"a value of somebody", KEYS)
    with pytest.raises(SecretDamaged) as refused:
        sealing.open_sealed(msgspec.structs.replace(SUBJECT, **other), sealed, KEYS)
    assert refused.value.code == "secret_damaged"
    assert refused.value.hint is not None


@given(value=VALUES, part=st.sampled_from(["nonce", "ciphertext", "wrapped_nonce", "wrapped_key"]), data=st.data())
def test_a_row_of_which_one_bit_was_changed_does_not_open(value: bytes, part: str, data: st.DataObject):
    sealed = sealing.seal(SUBJECT, value, KEYS)
    stored: bytes = getattr(sealed, part)
    place = data.draw(st.integers(0, 8 * len(stored) - 1))
    changed = bytearray(stored)
    changed[place // 8] ^= 1 << place % 8
    with pytest.raises(SecretDamaged):
        sealing.open_sealed(SUBJECT, msgspec.structs.replace(sealed, **{part: bytes(changed)}), KEYS)


def test_a_part_of_one_row_and_a_part_of_another_do_not_open():
    one, other = (sealing.seal(SUBJECT, value, KEYS) for value in (b"one value", b"other value"))
    mixed = msgspec.structs.replace(one, nonce=other.nonce, ciphertext=other.ciphertext)
    with pytest.raises(SecretDamaged):
        sealing.open_sealed(SUBJECT, mixed, KEYS)


def test_another_master_key_is_named_and_not_taken_for_damage():
    sealed = sealing.seal(SUBJECT, b"value", KEYS)
    with pytest.raises(SecretsUnavailable) as refused:
        sealing.open_sealed(SUBJECT, sealed, master_keys.parse(SECOND, "a test"))
    assert refused.value.code == "secret_key_unknown"
    assert KEYS.current.id in refused.value.message
    with pytest.raises(SecretsUnavailable) as refused:
        sealing.open_sealed(SUBJECT, sealed, MasterKeys())
    assert refused.value.code == "secrets_unavailable"
    assert "moonyard secret key generate" in (refused.value.hint or "")


def test_rewrapping_changes_the_key_and_not_the_value():
    sealed = sealing.seal(SUBJECT, b"value", KEYS)
    both = master_keys.parse(f"{SECOND}\n{FIRST}\n", "a test")
    wrapped = sealing.rewrap(SUBJECT, sealed, both)
    fresh = msgspec.structs.replace(
        sealed, key_id=wrapped.key_id, wrapped_nonce=wrapped.wrapped_nonce, wrapped_key=wrapped.wrapped_key
    )
    assert fresh.key_id == both.current.id != sealed.key_id
    assert sealing.open_sealed(SUBJECT, fresh, master_keys.parse(SECOND, "a test")) == b"value"
    assert sealing.open_sealed(SUBJECT, sealed, both) == b"value"


def test_keys_show_their_ids_and_never_themselves():
    both = master_keys.parse(f"# of a test\n\n  {FIRST}\r\n{SECOND}", "a test")
    assert len(both.ids) == 2
    for text in (repr(both), repr(both.current), str(both)):
        assert both.current.id in text
        assert FIRST[20:40] not in text


@pytest.mark.parametrize(
    "text", ["", "# nothing", FIRST[:-1], FIRST[1:], f"{FIRST}\n{FIRST[:-1]}0\n{SECOND}"[:-3], "moonyard_key_", "hush"]
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str):
    with pytest.raises(MasterKeyUnusable) as refused:
        master_keys.parse(text, "a file of a test")
    assert "a file of a test" in refused.value.message
    assert "hush" not in str(refused.value.info)
    assert FIRST[20:40] not in str(refused.value.info)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text(FIRST)
    for mode in (0o640, 0o604, 0o620, 0o644):
        path.chmod(mode)
        with pytest.raises(MasterKeyUnusable, match="others than its owner") as refused:
            master_keys.read_file(path)
        assert "chmod 600" in (refused.value.hint or "")
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert master_keys.parse(master_keys.read_file(path), str(path)).current.id == KEYS.current.id
    for other in (tmp_path / "none", tmp_path):
        with pytest.raises(MasterKeyUnusable):
            master_keys.read_file(other)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "ended with code 1"),
        ("no-such-program-here", "cannot be run"),
        ("echo hush", "no master key"),
        ("'", "cannot be split"),
        (" ", "is empty"),
    ],
)
def test_a_command_that_gives_no_keys_says_so(command: str, said: str):
    with pytest.raises(MasterKeyUnusable, match=said) as refused:
        master_keys.parse(master_keys.read_command(command), "its output")
    assert "hush" not in refused.value.message.replace("echo hush", "")


def test_a_command_gives_keys(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text(FIRST)
    assert master_keys.parse(master_keys.read_command(f"cat '{path}'"), "its output").current.id == KEYS.current.id


@given(value=VALUES)
def test_what_is_looked_for_is_in_the_value_and_neither_short_nor_common(value: bytes):
    parts = looked_for(value)
    assert parts == sorted(parts, key=len, reverse=True)
    for part in parts:
        assert part in value
        assert len(part) >= PLAIN_BYTES_MINIMUM
    if value.strip() not in parts:
        assert weakness(value) is not None


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (b"hunter2!", [b"hunter2!"]),
        (b"hunter2!\n", [b"hunter2!"]),
        (b"short", []),
        (b"Production", []),
        (b'{\n  "user": "me",\n  "password": "hunter2"\n}', [b'"password": "hunter2"', b'"user": "me",']),
        (b"-----BEGIN X-----\nMIIEvQIBADANBg\nkqh\n-----END X-----\n", [b"MIIEvQIBADANBg"]),
    ],
)
def test_lines_of_a_value_are_looked_for_where_they_tell_something(value: bytes, parts: list[bytes]):
    assert [part for part in looked_for(value) if part != value.strip() or b"\n" not in part] == parts
    assert LINE_BYTES_MINIMUM > PLAIN_BYTES_MINIMUM
