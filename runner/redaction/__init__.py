"""What a job's output, log, errors, command lines and names are not to show, taken out before they leave the runner.

    command's stdout ─┐                          ┌─ delivered secrets: value and lines, in their usual encodings
    command's stderr ─┼─ Stream ── whole lines ──┤      (``forms``), found by a scan (``schema.scanning``) and looked at
    service's output ─┘                          └─ what looks like a credential (``credentials``)
    log calls, errors, argv, names ── Redaction.text

- ``Redaction`` is an attempt's: all that leaves the runner for it goes by the same one, and a secret that is delivered
  counts for all of it from then on.
- What is found is replaced by ``[secret NAME]``, and what only looks like a credential by ``[secret: KIND]``.
- Nothing is held back but a line that has not ended, which is told when it ends in any case. A value that is broken
  over several lines, as ``base64`` and ``xxd -p`` do it, is found line by line: each piece of a known encoding counts
  that reaches to the end of its line. So a live tail never waits.
- A line that is too long to be waited for is told in pieces. What may go on in the next piece is not told before.

Which values are looked for at all says ``schema.secrets.looked_for``: short and common ones are not.
"""
