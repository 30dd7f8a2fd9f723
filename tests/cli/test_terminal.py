"""What is typed at a shell's terminal, and which of it is for us."""

from __future__ import annotations

import pytest

from cli.terminal import Escapes


@pytest.mark.parametrize(
    ("typed", "passed_on", "is_closed"),
    [
        ([b"ls\r"], b"ls\r", False),
        ([b"~."], b"", True),
        ([b"ls\r~.more"], b"ls\r", True),
        ([b"ls\r", b"~", b"."], b"ls\r", True),
        ([b"cd ~.\r"], b"cd ~.\r", False),
        ([b"~~."], b"~.", False),
        ([b"~~\r~."], b"~\r", True),
        ([b"~/bin/x\r"], b"~/bin/x\r", False),
        ([b"\r\n~", b"a~.\r"], b"\r\n~a~.\r", False),
        ([bytes(range(256))], bytes(range(256)), False),
    ],
)
def test_a_tilde_and_a_full_stop_at_the_beginning_of_a_line_close_and_all_else_is_passed_on(
    typed: list[bytes], passed_on: bytes, is_closed: bool
) -> None:
    escapes = Escapes()
    assert b"".join(map(escapes.pass_on, typed)) == passed_on
    assert escapes.is_closed == is_closed
