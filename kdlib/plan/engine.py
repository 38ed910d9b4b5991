"""How papermill runs a notebook here: a mistake is one line, a failure names its notebook.

papermill finds it by the entry point in pyproject.toml, as `papermill --engine kdlib`; without
that option papermill runs notebooks as everywhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import click
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine
from papermill.exceptions import PapermillException, PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from kdlib.plan import stops

# Kernels report nothing about themselves: not their start, not a socket closed at their end.
QUIET = [
    "--IPKernelApp.log_level=50",
    '--IPKernelApp.exec_lines=__import__("logging").getLogger("tornado.general").disabled = True',
]
STARTS = 3  # of a kernel, at most
NOT_BEGUN = "died before replying"  # words of jupyter_client


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


def _unwritable(path: str | None, problem: OSError) -> click.ClickException:
    error = click.ClickException(f"cannot write {path}: {problem.strerror or problem}")
    error.exit_code = 2  # type: ignore[misc]
    return error


class Kernel(AsyncKernelManager):
    """A kernel that notes how it ended."""

    status: ClassVar[int] = 0  # of the last one that ended: its exit status, or -signal

    async def _async_is_alive(self) -> bool:
        status = await self.provisioner.poll() if self.provisioner else 0
        type(self).status = status or self.status
        return status is None

    is_alive = _async_is_alive


def _ended(status: int, out_of_memory: bool) -> str:
    """How a kernel ended that nobody asked to."""
    if status < 0:
        known = {each.value: each.name for each in signal.Signals}  # not those of real time
        name = known.get(-status, f"signal {-status}")
        if name == "SIGKILL" and out_of_memory:
            return "the kernel was killed by the system: out of memory"
        return f"the kernel was killed by {name}; {stops.GOES_ON}"
    return f"the kernel ended by itself (exit status {status})"


def _out_of_memory() -> int:
    """How many processes the system has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text("utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _write_whole() -> None:
    """Let papermill write notebooks whole or not at all: it writes after every cell."""
    handler = papermill_io.get_handler("local")
    handler.write = partial(_write, handler)


def _write(handler: Any, text: str, path: str) -> None:
    file = Path(handler._cwd or "", path).resolve()
    if file.exists() and not file.is_file():  # /dev/null
        LocalHandler.write(handler, text, path)
        return
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's own engine, with quieter kernels and clearer errors."""

    @classmethod
    def execute_notebook(
        cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any
    ) -> Any:
        """Run the notebook; write what ran and raise Stopped if a cell fails."""
        from papermill.execute import raise_for_execution_errors

        if click.get_current_context(silent=True):  # on the command line, not in somebody's program
            stops.end_at_a_signal(str(output_path))
            stops.end_with_the_study(str(output_path))
        if kernel_name not in KernelSpecManager().find_kernel_specs():
            print(f"no kernel {kernel_name!r} here; {NATIVE_KERNEL_NAME} is used", file=sys.stderr)
            kernel_name = NATIVE_KERNEL_NAME
        _write_whole()
        killed = _out_of_memory()
        options["kernel_manager_class"] = Kernel
        options.setdefault("extra_arguments", QUIET)
        options["log_output"] = True  # a notebook's prints and progress bars appear at once
        try:
            nb = cls._execute(nb, kernel_name, output_path, **options)
        except DeadKernelError:
            raise click.ClickException(_ended(Kernel.status, _out_of_memory() > killed)) from None
        except OSError as problem:  # no place left, a folder that cannot be written
            raise _unwritable(output_path, problem) from None
        try:
            raise_for_execution_errors(nb, output_path)
        except PapermillExecutionError as error:
            raise Stopped(error, output_path) from None
        return nb

    @classmethod
    def _execute(cls, *notebook: Any, **options: Any) -> Any:
        """Run the notebook; a kernel that ends before its first cell is started again.

        A kernel listens on ports that were free a moment ago: another may have taken one. One that
        was killed is not started again.
        """
        for start in range(1, STARTS + 1):
            Kernel.status = 0
            try:
                return super().execute_notebook(*notebook, **options)
            except RuntimeError as problem:
                if type(problem) is not RuntimeError or NOT_BEGUN not in str(problem):
                    raise
                if Kernel.status < 0:
                    raise DeadKernelError(str(problem)) from None
            end = f"{_ended(Kernel.status, out_of_memory=False)} before its first cell"
            if start < STARTS:
                print(f"{end}; it is started again", file=sys.stderr)
        raise click.ClickException(f"{end}, {STARTS} times of {STARTS}")
