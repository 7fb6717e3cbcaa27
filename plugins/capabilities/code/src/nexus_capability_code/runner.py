"""The fork server and what its children do. Runs in an interpreter of its own (`-I -S`), standard library only.

The server reads one small request at a time, together with the pipes of that job, forks one child per program (and one
more for a benchmark's own checking code), and answers with how they ended. It never reads the pipes: no byte
of a job is in its memory, so no later child inherits one. A child puts every layer of `confine` on itself before it
reads its job; when a layer cannot be put on, it exits without having read anything.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import resource
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any

from nexus_capability_code import confine
from nexus_capability_code.extract import program_from
from nexus_capability_code.values import decode, encode

# Imported before the first fork: children start with them at hand, also where opening files is refused altogether.
# fmt: off
PRELOADED = (
    "abc", "array", "ast", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "copy",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io",
    "itertools", "json", "math", "numbers", "operator", "queue", "random", "re", "statistics", "string", "struct",
    "sys", "textwrap", "time", "typing", "unicodedata", "zlib",
)
# fmt: on
NOT_CONFINED = 97


class Server:
    """One fork server; serves one job at a time until its socket closes."""

    def __init__(self, channel: socket.socket, settings: Mapping[str, Any]) -> None:
        self.channel, self.settings = channel, settings
        self.scratch = Path(settings["scratch"])
        self.spaces = confine.enter_namespaces()
        self.landlock = confine.landlock_version()
        self.seccomp = confine.seccomp_available()
        self.mounts = "mount" in self.spaces and self.landlock > 0
        self.null = os.open(os.devnull, os.O_RDWR)
        paths = sysconfig.get_paths()
        self.readable = [Path(paths[name]) for name in ("stdlib", "platstdlib")]

    def run(self) -> None:
        os.environ.clear()
        for name in PRELOADED:
            importlib.import_module(name)
        gc.freeze()
        layers = {"seccomp": self.seccomp, "landlock": self.landlock, "namespaces": self.spaces}
        self._say(layers)
        if not self.seccomp and not self.settings["weak"]:
            return
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.channel, 1 << 16, 8)
            if not message:
                return
            self._say(self._serve(json.loads(message), descriptors))

    def _say(self, value: Mapping[str, Any]) -> None:
        self.channel.sendall(json.dumps(value).encode() + b"\n")

    def _serve(self, limits: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """`descriptors`: the program's job, requests and answers; then, to check, the checker's job, line and verdict."""
        if self.mounts:
            confine.mount_scratch(self.scratch, limits["scratch_mb"])
        children = [self._fork(run_program, descriptors[:3], limits, self.mounts)]
        if len(descriptors) > 3:
            children.append(self._fork(run_check, descriptors[3:], limits, False))
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            last = _wait(children[-1], time.monotonic() + limits["wall_s"])
            others = [_end(child) for child in children[:-1]]
            return {"late": last is None, "ends": [*others, last or _end(children[-1])]}
        finally:
            if self.mounts:
                confine.unmount_scratch(self.scratch)

    def _fork(
        self, work: Callable[..., None], descriptors: list[int], limits: Mapping[str, Any], writable: bool
    ) -> int:
        child = os.fork()
        if child:
            return child
        try:
            self._confine(descriptors, limits, writable)
        except OSError as error:
            os.write(2 + len(descriptors), json.dumps({"unconfined": str(error)}).encode())  # the last is for answers
            os._exit(NOT_CONFINED)
        work(*range(3, 3 + len(descriptors)))
        os._exit(0)

    def _confine(self, descriptors: list[int], limits: Mapping[str, Any], writable: bool) -> None:
        """Descriptors 0-2 lead nowhere, 3 and up are the job's, nothing else is open; then each layer."""
        kept = [os.dup2(d, 100 + i) for i, d in enumerate(descriptors)]
        for standard in range(3):
            os.dup2(self.null, standard)
        os.closerange(3, 100)
        for i, descriptor in enumerate(kept):
            os.dup2(descriptor, 3 + i)
        os.closerange(3 + len(kept), 4096)
        os.chdir(self.scratch)
        _limit_resources(limits)
        if self.seccomp:
            confine.drop_privileges()
            if self.landlock:
                confine.restrict_files(self.readable, self.scratch if writable else None)
            confine.restrict_system_calls(files=self.landlock > 0)
        if limits["audit"]:
            confine.add_audit_hook()


