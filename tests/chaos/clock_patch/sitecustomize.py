"""Loaded by a Python process whose clock jumps, before anything else.

libfaketime (0.9.10) refuses to sleep until a time of the monotonic clock, which is how Python's ``time.sleep`` sleeps;
and it is for this process alone, not for the engine and all else that it starts.
"""
# ruff: noqa: INP001  # found by its folder, which stands in the module path

from __future__ import annotations

import os
import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
os.environ.pop("LD_PRELOAD", None)
