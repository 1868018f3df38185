"""Finding the checks that a study names, and running them."""

from __future__ import annotations

from importlib import import_module

from pydantic import ValidationError

from surgeon.errors import StudyError, nearest
from surgeon.studies.checks import BUILT_IN
from surgeon.studies.findings import CheckFunction, Finding
from surgeon.studies.study_file import Check
from surgeon.studies.table import Table
from surgeon.toml_files import Where, settings_error
from surgeon.toml_lines import Key


def check_settings(finding: Check, key: Key, where: Where) -> None:
    """See that a finding names a check, and that a built-in one knows its settings.

    Raises:
        StudyError: it does not; file, line and key are named.
    """
    if ":" in finding.check:
        return
    if finding.check not in BUILT_IN:
        raise StudyError(
            f"check ({where((*key, 'check'))})",
            f'no built-in check "{finding.check}"',
            f"{nearest(finding.check, BUILT_IN)}; or one of yours as module:function",
        )
    cls = BUILT_IN[finding.check][1]
    try:
        cls(**finding.settings())
    except ValidationError as cause:
        raise settings_error(cause, key, where, cls.model_fields, StudyError) from None


def load_check(name: str) -> CheckFunction:
    """A built-in check, or one named as "module:function".

    Raises:
        StudyError: it can't be imported; the cause is chained.
    """
    if name in BUILT_IN:
        return BUILT_IN[name][0]
    module, _, function = name.partition(":")
    try:
        found: CheckFunction = getattr(import_module(module), function)
    except Exception as cause:
        raise StudyError(f"check {name}", repr(cause), "module:function, importable") from cause
    return found


def judge(table: Table, findings: tuple[Check, ...]) -> list[Finding]:
    """What the table says of each finding; a check that fails says so and is undecided."""
    made = []
    for finding in findings:
        try:
            made.append(load_check(finding.check)(table, finding.settings()))
        except Exception as cause:  # a check's own failure costs its verdict alone
            sentence = " ".join(f"the check failed: {cause!r}".split())
            made.append(Finding(finding.claim, "undecided", None, None, sentence))
    return made
