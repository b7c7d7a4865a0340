"""Methods of a client that add to the workers: plugins, files and packages."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import zipfile
from hashlib import blake2b
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from treadle.client.latch import deadline_of
from treadle.client.logs import Logging
from treadle.errors import NotSerializableError, PluginError, UserError
from treadle.plugins import SchedulerPlugin, WorkerPlugin
from treadle.wire.failures import unpack_error
from treadle.wire.pickling import dump
from treadle.wire.values import brief

__all__ = ["Extending"]

#: Bytes of a plugin or an upload: it travels in one message.
LIMIT: Final = 128 << 20


class Extending(Logging):
    """Plugins, files and packages."""

    def register_plugin(
        self, plugin: WorkerPlugin | SchedulerPlugin, name: str | None = None, timeout: float | None = None
    ) -> Any:
        """Give all workers, present and to come, a plugin; or the scheduler, if it allows that.

        Returns the name of the plugin when it is set up everywhere. Tasks that are submitted later find it set up.

        :param name: another plugin of this name is replaced. Default: the plugin's own, else one that is made of its
            class and its content.
        :param timeout: seconds to wait at most. The plugin is registered all the same.
        :raises PluginError: it raised on a worker. It is registered nowhere then.
        :raises NotSerializableError: it cannot be pickled.
        :raises UserError: the scheduler does not allow plugins of its own.
        :raises concurrent.futures.TimeoutError: not all workers had it in time.
        """
        given: Any = plugin
        if not isinstance(given, (WorkerPlugin, SchedulerPlugin)):
            hint = "; pass an instance of the class, not the class" if isinstance(given, type) else ""
            raise TypeError(f"a plugin must be a treadle.WorkerPlugin or treadle.SchedulerPlugin, not {given!r}{hint}")
        topic = "setup" if isinstance(plugin, WorkerPlugin) else "register_scheduler_plugin"
        return self._face(self._register, topic, plugin, _checked_name(name or plugin.name), deadline_of(timeout))

    async def _register(self, topic: str, plugin: Any, name: str | None, deadline: float | None) -> str:
        try:
            blob = dump(plugin)
        except Exception as error:
            raise NotSerializableError(f"the plugin {plugin!r} cannot be pickled ({brief(error)})") from None
        if name is None:
            name = f"{type(plugin).__name__}-{blake2b(blob, digest_size=8).hexdigest()}"
        if len(blob) > LIMIT:
            raise UserError(f"{name!r} has {len(blob):,} bytes, where at most {LIMIT:,} can be sent to all workers")
        asked, failures = await self.session.ask(topic, [name, blob, bool(plugin.idempotent)], deadline)
        if failures:
            texts = {where: str(error[2]) or str(error[3].get("what", "")) for where, error in failures}
            raise PluginError(name, texts, asked) from unpack_error(tuple(failures[0][1]), name)
        return name

    def unregister_plugin(self, name: str, timeout: float | None = None) -> Any:
        """Take a plugin, or an upload, from all workers or from the scheduler. They do not wait for its ``teardown``.

        :param name: what :meth:`register_plugin` or :meth:`upload_file` returned.
        :param timeout: seconds to wait at most.
        :raises UserError: there is no plugin of this name.
        :raises concurrent.futures.TimeoutError: the scheduler did not answer in time.
        """
        if not isinstance(name, str):
            raise TypeError(f"a plugin is unregistered by its name, which register_plugin returned, not by {name!r}")
        return self._face(self._unregister, name, deadline_of(timeout))

    async def _unregister(self, name: str, deadline: float | None) -> None:
        session = self.session
        if await session.ask("teardown", name, deadline):
            return
        if await session.ask("unregister_scheduler_plugin", name, deadline):
            return
        known = [*await session.ask("setups", None, deadline), *await session.ask("scheduler_plugins", None, deadline)]
        raise UserError(f"there is no plugin {name!r}; there are: {', '.join(map(repr, known)) or 'none'}")

    def upload_file(self, path: str | os.PathLike[str], timeout: float | None = None) -> Any:
        """Have all workers, present and to come, able to import from a file.

        A file of the same name replaces the former one; if its module was imported already, it is reloaded.

        :param path: a module (``.py``), or an archive of modules and packages (``.zip``, ``.egg``, ``.whl``).
        :param timeout: seconds to wait at most.
        :returns: the name by which :meth:`unregister_plugin` takes it back.
        :raises UserError: it is none of these, or there is no such file.
        :raises PluginError: a worker cannot use it.
        :raises concurrent.futures.TimeoutError: not all workers had it in time.
        """
        filename, content = _read(Path(path))
        return self._upload(filename, content, timeout)

    def upload_package(self, package: str | ModuleType, timeout: float | None = None) -> Any:
        """Have all workers able to import a package, or a module, of this process. Otherwise as :meth:`upload_file`.

        :param package: a module, or its name. Its top-level package is sent, with the data files among its sources.
        :raises UserError: there is no such package, or it has no files.
        """
        filename, content = _pack_package(package)
        return self._upload(filename, content, timeout)

    def _upload(self, filename: str, content: bytes, timeout: float | None) -> Any:
        from treadle.worker.uploads import Upload

        upload = Upload(filename, content)
        return self._face(self._register, "setup", upload, upload.name, deadline_of(timeout))


def _checked_name(name: Any) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError(f"the name of a plugin must be a string that is not empty, not {name!r}")
    return name


def _read(path: Path) -> tuple[str, bytes]:
    from treadle.worker.uploads import ARCHIVES

    kind = path.suffix.lower()
    if path.is_dir():
        raise UserError(f"{path} is a directory; send a package with client.upload_package({path.name!r})")
    if kind not in (".py", *ARCHIVES):
        raise UserError(f"{path} is no file that can be imported: its name must end with .py, {', '.join(ARCHIVES)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if kind == ".py":
        if not path.stem.isidentifier():
            raise UserError(f"{path} cannot be imported: {path.stem!r} is no name of a module")
        try:
            ast.parse(content, str(path))
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{path} is no Python source: {error}") from None
    elif not zipfile.is_zipfile(io.BytesIO(content)):
        raise UserError(f"{path} is no zip archive")
    return path.name, content


def _pack_package(package: str | ModuleType) -> tuple[str, bytes]:
    """The top-level package as a zip archive, or the module as it is."""
    given = package.__name__ if isinstance(package, ModuleType) else package
    if not isinstance(given, str):
        raise TypeError(f"a package is given as a module, or by its name, not as {package!r}")
    name = given.partition(".")[0]
    if name in ("treadle", "__main__"):
        raise UserError(f"{name!r} cannot be sent: workers have their own")
    spec = _find(name)
    if spec is None:
        raise UserError(f"there is no package or module {name!r} that could be imported here")
    folders = list(spec.submodule_search_locations or ())
    if not folders:
        if spec.origin is None or not spec.origin.endswith(".py"):
            raise UserError(f"{name!r} has no source: it is {spec.origin or 'made at run time'}")
        return _read(Path(spec.origin))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for folder in map(Path, folders):
            for file in sorted(folder.rglob("*")):
                inner = file.relative_to(folder)
                if file.is_file() and file.suffix != ".pyc" and "__pycache__" not in inner.parts:
                    packed.writestr(str(Path(name, inner)), file.read_bytes())
    return f"{name}.zip", archive.getvalue()


def _find(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
