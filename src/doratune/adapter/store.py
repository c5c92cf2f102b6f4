"""Versions of adapters in a folder: added whole, attached to their own base, rolled back."""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from doratune.adapter.config import CONFIG
from doratune.adapter.origin import check_origin, file_digests, read_origin
from doratune.adapter.read import read_adapter
from doratune.adapter.tuned import check_base
from doratune.base import fingerprint
from doratune.errors import AdapterError, StorageError
from doratune.record.adapters import StoredAdapter, StoredVersion, StoreEvent
from doratune.record.evaluation import EvalFile
from doratune.record.files import ORIGIN, replacing
from doratune.record.run_folder import RunFolder, utc_now

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class AdapterStore:
    """A folder with one folder an adapter: its versions ``v1``, ``v2`` ... and ``versions.json``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, name: str, version: int) -> Path:
        """Where a version lies: an ordinary adapter folder."""
        return self.path / name / f"v{version}"

    def adapters(self) -> list[StoredAdapter]:
        """Everything in the store, by name.

        Raises:
            StorageError: A ``versions.json`` cannot be read.
        """
        return [StoredAdapter.read(file) for file in sorted(self.path.glob("*/versions.json"))]

    def adapter(self, name: str) -> StoredAdapter:
        """One adapter.

        Raises:
            AdapterError: The store does not hold it.
        """
        file = self.path / name / "versions.json"
        if not _NAME.fullmatch(name) or not file.is_file():
            held = ", ".join(sorted(each.parent.name for each in self.path.glob("*/versions.json")))
            raise AdapterError(
                f"{self.path} holds no adapter {name!r}; it holds {held or 'none'}. Put it there with "
                "`doratune adapter add`."
            )
        return StoredAdapter.read(file)

    def add(self, source: Path, name: str, parents: list[str]) -> StoredVersion:
        """Copies an adapter in as the next version of ``name``, checked; nothing becomes attached.

        Args:
            source: An adapter folder, or a run folder, whose figures are taken along.
            name: Letters, digits, ``.``, ``_`` and ``-``.
            parents: Versions it was made from, such as ``contracts@2``.

        Raises:
            AdapterError: It is not a complete adapter, has been changed since it was recorded, is
                there already, or a parent is not.
            StorageError: It cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise AdapterError(
                f"An adapter cannot be called {name!r}; expected letters, digits, '.', '_' and '-'."
            )
        run = source if (source / "adapter").is_dir() else None
        folder = source / "adapter" if run else source
        if (folder / CONFIG).exists() or not (folder / ORIGIN).exists():
            weights = read_adapter(folder)
            method: Literal["dora", "lora", "full"] = weights.method
            base = weights.config.get("base_model_name_or_path")
        else:
            method, base = "full", None
        check_origin(folder, None)
        origin = read_origin(folder)
        for parent in parents:
            self.version(*self.parse(parent))
        with self._locked(name) as stored:
            digests = file_digests(folder)
            for version in stored.versions:
                if version.files == digests:
                    raise AdapterError(
                        f"{folder} is in {self.path} already, as {name}@{version.version}."
                    )
            added = StoredVersion(
                version=len(stored.versions) + 1,
                added_at=utc_now(),
                source=str(folder.resolve()),
                files=digests,
                method=method,
                base=origin.base_source if origin else base,
                base_fingerprint=origin.base_fingerprint if origin else None,
                figures={**(origin.figures if origin else {}), **(_figures(run) if run else {})},
                parents=[*(origin.parents if origin else []), *parents],
            )
            with replacing(self.folder(name, added.version)) as copy:
                copy.mkdir()
                for file in sorted(folder.iterdir()):
                    if file.is_file() and file.suffix not in _PICKLES:
                        shutil.copyfile(file, copy / file.name)
                if origin is not None:
                    changed = {"figures": added.figures, "parents": added.parents}
                    origin.model_copy(update=changed).write(copy / ORIGIN)
            stored.versions.append(added)
        return added

    def attach(
        self, name: str, version: int | None, base_path: Path, base: str, force: bool = False
    ) -> StoreEvent:
        """Makes a version the one in use on a base.

        Args:
            name: The adapter.
            version: None for the newest.
            base_path: Folder of the base model.
            base: What the base is called in the record.
            force: Attach although it was trained on another base; the objection is written down.

        Raises:
            AdapterError: The version is not there, has been changed, or was trained on another base.
        """
        self.adapter(name)
        with self._locked(name) as stored:
            chosen = self.version(name, version)
            objection = None
            self._check_unchanged(name, chosen)
            try:
                check_base(base_path, self.folder(name, chosen.version))
            except AdapterError as error:
                if not force:
                    raise
                objection = str(error)
            event = StoreEvent(
                at=utc_now(),
                action="attach",
                version=chosen.version,
                base=base,
                base_fingerprint=fingerprint(base_path),
                forced=objection,
            )
            stored.events.append(event)
        return event

    def detach(self, name: str) -> None:
        """Leaves no version of an adapter in use.

        Raises:
            AdapterError: None is.
        """
        self.adapter(name)
        with self._locked(name) as stored:
            if stored.attached is None:
                raise AdapterError(f"No version of {name} is attached; there is nothing to detach.")
            stored.events.append(StoreEvent(at=utc_now(), action="detach", version=None))

    def rollback(self, name: str) -> StoreEvent:
        """Brings back what was attached before the last `attach` or `detach`.

        Raises:
            AdapterError: Nothing was, or that version has been changed since.
        """
        self.adapter(name)
        with self._locked(name) as stored:
            states: list[StoreEvent] = []
            for event in stored.events:
                if event.action == "rollback":
                    states.pop()
                else:
                    states.append(event)
            if len(states) < 2:
                raise AdapterError(
                    f"Nothing was attached of {name} before what is now; there is no way back. "
                    "Attach a version by name."
                )
            before = states[-2]
            if before.version is not None:
                self._check_unchanged(name, self.version(name, before.version))
            event = before.model_copy(update={"at": utc_now(), "action": "rollback"})
            stored.events.append(event)
        return event

    def version(self, name: str, version: int | None) -> StoredVersion:
        """A version by number; None for the newest.

        Raises:
            AdapterError: The store does not hold it.
        """
        versions = self.adapter(name).versions
        if version is None and versions:
            return versions[-1]
        for each in versions:
            if each.version == version:
                return each
        raise AdapterError(
            f"{self.path} holds no version {version} of {name}; it holds "
            f"{', '.join(str(each.version) for each in versions) or 'none'}."
        )

    @staticmethod
    def parse(text: str) -> tuple[str, int | None]:
        """Name and version of ``contracts``, ``contracts@2`` or ``contracts@v2``.

        Raises:
            AdapterError: It is none of these.
        """
        name, at, version = text.partition("@")
        number = version.removeprefix("v")
        if at and not number.isdecimal():
            raise AdapterError(f"{text!r} names no version; expected such as {name}@2.")
        return name, int(number) if at else None

    def _check_unchanged(self, name: str, version: StoredVersion) -> None:
        folder = self.folder(name, version.version)
        if not folder.is_dir() or file_digests(folder) != version.files:
            raise AdapterError(
                f"{folder} is not what was added to the store on {version.added_at}: a file is "
                "missing or has been changed. Add the original again."
            )

    @contextmanager
    def _locked(self, name: str) -> Iterator[StoredAdapter]:
        """The record of an adapter, written when the body is done, unless it failed."""
        folder = self.path / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("w")
        except OSError as error:
            raise StorageError(f"The store {self.path} cannot be written: {error}.") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = folder / "versions.json"
            stored = StoredAdapter.read(file) if file.exists() else StoredAdapter(name=name)
            yield stored
            stored.write(file)


def _figures(run: Path) -> dict[str, float]:
    figures = {}
    for file in RunFolder(run).eval_files():
        evaluation = EvalFile.read(file)
        for metric, interval in evaluation.tuned.metrics.items():
            figures[f"{evaluation.task}.{metric}"] = interval.value
    return figures
