"""The stored numbers of detector, segmenter and loop (tests/fixtures/parity_loop); see `tests.stored`."""

from __future__ import annotations

from pathlib import Path

from tests.stored import Store

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "parity_loop"
STORE = Store("detector, segmenter, loop", FIXTURES, Path(__file__).with_name("manifest.toml"))

load_json, arrays = STORE.load_json, STORE.arrays
close, same, seen, close_numbers = STORE.close, STORE.same, STORE.seen, STORE.close_numbers