def _limit_resources(limits: Mapping[str, Any]) -> None:
    memory = limits["memory_mb"] << 20
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, limits["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        try:
            resource.setrlimit(name, (value, value))
        except ValueError:  # macOS knows RLIMIT_AS but refuses to set it
            if sys.platform == "linux":
                raise


def _wait(child: int, deadline: float) -> dict[str, Any] | None:
    """How a child ended, or None when the deadline came first. In growing steps: most end within a few milliseconds."""
    step = 0.0003
    while True:
        gone, status, used = os.wait4(child, os.WNOHANG)
        if gone:
            seconds = used.ru_utime + used.ru_stime
            return {"code": os.waitstatus_to_exitcode(status), "cpu_s": seconds, "peak_kb": used.ru_maxrss}
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(step, left))
        step = min(step * 1.5, 0.01)


def _end(child: int) -> dict[str, Any]:
    """Kill a child that was not reaped yet, so that its id is still its own, and say how it ended."""
    os.kill(child, signal.SIGKILL)
    ended = _wait(child, float("inf"))
    assert ended is not None
    return ended


def _line(stream: BufferedWriter, value: Any) -> None:
    _write(stream, json.dumps(value))


def _write(stream: BufferedWriter, text: str) -> None:
    stream.write(text.encode() + b"\n")
    stream.flush()


def run_program(job: int, requests: int, answers: int) -> None:
    """The child that holds the generated program: load it, then answer calls, one line each way."""
    setup = json.loads(os.fdopen(job, "rb").read())
    asked, told = os.fdopen(requests, "rb"), os.fdopen(answers, "wb")
    namespace: dict[str, Any] = {"__name__": "program"}
    random.seed(42)  # a program that draws lots scores the same each time
    try:
        source = program_from(setup["text"], setup["prompt"], setup["entry"])
        exec(compile(source, "<program>", "exec"), namespace)  # noqa: S102 - what all the layers are for
    except BaseException as error:  # noqa: BLE001 - the program may raise anything, KeyboardInterrupt too
        _line(told, {"error": _describe(error)})
        return
    _line(told, {"ready": True})
    for line in asked:
        _write(told, _answer(namespace, json.loads(line)))


def _answer(namespace: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """The answer as JSON, made in here: a number of more than 4300 digits cannot be written, and fails this call alone."""
    try:
        if request["name"] not in namespace:
            return json.dumps({"error": f"NameError: the program defines no {request['name']}"})
        arguments, named = decode(request["args"]), decode(request["kwargs"])
        return json.dumps({"value": encode(namespace[request["name"]](*arguments, **named))})
    except BaseException as error:  # noqa: BLE001 - as above
        return json.dumps({"error": _describe(error)})


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:  # noqa: BLE001 - an exception class of the program's own, whose text raises
        return type(error).__name__


def run_check(job: int, to_program: int, from_program: int, verdict: int) -> None:
    """The child that runs a benchmark's own checking code; calls to the program's functions go down the line."""
    setup = json.loads(os.fdopen(job, "rb").read())
    line = _Line(os.fdopen(from_program, "rb"), os.fdopen(to_program, "wb"))
    told = os.fdopen(verdict, "wb")
    try:
        line.expect_ready()
        namespace: dict[str, Any] = {"__name__": "check", **{name: line.proxy(name) for name in setup["names"]}}
        exec(compile(setup["code"], "<check>", "exec"), namespace)  # noqa: S102 - confined as the program is
    except BaseException as error:  # noqa: BLE001 - a failing assertion is one of many
        _line(told, {"error": _describe(error)})
    else:
        _line(told, {"passed": True})


class _Line:
    """The checker's end of the line to the program."""

    def __init__(self, reader: BufferedReader, writer: BufferedWriter) -> None:
        self.reader, self.writer = reader, writer

    def expect_ready(self) -> None:
        answer = self._read()
        if answer.get("ready") is not True:
            raise RuntimeError(answer.get("error"))

    def _read(self) -> dict[str, Any]:
        line = self.reader.readline(1 << 24)
        if not line.endswith(b"\n"):
            raise RuntimeError("the program stopped before it answered")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise RuntimeError("the program's answer is malformed")
        return answer

    def proxy(self, name: str) -> Callable[..., Any]:
        """A function that calls `name` in the program's process; what comes back is plain data or an exception."""

        def call(*args: Any, **kwargs: Any) -> Any:
            _line(self.writer, {"name": name, "args": encode(list(args)), "kwargs": encode(kwargs)})
            answer = self._read()
            if "value" not in answer:
                raise RuntimeError(f"{name}: {answer.get('error')}")
            return decode(answer["value"])

        return call


def main() -> None:
    Server(socket.socket(fileno=0), json.loads(sys.argv[1])).run()
