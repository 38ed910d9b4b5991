"""How papermill runs a notebook here: a mistake is one line, a failure names its notebook.

papermill finds it by the entry point in pyproject.toml, as `papermill --engine kdlib`; without
that option papermill runs notebooks as everywhere.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

import click
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine
from papermill.exceptions import PapermillException, PapermillExecutionError

# Kernels report nothing about themselves: not their start, not a socket closed at their end.
QUIET = [
    "--IPKernelApp.log_level=50",
    '--IPKernelApp.exec_lines=__import__("logging").getLogger("tornado.general").disabled = True',
]


class Stopped(click.ClickException, PapermillException):  # type: ignore[misc]
    """A notebook did not finish; on the command line without the frames of papermill itself."""

    def __init__(self, error: PapermillExecutionError, executed: str | None):
        mistake = error.ename == "UsageError"
        where = f"; see {executed}" if executed else ""
        message = error.evalue if mistake else f"{error.ename} in cell {error.exec_count}{where}"
        super().__init__(message)
        self.exit_code = 2 if mistake else 1  # type: ignore[misc]
        self.traceback = [] if mistake else error.traceback

    def show(self, file: Any = None) -> None:
        """Print what went wrong: one line for a mistake, before it the cell's own traceback."""
        if self.traceback:
            click.echo("\n".join(self.traceback), file=file or sys.stderr)
        super().show(file)


def _end_with_the_study() -> None:
    """Interrupt this notebook when the study that started it is gone: a kill reaches no child."""
    study = os.environ.get("KDLIB_STUDY_PROCESS", "")

    def watch() -> None:
        while _runs(int(study)):
            time.sleep(2)
        os.kill(os.getpid(), signal.SIGINT)

    if study.isdigit() and os.name == "posix" and _runs(int(study)):  # not on a cluster's node
        threading.Thread(target=watch, daemon=True).start()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _unwritable(path: str | None, problem: OSError) -> click.ClickException:
    error = click.ClickException(f"cannot write {path}: {problem.strerror or problem}")
    error.exit_code = 2  # type: ignore[misc]
    return error


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's own engine, with quieter kernels and clearer errors."""

    @classmethod
    def execute_notebook(
        cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any
    ) -> Any:
        """Run the notebook; write what ran and raise Stopped if a cell fails."""
        from papermill.execute import raise_for_execution_errors

        _end_with_the_study()
        if kernel_name not in KernelSpecManager().find_kernel_specs():
            kernel_name = NATIVE_KERNEL_NAME  # saved elsewhere, by a kernel that is not here
        options.setdefault("extra_arguments", QUIET)
        options["log_output"] = True  # a notebook's prints and progress bars appear at once
        try:
            nb = super().execute_notebook(nb, kernel_name, output_path, **options)
        except DeadKernelError:
            raise click.ClickException("the kernel died; out of memory?") from None
        except OSError as problem:  # no place left, a folder that cannot be written
            raise _unwritable(output_path, problem) from None
        try:
            raise_for_execution_errors(nb, output_path)
        except PapermillExecutionError as error:
            raise Stopped(error, output_path) from None
        return nb
