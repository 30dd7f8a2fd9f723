"""What the command server says in shell: its own program, and the text of one command.

The program is plain POSIX shell, for busybox, dash and bash alike, and needs nothing of the image but ``/bin/sh``:
everything in it is built in. A command runs in a subshell that becomes the command, with its streams connected to named
pipes of its own; the server's own pipes are closed in it.

A server reports lines on its status pipe: ``ready`` once, then for command ``7`` at most one of ``7 cwd REASON``,
``7 not-found``, ``7 not-executable`` and ``7 not-started FIRST LINE``, and always ``7 end CODE``: once it has read the
request to its end, for the next one is written into the same file as soon as that line is seen. The first line is that
of the command's file, where it names an interpreter. (A Bash that cannot become a command forgets its traps: there, it
is the command's stderr that has its words, and the code is 126 or 127.)
"""

from __future__ import annotations

import re
from typing import Final

PROGRAM: Final = r"""# Runs the commands of a job, one after another.
unset CDPATH ENV
moonyard_report() { echo "$@" >&4; }
moonyard_enter() {
  cd -P "$2" 2>/dev/null && { unset OLDPWD; return; }
  if [ ! -e "$2" ]; then moonyard_report "$1" cwd missing
  elif [ ! -d "$2" ]; then moonyard_report "$1" cwd no-folder
  else moonyard_report "$1" cwd denied; fi
  exit 1
}
moonyard_find() {
  moonyard_seen=
  case $2 in
  */*) moonyard_file=$2; [ ! -e "$2" ] || { moonyard_seen=1; [ ! -f "$2" ] || [ ! -x "$2" ] || return 0; } ;;
  *)
    moonyard_path=$PATH:
    while [ -n "$moonyard_path" ]; do
      moonyard_file=${moonyard_path%%:*}/$2
      moonyard_path=${moonyard_path#*:}
      [ -f "$moonyard_file" ] || continue
      [ ! -x "$moonyard_file" ] || return 0
      moonyard_seen=1
    done ;;
  esac
  if [ -n "$moonyard_seen" ]; then moonyard_report "$1" not-executable; else moonyard_report "$1" not-found; fi
  exit 127
}
moonyard_not_started() {
  IFS= read -r moonyard_line <"$moonyard_file"
  case $moonyard_line in '#!'*) ;; *) moonyard_line= ;; esac
  # It may have any bytes but the end of a line, and `echo` makes something of some.
  printf '%s not-started %.200s\n' "$1" "$moonyard_line" >&4
} 2>/dev/null
exec 3<"$1/control" 4>"$1/status" </dev/null >/dev/null 2>/dev/null
# A busybox can be built to prefer what it has in itself to what PATH leads to: that one is given the path.
moonyard_applets=
if (PATH=/moonyard; command -v ls); then moonyard_applets=1; fi
moonyard_report ready
while read -r moonyard_number <&3; do
  . "$1/request"
  moonyard_report "$moonyard_number" end "$?"
done
"""

# Variables that some shell treats as its own: one that is given to a command would not arrive, or end the shell.
_SHELLS_OWN: Final = frozenset(
    {
        "BASHOPTS", "BASH_ARGC", "BASH_ARGV", "BASH_LINENO", "BASH_SOURCE", "BASH_VERSINFO", "DIRSTACK", "EUID",
        "FUNCNAME", "GROUPS", "HISTCMD", "IFS", "LINENO", "OLDPWD", "OPTARG", "OPTIND", "PPID", "PWD", "RANDOM",
        "SECONDS", "SHELLOPTS", "SHLVL", "UID", "_",
    }
)  # fmt: skip
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def can_export(name: str) -> bool:
    """Tell whether a shell can hand a variable on to a command as it is."""
    return bool(_IDENTIFIER.fullmatch(name)) and name not in _SHELLS_OWN and not name.startswith("moonyard_")


def quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def exports(env: dict[str, str]) -> bytes:
    """Write the text that gives a shell's command variables."""
    words = "".join(f" {name}={quote(value)}" for name, value in env.items())
    return f"export{words}\n".encode("utf-8", errors="surrogateescape")


def request(
    number: int,
    folder: str,
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    *,
    has_stdin: bool,
    has_secrets: bool = False,
) -> bytes:
    """Write the text of one command.

    :param folder: the server's, as seen from inside the container.
    :param has_secrets: whether there are variables that come through a pipe.
    """
    stdin = f"{folder}/stdin" if has_stdin else "/dev/null"
    secrets = f". {folder}/secrets\n" if has_secrets else ""
    words = " ".join(quote(word) for word in argv)
    text = (
        f"(exec <{stdin} >{folder}/stdout 2>{folder}/stderr 3<&-\n"
        f"moonyard_enter {number} {quote(cwd)}\n"
        f"{exports(env).decode(errors='surrogateescape')}"
        f"{secrets}"
        f"moonyard_find {number} {quote(argv[0])}\n"
        # Where the command takes the shell's place, the trap is gone with it.
        f"trap 'moonyard_not_started {number}' EXIT\n"
        f"set -- {words}\n"
        'if [ -n "$moonyard_applets" ]; then shift; set -- "$moonyard_file" "$@"; fi\n'
        'exec "$@" 4>&-)\n'
    )
    return text.encode("utf-8", errors="surrogateescape")
