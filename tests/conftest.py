"""Counts what tests compared with stored numbers and fails a complete run that left something out.

Three folders have such numbers, each with a record of its own: tests/parity, tests/parity_loop and tests/eval. The
counting stands here and not beside those tests, because pytest-xdist's controller, which prints and judges, loads
only the conftest files above the folders it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.eval.stored import STORE as EVALUATION
from tests.parity import manifest
from tests.parity_loop.stored import STORE as LOOP
from tests.stored import Store


@dataclass
class Ledger:
    """A folder of tests, its record, and what this run knows of it."""

    folder: Path
    record: manifest.Record | Store
    marked_in: str
    complete: bool = False
    ran: bool = False


HERE = Path(__file__).resolve().parent
STORES = (EVALUATION, LOOP)
LEDGERS = (
    Ledger(HERE / "parity", manifest.RECORD, "marked as compared in tests/parity/manifest.toml"),
    Ledger(HERE / "eval", EVALUATION, "stored, and not excepted in tests/eval/manifest.toml"),
    Ledger(HERE / "parity_loop", LOOP, "stored, and not excepted in tests/parity_loop/manifest.toml"),
)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A folder's run is complete if all its test files are there and nothing narrowed the choice."""
    option = session.config.option
    if getattr(option, "collectonly", False):
        return
    narrowed = bool(
        option.keyword or option.markexpr or getattr(option, "lf", False) or getattr(option, "deselect", None)
    ) or any("::" in arg for arg in session.config.args)
    for ledger in LEDGERS:
        here = {item.path.resolve() for item in session.items if ledger.folder in item.path.parents}
        ledger.ran = bool(here)
        ledger.complete = not narrowed and set(ledger.folder.rglob("test_*.py")) <= here


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """pytest-xdist: take over what a worker recorded."""
    told = getattr(node, "workeroutput", {}).get("compared", [])
    for ledger, (complete, ran, checked) in zip(LEDGERS, told, strict=False):
        ledger.complete |= complete
        ledger.ran |= ran
        for file, key, n in checked:
            ledger.record.checked[file, key] += n


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Hand the records on (in a worker) or fail a complete run with something missing."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compared"] = [
            (v.complete, v.ran, [(f, k, n) for (f, k), n in v.record.checked.items()]) for v in LEDGERS
        ]
        return (yield)
    if session.exitstatus == pytest.ExitCode.OK and any(v.complete and v.record.missing() for v in LEDGERS):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts, the reasons and, after a complete run, what is missing."""
    ran = [ledger for ledger in LEDGERS if ledger.ran]
    if ran:
        terminalreporter.section("parity with the reference")
    for ledger in ran:
        terminalreporter.line(ledger.record.summary())
        for why in ledger.record.reasons():
            terminalreporter.line(f"  not compared: {why}")
        missing = ledger.record.missing() if ledger.complete else []
        if not ledger.complete:
            terminalreporter.line(
                f"  (part of tests/{ledger.folder.name} only: what it left out is no failure)"
            )
        elif missing:
            terminalreporter.line(f"FAILED: {ledger.marked_in}, but no test compared it:", red=True)
        by_file: dict[str, list[str]] = {}
        for file, key in missing:
            by_file.setdefault(file, []).append(key)
        for file, keys in by_file.items():
            more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
            terminalreporter.line(f"  {file}: {', '.join(keys[:20])}{more}", red=True)
