"""Every annotated shape and type of kdlib is checked while the tests run."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

modules = {file.stem for file in (Path(__file__).parents[1] / "kdlib").glob("*.py")}
modules -= {"__init__", "__main__", "runs"}  # runs checks what it is given itself, in words
install_import_hook([f"kdlib.{module}" for module in modules], "beartype.beartype")
