"""A pickle interpreter that cannot run anything: data out, and names where the pickle names code.

A pickle is a program for a small stack machine, and its danger is that the machine calls what the file
names. This one has no call: a global becomes a name (`Global`), calling it makes a `Stub`, and only a closed
table of names (tensors, ordered dicts, numpy arrays and scalars) becomes data, by the functions at the end.
Where the numbers of a tensor lie is the business of `unpickle`, which knows the file formats.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ModelError

MAX_OPCODES = 20_000_000  # a training checkpoint with its whole history has some hundred thousand

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Global:
    """A name the pickle refers to; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Stub:
    """Stands for whatever calling ``function`` would have made. Accepts state and items, does nothing."""

    function: object
    state: object = None

    def __repr__(self) -> str:  # never the whole tree: it may be cyclic
        return f"<{self.function if isinstance(self.function, Global) else 'object'} of the file, not loaded>"


@dataclass(eq=False)
class Dtype:
    """A numpy dtype as pickled: its short text, and the byte order that comes later as state."""

    text: object
    order: str = "="

    def numpy(self) -> np.dtype[Any] | None:
        """The dtype, None unless it is a plain one of known size (no objects, no records)."""
        if not isinstance(self.text, str) or self.text[:1] not in "biufcSU" or len(self.text) > 8:
            return None
        try:
            dtype = np.dtype(self.text)
        except (TypeError, ValueError):
            return None
        return dtype.newbyteorder(">") if self.order == ">" else dtype.newbyteorder("<")


@dataclass(eq=False)
class PickledArray:
    """A numpy array as pickled: empty until its state comes."""

    state: object = None

    def numpy(self) -> Array | None:
        """The array, None where the state is not that of a plain one."""
        match self.state:
            case (_, tuple() as shape, Dtype() as kind, bool() as fortran, bytes() | bytearray() as raw):
                dtype = kind.numpy()
                if dtype is None or not _is_shape(shape):
                    return None
                count = _product(shape)
                if count * dtype.itemsize != len(raw) or len(shape) > 32:
                    return None
                flat = np.frombuffer(raw, dtype, count)
                return flat.reshape(shape, order="F" if fortran else "C")
        return None


@dataclass(eq=False)
class Storage:
    """A run of numbers somewhere in the file."""

    dtype: str | None  # key of DTYPES; None: untyped bytes
    key: str
    numel: int
    read: Callable[[Storage], memoryview] = field(repr=False)


@dataclass(eq=False)
class Tensor:
    """A view into a storage. Checked when `numpy` is called, so that what nobody asks for costs nothing."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> Array:
        """The numbers, read-only and mapped; bfloat16 is widened to float32.

        Raises:
            ModelError: an unknown type, or a view that does not lie inside its storage.
        """
        if self.dtype not in DTYPES:
            raise ModelError(f"tensors of type {self.dtype!r} are not supported")
        dtype = np.dtype(DTYPES[self.dtype])
        data = self.storage.read(self.storage)
        count = len(data) // dtype.itemsize
        if any(s < 0 for s in (self.offset, *self.strides)) or len(self.strides) != len(self.shape):
            raise ModelError("negative or missing strides")
        size = _product(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if size and (last >= count or size > count):
            raise ModelError(f"shape {self.shape} does not lie inside a storage of {count} numbers")
        flat = np.frombuffer(data, dtype, count)
        if size == 0:
            return np.zeros(self.shape, dtype)
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, [s * dtype.itemsize for s in self.strides], writeable=False
        )
        if self.dtype == "bfloat16":
            return (np.ascontiguousarray(view).astype("<u4") << 16).view("<f4")
        return view


DTYPES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?",
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


class Bytes:
    """The least that `pickletools.genops` reads from, never giving more than there is."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def read(self, n: int) -> bytes:
        out = bytes(self._data[self._at : self._at + max(n, 0)])
        self._at += len(out)
        return out

    def readline(self) -> bytes:
        # Lines occur in old text opcodes and in names: short, so a bounded search is enough.
        window = bytes(self._data[self._at : self._at + 65536])
        end = window.find(b"\n") + 1
        return self.read(end or len(window))

    def tell(self) -> int:
        return self._at


_MARK = object()
_SCALARS = (str, int, float, bytes, bool, type(None))


