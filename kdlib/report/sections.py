"""Sections that a chapter has only in editions whose studies hold what they show.

In the source of a chapter they stand between two comments of MyST, `% only: pairs` and `% end`:
heading, prose, cells and exercises go together.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kdlib import UsageError, one_of
from kdlib.report import editions, findings

MARKED = re.compile(r"^% only: (\w+)\n(.*?)^% end$\n?", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"^% *(?:only|end)\b.*$", re.MULTILINE)


def _pairs() -> bool:
    return findings.architectures.several(editions.brief("architectures"))


def _erring() -> bool:
    return findings.regimes.Outperformed(editions.brief("regimes")).erring


CONDITIONS: dict[str, Callable[[], bool]] = {
    "pairs": _pairs,  # of teachers and students, more than one
    "erring": _erring,  # teachers with as few labels as their students
}


def kept(source: str) -> str:
    """Return a chapter's source as the edition that is being built has it, without the comments.

    Raises UsageError for a condition that is not in CONDITIONS and a comment that stands alone.
    """

    def choose(match: re.Match[str]) -> str:
        one_of("condition of a section", match[1], CONDITIONS)
        return match[2] if CONDITIONS[match[1]]() else ""

    chosen = MARKED.sub(choose, source)
    if left := MARK.search(chosen):
        raise UsageError(
            f"a section of some editions: {left[0]!r} stands alone; allowed: a line "
            "'% only: NAME', later a line '% end'"
        )
    return chosen
