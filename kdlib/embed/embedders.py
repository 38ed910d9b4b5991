"""The table of embedders: what each is called, who wrote it, and which options it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from kdlib.embed.extras import check_pairs, check_umap, localmap, pacmap, umap
from kdlib.embed.ivis import ENGINES, check_ivis, ivis
from kdlib.embed.tsne import check_tsne, tsne
from kdlib.embed.workers import Progress


def pca(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    *,
    starts: Sequence[Float[np.ndarray, "n 2"]],
    seed: int,
    workers: int,
    progress: Progress,
) -> list[Float32[np.ndarray, "n 2"]]:
    """Project on the two directions of largest variance: the linear control, Pearson 1901.

    Distances are never stretched, only shortened; classes may lie on top of each other.
    """
    return [layer[:, :2] for layer in layers]


class Sized(NamedTuple):
    """An option that the number of images limits."""

    default: int
    most: Callable[[int], int]  # its largest value, by the number of images


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A method that makes maps (n, 2) of prepared layers (n, c), and what is known of it."""

    title: str
    function: Callable[..., list[np.ndarray]]
    package: str  # on PyPI
    check: Callable[..., None] = lambda n: None  # of n images and options; raises UsageError
    options: tuple[str, ...] = ()  # arguments of the function that users may set
    sized: Mapping[str, Sized] = field(default_factory=dict)  # those that few images limit
    uses_start: bool = True  # does it begin at the points it is given?
    uses_seed: bool = True  # does it draw random numbers?
    couples: bool = False  # can it pull maps towards adjacent maps?
    engines: Mapping[str, str] = field(default_factory=dict)  # option `engine` -> its package

    def defaults(self, n: int) -> dict[str, int]:
        """The defaults of the options that n images limit: a perplexity of 30, or n / 4."""
        return {name: min(sized.default, sized.most(n)) for name, sized in self.sized.items()}

    def made_by(self, options: Mapping[str, Any]) -> str:
        """The package that makes the maps, and its version: "openTSNE 1.0.4"."""
        package = self.engines.get(options.get("engine", ""), self.package)
        return f"{package} {version(package)}"


EMBEDDERS = {
    "tsne": Embedder(
        title="t-SNE",
        function=tsne,
        package="openTSNE",
        check=check_tsne,
        options=("perplexity", "early_exaggeration", "iterations"),
        sized={"perplexity": Sized(30, lambda n: n // 4)},
        uses_seed=False,
        couples=True,
    ),
    "ivis": Embedder(
        title="IVIS",
        function=ivis,
        package="torch",
        check=check_ivis,
        options=("engine", "k", "batch", "steps", "rates", "labels", "supervision_weight"),
        sized={"k": Sized(15, lambda n: (n - 1) // 2)},
        uses_start=False,
        engines=ENGINES,
    ),
    "pca": Embedder(title="PCA", function=pca, package="numpy", uses_start=False, uses_seed=False),
    "umap": Embedder(
        title="UMAP",
        function=umap,
        package="umap-learn",
        check=check_umap,
        options=("k", "min_dist"),
        sized={"k": Sized(15, lambda n: n - 1)},
    ),
    "pacmap": Embedder(
        title="PaCMAP",
        function=pacmap,
        package="pacmap",
        check=check_pairs,
        options=("k",),
        sized={"k": Sized(10, lambda n: (n - 1) // 2)},
    ),
    "localmap": Embedder(
        title="LocalMAP",
        function=localmap,
        package="pacmap",
        check=check_pairs,
        options=("k",),
        sized={"k": Sized(10, lambda n: (n - 1) // 2)},
    ),
}
TITLES = {key: embedder.title for key, embedder in EMBEDDERS.items()}
