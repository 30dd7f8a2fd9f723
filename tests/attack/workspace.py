"""A container that fills its workspace with traps, so that the runner's own work on it touches files outside.

The traps are links to a folder of the machine's (also such that are swapped all the while), archives that unpack
through them, devices, pipes, and names made to be misread. All that the runner does with a workspace is tried on them:
the modules of Lua, artifacts, caches, and the removal at the job's end. Nothing of the folder is to be read or changed.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from backports import zstd

from tests.attack.attempts import Attempt, judged, stopped, through
from tests.attack.jobs import PYTHON, Attacked, Runner

TRAPS = r"""
import io, os, socket, subprocess, sys, tarfile, zipfile
outside = sys.argv[1]
canary = outside + "/canary"
os.chdir("/workspace")
os.symlink(canary, "file")
os.symlink(outside, "folder")
os.symlink("../" * 20 + canary, "relative")
os.symlink("/proc/self/root" + canary, "magic")
os.symlink("/proc/self/environ", "environment")
os.symlink("file", "chain")
os.symlink("loop", "loop")
os.mkdir("holds")
os.symlink(canary, "holds/file")
os.symlink(outside, "holds/folder")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
try:
    os.mknod("device", 0o60666, os.makedev(254, 0))
except OSError:
    pass
for name in (b"-rf", b"--help", b"a\nb", b"\xff\xfe", b"$(touch x)", b"a\x1b[2J", b"x" * 255, b" ", b"..."):
    open(name, "wb").close()
deep = "deep"
os.mkdir(deep)
here = os.open(deep, os.O_RDONLY)
for _ in range(1500):
    os.mkdir("d" * 100, dir_fd=here)
    below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = below
os.mkdir("closed"); open("closed/file", "w").close(); os.chmod("closed", 0)
def entry(tar, name, **fields):
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(b"x" * info.size))
with tarfile.open("through.tar", "w") as tar:
    entry(tar, "link", type=tarfile.SYMTYPE, linkname=outside)
    entry(tar, "link/made", size=1)
with tarfile.open("up.tar", "w") as tar:
    entry(tar, "../" * 20 + outside + "/made", size=1)
with tarfile.open("absolute.tar", "w") as tar:
    entry(tar, outside + "/made", size=1)
with tarfile.open("hard.tar", "w") as tar:
    entry(tar, "hard", type=tarfile.LNKTYPE, linkname=canary)
with tarfile.open("device.tar", "w") as tar:
    entry(tar, "disk", type=tarfile.BLKTYPE, devmajor=254, devminor=0)
with tarfile.open("plain.tar", "w") as tar:
    entry(tar, "made", size=1)
with zipfile.ZipFile("up.zip", "w") as archive:
    archive.writestr("../" * 20 + outside + "/made", "x")
swap = 'mv -T folder swapped; mkdir folder; echo mine > folder/canary; rm -r folder; mv -T swapped folder'
subprocess.Popen(["sh", "-c", "while true; do rm -rf race; ln -s " + outside + " race; rm -f race; mkdir race; "
                  "echo mine > race/canary; done"])
