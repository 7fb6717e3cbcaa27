"""Runs generated programs where they can do no harm, and compares what they answer where they cannot reach.

    with Sandbox() as sandbox:
        outcome = sandbox.run(Program(text, entry="double"), [Call("double", [2])])

A few fork servers (clean interpreters, no site-packages, empty environment) are started once; each program gets a
fresh child. Layers on Linux, in the order in which the child puts them on, before it reads the program:

1. namespaces (user, network, mount, IPC), where the kernel grants them: no network device, no host IPC, a scratch
   directory of 8 MB in memory that nobody else sees. Optional: reported in `Sandbox.layers`.
2. resource limits: CPU seconds, address space, file size, 32 open files, no core. The server adds the wall-clock limit,
   the parent the limit on answers. Standard streams lead to /dev/null.
3. all capabilities dropped, no_new_privs, death with the server: root in here is an ordinary user.
4. Landlock: reads only in Python's standard library, changes only in the scratch directory (and only where it is the
   memory file system of layer 1, so that the disk cannot be filled), no TCP, no abstract sockets, no signals out.
   Where the kernel has no Landlock of version 3 or later, layer 5 refuses to open any file instead.
5. seccomp, required: an allow-list of about 70 calls. Not on it, so refused with EPERM: fork, vfork, clone (threads
   too), exec, socket and all of its family, kill and its family, ptrace, process_vm_*, mount, unshare, setns, bpf,
   io_uring, keyctl, ioctl, fcntl, prlimit, chmod, chown, truncate by path, memfd, timers, anything new.
6. a Python audit hook: a readable refusal before the kernel's. It is no protection against native code.

Verdicts cannot be forged: expected values never enter the child. It answers with plain data (JSON, never pickle),
and the comparison happens outside: here, or, for a benchmark's own assertions, in a second confined child that
reaches the program only through calls that carry plain data. Printing "passed", exiting with 0 or patching
builtins in the program's process changes nothing but its own answers.

Not covered: a bug in the kernel; timing side channels; reading the standard library, the clock, the CPU count, the
existence, size and owner of files by name (`stat` is not confined by Landlock; contents are); a wrong program that
happens to give right values.

Without layer 5 (macOS, other processors, old kernels) nothing runs: `SandboxError`. `allow_weak=True` or
NEXUS_SANDBOX_ALLOW_WEAK=1 runs with layers 2 and 6 only, and logs that; Windows has no fork, so there it never runs.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from nexus_capability_code.values import decode, encode
from nexus_core.errors import NexusError

WEAK = "NEXUS_SANDBOX_ALLOW_WEAK"
MOST_SERVERS = 8
NOT_CONFINED = 97  # exit status of a child that could not put a layer on (see runner.py)
T = TypeVar("T")
log = logging.getLogger(__name__)


class SandboxError(NexusError):
    """Programs cannot be run safely on this machine."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. `audit=False` leaves out layer 6, to test the others."""

    wall_s: float = 4.0
    cpu_s: int = 2
    memory_mb: int = 512
    file_mb: int = 1
    scratch_mb: int = 8
    answer_kb: int = 1024
    audit: bool = True


