"""The records of what was compared with stored numbers must themselves be right."""

from __future__ import annotations

import fnmatch

import pytest

from tests.conftest import STORES
from tests.eval.stored import FIXTURES, STORE
from tests.stored import Store


@pytest.mark.parametrize("store", STORES, ids=lambda s: s.title)
def test_every_exception_of_the_manifest_is_stored(store: Store) -> None:
    names = [": ".join(k) for k in store.everything]
    for pattern in (*store.marks["input"], *store.marks["left_out"]):
        assert fnmatch.filter(names, pattern), pattern
    assert all(len(why) > 10 for why in store.marks["left_out"].values())


def test_the_record_knows_what_was_compared() -> None:
    store = Store("a fresh one", FIXTURES, STORE.manifest)
    window = store.arrays("window.npz")["window_xyxy_1.25"]
    key = ("window.npz", "window_xyxy_1.25")
    assert key in store.missing()
    store.close(window[:3], window[:3], 0.0)
    assert store.checked[key] == 12 and key in store.missing()  # a part only
    with pytest.raises(AssertionError, match="greatest gap"):
        store.close(window + 1, window, 0.5)
    assert key in store.missing()
    store.close(window, window, 0.0)
    assert key not in store.missing()
    place = "k01_basic/tools/pycocotools/stats"
    stats = [*store.load_json("expected.json")["k01_basic"]["tools"]["pycocotools"]["stats"]]
    for wrong in (stats[:9], [*stats[:9], stats[9] + 1e-9], [*stats[:9], None]):
        with pytest.raises(AssertionError, match=place):
            store.close_numbers(wrong, "expected.json", *place.split("/"), tolerance=1e-12)
    store.close_numbers(stats, "expected.json", *place.split("/"), tolerance=0.0)
    assert len(store.checked) == 11