"""
PATHS = ("file", "folder/canary", "relative", "magic", "chain", "holds/folder/canary", "race/canary", "environment")
FOLDERS = ("folder", "holds/folder", "race")
READS = {
    "fs.read": "fs.read({PATH})",
    "fs.lines": "(function() local t = {} for line in fs.lines({PATH}) do t[#t + 1] = line end return t end)()",
    "fs.read_json": "fs.read_json({PATH})",
    "fs.hash": "fs.hash({PATH})",
    "fs.copy from": 'fs.copy({PATH}, "copied") or fs.read("copied")',
    "archive.create": 'archive.create("copy.tar", { from = {PATH} })',
    "artifact.save": "artifact.save({PATH}, { name = ({PATH}):gsub('/', '-') })",
    "artifact.test_report": "artifact.test_report({PATH})",
    "archive.list": "archive.list({PATH})",
}
WRITES = {
    "fs.write": 'fs.write({PATH}, "changed")',
    "fs.append": 'fs.append({PATH}, "changed")',
    "fs.chmod": 'fs.chmod({PATH}, "0777")',
    "fs.copy to": 'fs.copy("-rf", {PATH})',
    "fs.move to": 'fs.move("...", {PATH}) or fs.write("...", "")',
    "fs.remove": "fs.remove({PATH})",
}
IN_FOLDERS = {
    "fs.list": "fs.list({PATH})",
    "fs.walk": "(function() local t = {} for entry in fs.walk({PATH}) do t[#t + 1] = entry.path end return t end)()",
    "fs.glob": 'fs.glob({PATH} .. "/**")',
    "fs.mkdir": 'fs.mkdir({PATH} .. "/made")',
    "fs.write": 'fs.write({PATH} .. "/made", "x")',
    "fs.temp": 'fs.temp({ prefix = {PATH} .. "/made" })',
    "archive.extract": 'archive.extract("plain.tar", { to = {PATH} })',
    "archive.create": 'archive.create({PATH} .. "/made.tar", { from = "holds" })',
    "artifact.save": "artifact.save({PATH}, { name = ({PATH}):gsub('/', '-') .. '.tar' })",
}
WHOLE = {
    "archive of a folder with links": 'archive.create("whole.tar", { from = "holds" })',
    "artifact of a folder with links": 'artifact.save("holds", { name = "holds.tar" })',
    "artifacts by a pattern": 'artifact.save({ glob = "**/canary" })',
    "reports by a pattern": 'artifact.test_report("**/canary")',
    "walk of everything": '(function() local t = {} for entry in fs.walk(".", { depth = 5 }) do '
    "t[#t + 1] = entry.path end return t end)()",
    "artifacts of what was made": 'artifact.save({ glob = "{copy,whole}.tar", name = "made.tar" })',
    "reading a pipe": 'fs.read("pipe")',
    "reading a socket": 'fs.read("socket")',
    "reading a device": 'fs.read("device")',
    "extracting through.tar": 'archive.extract("through.tar", { to = "x1" })',
    "extracting up.tar": 'archive.extract("up.tar", { to = "x2" })',
    "extracting absolute.tar": 'archive.extract("absolute.tar", { to = "x3" })',
    "extracting hard.tar": 'archive.extract("hard.tar", { to = "x4" })',
    "extracting device.tar": 'archive.extract("device.tar", { to = "x5" })',
    "extracting up.zip": 'archive.extract("up.zip", { to = "x6" })',
    "an artifact's name that leads out": 'artifact.save("-rf", { name = "../../../made" })',
    "an artifact fetched to a link": '(artifact.save("a\\nb", { name = "n" }) and nil) '
    'or artifact.fetch("n", { to = "folder/made" })',
}
RACES = 40
ZSTD = b"\x28\xb5\x2f\xfd"
CACHE = (
    'cache = { { key = "a", paths = { "folder" } }, { key = "b", paths = { "holds" } }, '
    '{ key = "c", paths = { "race" } } }'
)


async def attempts(runner: Runner) -> list[Attempt]:
    """Try all."""
    word = secrets.token_hex(16)
    outside = runner.folder / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "canary").write_text(word)
    before = _looks(outside)
    tries = _tries()
    lines = "\n".join(
        f"try({json.dumps(name)}, function() return {statement} end)" for name, statement in tries.items()
    )
    source = f"""
return {{ name = "traps", stages = {{ {{ name = "s", container = "{PYTHON}", {CACHE}, script = function()
  local function try(name, action)
    local ok, got = pcall(action)
    local told, text = pcall(json.encode, got)
    log.info("TRIED", name, ok, told and text or tostring(got))
  end
  fs.write("traps.py", [==[{TRAPS}]==])
  process.run({{ command = "python3", args = {{ "traps.py", {json.dumps(str(outside))} }} }})
  {lines}
  for _ = 1, {RACES} do pcall(fs.remove, "race", {{ recursive = true }}) pcall(fs.write, "race/made", "x") end
end }} }} }}"""
    job = await runner.run(source)
    return [*_told(job, tries, word), *_afterwards(runner, job, outside, before, word)]


def _tries() -> dict[str, str]:
    tries: dict[str, str] = {}
    for paths, statements in ((PATHS, READS), (PATHS, WRITES), (FOLDERS, IN_FOLDERS)):
        for name, statement in statements.items():
            for path in paths:
                tries[f"{name} by {path}"] = statement.replace("{PATH}", json.dumps(path))
    return tries | WHOLE


def _told(job: Attacked, tries: dict[str, str], word: str) -> list[Attempt]:
    made: list[Attempt] = []
    said = {
        text.split(" ", 1)[1].rpartition(" true " if " true " in text else " false ")[0]: text for text in job.texts
    }
    for name in tries:
        text = said.get(name)
        if text is None:
            made.append(through(name, f"it was not tried: {job.outcome}"))
        elif word in text:
            made.append(through(name, text))
        else:
            made.append(stopped(name, text.removeprefix(f"TRIED {name} ")))
    return made


def _afterwards(runner: Runner, job: Attacked, outside: Path, before: object, word: str) -> list[Attempt]:
    """Look at what is left when the job is over."""
    after = _looks(outside)
    kept = [
        path for folder in (job.artifacts, runner.folder / "caches", runner.folder / "cache") for path in _files(folder)
    ]
    holding = [path for path in kept if word.encode() in _content(path)]
    workspaces = list(runner.owner.workspaces.glob(f"{job.order.id}-*"))
    return [
        judged("change what is outside", None if after == before else f"{after}, before {before}", "it is as it was"),
        judged("have it kept", str(holding) if holding else None, f"{len(kept)} files were kept, and none has it"),
        judged("have it told", "it was" if word.encode() in job.raw else None, "no event has it"),
        judged("outlive its job", str(workspaces) if workspaces else None, "the workspace was removed"),
        judged("break the runner", job.outcome if "internal_error" in job.outcome else None, job.outcome),
    ]


def _looks(folder: Path) -> list[tuple[str, int, str]]:
    return [
        (path.name, path.stat().st_mode, path.read_text() if path.is_file() else "")
        for path in [folder, *sorted(folder.rglob("*"))]
    ]


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return zstd.decompress(data) if data.startswith(ZSTD) else data


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