class Machine:
    """Interprets one pickle. Values live on a stack; nothing is imported and nothing is called by name."""

    def __init__(self, source: Bytes, read: Callable[[Storage], memoryview] | None) -> None:
        self.source, self.read = source, read
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}
        self.storages: list[Storage] = []

    def run(self) -> object:
        """The value at STOP.

        Raises:
            ModelError: no pickle, cut off, or using what checkpoints do not use.
        """
        try:
            for count, (op, arg, _) in enumerate(pickletools.genops(cast(IO[bytes], self.source))):
                if count > MAX_OPCODES:
                    raise ModelError("too long for a checkpoint")
                if op.name == "STOP":
                    return self._pop()
                if op.name in _LITERALS:
                    self.stack.append(arg)
                else:
                    handler = _HANDLERS.get(op.name)
                    if handler is None:
                        raise ModelError(f"opcode {op.name} does not occur in checkpoints")
                    handler(self, arg)
        # What genops raises on bytes that are no pickle: ValueError with its children (UnicodeDecodeError),
        # IndexError and struct.error on short reads, OverflowError and MemoryError on absurd lengths.
        except (ValueError, IndexError, struct.error, OverflowError, MemoryError, KeyError, TypeError) as e:
            raise ModelError(f"no checkpoint, or damaged ({type(e).__name__}: {str(e)[:120]})") from None
        raise ModelError("damaged: the pickle has no end")

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ModelError("damaged: the pickle takes from an empty stack")
        return self.stack.pop()

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ModelError("damaged: the pickle takes from an empty stack")
        return self.stack[-1]

    def _marked(self) -> list[Any]:
        """Everything above the last mark, which goes, too."""
        out: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return out[::-1]
            out.append(value)
        raise ModelError("damaged: the pickle lacks a mark")

    def _get(self, key: int) -> None:
        if key not in self.memo:
            raise ModelError("damaged: the pickle refers to what it has not made")
        self.stack.append(self.memo[key])

    def _put(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self._top()

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, dict):
            for k, v in zip(values[::2], values[1::2], strict=True):
                target[_key(k)] = v

    def _append_one(self) -> None:
        value = self._pop()
        self._append([value])

    def _set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _dict(self) -> None:
        values = self._marked()
        self.stack.append({})
        self._set(values)

    def _tuple(self, n: int) -> None:
        values = [self._pop() for _ in range(n)]
        self.stack.append(tuple(values[::-1]))

    def _global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self.stack.append(Global(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.stack.append(Global(str(module)[:200], str(name)[:200]))

    def _call(self) -> None:
        """REDUCE and its relatives: data for the names in the table, else a stub."""
        args, function = self._pop(), self._pop()
        make = _CALLS.get((function.module, function.name)) if isinstance(function, Global) else None
        made = None
        if make is not None and isinstance(args, tuple):
            made = make(args)
        self.stack.append(Stub(function) if made is None else made)

    def _call_with_keywords(self) -> None:
        self._pop()
        self._call()

    def _call_marked(self, function: object = None) -> None:
        values = self._marked()
        if function is None:
            function, values = (values[0], values[1:]) if values else (None, [])
        self.stack += [function, tuple(values)]
        self._call()

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Stub | PickledArray):
            target.state = state
        elif (
            isinstance(target, Dtype)
            and isinstance(state, tuple)
            and len(state) > 1
            and state[1] in ("<", ">")
        ):
            target.order = state[1]

    def _persistent(self, value: object) -> None:
        """A storage: ("storage", type, key, location, count, ...)."""
        match value:
            case ("storage", Global() as kind, str() as key, _, int() as numel, *_) if (
                self.read is not None and numel >= 0
            ):
                if kind.name not in _STORAGES and kind.name != "UntypedStorage":
                    raise ModelError(f"storages of type {kind} are not supported")
                storage = Storage(_STORAGES.get(kind.name), key, numel, self.read)
                self.storages.append(storage)
                self.stack.append(storage)
            case _:
                raise ModelError("damaged: a reference to nothing that torch writes")


def _key(value: object) -> object:
    """A dict key. Deep tuples are refused: hashing them can take forever."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, tuple) and len(value) <= 64 and all(isinstance(v, _SCALARS) for v in value):
        return value
    return f"<{type(value).__name__}>"  # a leftover of training; weights are never stored so


_LITERALS = frozenset(
    {
        "NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    }
)  # fmt: skip
_HANDLERS: dict[str, Callable[[Machine, Any], object]] = {
    "PROTO": lambda m, a: None,
    "NEWTRUE": lambda m, a: m.stack.append(True),
    "NEWFALSE": lambda m, a: m.stack.append(False),
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.stack.append(_MARK),
    "POP": lambda m, a: m.stack.pop() if m.stack and m.stack[-1] is _MARK else m._pop(),
    "POP_MARK": lambda m, a: m._marked(),
    "DUP": lambda m, a: m.stack.append(m._top()),
    "GET": lambda m, a: m._get(a),
    "BINGET": lambda m, a: m._get(a),
    "LONG_BINGET": lambda m, a: m._get(a),
    "PUT": lambda m, a: m._put(a),
    "BINPUT": lambda m, a: m._put(a),
    "LONG_BINPUT": lambda m, a: m._put(a),
    "MEMOIZE": lambda m, a: m._put(None),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "EMPTY_TUPLE": lambda m, a: m.stack.append(()),
    "EMPTY_SET": lambda m, a: m.stack.append([]),
    "LIST": lambda m, a: m.stack.append(m._marked()),
    "FROZENSET": lambda m, a: m.stack.append(m._marked()),
    "TUPLE": lambda m, a: m.stack.append(tuple(m._marked())),
    "TUPLE1": lambda m, a: m._tuple(1),
    "TUPLE2": lambda m, a: m._tuple(2),
    "TUPLE3": lambda m, a: m._tuple(3),
    "DICT": lambda m, a: m._dict(),
    "APPEND": lambda m, a: m._append_one(),
    "APPENDS": lambda m, a: m._append(m._marked()),
    "ADDITEMS": lambda m, a: m._append(m._marked()),
    "SETITEM": lambda m, a: m._set_one(),
    "SETITEMS": lambda m, a: m._set(m._marked()),
    "GLOBAL": lambda m, a: m._global(a),
    "STACK_GLOBAL": lambda m, a: m._stack_global(),
    "REDUCE": lambda m, a: m._call(),
    "NEWOBJ": lambda m, a: m._call(),
    "NEWOBJ_EX": lambda m, a: m._call_with_keywords(),
    "OBJ": lambda m, a: m._call_marked(),
    "INST": lambda m, a: m._call_marked(Global(*a.partition(" ")[::2])),
    "BUILD": lambda m, a: m._build(),
    "PERSID": lambda m, a: m._persistent(a),
    "BINPERSID": lambda m, a: m._persistent(m._pop()),
}


# What may become data. Each takes the arguments of the call and returns None for anything unexpected.


def _tensor(args: tuple[Any, ...]) -> object:
    """``torch._utils._rebuild_tensor*``: (storage, offset, size, stride, ...), in version 3 with a type."""
    match args:
        case (Storage() as storage, int() as offset, tuple() as shape, tuple() as strides, *rest):
            if not (_is_shape(shape) and all(type(s) is int for s in strides)):
                return None
            named = [g.name for g in rest if isinstance(g, Global) and g.module == "torch"]
            dtype = named[-1] if named else storage.dtype or "uint8"
            return Tensor(storage, dtype, offset, shape, strides)
    return None


def _first(args: tuple[Any, ...]) -> object:
    """A parameter is its tensor."""
    return args[0] if args and isinstance(args[0], Tensor) else None


def _ordered_dict(args: tuple[Any, ...]) -> object:
    out: dict[object, object] = {}
    if args and isinstance(args[0], list):
        for pair in args[0]:
            if isinstance(pair, list | tuple) and len(pair) == 2:
                out[_key(pair[0])] = pair[1]
    return out


def _encode(args: tuple[Any, ...]) -> object:
    """``_codecs.encode(text, "latin1")``: how protocol 2 writes bytes."""
    match args:
        case (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1", "replace")
    return None


def _numpy_scalar(args: tuple[Any, ...]) -> object:
    match args:
        case (Dtype() as kind, bytes() as raw):
            dtype = kind.numpy()
            if dtype is not None and dtype.itemsize == len(raw):
                return np.frombuffer(raw, dtype, 1)[0].item()
    return None


def _numpy_dtype(args: tuple[Any, ...]) -> object:
    return Dtype(args[0]) if args else None


def _numpy_array(args: tuple[Any, ...]) -> object:
    return PickledArray()


def _size(args: tuple[Any, ...]) -> object:
    return tuple(args[0]) if args and isinstance(args[0], list | tuple) else None


_CALLS: Mapping[tuple[str, str], Callable[[tuple[Any, ...]], object]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): _size,
    ("numpy", "dtype"): _numpy_dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _numpy_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _numpy_scalar for core in ("core", "_core")},
}


def _is_shape(shape: tuple[Any, ...]) -> bool:
    return len(shape) <= 32 and all(type(n) is int and 0 <= n < 2**48 for n in shape)


def _product(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out