@dataclass(frozen=True, slots=True)
class Program:
    """A model's answer, the function that it must define, and the code that came before it (HumanEval)."""

    text: str
    entry: str
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One call into the program, with plain data."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave: a value, or the error that was raised instead."""

    value: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. `stopped` is empty when it ran to its end; `passed` is the verdict of a check."""

    answers: tuple[Answer, ...] = ()
    passed: bool = False
    stopped: str = ""
    error: str = ""
    cpu_s: float = 0.0
    peak_mb: float = 0.0


class Sandbox:
    """A pool of fork servers. Close it (or use `with`): the servers end with it."""

    def __init__(self, workers: int | None = None, limits: Limits | None = None, allow_weak: bool = False) -> None:
        self.limits = limits or Limits()
        weak = allow_weak or os.environ.get(WEAK) == "1"
        if not hasattr(os, "fork"):
            raise SandboxError("The sandbox needs fork, which this system does not have.", "Use Linux, or WSL 2.")
        self._servers: queue.SimpleQueue[_Server] = queue.SimpleQueue()
        self._all: list[_Server] = []
        count = workers or min(os.cpu_count() or 1, MOST_SERVERS)
        try:
            for _ in range(count):
                self._all.append(_Server(weak))
            greetings = [server.greet(weak) for server in self._all]
        except BaseException:
            self.close()
            raise
        self.layers: Mapping[str, Any] = greetings[0]
        for server in self._all:
            self._servers.put(server)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="sandbox")

    def run(self, program: Program, calls: Sequence[Call]) -> Outcome:
        """Load the program, make the calls, bring the values back. Nothing that is expected is sent."""
        return self._with_server(lambda server: server.run(program, calls, self.limits))

    def check(self, program: Program, code: str, names: Sequence[str]) -> Outcome:
        """Run checking code in a child of its own; `names` are the program's functions that it calls."""
        return self._with_server(lambda server: server.check(program, code, names, self.limits))

    def each(self, work: Iterable[Callable[[], T]]) -> list[T]:
        """Do pieces of work that call `run` or `check`, as many at a time as there are servers; results in order."""
        return list(self._threads.map(lambda piece: piece(), work))

    def _with_server(self, use: Callable[[_Server], Outcome]) -> Outcome:
        server = self._servers.get()
        try:
            return use(server)
        finally:
            self._servers.put(server)

    def close(self) -> None:
        for server in self._all:
            server.close()
        if hasattr(self, "_threads"):
            self._threads.shutdown()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server:
    """One fork server process, used by one thread at a time."""

    def __init__(self, weak: bool) -> None:
        self.scratch = tempfile.mkdtemp(prefix="nexus-sandbox-")
        self.channel, theirs = socket.socketpair()
        package = str(Path(__file__).parent.parent)
        start = f"import sys; sys.path.insert(0, {package!r}); from nexus_capability_code import runner; "
        start += "del sys.path[0]; runner.main()"
        settings = json.dumps({"scratch": self.scratch, "weak": weak})
        # A fixed hash seed, so that a score never depends on the order of a set; the server forgets both.
        environment = {"PYTHONHASHSEED": "42"}
        if "LD_LIBRARY_PATH" in os.environ:  # some builds of Python do not start without it
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-S", "-B", "-c", start, settings],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, cwd=self.scratch,
            )  # fmt: skip

    def greet(self, weak: bool) -> Mapping[str, Any]:
        layers = self._hear(30.0)
        if not layers["seccomp"]:
            if not weak:
                raise SandboxError(
                    "Generated programs cannot be confined here: this kernel or processor has no seccomp filter.",
                    f"Run on Linux (x86_64 or aarch64), in a container or WSL 2; or accept the risk with {WEAK}=1.",
                )
            log.warning("sandbox: no operating-system layer is available; only resource limits hold (%s)", WEAK)
        return layers

    def _hear(self, seconds: float) -> dict[str, Any]:
        self.channel.settimeout(seconds)
        received = b""
        try:
            while not received.endswith(b"\n"):
                piece = self.channel.recv(1 << 16)
                if not piece:
                    raise SandboxError(f"The sandbox's server died: {self._last_words()}", "Report this.")
                received += piece
        except TimeoutError as error:
            raise SandboxError("The sandbox's server does not answer.", "Is this machine out of memory?") from error
        heard: dict[str, Any] = json.loads(received)
        return heard

    def _last_words(self) -> str:
        assert self.process.stderr is not None
        self.process.wait(5)
        lines = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"status {self.process.returncode}"

    def run(self, program: Program, calls: Sequence[Call], limits: Limits) -> Outcome:
        requests = [{"name": c.name, "args": encode(list(c.args)), "kwargs": encode(dict(c.kwargs))} for c in calls]
        with _file(asdict(program)) as job, _file(*requests) as asked:
            read, write = os.pipe()
            self._send(limits, [job.fileno(), asked.fileno(), write], [write])
            lines, ended = self._collect(read, limits)
        opening, *rest = [_answer(line) for line in lines] or [None]
        loaded = isinstance(opening, Answer) and opening.value is True
        answers = tuple(answer or Answer(error="malformed answer") for answer in rest[: len(calls)])
        error = "" if loaded or opening is None else opening.error
        complete = loaded and len(answers) == len(calls)
        return Outcome(answers if loaded else (), False, _stopped(ended, complete or bool(error)), error, *_used(ended))

    def check(self, program: Program, code: str, names: Sequence[str], limits: Limits) -> Outcome:
        with _file(asdict(program)) as job, _file({"code": code, "names": list(names)}) as checker:
            (asked, ask), (hear, tell), (read, write) = os.pipe(), os.pipe(), os.pipe()
            given = [job.fileno(), asked, tell, checker.fileno(), ask, hear, write]
            self._send(limits, given, [asked, tell, write, ask, hear])
            lines, ended = self._collect(read, limits)
        verdict = _object(lines[0]) if lines else {}
        passed, error = verdict.get("passed") is True, str(verdict.get("error", ""))[:500]
        return Outcome((), passed, _stopped(ended, bool(verdict)), error, *_used(ended))

    def _send(self, limits: Limits, descriptors: list[int], then_close: list[int]) -> None:
        try:
            socket.send_fds(self.channel, [json.dumps(asdict(limits)).encode()], descriptors)
        except OSError as error:
            raise SandboxError(f"The sandbox's server died: {self._last_words()}", "Report this.") from error
        finally:
            for descriptor in then_close:
                os.close(descriptor)

    def _collect(self, read: int, limits: Limits) -> tuple[list[bytes], dict[str, Any]]:
        """Lines from the pipe until its other end is gone, at most `answer_kb` of them; and how the children ended."""
        received, limit = bytearray(), limits.answer_kb << 10
        deadline = time.monotonic() + limits.wall_s + 5
        try:
            while len(received) <= limit:
                ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
                piece = os.read(read, 1 << 16) if ready else b""
                if not piece:
                    break
                received += piece
        finally:
            os.close(read)
        ended = self._hear(limits.wall_s + 30)
        if any(end["code"] == NOT_CONFINED for end in ended["ends"]):
            why = bytes(received).decode(errors="replace")
            raise SandboxError(f"A layer of the sandbox could not be put on, so nothing was run: {why}", "Report this.")
        ended["flooded"] = len(received) > limit
        return bytes(received).splitlines()[: 1 << 16], ended

    def close(self) -> None:
        self.channel.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _file(*values: Any) -> IO[bytes]:
    """An unnamed temporary file that holds `values`, one JSON line each: unlike a pipe, it never fills up."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.writelines(json.dumps(value).encode() + b"\n" for value in values)
    file.flush()
    file.seek(0)
    return file


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object in one line from a child, which may be anything; empty when it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _answer(line: bytes) -> Answer | None:
    """One line from the program's child; None when it is not what the runner writes."""
    answer = _object(line)
    if "error" in answer:
        return Answer(error=str(answer["error"])[:500])
    if answer.get("ready") is True:
        return Answer(value=True)
    try:
        return Answer(value=decode(answer["value"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _stopped(ended: Mapping[str, Any], complete: bool) -> str:
    code = ended["ends"][0]["code"]
    if ended["flooded"]:
        return "answer limit"
    if complete:
        return ""
    if ended["late"]:
        return "wall-clock limit"
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and len(ended["ends"]) == 1):
        return "CPU limit"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited by itself with status {code}"


def _used(ended: Mapping[str, Any]) -> tuple[float, float]:
    return ended["ends"][0]["cpu_s"], ended["ends"][0]["peak_kb"] / 1024
