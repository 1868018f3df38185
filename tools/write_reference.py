"""Write the generated pages of the docs: the command line, the specs, the packaged models.

python tools/write_reference.py            # write them
python tools/write_reference.py --check    # exit 1 if they are not up to date
"""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

os.environ["TERMINAL_WIDTH"] = os.environ["COLUMNS"] = "100"

from typer.testing import CliRunner

from surgeon import hookspecs
from surgeon_cli.app import app
from surgeon_models.architectures import ARCHITECTURES
from surgeon_models.packaged_source import card

DOCS = Path(__file__).resolve().parent.parent / "docs" / "reference"
COMMANDS = [
    "apply", "study", "resume", "plan", "anatomy", "models", "recipes", "studies", "probes",
    "plugins", "schema", "export", "compat", "report", "verify",
]  # fmt: skip


def cli_page() -> str:
    """The help of every command."""
    parts = ["# Command line\n\nWritten by `tools/write_reference.py`.\n"]
    for command in ["", *COMMANDS]:
        arguments = [*([command] if command else []), "--help"]
        shown = CliRunner().invoke(app, arguments, prog_name="surgeon").output
        title = f"surgeon {command}".strip()
        text = "\n".join(line.rstrip() for line in shown.strip().splitlines())
        parts.append(f"## {title}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def plugins_page() -> str:
    """Every spec with its signature."""
    parts = [
        "# Plugins\n\nA plugin is a module of the entry-point group `surgeon` that implements some"
        " of these specs.\nEach is called once with a registrar. Targets are `module:Name` strings,"
        " imported when needed.\nTwo plugins that register one name are an error naming both; one"
        " that fails to import costs only\nitself, and `surgeon plugins` shows it.\n"
    ]
    for name, spec in vars(hookspecs).items():
        if name.startswith("register_"):
            docs = inspect.getdoc(spec) or ""
            parts.append(f"## {name}\n\n`{name}{inspect.signature(spec)}`\n\n{docs}\n")
    return "\n".join(parts)


def models_page() -> str:
    """The cards of the packaged models."""
    parts = [
        "# Packaged models\n\nSmall models trained on Fashion-MNIST (28 x 28, grey) by"
        " `tools/train_fashion.py`, so that everything\nworks offline. Weights tag: `fashion`.\n"
    ]
    for name in ARCHITECTURES:
        found = card(name)
        training = found["training"]
        rows = [
            ("class", found["class"]),
            ("arguments", ", ".join(f"{k} = {v}" for k, v in found["arguments"].items())),
            ("parameters", f"{found['parameters']:,}"),
            ("accuracy", f"{found['test_accuracy']:.2%} of {found['test_images']:,} test images"),
            ("training", f"{training['epochs']} epochs of batches of {training['batch']},"
                         f" {training['optimizer']}, rate {training['rate']}, weight decay"
                         f" {training['weight_decay']}; {training['augmentation']};"
                         f" seed {training['seed']}"),
            ("data", found["data"]),
            ("licence", found["licence"]),
        ]  # fmt: skip
        table = "\n".join(f"| {key} | {value} |" for key, value in rows)
        parts.append(f"## surgeon/{name}\n\n| | |\n|---|---|\n{table}\n")
    return "\n".join(parts)


PAGES = {"cli.md": cli_page, "plugins.md": plugins_page, "models.md": models_page}


def main() -> int:
    stale = []
    for name, page in PAGES.items():
        text = page().rstrip() + "\n"
        path = DOCS / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale:
        print(("stale: " if "--check" in sys.argv else "written: ") + ", ".join(stale))
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
