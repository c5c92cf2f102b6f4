from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from doratune.data.read import Row, open_source
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from tests.data.read.hub_server import COMMIT, hub
from tests.data.read.sources import read

CARD = """---
configs:
- config_name: en
  data_files:
  - {split: train, path: en/train.jsonl}
  - {split: test, path: en/test.jsonl}
- config_name: de
  data_files: de.jsonl
---
"""

SCRIPT = """
import json, sys
from pathlib import Path
from doratune.data.read import open_source
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
for section in json.loads(sys.argv[1]):
    try:
        source = open_source(SourceSection(**section), Path())
        rows = [[r.content, r.place] for chunk in source.chunks(2) for r in chunk.rows()]
        print(json.dumps([source.kind, source.digest(), rows]))
    except DataError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small dataset repository."""
    folder = tmp_path / "name"
    (folder / "en").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    lines = [json.dumps({"text": f"t{n}", "label": "x"}) + "\n" for n in range(5)]
    (folder / "en" / "train.jsonl").write_text("".join(lines))
    (folder / "en" / "test.jsonl").write_text(lines[0])
    (folder / "de.jsonl").write_text('{"text": "ä", "label": "y"}\n')
    return folder


def test_a_folder_is_read_as_a_dataset_repository(repository: Path) -> None:
    rows = read(repository, size=2, config="en")
    assert rows == [
        Row({"text": f"t{n}", "label": "x"}, f"{repository}/en/train:row {n + 1}") for n in range(5)
    ]
    assert len(read(repository, config="en", split="test")) == 1
    assert read(repository, config="de") == [
        Row({"text": "ä", "label": "y"}, f"{repository}/de/train:row 1")
    ]


def test_a_folder_wins_over_a_hub_dataset_of_its_name(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.parent.parent)
    name = f"{repository.parent.name}/{repository.name}"
    assert len(read(name, config="en")) == 5


def test_the_digest_is_of_what_is_taken(repository: Path, tmp_path: Path) -> None:
    def digest(**words: Any) -> str:
        return open_source(SourceSection(path=str(repository), **words), tmp_path).digest()

    assert digest(config="en") == digest(config="en")
    assert len({digest(), digest(config="en"), digest(config="en", split="test")}) == 3
    before = digest()
    (repository / "de.jsonl").write_text('{"text": "ü", "label": "y"}\n')
    assert digest() != before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            {"config": "fr"},
            r"\(config 'fr', split 'train'\) cannot be read: .*BuilderConfig 'fr' not",
        ),
        (
            {"config": "en", "split": "dev"},
            r"Bad split: dev\. Available splits: \['train', 'test'\]",
        ),
        (
            {"revision": "main"},
            r"is a local folder, which has no revision 'main'; leave revision out",
        ),
    ],
)
def test_refuses_what_a_folder_lacks(
    repository: Path, words: dict[str, str], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        read(repository, **words)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"The local dataset .*empty.* in the layout of a hub dataset"
    ):
        read(tmp_path / "empty")


def test_without_a_network_the_dataset_is_named() -> None:
    with pytest.raises(
        DataError,
        match=r"The hub dataset 'org/name' \(split 'train'\) cannot be read: .*offline mode is enabled"
        r".*Check the name, the network",
    ):
        read("org/name")


def test_reads_a_hub_dataset_through_the_hubs_own_client(repository: Path, tmp_path: Path) -> None:
    """Against a server on this machine that speaks the hub's interface."""
    sections = [
        {"path": "org/name", "config": "en"},
        {"path": "org/name", "config": "de", "revision": COMMIT},
        {"path": "org/name", "config": "en", "split": "dev"},
        {"path": "org/name", "config": "en", "revision": "v2"},
        {"path": "org/other"},
    ]
    with hub("org/name", repository) as endpoint:
        train, german, no_split, no_revision, no_dataset = _in_process(sections, endpoint, tmp_path)
    assert train[0] == "hub"
    assert train[2] == [
        [{"text": f"t{n}", "label": "x"}, f"org/name/en/train:row {n + 1}"] for n in range(5)
    ]
    assert german[2] == [[{"text": "ä", "label": "y"}, "org/name/de/train:row 1"]]
    assert train[1] != german[1]
    assert "Bad split: dev. Available splits: ['train', 'test']" in no_split
    assert (
        "(config 'en', split 'train', revision 'v2') cannot be read: RevisionNotFound"
        in no_revision
    )
    assert "The hub dataset 'org/other' (split 'train') cannot be read: Repository" in no_dataset
    (unreachable,) = _in_process(sections[:1], "http://127.0.0.1:9", tmp_path)
    assert "The hub dataset 'org/name' (config 'en', split 'train') cannot be read: " in unreachable
    assert "Connection refused" in unreachable


def _in_process(sections: list[dict[str, str]], endpoint: str, folder: Path) -> list[Any]:
    """What a process of its own makes of the sources: the endpoint is read when the hub is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(sections)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
