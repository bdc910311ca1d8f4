"""Skeletons: what follows from names, mappings between them, and skeletons of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bodyloop.errors import ConfigError, FileError
from bodyloop.skeletons import (
    AIC_14,
    BODY_19,
    COCO,
    COCO_WHOLEBODY_133,
    CROWDPOSE_14,
    LSP_14,
    MERGED_41,
    MPII_16,
    OCHUMAN_19,
    SKELETONS,
    Skeleton,
    load_skeleton,
    merge_table,
    skeleton_by_name,
)

ALL = list(SKELETONS.values())


@pytest.mark.parametrize("s", ALL, ids=list(SKELETONS))
class TestEverySkeleton:
    def test_flip_twice_is_identity(self, s: Skeleton) -> None:
        assert s.flip[s.flip].tolist() == list(range(len(s)))

    def test_sides_swap_and_the_middle_stays(self, s: Skeleton) -> None:
        for name, mirror in zip(s.keypoints, s.flip, strict=True):
            sided = name.startswith(("left_", "right_"))
            assert (s.keypoints[mirror] != name) == sided

    def test_name_ends_with_the_number_of_keypoints(self, s: Skeleton) -> None:
        assert s.name.endswith(f"-{len(s)}")

    def test_mirrored_links_are_links(self, s: Skeleton) -> None:
        links = {frozenset(link) for link in s.links}
        assert {frozenset(int(s.flip[i]) for i in link) for link in links} == links
        assert all(len(link) == 2 for link in links)

    def test_everybody_has_an_upper_and_a_lower_body(self, s: Skeleton) -> None:
        assert s.upper and s.lower and not set(s.upper) & set(s.lower)
        assert s.index("left_knee") in s.lower and s.index("left_wrist") in s.upper
        assert set(s.flip[list(s.upper)]) == set(s.upper)

    def test_maps_onto_itself(self, s: Skeleton) -> None:
        assert merge_table(s, s).tolist() == s.indices_in(s).tolist() == list(range(len(s)))


@pytest.mark.parametrize("s", [AIC_14, CROWDPOSE_14, LSP_14, OCHUMAN_19], ids=lambda s: s.name)
def test_sports_skeletons_map_into_ours_by_name(s: Skeleton) -> None:
    at = s.indices_in(BODY_19)
    assert (at >= 0).all()
    assert [BODY_19.keypoints[i] for i in at] == list(s.keypoints)
    assert {"neck", "head_top"} <= set(s.keypoints)


def test_mapping_by_name_leaves_out_what_is_unknown() -> None:
    at = MPII_16.indices_in(BODY_19)
    assert at[MPII_16.index("pelvis")] == -1
    assert at[MPII_16.index("head_top")] == BODY_19.index("head_top")


@pytest.mark.parametrize(
    ("skeleton", "order"),
    [
        (CROWDPOSE_14, "left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_hip "
         "right_hip left_knee right_knee left_ankle right_ankle head_top neck"),
        (LSP_14, "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow "
         "right_shoulder left_shoulder left_elbow left_wrist neck head_top"),
        (OCHUMAN_19, "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip "
         "right_knee right_ankle left_hip left_knee left_ankle head_top neck right_ear left_ear nose right_eye "
         "left_eye"),
    ],
)  # fmt: skip
def test_order_of_published_data_sets(skeleton: Skeleton, order: str) -> None:
    assert list(skeleton.keypoints) == order.split()


def test_crowdpose_sigmas() -> None:
    assert CROWDPOSE_14.sigmas == (
        0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
    )  # fmt: skip


def test_corner_of_the_mouth_can_be_mended() -> None:
    left, right = MERGED_41.index("left_mouth_corner"), MERGED_41.index("right_mouth_corner")
    published = merge_table(COCO_WHOLEBODY_133, MERGED_41)
    mended = merge_table(COCO_WHOLEBODY_133, MERGED_41, published=False)
    assert (published[72], published[77]) == (left, -1)
    assert (mended[72], mended[77]) == (-1, left)
    assert published[71] == mended[71] == right
    assert COCO_WHOLEBODY_133.keypoints[77] == "left_mouth_corner"


def test_face_points_from_the_right_to_the_left() -> None:
    names = COCO_WHOLEBODY_133.keypoints
    assert (names[23], names[31], names[39]) == ("right_jaw_1", "chin", "left_jaw_1")
    assert (names[59], names[68]) == ("right_eyelid_1", "left_eyelid_1")
    assert (names[91], names[112]) == ("left_hand_root", "right_hand_root")


def test_unknown_name_gets_a_hint() -> None:
    assert skeleton_by_name("COCO_17") is COCO
    with pytest.raises(ConfigError, match="did you mean 'merged-23'"):
        skeleton_by_name("merge23")


def test_skeleton_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "cat.toml"
    file.write_text(
        'name = "cat"\nkeypoints = ["nose", "left_paw", "right_paw"]\nlinks = ["nose-left_paw"]\n'
        'upper = ["nose"]\n[sigmas]\nnose = 0.03\npaw = 0.1\n'
    )
    cat = load_skeleton(file)
    assert cat.flip.tolist() == [0, 2, 1]
    assert cat.sigmas == (0.03, 0.1, 0.1)
    assert (cat.links, cat.upper, cat.lower) == (((0, 1),), (0,), ())


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("name = ", FileError, "not a TOML file"),
        ("\xff", FileError, "not a TOML file"),
        ('keypoints = ["a"]', ConfigError, "needs a name"),
        ('name = "x"', ConfigError, "needs keypoints"),
        ('name = "x"\nkeypoints = ["a", "a"]', ConfigError, "unique"),
        ('name = "x"\nkeypoints = [1]', ConfigError, "keypoints must be a list of texts"),
        ('name = "x"\nkeypoint = ["a"]', ConfigError, "did you mean 'keypoints'"),
        ('name = "x"\nkeypoints = ["a"]\nlinks = ["a-b"]', ConfigError, "unknown keypoint 'b'"),
        ('name = "x"\nkeypoints = ["a"]\nsigmas = [0.1, 0.2]', ConfigError, "2 sigmas"),
        ('name = "x"\nkeypoints = ["a"]\nsigmas = [-1]', ConfigError, "positive"),
        ('name = "x"\nkeypoints = ["a"]\nsigmas = ["b"]', ConfigError, "sigmas must be numbers"),
        ('name = "x"\nkeypoints = ["a"]\nsigmas = 3', ConfigError, "sigmas must be numbers"),
    ],
)
def test_broken_toml(tmp_path: Path, text: str, error: type[Exception], says: str) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(error, match=says) as e:
        load_skeleton(file)
    assert "broken.toml" in str(e.value)


def test_missing_toml(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.toml"):
        load_skeleton(tmp_path / "none.toml")


def test_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        COCO.flip[0] = 3
    with pytest.raises(ValueError, match="read-only"):
        COCO.sigma_array[0] = np.inf
