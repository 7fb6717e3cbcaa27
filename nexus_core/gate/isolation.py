"""The teachers out of reach, for as long as the student is asked, and back afterwards whatever happens.

<run>/.gate_moved.json is written before the first directory is renamed and removed after the last is back, so whoever finds
it knows that a gate was killed. `restore` puts back what it names; so does any command that misses a teacher (see
`nexus_core.registry.hiding`).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nexus_core.atomic import sync_directory, write_atomic
from nexus_core.errors import StateError, UsageError
from nexus_core.registry.hiding import gate_lock, hidden_name, put_back

JOURNAL = ".gate_moved.json"
_BUSY = "wait until it has ended; two of them cannot hide one teacher"
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def out_of_reach(run: Path, teachers: Mapping[str, Path], keep: Path) -> Iterator[None]:
    """Inside, none of `teachers` (by id) is at its place. `keep` is what must stay: the subject.

    A directory that cannot be moved is an error: then there is no verdict, rather than one that means nothing.
    """
    for name, path in teachers.items():
        _refuse_to_move(name, path.resolve(), keep)
    places = _outermost({path.resolve() for path in teachers.values()})
    with ExitStack() as held:
        for place in places:
            _hold(held, place)
        token = secrets.token_hex(16)
        moves = {place: hidden_name(place, token) for place in places}
        _write_journal(run, moves)
        with _ended_by_signals():
            try:
                for place, hidden in moves.items():
                    _move(place, hidden)
                yield
                _check_away(moves)
            finally:
                with _undisturbed():
                    _all_back(run, moves)


def restore(run: Path) -> list[Path]:
    """Put back what a gate of this run left hidden when it was killed; the places that are whole again."""
    path = run / JOURNAL
    try:
        raw = json.loads(path.read_bytes())
        moves = {Path(place): Path(hidden) for place, hidden in raw["moved"].items()}
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StateError(
            f"{path} cannot be read ({error})", "look beside each teacher for a hidden directory, then delete the file"
        ) from error
    with ExitStack() as held:
        for place in moves:
            _hold(held, place)
        back = [place for place, hidden in moves.items() if hidden.exists()]
        _all_back(run, moves)
    return back


def _refuse_to_move(name: str, place: Path, keep: Path) -> None:
    needed = {"the student": keep.resolve(), "Python": Path(sys.prefix).resolve()}
    needed["Nexus"] = Path(__file__).resolve().parents[1]
    needed["Python's library"] = Path(sysconfig.get_path("stdlib")).resolve()
    for what, path in needed.items():
        if path.is_relative_to(place):
            raise UsageError(
                f"the teacher {name} in {place} cannot be taken away: {what} lies in it",
                "move one of the two elsewhere",
            )


def _outermost(places: set[Path]) -> list[Path]:
    """A teacher that lies in another one's directory goes with it."""
    return sorted(p for p in places if not any(p != other and p.is_relative_to(other) for other in places))


def _hold(held: ExitStack, place: Path) -> None:
    try:
        held.enter_context(gate_lock(place))
    except BlockingIOError:
        raise StateError(f"another `nexus verify` has taken {place} out of reach", _BUSY) from None
    except OSError as error:
        raise StateError(f"{place} cannot be locked ({error.strerror})", "a teacher must be readable") from error


def _write_journal(run: Path, moves: Mapping[Path, Path]) -> None:
    if (run / JOURNAL).exists():
        raise StateError(f"{run / JOURNAL} is there: a gate was killed, or is at work", "run `nexus verify` again")
    content = {"process": os.getpid(), "moved": {str(place): str(hidden) for place, hidden in moves.items()}}
    write_atomic(run / JOURNAL, (json.dumps(content, indent=1) + "\n").encode())


def _move(place: Path, hidden: Path) -> None:
    try:
        place.rename(hidden)
        sync_directory(place.parent)
    except OSError as error:
        raise StateError(
            f"{place} cannot be moved out of reach ({error.strerror}), so there is no verdict",
            "the directory around it must be writable, and it may be no mount point of its own",
        ) from error


def _check_away(moves: Mapping[Path, Path]) -> None:
    """The lock keeps commands of this user from a hidden teacher; not everybody has to ask for it."""
    for place in moves:
        if os.path.lexists(place):
            raise StateError(
                f"{place} was there again before the student had answered, so there is no verdict",
                "run it again while nothing else uses that teacher",
            )


def _all_back(run: Path, moves: Mapping[Path, Path]) -> None:
    """Each that was moved, also when one of them cannot be put back; then the journal stays."""
    failed: list[StateError] = []
    for place, hidden in moves.items():
        if not hidden.exists():
            continue
        try:
            put_back(hidden, place)
            sync_directory(place.parent)
        except StateError as error:
            failed.append(error)
        except OSError as error:
            failed.append(
                StateError(f"{place} cannot be put back from {hidden} ({error.strerror})", "rename it by hand")
            )
    if failed:
        raise failed[0]
    (run / JOURNAL).unlink(missing_ok=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """What ends a process at once ends it here by an exception, so that `finally` has its turn."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    with _handlers(end, ENDING):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The second Ctrl-C of somebody impatient must not leave a teacher hidden."""
    with _handlers(lambda number, frame: None, (*ENDING, signal.SIGINT)):
        yield


@contextmanager
def _handlers(handler: Callable[[int, Any], None], numbers: tuple[int, ...]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals, and only it may set handlers
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
