"""What zip and tar share: which members are data, and the chunks of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from nexus_core.data.blob import Blob
from nexus_core.data.kinds import reader_key
from nexus_core.data.layouts import dress
from nexus_core.data.records import Chunk, Context, Start
from nexus_core.errors import DataError

HEAD = 1 << 16


def member_chunks(names: Sequence[str], member: Callable[[str], Blob], context: Context) -> Iterator[Chunk]:
    """The chunks of the members that are data, in the order of `names`; the rest is counted."""
    from nexus_core.data.readers import READERS  # the table names the archives' readers, which come here
    from nexus_core.data.walk import Walk

    walk = Walk(
        context.options, context.allow_uncensored, lambda name: member(name).head(HEAD), skipped=context.skipped
    )
    walk.remote(sorted(names))
    if walk.tables:
        context.skipped["transcript table in an archive"] += sum(map(len, walk.tables.values()))
    wanted, present = frozenset(walk.names), frozenset(names)

    def sibling(archive_name: str) -> Blob | None:
        name = archive_name.partition("!")[2]
        return member(name) if name in present else None

    inner = Context(context.options, context.skipped, Start(), context.allow_uncensored)
    for name in names:
        if name in wanted:
            yield from READERS[reader_key(name)](dress(member(name), sibling), inner)


def refuse_doubles(archive: str, names: Sequence[str]) -> None:
    """`DataError` when two members have one name: which of them is meant cannot be known."""
    twice = [name for name, n in Counter(str(PurePosixPath(name)) for name in names).items() if n > 1]
    if twice:
        raise DataError(f"{archive}: two members are called {twice[0]!r}", "repack the files")
