"""A results folder as one HTML file that can be sent by mail."""

from __future__ import annotations

from pathlib import Path

from kdlib import store
from kdlib.report import explorer


def save(results_folder: Path, path: Path) -> None:
    """Write the explorer, the curves and the numbers of a results folder as one HTML file.

    See `explorer.Explorer.save`. Raises UsageError where the folder holds no results or no maps.
    """
    explorer.show(store.load(results_folder)).save(path)
