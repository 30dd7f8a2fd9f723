"""Where the `moonyard` command begins: a Ctrl-C while its modules are imported ends it without a word.

Python would show where in somebody's module it was. Until there is code of ours to catch it, the signal is the kernel's
to handle: the process is gone, and a shell says 130, as it does of any command.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # Whoever started us may want no Ctrl-C to come through (`nohup`, a job in a script's background): it stays so.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli import main as command_line

    signal.signal(signal.SIGINT, before)
    command_line.main()


if __name__ == "__main__":
    main()
