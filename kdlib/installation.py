"""Is everything that kdlib needs there, and does it work? `python -m kdlib check`."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import packages_distributions, version


def check() -> int:
    """Print, in one screen, whether everything that kdlib needs is there and works."""
    lines = [("python", _python), ("torch", _torch), ("device", _device), ("threads", _threads)]
    lines += [("torchvision", _torchvision), ("ivis", _ivis), ("openTSNE", _version("openTSNE"))]
    lines += [("papermill", _papermill), ("snakemake", _version("snakemake"))]
    lines += [("jupyter-book", _version("jupyter_book")), ("browser", _browser), ("disk", _disk)]
    bad = 0
    for name, ask in lines:
        try:
            mark, line = "ok ", ask()
        except Exception as problem:  # whatever it is: it is what this command reports
            mark, line = "BAD", f"{type(problem).__name__}: {problem}".splitlines()[0]
            bad += 1
        print(f"{mark}  {name:<13}{textwrap.shorten(line, 80)}", flush=True)
    print("the installation is sound" if not bad else f"{bad} of {len(lines)} are not sound")
    return 1 if bad else 0


def _version(module: str) -> Callable[[], str]:
    def ask() -> str:
        name = import_module(module).__name__
        return version(packages_distributions()[name][0])

    return ask


def _python() -> str:
    if not (3, 11) <= sys.version_info < (3, 14):
        raise RuntimeError(f"{sys.version.split()[0]}; TensorFlow 2.21 wants 3.11 to 3.13")
    return f"{sys.version.split()[0]} in {sys.prefix}"


def _torch() -> str:
    import torch

    torch.ones(2, 2).matmul(torch.ones(2, 2))
    return torch.__version__


def _device() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(gpus) or "cpu (torch sees no GPU)"


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} for torch, {os.cpu_count()} cores"


def _torchvision() -> str:
    from kdlib.vision import torchvision

    torchvision.models.resnet18(weights=None)
    return f"{torchvision.__version__}; resnet18 builds"


def _ivis() -> str:
    import numpy as np

    from kdlib import embed

    points = np.random.default_rng(0).normal(size=(64, 4))
    embed.embed(points, "ivis", steps=2)
    return f"{version('ivis')} with TensorFlow {version('tensorflow')}; embeds"


def _papermill() -> str:
    from papermill.engines import papermill_engines

    papermill_engines.register_entry_points()
    if papermill_engines.get_engine("kdlib").__module__ != "kdlib.plan.engine":
        raise RuntimeError("papermill does not know kdlib's engine: pip install -e . again")
    return f"{_version('papermill')()} with kdlib's engine"


def _browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    return path or "none found; the tests of the book are skipped"


def _disk() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 1:
        raise RuntimeError(f"{free:.1f} GiB free here")
    return f"{free:.0f} GiB free here"
