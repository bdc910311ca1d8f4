"""Checkpoints of torch are read as torch reads them, and nothing in them is ever run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import BodyloopError, FileError, ModelError
from bodyloop.models.unpickle import Global, PickledArray, Stub, Tensor, read_torch
from tests.models.synthetic import malicious_pickle, save_pth

torch = pytest.importorskip("torch")


def tensors() -> dict[str, Any]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "plain": base,
        "transposed": base.t(),
        "strided": base[1:, ::2],
        "half": torch.tensor([1.5, -2.0]).half(),
        "bfloat16": torch.tensor([1.5, -2.0, 3e38]).bfloat16(),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "counter": torch.tensor(7),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.tensor([4.0])),
    }


WAYS: dict[str, dict[str, Any]] = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol-3": {"pickle_protocol": 3},
    "protocol-4": {"pickle_protocol": 4},
    "protocol-5": {"pickle_protocol": 5},
}


@pytest.mark.parametrize("way", WAYS)
def test_reads_what_torch_wrote(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x.pth"
    expected = tensors()
    torch.save(collections.OrderedDict(expected), path, **WAYS[way])
    tree = read_torch(path)
    assert isinstance(tree, dict) and list(tree) == list(expected)
    for name, t in expected.items():
        got = tree[name].numpy()
        want = t.detach().float() if t.dtype == torch.bfloat16 else t.detach()
        assert got.shape == tuple(t.shape), name
        np.testing.assert_array_equal(got, want.numpy(), err_msg=name)
        assert not got.flags.writeable or name in ("bfloat16", "empty")


def test_numpy_values_survive(tmp_path: Path) -> None:
    values = {
        "array": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "ints": np.array([1, 2], np.int64),
        "scalar": np.float64(0.25),
        "true": True,
        "false": False,
        "none": None,
        "nested": [1, (2, "three"), {"four": b"five"}],
    }
    for protocol in range(2, 6):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(values, protocol))
        tree = read_torch(path)
        assert isinstance(tree, dict)
        if protocol < 5:  # protocol 5 of numpy goes through a function of its own
            for name in ("array", "fortran", "ints"):
                got = tree[name]
                assert isinstance(got, PickledArray)
                np.testing.assert_array_equal(got.numpy(), values[name])
        assert tree["scalar"] == 0.25
        assert tree["true"] is True and tree["false"] is False and tree["none"] is None
        assert tree["nested"] == [1, (2, "three"), {"four": b"five"}]


def test_object_arrays_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(np.array([1, "two", None], object), 2))
    tree = read_torch(path)
    assert isinstance(tree, PickledArray) and tree.numpy() is None


@pytest.mark.parametrize("wrap", ["pickle", "zip"])
def test_os_system_is_never_called(tmp_path: Path, wrap: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "x.pth"
    content = malicious_pickle(marker)
    pickle.loads(content)
    assert marker.exists(), "the pickle must be a working attack, else the test shows nothing"
    marker.unlink()
    if wrap == "pickle":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("x/data.pkl", content)
    tree = read_torch(path)
    assert isinstance(tree, dict) and isinstance(tree["x"], Stub)
    assert tree["x"].function == Global(os.system.__module__, "system")
    assert not marker.exists()


def test_getattr_and_friends_become_stubs(tmp_path: Path) -> None:
    # getattr(stub, "name")(...), item assignment, state, lists and dicts of the unknown class
    program = (
        b"\x80\x02(cbuiltins\ngetattr\ncmmengine.x\nBuffer\nX\x04\x00\x00\x00meanq\x00\x86Rq\x01h\x01)Rq\x02"
        b"}X\x01\x00\x00\x00aK\x01sbh\x02K\x01K\x02sh\x02K\x05ah\x02(K\x01K\x02uh\x02(K\x01et."
    )
    path = tmp_path / "x.pkl"
    path.write_bytes(program)
    tree = read_torch(path)
    assert isinstance(tree, tuple) and all(isinstance(v, Stub) for v in tree)
    assert "builtins.getattr" in repr(tree[0])


def test_cyclic_values_are_read(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append({"again": loop})
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(loop))
    tree = read_torch(path)
    assert isinstance(tree, list) and tree[0]["again"] is tree


def hash_bomb() -> bytes:
    """A dict key of nested pairs: its hash would take 2^60 steps."""
    return b"\x80\x02}K\x01" + b"".join(b"q\x00h\x00\x86" for _ in range(60)) + b"K\x01s."


def huge_view() -> bytes:
    """A tensor of 10^12 numbers, all of them the same four bytes."""
    shape = b"J\x40\x42\x0f\x00J\x40\x42\x0f\x00\x86"
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(("
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00"
        + shape + b"K\x00K\x00\x86\x89}tRs."
    )  # fmt: skip


def test_a_hash_bomb_is_a_plain_key(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(hash_bomb())
    assert read_torch(path) == {"<tuple>": 1}


def zipped(path: Path, content: bytes, storage: bytes = b"\0\0\0\0", **more: bytes) -> None:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("x/data.pkl", content)
        z.writestr("x/data/0", storage)
        for name, value in more.items():
            z.writestr(f"x/{name}", value)


def test_views_must_lie_in_their_storage(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    zipped(path, huge_view())
    tree = read_torch(path)
    assert isinstance(tree, dict)
    with pytest.raises(ModelError, match="does not lie inside a storage of 1"):
        tree["a"].numpy()


def test_storage_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    zipped(path, huge_view(), b"\0" * 8)
    tree = read_torch(path)
    assert isinstance(tree, dict)
    with pytest.raises(ModelError, match="8 bytes, expected 4"):
        tree["a"].numpy()


BAD_PICKLES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello world, this is no checkpoint at all\n" * 3,
    "no-stop": b"\x80\x02}",
    "underflow": b"\x80\x02R.",
    "no-mark": b"\x80\x02}u.",
    "unknown-memo": b"\x80\x02h\x05.",
    "odd-items": b"\x80\x02}(K\x01u.",
    "huge-bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "huge-unicode": b"\x80\x02X\xff\xff\xff\x7f.",
    "huge-frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "huge-long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "huge-decimal": b"\x80\x02L" + b"9" * 10000 + b"L\n.",
    "extension": b"\x80\x02\x82\x01.",
    "buffer": b"\x80\x05\x97.",
    "persistent-nonsense": b"\x80\x02K\x01Q.",
    "bad-utf8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "endless-line": b"c" + b"a" * 100_000,
    "only-mark": b"\x80\x02(.",
}


@pytest.mark.parametrize("kind", BAD_PICKLES)
def test_bad_pickles_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.pth"
    path.write_bytes(BAD_PICKLES[kind])
    with pytest.raises(ModelError, match=kind):  # the file's name stands in the message
        read_torch(path)


def test_a_memo_far_away_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.")  # 4 billion entries in C
    assert read_torch(path) == 7


def test_deep_nesting_is_no_recursion(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(read_torch(path), list)


def bad_zips(good: bytes) -> dict[str, Callable[[], bytes]]:
    def made(**kw: Any) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", kw.get("compression", zipfile.ZIP_STORED)) as z:
            for name, content in kw["entries"]:
                z.writestr(name, content)
        return out.getvalue()

    return {
        "no-pickle": lambda: made(entries=[("a.txt", b"x")]),
        "two-pickles": lambda: made(entries=[("a/data.pkl", b"N."), ("b/data.pkl", b"N.")]),
        "compressed": lambda: made(entries=[("a/data.pkl", b"\0" * 9999)], compression=zipfile.ZIP_DEFLATED),
        "big-endian": lambda: made(entries=[("a/data.pkl", b"N."), ("a/byteorder", b"big")]),
        "cut-off": lambda: good[: len(good) // 2],
        "head-only": lambda: good[:30],
        "no-directory": lambda: good[:-22],
    }


@pytest.mark.parametrize("kind", list(bad_zips(b"")))
def test_bad_archives_are_named(tmp_path: Path, kind: str) -> None:
    good = save_pth(tmp_path / "good.pth", {"a": np.ones(3, np.float32)}).read_bytes()
    path = tmp_path / f"{kind}.pth"
    path.write_bytes(bad_zips(good)[kind]())
    with pytest.raises(ModelError, match=kind):
        read_torch(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        read_torch(tmp_path / "nowhere.pth")


def look_at_all(tree: object) -> None:
    """Read every number: what is lazy must be safe, too."""
    seen: set[int] = set()
    todo = [tree]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            float(np.asarray(value.numpy(), np.float64).sum())
        elif isinstance(value, PickledArray):
            value.numpy()
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list | tuple):
            todo += value


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_never_do_anything_else(tmp_path: Path, seed: int, legacy: bool) -> None:
    """Flipped, lost and repeated bytes: the package's own error, or values; nothing else."""
    state = {"a.weight": np.ones((3, 4), np.float32), "b": np.array(3), "c": np.zeros(5, np.float16)}
    good = save_pth(tmp_path / "good.pth", state, legacy=legacy).read_bytes()
    rng = random.Random(seed)
    for i in range(25):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            action = rng.randrange(4)
            if action == 0:
                data[at] = rng.randrange(256)
            elif action == 1:
                del data[at : at + rng.randrange(1, 40)]
            elif action == 2:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
            else:
                data[at : at + 8] = struct.pack("<Q", rng.getrandbits(64))
        path = tmp_path / f"{i}.pth"
        path.write_bytes(bytes(data) or b"x")
        try:
            look_at_all(read_torch(path))
        except BodyloopError:
            continue


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_never_do_anything_else(tmp_path: Path, seed: int) -> None:
    """Opcodes in any order with any arguments."""
    rng = random.Random(seed)
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    names = [b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n",
             b"ctorch._utils\n_rebuild_tensor_v2\n", b"cnumpy.core.multiarray\n_reconstruct\n"]  # fmt: skip
    for i in range(50):
        body = b"".join(
            rng.choice(
                [
                    rng.choice(codes),
                    rng.choice(names),
                    b"K\x01",
                    b"(",
                    b"t",
                    b"R",
                    b")",
                    b"}",
                    b"X\x01\0\0\0a",
                ]
            )
            for _ in range(rng.randrange(5, 60))
        )
        path = tmp_path / f"{i}.pkl"
        path.write_bytes(b"\x80\x02" + body + b".")
        try:
            look_at_all(read_torch(path))
        except BodyloopError:
            continue
