"""The command line: the app and its one error boundary."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

os.environ.setdefault("TERMINAL_WIDTH", "100")  # read by typer on import; help is the same anywhere

import typer
from typer.core import TyperGroup

from surgeon.errors import SurgeonError
from surgeon.registry import registry
from surgeon_cli import (
    applying,
    compat,
    exporting,
    listing,
    looking,
    reporting,
    resuming,
    studying,
    verifying,
)


class Interrupted(Exception):  # noqa: N818  how a command says it was interrupted
    """Ctrl-C, past every `finally` of the command."""


class _Group(TyperGroup):
    """Surgeon's own commands, and those that plugins register."""

    def list_commands(self, ctx: Any) -> list[str]:
        plugged = [entry.name for entry in registry().all("command")]
        return [*super().list_commands(ctx), *plugged]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        entry = registry().entries["command"].get(cmd_name)
        if own is not None or entry is None:
            return own
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name, help=entry.summary or None)(entry.load())
        return typer.main.get_command(single)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


app = typer.Typer(
    name="surgeon",
    cls=_Group,
    help="Model surgery for vision models, and probes that ask what the operated model knows.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for group in (
    applying, studying, resuming, reporting, looking, compat, listing, exporting, verifying,
):  # fmt: skip
    group.add_to(app)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code.

    0 done, 1 an error said in three lines, 2 wrong usage, 130 interrupted. Anything else that goes
    wrong is a bug and keeps its traceback.
    """
    warnings.filterwarnings("ignore", message="`torch.jit")  # torch's own, on import
    try:
        app(arguments, prog_name="surgeon")
    except SurgeonError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted:
        print("interrupted; every surgery was undone", file=sys.stderr)
        return 130
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


def run() -> None:
    """The console script."""
    sys.exit(main())
