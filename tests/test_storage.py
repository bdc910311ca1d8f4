"""Files of people: exact and readable round trips, the schema, and files that lie."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.images import Source
from bodyloop.masks import Masks
from bodyloop.people import Change, People, Provenance
from bodyloop.skeletons import COCO
from bodyloop.storage import people_from_json, people_to_json
from tests.strategies import PAW, SIZE, few, people

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "schema" / "people-1.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
in_a_folder = settings(few, suppress_health_check=[HealthCheck.function_scoped_fixture])


def example() -> People:
    keypoints = np.full((2, 17, 2), np.nan, np.float32)
    keypoints[0, 0] = -12.5, 0.1
    masks = Masks.from_any([[[1, 1, 6, 1, 6, 5]], None], SIZE)
    return People(
        SIZE,
        Source("a/photo.jpg", 7, None),
        COCO,
        boxes=np.float32([[1, 2, 30.3, 40], [np.nan] * 4]),
        scores=np.float32([0.9, np.inf]),
        masks=masks,
        keypoints=keypoints,
        track_ids=np.array([3, -1]),
        provenance=(Provenance(1, (Change("mask", "sam", 2),)), Provenance()),
        extra={"name": np.array(["Eve", "Ö"]), "age": np.array([3, 4])},
    )


class TestRoundTrips:
    @given(people())
    @in_a_folder
    def test_npz_is_exact(self, tmp_path: Path, p: People) -> None:
        p.save(tmp_path / "a.npz")
        again = People.load(tmp_path / "a.npz")
        assert again.allclose(p, rtol=0, atol=0)
        for name, column in p.extra.items():
            assert again.extra[name].dtype == column.dtype
        if p.masks is not None and again.masks is not None:
            for i in range(len(p)):
                pairs = zip(p.masks.polygons(i), again.masks.polygons(i), strict=True)
                assert all((a == b).all() for a, b in pairs)

    @given(people(skip=frozenset({"maps", "features", "extra"})))
    @in_a_folder
    def test_json_is_exact_but_for_what_it_leaves_out(self, tmp_path: Path, p: People) -> None:
        p.save(tmp_path / "a.json")
        again = People.load(tmp_path / "a.json")
        if p.source == Source():
            p = p.replace(source=None)
        if len(p) == 0 and p.skeleton is None:  # K of nobody is not written
            assert len(again) == 0
        else:
            assert again.allclose(p, rtol=0, atol=0)

    @given(people())
    @few
    def test_json_satisfies_the_schema_and_has_no_nan(self, p: People) -> None:
        document = people_to_json(p, model={"name": "pmpose-n"})
        text = json.dumps(document, allow_nan=False)
        VALIDATOR.validate(json.loads(text))
        again = people_from_json(json.loads(text))
        assert len(again) == len(p)
        assert people_to_json(again)["fields"] == document["fields"] or not document["fields"]

    @pytest.mark.parametrize(
        "person",
        [
            {"bbox": [1, 2, 3, 4]},
            {"box": [1, 2, 3]},
            {"score": "high"},
            {"keypoints": [[1, 2, 3]]},
            {"mask": {"size": [7, 9]}},
            {"track_id": 1.5},
            {"provenance": {"pass": 1}},
        ],
    )
    def test_the_schema_refuses(self, person: dict[str, Any]) -> None:
        document = people_to_json(People(SIZE))
        VALIDATOR.validate(document)
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({**document, "people": [person]})

    def test_json_reads_like_this(self) -> None:
        document = people_to_json(example())
        assert document["image"] == {"path": "a/photo.jpg", "width": 9, "height": 7, "id": 7, "frame": None}
        first, second = document["people"]
        assert first["box"] == [1, 2, 30.3, 40]
        assert second["box"] == [None] * 4
        assert first["keypoints"][:2] == [[-12.5, 0.1], [None, None]]
        assert (first["score"], second["score"]) == (0.9, None)
        assert (first["track_id"], second["track_id"]) == (3, -1)
        assert first["mask"] == Masks.from_any([[[1, 1, 6, 1, 6, 5]]], SIZE).rle(0)
        assert second["mask"] is None
        assert first["provenance"]["changes"] == [{"what": "mask", "why": "sam", "pass": 2}]
        assert second["extra"] == {"name": "Ö", "age": 4}
        assert document["skeleton"]["name"] == "coco-17"

    def test_nobody_found_is_not_nothing_estimated(self) -> None:
        none = People.empty(SIZE, COCO)
        again = people_from_json(people_to_json(none))
        assert again.allclose(none)
        assert again.keypoints is not None and again.keypoints.shape == (0, 17, 2)
        assert people_from_json(people_to_json(People(SIZE))).boxes is None

    def test_extra_columns_in_json(self) -> None:
        again = people_from_json(people_to_json(example()))
        assert again.extra["name"].tolist() == ["Eve", "Ö"]
        assert again.extra["age"].tolist() == [3, 4]

    def test_skeleton_is_the_very_one_we_have(self) -> None:
        assert people_from_json(people_to_json(example())).skeleton == COCO
        own = People(SIZE, skeleton=PAW, quality=np.zeros((1, 3)))
        assert people_from_json(people_to_json(own)).skeleton == PAW


class TestWrittenByHand:
    def test_little_is_enough(self) -> None:
        document = {
            "schema": "bodyloop/people-1",
            "image": {"width": 9, "height": 7},
            "skeleton": "coco-17",
            "people": [{"box": [1, 2, 3, 4]}, {"mask": [[1, 1, 6, 1, 6, 5]]}, {}],
        }
        VALIDATOR.validate(document)
        p = people_from_json(document)
        assert len(p) == 3 and p.boxes is not None and p.masks is not None
        assert np.isnan(p.boxes[1:]).all()
        assert p.masks.present.tolist() == [False, True, False]

    def test_people_of_whom_nothing_is_known_are_counted(self) -> None:
        image = {"width": 9, "height": 7}
        assert len(people_from_json({"schema": "bodyloop/people-1", "image": image, "people": [{}, {}]})) == 2

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"schema": "bodyloop/people-2"}, "people-2"),
            ({"image": None}, "image"),
            ({"image": {"width": 9}}, "image"),
            ({"image": {"width": "9", "height": 7}}, "size"),
            ({"image": {"width": 1e30, "height": 7}}, "size"),
            ({"image": {"width": 9, "height": 7, "path": 3}}, "image"),
            ({"image": {"width": 9, "height": 7, "frame": "x"}}, "image"),
            ({"people": {}}, "people"),
            ({"people": [1]}, "people"),
            ({"people": [{"bbox": [1, 2, 3, 4]}]}, r"people\[0\]: unknown bbox"),
            ({"people": [{"box": [1, 2, 3]}]}, r"people\[0\]\.box: expected shape \(4,\)"),
            ({"people": [{}, {"box": "abcd"}]}, r"people\[1\]\.box"),
            ({"people": [{"box": [1, 2, 3, "x"]}]}, r"people\[0\]\.box"),
            ({"people": [{"box": {"x": 1}}]}, r"people\[0\]\.box"),
            ({"people": [{"score": [1]}]}, r"people\[0\]\.score"),
            ({"people": [{"keypoints": [[1, 2]] * 16}], "skeleton": "coco-17"}, r"people\[0\]\.keypoints"),
            ({"people": [{"presence": [1, 2]}, {"presence": [1]}]}, r"people\[1\]\.presence"),
            ({"people": [{"mask": {"size": [7, 9], "counts": "zz"}}]}, r"masks\[0\]"),
            ({"people": [{"mask": {"size": [9, 7], "counts": "o1"}}]}, r"masks\[0\]"),
            ({"people": [{"mask": 3}]}, r"masks\[0\]"),
            ({"people": [{"track_id": "a"}]}, "track_ids"),
            ({"people": [{"track_id": 10**40}]}, "track_ids"),
            ({"people": [{"provenance": 3}]}, r"people\[0\]\.provenance"),
            ({"people": [{"provenance": {"changes": [{}]}}]}, r"people\[0\]\.provenance"),
            ({"people": [{"extra": {"a": [1]}}, {"extra": {"a": [1, 2]}}]}, "extra"),
            ({"people": [{"extra": {"a": {}}}]}, "extra"),
            ({"people": [{"extra": 3}]}, "extra"),
            ({"skeleton": "coco-18"}, "coco-18"),
            ({"skeleton": 3}, "skeleton"),
            ({"skeleton": {"name": "x"}}, "skeleton"),
            ({"skeleton": {"name": "x", "keypoints": ["a", "a"]}}, "skeleton"),
            ({"skeleton": {"name": "x", "keypoints": ["a"], "links": [[0, 1]]}}, "skeleton"),
            ({"skeleton": {"name": "x", "keypoints": ["a"], "sigmas": [0]}}, "skeleton"),
            ({"fields": 3}, "fields"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, change: dict[str, Any], says: str) -> None:
        document = {"schema": "bodyloop/people-1", "image": {"width": 9, "height": 7}, "people": [], **change}
        with pytest.raises(BodyloopError, match=says):
            people_from_json(document)
        (tmp_path / "a.json").write_text(json.dumps(document))
        with pytest.raises(FileError, match=r"a\.json") as e:
            People.load(tmp_path / "a.json")
        assert says.replace("\\", "").split("|")[0].split(":")[0] in str(e.value)

    def test_own_entries_may_not_hide_ours(self) -> None:
        with pytest.raises(InputError, match="people"):
            people_to_json(example(), people=3)


class TestFiles:
    @pytest.mark.parametrize("suffix", [".npz", ".json"])
    def test_nothing_is_left_when_writing_fails(self, tmp_path: Path, suffix: str, monkeypatch: Any) -> None:
        target = tmp_path / f"a{suffix}"
        example().save(target)
        before = target.read_bytes()

        def full(self: Path, other: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(FileError, match="No space left"):
            example().save(target)
        assert target.read_bytes() == before
        assert list(tmp_path.iterdir()) == [target]

    def test_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="cannot be written"):
            example().save(tmp_path / "none" / "a.npz")

    def test_other_suffixes(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match=r"\.npz or \.json"):
            example().save(tmp_path / "a.csv")
        with pytest.raises(FileError, match=r"\.npz or \.json"):
            People.load(tmp_path / "a.csv")

    @pytest.mark.parametrize("suffix", [".npz", ".json"])
    def test_missing(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(FileError, match="no such file"):
            People.load(tmp_path / f"none{suffix}")

    @pytest.mark.parametrize("suffix", [".npz", ".json"])
    @pytest.mark.parametrize("seed", range(20))
    def test_damaged(self, tmp_path: Path, suffix: str, seed: int) -> None:
        target = tmp_path / f"a{suffix}"
        example().save(target)
        rng = np.random.default_rng(seed)
        data = np.frombuffer(target.read_bytes(), np.uint8).copy()
        data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
        target.write_bytes(data.tobytes()[: rng.integers(0, len(data))])
        with pytest.raises(FileError, match=f"a{suffix}"):
            People.load(target)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "null",
            "3",
            '"a"',
            "{",
            "[" * 100_000,
            '{"schema": "bodyloop/people-1"}',
            "\xff\xfe",
            "1" * 5000,
        ],
        ids=range(10),
    )
    def test_json_that_is_something_else(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(FileError, match=r"a\.json"):
            People.load(tmp_path / "a.json")


def rewritten(path: Path, **members: bytes | None) -> None:
    """Change members of an npz, or take them out."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name, data in members.items():
        if data is None:
            del parts[f"{name}.npy"]
        else:
            parts[f"{name}.npy"] = data
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class TestHostileNpz:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        example().save(tmp_path / "a.npz")
        return tmp_path / "a.npz"

    def refused(self, file: Path, says: str) -> None:
        with pytest.raises(FileError, match=says or "npz") as e:
            People.load(file)
        assert "a.npz" in str(e.value)

    def test_pickle_does_not_run(self, file: Path, tmp_path: Path) -> None:
        marker = tmp_path / "it ran"
        rewritten(file, boxes=npy(np.array([Marker(marker)], object), allow_pickle=True))
        self.refused(file, "Python objects")
        assert not marker.exists()

    def test_header_that_claims_terabytes(self, file: Path) -> None:
        lie = npy(np.zeros((2, 4), np.float32)).replace(b"(2, 4)", b"(2000000000, 4)")
        rewritten(file, boxes=lie)
        self.refused(file, "boxes")

    @pytest.mark.parametrize("shape", [b"(-2, -4)", b"(2, 4, ", b"2,4   ", b"(2, 5)", b"(0, 4)", b"(1e9,) "])
    def test_header_that_is_odd(self, file: Path, shape: bytes) -> None:
        rewritten(file, boxes=npy(np.zeros((2, 4), np.float32)).replace(b"(2, 4)", shape))
        self.refused(file, "")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"meta": None}, "meta"),
            ({"meta": npy(np.zeros(3))}, "meta"),
            ({"meta": npy(np.array("{}"))}, "version"),
            ({"meta": npy(np.array("[1"))}, "cannot be read"),
            ({"boxes": npy(np.zeros((2, 3), np.float32))}, "boxes"),
            ({"boxes": npy(np.array([["a"] * 4] * 2))}, "boxes"),
            ({"keypoints": npy(np.zeros((2, 16, 2), np.float32))}, "keypoints"),
            ({"masks_runs": None}, "masks"),
            ({"masks_runs": npy(np.array([1, 2, 3]))}, "masks"),
            ({"masks_run_counts": npy(np.array([-1, 6]))}, "masks"),
            ({"masks_owners": npy(np.array([9]))}, "masks"),
            ({"extra_0": None}, "extra_0"),
            ({"maps_single_values": npy(np.zeros((2, 17, 4, 3), np.float32))}, "maps"),
            ({"boxes": b"not an array"}, ""),
            ({"boxes": b""}, ""),
        ],
    )
    def test_members_that_do_not_fit(self, file: Path, change: dict[str, bytes | None], says: str) -> None:
        rewritten(file, **change)
        self.refused(file, says)

    def test_zip_bomb(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bodyloop.storage.MAX_NPZ_BYTES", 1000)
        self.refused(file, "too many")

    @given(st.binary(max_size=200))
    @in_a_folder
    def test_noise(self, tmp_path: Path, noise: bytes) -> None:
        (tmp_path / "a.npz").write_bytes(noise)
        self.refused(tmp_path / "a.npz", "")
