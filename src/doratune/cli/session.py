"""One reviewer's way through a sample; the terminal is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from doratune.record.review import ReviewItem, ReviewVerdict
from doratune.record.run_folder import utc_now

Verdict = Literal["accept", "reject"]


class Session:
    """What a reviewer has said of which examples. Whatever changes is on the disk at once."""

    def __init__(self, items: list[ReviewItem], path: Path, reviewer: str) -> None:
        self.path, self.reviewer = path, reviewer
        self.items = {item.id: item for item in items}
        self.notes: dict[str, str] = {}
        self.verdicts: dict[str, Verdict] = {}
        """The reviewer's own, in the order in which they were given."""
        for line in ReviewVerdict.read_lines(path):
            if line.reviewer == reviewer and line.id in self.items:
                self._take(line)
        self.waiting = [id for id in self.items if id not in self.verdicts]
        """The first of them is shown."""

    @property
    def current(self) -> ReviewItem | None:
        """The example on the screen; None when all are judged."""
        return self.items[self.waiting[0]] if self.waiting else None

    def judge(self, verdict: Verdict) -> None:
        """Gives a verdict on the current example, and goes on to the next."""
        self._write(self.waiting.pop(0), verdict)

    def note(self, text: str) -> None:
        """Puts a note on the current example, which stays."""
        id = self.waiting[0]
        self.notes[id] = text
        self._write(id, None)

    def skip(self) -> None:
        """Leaves the current example for the end."""
        self.waiting.append(self.waiting.pop(0))

    def undo(self) -> bool:
        """Takes the last verdict back and shows its example again; False where there is none."""
        if not self.verdicts:
            return False
        id, _ = self.verdicts.popitem()
        self.waiting.insert(0, id)
        self._write(id, None)
        return True

    def _write(self, id: str, verdict: Verdict | None) -> None:
        line = ReviewVerdict(
            id=id,
            verdict=verdict,
            note=self.notes.get(id, ""),
            reviewer=self.reviewer,
            given_at=utc_now(),
        )
        line.append_to(self.path)
        self._take(line)

    def _take(self, line: ReviewVerdict) -> None:
        self.verdicts.pop(line.id, None)
        self.notes[line.id] = line.note
        if line.verdict is not None:
            self.verdicts[line.id] = line.verdict
