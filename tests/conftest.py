"""Counts what the parity tests compared and fails a complete run that left a marked array out.

Here and not beside those tests, because pytest-xdist's controller, which prints and judges, loads only the
conftest files above the folders it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parity.manifest import RECORD, manifest

HERE = Path(__file__).resolve().parent / "parity"
_state = {"complete": False, "ran": False}


def pytest_collection_finish(session: pytest.Session) -> None:
    """The run is complete if every test file of tests/parity is there and nothing narrowed the choice."""
    if getattr(session.config.option, "collectonly", False):
        return
    here = [item for item in session.items if HERE in item.path.parents]
    on_disk = {p.resolve() for p in HERE.rglob("test_*.py")}
    option = session.config.option
    narrowed = bool(
        option.keyword or option.markexpr or getattr(option, "lf", False) or getattr(option, "deselect", None)
    ) or any("::" in arg for arg in session.config.args)
    _state["ran"] = bool(here)
    _state["complete"] = not narrowed and on_disk <= {item.path.resolve() for item in here}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """pytest-xdist: take over what a worker recorded."""
    told = getattr(node, "workeroutput", {}).get("parity")
    if told:
        _state["complete"] |= told["complete"]
        _state["ran"] |= told["ran"]
        for file, key, n in told["checked"]:
            RECORD.checked[file, key] += n


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Hand the record on (in a worker) or fail a complete run with arrays missing."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = {
            **_state,
            "checked": [(f, k, n) for (f, k), n in RECORD.checked.items()],
        }
        return (yield)
    if _state["complete"] and RECORD.missing() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts, the reasons and, after a complete run, what is missing."""
    if not _state["ran"]:
        return
    terminalreporter.section("parity with the reference")
    terminalreporter.line(RECORD.summary())
    for (file, key), (kind, why) in manifest().items():
        if kind == "not_reproduced":
            terminalreporter.line(f"  not reproduced: {file}: {key}: {why}")
    if not _state["complete"]:
        terminalreporter.line("  (part of tests/parity only: arrays left out are not counted as failures)")
    elif RECORD.missing():
        terminalreporter.line(
            "FAILED: marked as compared in manifest.toml, but no test compared them:", red=True
        )
        by_file: dict[str, list[str]] = {}
        for file, key in RECORD.missing():
            by_file.setdefault(file, []).append(key)
        for file, keys in by_file.items():
            terminalreporter.line(f"  {file}: {', '.join(keys)}", red=True)
