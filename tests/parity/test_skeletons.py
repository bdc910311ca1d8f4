"""Skeletons and merge tables against the reference's data-set files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.skeletons import SKELETONS, merge_table, skeleton_by_name
from tests.parity.manifest import load_json

STORED: dict[str, Any] = load_json("skeletons.json")
KEYS = ["coco_17", "mpii_16", "aic_14", "merged_21", "merged_23", "merged_41", "coco_wholebody_133"]
RECIPES = {"PMPose-s": "merged-23", "MaskPose-b-wb": "merged-41", "MaskPose-b-1.0.0": "merged-21"}
SOURCES = {"CocoDataset": "coco-17", "CocoWholeBodyDataset": "coco-wholebody-133", "MpiiDataset": "mpii-16",
           "AicDataset": "aic-14"}  # fmt: skip


def test_every_stored_skeleton_is_here() -> None:
    # the 22-entry file of the 21 set contradicts its own configuration (spec 11.2): merged_21 is the mended one
    assert set(STORED) == {*KEYS, "merged_21_22file", "mappings"}


@pytest.mark.parametrize("key", KEYS)
def test_skeleton(key: str) -> None:
    ours, stored = skeleton_by_name(key), STORED[key]
    assert len(ours) == stored["num_keypoints"]
    assert ours.flip.tolist() == stored["flip_indices"]
    np.testing.assert_allclose(ours.sigma_array, stored["sigmas_use"], rtol=0, atol=1e-12)
    assert list(ours.upper) == stored["upper_body_ids"]
    assert list(ours.lower) == stored["lower_body_ids"]
    assert {frozenset(p) for p in ours.links} == {frozenset(p) for p in stored["skeleton_links"]}
    for name, theirs in zip(ours.keypoints, stored["names"], strict=True):
        # face points have only numbers there; ours have names that know their mirror image
        assert name == theirs or theirs.startswith("face-")


@pytest.mark.parametrize("recipe", RECIPES)
def test_merge_tables(recipe: str) -> None:
    stored = STORED["mappings"][recipe]
    target = SKELETONS[RECIPES[recipe]]
    assert len(stored["train"]) == len(stored["train_datasets"]) == 3
    for data_set, table in zip(stored["train_datasets"], stored["train"], strict=True):
        source = SKELETONS[SOURCES[data_set]]
        expected = [table.get(str(i), -1) for i in range(len(source))]
        assert merge_table(source, target).tolist() == expected
