"""Files that clients send to all workers, to be imported by tasks."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from treadle.plugins import WorkerPlugin

__all__ = ["ARCHIVES", "Upload"]

#: What is unpacked.
ARCHIVES: Final = (".zip", ".egg", ".whl")


class Upload(WorkerPlugin):
    """One file, or an archive of some. Each upload has a directory of its own, where modules are looked for first.

    :param filename: without directories.
    """

    def __init__(self, filename: str, content: bytes) -> None:
        self.name = f"upload of {filename}"
        self.filename: Final = filename
        self.content: bytes = content
        self._folder = ""

    def __repr__(self) -> str:
        return f"<Upload of {self.filename}, {len(self.content)} bytes>"

    def setup(self, worker: Any) -> None:
        self._folder = tempfile.mkdtemp(dir=worker.local_directory)
        path = Path(self._folder, self.filename)
        path.write_bytes(self.content)
        self.content = b""
        archive = path.suffix.lower() in ARCHIVES
        if archive:
            with zipfile.ZipFile(path) as packed:
                packed.extractall(self._folder)
            path.unlink()
        sys.path.insert(0, self._folder)
        importlib.invalidate_caches()
        if archive:
            _forget(_modules_in(self._folder))
        elif path.stem in sys.modules:
            importlib.reload(sys.modules[path.stem])

    def teardown(self, worker: Any) -> None:
        if self._folder in sys.path:
            sys.path.remove(self._folder)
        importlib.invalidate_caches()
        shutil.rmtree(self._folder, ignore_errors=True)


def _modules_in(folder: str) -> set[str]:
    """The names of the modules and packages in a directory."""
    return {entry.name.partition(".")[0] for entry in os.scandir(folder)}


def _forget(names: set[str]) -> None:
    """Have these modules, and those within them, imported anew by who imports them next."""
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]
