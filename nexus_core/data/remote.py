"""Files behind URLs, through fsspec."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from nexus_core.data.blob import Blob
from nexus_core.data.fileset import FileSet, single, walked
from nexus_core.data.layouts import Transcripts, dress
from nexus_core.data.optional import need
from nexus_core.data.records import LoaderOptions
from nexus_core.data.uncensored import lies_in_uncensored, uncensored_error
from nexus_core.data.walk import HEAD_BYTES, Walk
from nexus_core.errors import DataError

# The roots of the errors of those network libraries that do not derive them from OSError.
NETWORK = {"aiohttp": "ClientError", "httpx": "HTTPError", "httpx2": "HTTPError", "requests": "RequestException"}


def remote(url: str, options: LoaderOptions, allow_uncensored: bool) -> FileSet:
    """The file or the folder at `url`, by the same rules as local ones."""
    if not allow_uncensored and lies_in_uncensored([part for part in url.split("/") if part], 2):
        raise uncensored_error(url)
    with _reachable(url):
        place = _Place(url)
        if place.filesystem.isfile(place.root):
            return single(place.blob(place.root), options, lambda _: None)
        walk = Walk(options, allow_uncensored, lambda name: place.head(place.base + name))
        walk.remote([path.removeprefix(place.base) for path in sorted(place.filesystem.find(place.root))])
    transcripts = Transcripts(walk.tables, lambda name: place.blob(place.base + name), place.shown(place.base))

    def sibling(name: str) -> Blob | None:
        path = place.base + name.removeprefix(place.shown(place.base))
        return place.blob(path) if place.filesystem.isfile(path) else None

    return walked(url, walk, lambda name: dress(place.blob(place.base + name), sibling, transcripts))


class _Place:
    """A URL's file system, and the path in it."""

    def __init__(self, url: str) -> None:
        self._protocol = url.split("://", 1)[0]
        self.filesystem, self.root = _filesystem(url, self._protocol)
        self.base = self.root.rstrip("/") + "/"

    def shown(self, path: str) -> str:
        """`path` as a URL."""
        return f"{self._protocol}://{path.lstrip('/')}"

    def head(self, path: str) -> bytes:
        """The first bytes of a file."""
        return bytes(self.filesystem.cat_file(path, start=0, end=HEAD_BYTES))

    def blob(self, path: str) -> Blob:
        """The file at `path`."""

        def opener() -> BinaryIO:
            with _reachable(self.shown(path)):
                return cast(BinaryIO, self.filesystem.open(path, "rb"))

        with _reachable(self.shown(path)):
            size = self.filesystem.size(path)
        return Blob(self.shown(path), opener, -1 if size is None else int(size))


def _filesystem(url: str, protocol: str) -> tuple[Any, str]:
    fsspec = need("fsspec", "read URLs")
    try:
        filesystem, root = fsspec.url_to_fs(url)
    except ImportError as error:
        package = "huggingface_hub" if protocol == "hf" else f'"fsspec[{protocol}]"'
        raise DataError(f"{url}: {protocol}:// needs another library: {error}", f"pip install {package}") from None
    except ValueError as error:
        raise DataError(f"{url}: {error}", "use a path, or a URL such as file://, memory:// or hf://") from None
    return filesystem, str(root)


@contextmanager
def _reachable(url: str) -> Iterator[None]:
    try:
        yield
    except _network_errors() as error:
        raise DataError(
            f"{url}: cannot be reached: {' '.join(str(error).split())}",
            "check the URL, the network and your login; or fetch the data first and pass the folder",
        ) from None


def _network_errors() -> tuple[type[Exception], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in NETWORK.items())
    return (OSError, *(getattr(module, name) for module, name in loaded if hasattr(module, name)))
