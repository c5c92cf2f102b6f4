"""A dataset repository: on the hub, or a local folder that is laid out like one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from doratune.data.read.columnar import Columnar, cut
from doratune.errors import DataError, DoratuneError
from doratune.recipe.schema import SourceSection
from doratune.record.files import digest_json, digest_path


@dataclass(frozen=True)
class Repository:
    """One split of a dataset repository, at one commit."""

    section: SourceSection
    commit: str | None
    """Of a hub dataset, so that what is noted is what is read; None for a local folder."""

    @classmethod
    def find(cls, section: SourceSection) -> Repository:
        """Asks the hub for the commit, unless there is a local folder of the name.

        Raises:
            DataError: The hub cannot be reached, or has no such dataset or revision.
        """
        if Path(section.path).is_dir():
            if section.revision is not None:
                raise DataError(
                    f"{section.path} is a local folder, which has no revision "
                    f"{section.revision!r}; leave revision out."
                )
            return cls(section, None)
        from huggingface_hub import HfApi

        with _hub_errors(section):
            found = HfApi().dataset_info(section.path, revision=section.revision, timeout=30)
        return cls(section, found.sha)

    def digest(self) -> str:
        """Of the commit, or of the folder's files, with what is taken of them."""
        content = self.commit or digest_path(Path(self.section.path))
        return digest_json([content, self.section.config, self.section.split])

    def chunks(self, size: int) -> Iterator[Columnar]:
        """Streams the rows.

        Raises:
            DataError: The configuration or split does not exist, or reading fails on the way.
        """
        import datasets

        section = self.section
        name = "/".join(filter(None, [section.path, section.config, section.split]))
        with _hub_errors(section):
            stream = datasets.load_dataset(
                section.path,
                section.config,
                split=section.split,
                revision=self.commit,
                streaming=True,
            )
            tables: Iterator[pa.Table] = stream.with_format("arrow").iter(batch_size=size)
            yield from cut((b for table in tables for b in table.to_batches()), name, size)


@contextmanager
def _hub_errors(section: SourceSection) -> Iterator[None]:
    """Names the dataset in whatever the hub's libraries raise.

    Raises:
        DataError: They raised something.
    """
    try:
        yield
    except DoratuneError:
        raise
    except Exception as error:  # of httpx, fsspec, pyarrow, pandas and others: no common base
        local = Path(section.path).is_dir()
        asked = [
            f"{key} {value!r}"
            for key, value in (
                ("config", section.config),
                ("split", section.split),
                ("revision", section.revision),
            )
            if value is not None
        ]
        remedy = (
            "Its files must be in the layout of a hub dataset."
            if local
            else "Check the name, the network and, for a private dataset, HF_TOKEN; or download it and "
            "name the files."
        )
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"The {'local' if local else 'hub'} dataset {section.path!r} ({', '.join(asked)}) cannot "
            f"be read: {type(error).__name__}: {first}. {remedy}"
        ) from error
