"""Our reader and writer of safetensors against the library of that name, and against damaged files."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.errors import BodyloopError, FileError, ModelError
from bodyloop.models.checkpoints import read_checkpoint, save_safetensors
from bodyloop.models.registry import find_card

library = pytest.importorskip("safetensors.numpy")
DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def arrays() -> st.SearchStrategy[dict[str, Any]]:
    one = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    return st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), one, max_size=5
    )


def utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(state=arrays().filter(lambda s: bool(s) and all(utf8(n) for n in s)))
def test_both_read_what_the_other_wrote(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("st")
    ours, theirs = folder / "ours.safetensors", folder / "theirs.safetensors"
    save_safetensors(ours, state, find_card("probpose-s"), {"k": "v"})
    library.save_file(state, theirs, {"k": "v"})
    by_library, by_us = library.load_file(ours), read_checkpoint(theirs)
    assert set(by_library) == set(by_us.state) == set(state)
    for name, value in state.items():
        for got in (by_library[name], by_us.state[name]):
            assert got.dtype == value.dtype and got.shape == value.shape
            np.testing.assert_array_equal(got, value)
    assert by_us.metadata == {"k": "v"}
    assert read_checkpoint(ours).card == find_card("probpose-s")


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    values = torch.tensor([1.5, -2.0, 3e38, 1e-30]).bfloat16()
    save_file({"a": values}, tmp_path / "x.safetensors")
    got = read_checkpoint(tmp_path / "x.safetensors").state["a"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.float().numpy())


def test_strided_and_foreign_byte_order_are_written_right(tmp_path: Path) -> None:
    state = {"t": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.arange(3, dtype=">f4")}
    save_safetensors(tmp_path / "x.safetensors", state, find_card("probpose-s"))
    got = library.load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(got["t"], state["t"])
    np.testing.assert_array_equal(got["b"], [0, 1, 2])


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    a, b = np.ones(3, np.float32), np.zeros((2, 2), np.float16)
    save_safetensors(tmp_path / "1.safetensors", {"a": a, "b": b}, find_card("probpose-s"))
    save_safetensors(tmp_path / "2.safetensors", {"b": b, "a": a}, find_card("probpose-s"))
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    card = find_card("probpose-s")
    save_safetensors(path, {"a": np.ones(3, np.float32)}, card)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FileError, match="No space left"):
        save_safetensors(path, {"a": np.zeros(9, np.float32)}, card)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_types_the_format_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'a'.*complex64"):
        save_safetensors(tmp_path / "x.safetensors", {"a": np.ones(1, np.complex64)}, find_card("probpose-s"))


def file_of(header: object, numbers: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


def entry(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD: dict[str, bytes] = {
    "short": b"\x01\0\0\0\0\0\0\0",
    "no-json": file_of(b"{no json}"),
    "deep-json": file_of(b'{"a":' * 100_000),
    "list-header": file_of(b'["a"]'),
    "header-too-long": file_of({}, length=99_999_999),
    "twice": file_of(b'{"a": 1, "a": 2}'),
    "no-entry": file_of({"tensor-a": 7}),
    "no-shape": file_of({"tensor-a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "odd-type": file_of({"tensor-a": entry("F8_E4M3")}),
    "negative-shape": file_of({"tensor-a": entry(shape=[-4])}),
    "text-shape": file_of({"tensor-a": entry(shape=["4"])}),
    "bool-shape": file_of({"tensor-a": entry(shape=[True, 4])}),
    "huge-shape": file_of({"tensor-a": entry(shape=[2**40, 2**40])}),
    "beyond-the-end": file_of({"tensor-a": entry(shape=[8], offsets=[0, 32])}),
    "backwards": file_of({"tensor-a": entry(offsets=[16, 0])}),
    "negative-offset": file_of({"tensor-a": entry(offsets=[-16, 0])}),
    "overlap": file_of({"tensor-a": entry(), "tensor-b": entry(offsets=[0, 16])}),
    "metadata-list": file_of({"__metadata__": [1], "tensor-a": entry()}),
    "metadata-number": file_of({"__metadata__": {"k": 1}, "tensor-a": entry()}),
    "no-tensors": file_of({"__metadata__": {"k": "v"}}),
    "bad-card": file_of({"__metadata__": {"bodyloop.card": "name = 3"}, "tensor-a": entry()}),
}


@pytest.mark.parametrize("kind", BAD)
def test_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.safetensors"
    path.write_bytes(BAD[kind])
    with pytest.raises(ModelError, match=kind) as e:
        read_checkpoint(path)
    if b'"tensor-a"' in BAD[kind] and not kind.startswith(("metadata", "bad-card")):
        assert "tensor-a" in str(e.value)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes(tmp_path: Path, seed: int) -> None:
    good = tmp_path / "good.safetensors"
    save_safetensors(good, {"a": np.ones((2, 2), np.float32)}, find_card("probpose-s"))
    rng = random.Random(seed)
    for i in range(20):
        data = bytearray(good.read_bytes())
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(data[: rng.randrange(1, len(data) + 1)] if i % 3 == 0 else data)
        try:
            read_checkpoint(path)
        except BodyloopError as e:
            assert path.name in str(e)
