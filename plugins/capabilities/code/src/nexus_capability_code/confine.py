"""The layers that hold a generated program, put on by the child itself before it sees the program. Linux.

Standard library only; imported by the fork server, never by the parent. See `sandbox.py` for what each layer stops.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import struct
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 22, 38, 24
SECCOMP_MODE_FILTER = 2
RET_ALLOW, RET_EPERM, RET_KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
READ_RIGHTS = 1 << 2 | 1 << 3  # READ_FILE, READ_DIR
# Write, remove and make directories, files and links, truncate; not: execute, make devices, sockets or pipes.
WRITE_RIGHTS = READ_RIGHTS | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 14
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
MNT_DETACH = 2
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
MS_REC_PRIVATE = 0x4000 | 1 << 18
CAPSET = {"x86_64": 126, "aarch64": 91}

AUDITED = ("socket.", "subprocess.", "ctypes.", "pty.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
           "os.kill", "signal.pthread_kill")  # fmt: skip


@cache  # read before files are out of reach
def _syscall_table() -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, dict[str, int]]] = json.loads(
        Path(__file__).with_name("syscalls.json").read_text("utf-8")
    )
    return table.get(platform.machine(), {})


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    """A libc function, integers passed as long (`syscall` reads longs); OSError with errno when it returns -1."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = getattr(_libc(), name)(*wide)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def landlock_version() -> int:
    """Landlock ABI of this kernel; 0 when there is none. Below 3 it cannot stop truncation, so it does not count."""
    if sys.platform != "linux":
        return 0
    version = _libc().syscall(CREATE_RULESET, None, ctypes.c_long(0), 1)
    return int(version) if version >= 3 else 0


def seccomp_available() -> bool:
    """Whether this kernel takes a filter and we know this machine's system calls; asked with a null filter."""
    if sys.platform != "linux" or not _syscall_table():
        return False
    _libc().prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None)
    return ctypes.get_errno() == errno.EFAULT


def enter_namespaces() -> tuple[str, ...]:
    """Move the fork server into namespaces of its own, as far as this kernel lets us; the names of those entered."""
    if sys.platform != "linux":
        return ()
    uid, gid = os.getuid(), os.getgid()
    try:
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC)
    except OSError:
        return ()
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        _call("mount", b"none", b"/", None, MS_REC_PRIVATE, None)
    except OSError:
        return ("user", "net", "ipc")  # entered, but without the right to mount
    return ("user", "net", "ipc", "mount")


def mount_scratch(path: Path, megabytes: int) -> None:
    """An empty file system in memory at `path`, seen by this process tree only."""
    options = f"size={megabytes}m,nr_inodes=1024,mode=700".encode()
    _call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", MS_NOSUID_NODEV_NOEXEC, options)


def unmount_scratch(path: Path) -> None:
    _call("umount2", os.fsencode(path), MNT_DETACH)


def drop_privileges() -> None:
    """No capability remains and none can be regained, so root is an ordinary user; die with the fork server."""
    _call("prctl", PR_SET_PDEATHSIG, 9, 0, 0, 0)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("Ii", 0x20080522, 0)
    _call("syscall", CAPSET[platform.machine()], header, bytes(24))


def restrict_files(readable: Sequence[Path], writable: Path | None) -> None:
    """Landlock: read below `readable`, change below `writable`; no TCP, no abstract sockets, no signals to others."""
    version = landlock_version()
    handled = (1 << (16 if version >= 5 else 15)) - 1
    attributes = [handled, *([3] if version >= 4 else []), *([3] if version >= 6 else [])]
    attribute = struct.pack(f"{len(attributes)}Q", *attributes)
    ruleset = _call("syscall", CREATE_RULESET, attribute, len(attribute), 0)
    rules = [(path, READ_RIGHTS) for path in readable if path.exists()]
    rules += [(writable, WRITE_RIGHTS)] if writable else []
    for path, rights in rules:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _call("syscall", ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
        os.close(descriptor)
    _call("syscall", RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def restrict_system_calls(files: bool) -> None:
    """Seccomp: an allow-list; everything else fails with EPERM, another machine's calls kill. `files` allows opening."""
    table = _syscall_table()
    allowed = [*table["always"].values(), *(table["files"].values() if files else ())]
    load, equal, give = 0x20, 0x15, 0x06
    program = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[platform.machine()]), (give, 0, 0, RET_KILL), (load, 0, 0, 0)]
    for number in allowed:
        program += [(equal, 0, 1, number), (give, 0, 0, RET_ALLOW)]
    program.append((give, 0, 0, RET_EPERM))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_program = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program, 0, 0)


def add_audit_hook() -> None:
    """The last layer, and a weak one: a readable refusal before the kernel's, where Python itself asks."""

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(AUDITED):
            raise PermissionError(f"the sandbox forbids {event}")

    sys.addaudithook(refuse)
