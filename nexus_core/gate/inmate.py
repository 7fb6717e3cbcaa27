"""The process in which the student answers: `python -I -m nexus_core.gate.inmate JOB PIPE`.

The guard stands before anything of the student is read and before any plugin is loaded.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.gate.guard import Guard, Refused
from nexus_core.gate.job import Alone, Job, Said, Task, Testimony, read_job

if TYPE_CHECKING:
    from nexus_core.student.answer import StudentAnswerer
    from nexus_core.student.files import Student


def main(job_file: str, pipe: int) -> None:
    """Answer every task of the job, or die of what went wrong."""
    job = read_job(Path(job_file))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    opened = {path: _try_to_open(path) for path in job.probes}
    guard = Guard(job.limits, pipe)
    guard.install()
    for path in job.probes:
        _try_to_open(path)
    _try_to_connect()
    guard.tell(ready=True)
    sys.path += [place for place in job.search if place not in sys.path]
    said = _answers(job, guard)
    modules = tuple(sorted({name.partition(".")[0] for name in sys.modules} | set(_own_modules())))
    job.result.write_text(json.dumps(asdict(Testimony(said, opened, modules))), encoding="utf-8")
    guard.tell(done=True)


def _end_with_parent() -> None:
    """The parent holds the other end of stdin until it dies; then nobody waits for an answer."""
    os.read(0, 1)  # not sys.stdin: a thread that waits in it would break the end of the interpreter
    os._exit(71)


def _try_to_open(path: str) -> str:
    """What becomes of an attempt to open it: a directory's content is what counts, so that is asked for."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except Refused:
        return "refused"
    except OSError as error:
        return error.strerror or "error"
    return "opened"


def _try_to_connect() -> None:
    """The guard tells that it was tried; a connection would be seen by nothing having been told."""
    import socket

    try:
        socket.socket().close()
    except Refused:
        return


def _own_modules() -> list[str]:
    return [name for name in sys.modules if name.startswith("nexus_core.")]


def _answers(job: Job, guard: Guard) -> Mapping[str, Said]:
    from nexus_core.gate.subject import load_subject
    from nexus_core.student.answer import StudentAnswerer

    student: Student = load_subject(job.subject)
    student.model.to(job.device).eval()
    said = {}
    for task in job.tasks:
        answerer = StudentAnswerer(student.model, student.tokenizer, task.capability, allow_isolated=True)
        with student.model.using(task.capability, allow_isolated=True):  # chosen once, not for each batch
            said[task.name] = _answer(answerer, task, guard)
    return said


def _answer(answerer: StudentAnswerer, task: Task, guard: Guard) -> Said:
    from nexus_core.evaluation import ask
    from nexus_core.types import Sample

    samples = [Sample(str(index), prompt, "") for index, prompt in enumerate(task.prompts)]
    outputs = ask(answerer, samples, task.options, _progress(task.name, guard))
    truncated = answerer.truncated
    alone = []
    for index in task.alone:
        started = time.perf_counter()
        tokens = answerer.generate_tokens([samples[index]], task.options)
        seconds = time.perf_counter() - started
        alone.append(Alone(index, answerer.decode_tokens(tokens, task.options)[0], len(tokens[0]), seconds))
    return Said(tuple(outputs), truncated, tuple(alone))


def _progress(name: str, guard: Guard) -> Callable[[int, int], None]:
    """A line to the parent whenever five seconds have passed, and the last one."""
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if done == total or time.monotonic() - told >= 5:
            told = time.monotonic()
            guard.tell(task=name, done=done, of=total)

    return progress


if __name__ == "__main__":
    _arguments: list[Any] = sys.argv[1:]
    main(_arguments[0], int(_arguments[1]))
