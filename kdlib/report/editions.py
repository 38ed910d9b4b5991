"""One edition of the book: its chapters, how they are built, and its links to the other editions.

The table of editions is in `kdlib.plan.editions`. Which one is built, and which study this machine
has just computed, stand in KDLIB_STUDY and KDLIB_COMPUTED, which kernels inherit.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import yaml

from kdlib import UsageError, store
from kdlib.plan import editions
from kdlib.plan.editions import Edition

BOOK = "book"
CHAPTERS = (  # what reads the studies of an edition, and the page of what is cited there
    *("index", "summary", "distillation", "labels", "layers", "measures", "controls", "verdicts"),
    *("methods", "architectures", "regimes", "misreading", "training", "status", "references"),
)
LEAD_ONLY = (  # the pages that are the same for all data sets
    *("logits", "features", "relations", "schemes"),
    *("again", "look", "notation", "log", "reference"),
)
EXECUTED = f"{BOOK}/executed/"  # notebooks of the study just computed: in its edition
HTML = Path("_build/html")
Role = Literal["main", "regimes", "capacity", "architectures", "methods"]


def current() -> Edition:
    """Return the edition whose pages are being built: that of the study in KDLIB_STUDY."""
    return editions.of_study(os.environ.get("KDLIB_STUDY", "quick"))


def computed() -> str:
    """Return the study that was just computed on this machine; empty where none was."""
    return os.environ.get("KDLIB_COMPUTED", "")


def others(results: Path = editions.RESULTS) -> list[Edition]:
    """List the editions that there are, the leading one first."""
    return editions.existing(computed(), results)


def folder(edition: Edition, every: list[Edition]) -> str:
    """Return the folder of an edition's pages below the book's: empty for the leading one."""
    return "" if edition == every[0] else edition.key


def brief(role: Role) -> store.Results:
    """Read the runs of the study that this edition has for a role.

    Empty tables where it has none, or where that was not published.
    """
    return store.brief(getattr(current(), role))


# ---- the pages ---------------------------------------------------------------------------------


def is_chapter(page: str) -> bool:
    """Whether every edition has this page, "book/labels" for example."""
    return page.removeprefix(f"{BOOK}/") in CHAPTERS


def contents(whole: dict[str, Any], *, lead: bool, own: bool) -> dict[str, Any]:
    """Select from the table of contents the pages of one edition.

    The leading one has them all, but for executed notebooks: the edition of the study just
    computed has those (`own`). An entry that is left out takes its sections along.
    """

    def keeps(entry: dict[str, Any]) -> bool:
        page = entry.get("file") or entry["glob"]
        if page.startswith(EXECUTED):
            return own
        return lead or is_chapter(page)

    def select(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        chosen = []
        for entry in filter(keeps, entries):
            sections = select(entry.get("sections", []))
            rest = {key: value for key, value in entry.items() if key != "sections"}
            chosen.append(rest | ({"sections": sections} if sections else {}))
        return chosen

    parts = [part | {"chapters": select(part["chapters"])} for part in whole["parts"]]
    return whole | {"parts": [part for part in parts if part["chapters"]]}


def build(key: str, just_computed: str) -> int:
    """Build the pages of one edition below _build/html; `just_computed` names a study.

    Returns the exit status of Sphinx: warnings are errors. Raises UsageError for an edition that
    there is not.
    """
    every = editions.existing(just_computed)
    chosen = next((edition for edition in every if edition.key == key), None)
    if chosen is None:
        keys = ", ".join(edition.key for edition in every)
        raise UsageError(f"unknown edition {key!r}; one of: {keys or 'none'}")
    os.environ |= {"KDLIB_STUDY": chosen.main, "KDLIB_COMPUTED": just_computed}
    lead, own = chosen == every[0], chosen.main == just_computed
    results = editions.RESULTS / chosen.main
    if own:
        shutil.rmtree(EXECUTED, ignore_errors=True)
        Path(EXECUTED).mkdir(parents=True)
        for notebook in (results / "executed").glob("*.ipynb"):  # one of each kind
            shutil.copy(notebook, EXECUTED)
    whole = yaml.safe_load(Path("_toc.yml").read_text("utf-8"))
    place = Path("_build/editions") / key
    place.mkdir(parents=True, exist_ok=True)
    toc = place / "_toc.yml"
    toc.write_text(yaml.safe_dump(contents(whole, lead=lead, own=own), sort_keys=False), "utf-8")
    pages = HTML / folder(chosen, every)
    made = pages if lead else place / "html"  # beside which Sphinx leaves more than pages
    status = _sphinx(toc, made, place / "doctrees")
    if status:  # what Sphinx has warned of it says once: the next build reads every page again
        (place / "doctrees/environment.pickle").unlink(missing_ok=True)
    if not lead:
        shutil.rmtree(pages, ignore_errors=True)
        shutil.copytree(made, pages)
    shutil.rmtree(pages / "results", ignore_errors=True)
    shutil.copytree(results, pages / "results")
    return status


def _sphinx(toc: Path, pages: Path, doctrees: Path) -> int:
    """Run Jupyter Book as its command line does, into a folder of our choice."""
    from jupyter_book.sphinx import build_sphinx

    settings = {
        "external_toc_path": str(toc.absolute()),
        "latex_individualpages": False,
        "nitpicky": True,
    }
    result = build_sphinx(
        Path.cwd(),
        pages,
        doctreedir=doctrees,
        noconfig=True,
        path_config=Path("_config.yml"),
        confoverrides=settings,
        warningiserror=True,
        keep_going=True,
    )
    return result if isinstance(result, int) else 1


# ---- links between editions --------------------------------------------------------------------


def switch(page: str, every: list[Edition]) -> list[dict[str, Any]]:
    """List the entries of the switch on a page, "book/labels" for example.

    Each has title, words, href (the same page in that edition, or its first), whether it is the
    current one, and whether it was computed here. Empty where there is one edition only.
    """
    own = current()
    if len(every) < 2 or own not in every:
        return []
    target = page if is_chapter(page) else f"{BOOK}/index"
    return [
        {
            "title": edition.title,
            "words": edition.words,
            "href": "#" if edition == own else address(target, edition, every, page),
            "current": edition == own,
            "computed": edition.main == computed(),
        }
        for edition in every
    ]


def address(page: str, edition: Edition, every: list[Edition], here: str = f"{BOOK}/index") -> str:
    """Return the address of a page of another edition, for a link on the page `here`."""
    up = "../" * (here.count("/") + bool(folder(current(), every)))
    return f"{up}{_slash(folder(edition, every))}{page}.html"


def _slash(name: str) -> str:
    return f"{name}/" if name else ""


def title(page: Path) -> str:
    """Read the title of a page from its source."""
    return next(
        line[2:].strip() for line in page.read_text("utf-8").splitlines() if line[:2] == "# "
    )


def lead_pages(page: str, sources: Path) -> list[tuple[str, str]]:
    """List what a page of a smaller edition may miss: title and link of the leading one's pages."""
    up = "../" * (page.count("/") + 1)
    names = [name for name in LEAD_ONLY if (sources / f"{name}.md").is_file()]
    return [(title(sources / f"{name}.md"), f"{up}{BOOK}/{name}.html") for name in names]


def labelled(label: str, folder: Path) -> tuple[Path, str] | None:
    """Find the page of a label, "(label)=", and the heading below it, among sources."""
    for page in sorted(folder.glob("*.md")):
        found = re.search(rf"^\({re.escape(label)}\)=\n#+ (.*)$", page.read_text("utf-8"), re.M)
        if found:
            return page, found[1]
    return None
