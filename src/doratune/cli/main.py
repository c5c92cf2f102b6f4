"""The `doratune` command."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import warnings
from types import FrameType

import typer
from rich.console import Console

from doratune import __version__
from doratune.cli.adapter import adapter
from doratune.cli.check import check
from doratune.cli.compare import compare
from doratune.cli.data import data
from doratune.cli.export import export
from doratune.cli.init import init
from doratune.cli.inspect import inspect
from doratune.cli.quickstart import quickstart
from doratune.cli.review import review
from doratune.cli.run import run
from doratune.cli.stages import (
    benchmarks,
    completions,
    evaluate,
    latency,
    merge,
    report,
    train,
)
from doratune.cli.verify import verify
from doratune.errors import DoratuneError, StorageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DoRA fine-tuning: fast, measured, and the magnitude never lost.",
    epilog="Exit codes: 0 success, 1 unexpected, 2 recipe or option, 3 data, 4 verification failed, "
    "5 missing package, 6 adapter, 7 model, 8 storage, 130 interrupted.",
)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Show the version.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command()(quickstart)
app.command()(init)
app.command()(run)
app.command()(check)
app.add_typer(data, name="data")
app.add_typer(review, name="review")
app.command()(train)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(benchmarks)
app.command()(completions)
app.command()(merge)
app.command()(verify)
app.command()(export)
app.command()(latency)
app.command()(report)
app.command()(inspect)
app.add_typer(adapter, name="adapter")


def main() -> None:
    """Runs the command line: one message and a documented exit code for everything expected."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # TRL 1.16 and PEFT 0.21 use names that transformers 5.23 has deprecated; a user can do nothing.
    warnings.filterwarnings("ignore", category=FutureWarning)
    # Importing PEFT imports torchao and bitsandbytes, where they are installed, which complain about
    # libraries for GPUs and for inference.
    for noisy in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except DoratuneError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _fail(f"{error}. Free some space and run the same command again.", StorageError.exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, or a moment later where Python would drop it: in a destructor.

    A garbage collection calls them by the thousand, such as those of the package regex.
    """
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _fail(message: str, exit_code: int) -> None:
    console = Console(stderr=True, soft_wrap=True)
    console.print("[bold red]Error:[/] ", end="")
    console.print(message, markup=False, highlight=False)
    sys.exit(exit_code)
