"""The manifest itself: complete, unambiguous, and `compare` fails when it should."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.manifest import FIXTURES, RECORD, Record, compare, given, manifest


def test_every_stored_array_is_marked_and_nothing_else() -> None:
    stored = set()
    for path in FIXTURES.rglob("*.npz"):
        with np.load(path) as z:
            stored |= {(path.relative_to(FIXTURES).as_posix(), k) for k in z.files}
    assert set(manifest()) == stored


def test_not_reproduced_gives_a_reason() -> None:
    assert all(len(why) > 10 for kind, why in manifest().values() if kind == "not_reproduced")


@pytest.fixture
def kept_record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """A record of its own, so that these tests do not count as comparisons."""
    record = Record()
    monkeypatch.setattr("tests.parity.manifest.RECORD", record)
    return record


P = np.array(given("sparsemax.npz", "p"))


def test_compare_records_what_it_checked(kept_record: Record) -> None:
    compare("sparsemax.npz", "p", P, 0.0, mask=P > 0)
    assert kept_record.checked == {("sparsemax.npz", "p"): int((P > 0).sum())}
    assert ("sparsemax.npz", "p") not in kept_record.missing()
    assert ("sparsemax.npz", "dz") in kept_record.missing()
    assert kept_record is not RECORD


@pytest.mark.parametrize(
    "wrong",
    [P + 1e-3, np.where(P.max() == P, np.nan, P), P[:1], P.ravel()],
    ids=["too far", "nan", "broadcastable", "other shape"],
)
def test_compare_fails(kept_record: Record, wrong: np.ndarray) -> None:
    with pytest.raises(AssertionError, match=r"sparsemax.npz: p"):
        compare("sparsemax.npz", "p", wrong, 1e-6)
    assert not kept_record.checked


def test_compare_refuses_an_empty_mask_and_arrays_not_marked_so(kept_record: Record) -> None:
    with pytest.raises(AssertionError, match="nothing to compare"):
        compare("sparsemax.npz", "p", P, 1e-6, mask=np.zeros_like(P, bool))
    with pytest.raises(ValueError, match="marked input"):
        compare("sparsemax.npz", "z", given("sparsemax.npz", "z"), 1e-6)
    with pytest.raises(KeyError, match="not in manifest"):
        given("sparsemax.npz", "nothing")
