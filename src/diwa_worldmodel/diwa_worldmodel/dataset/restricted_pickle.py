"""Reads the one pickle that cannot be avoided, CALVIN's annotation file, without running anything that is in it.

A pickle is a program. Here it may only build dicts, lists, tuples, texts, numbers and plain numpy arrays: whatever
else it names is refused by that name. numpy's own classes are not handed to it either (their ``__setstate__`` trusts
its input with pointers), but stand-ins that check sizes. The interpreter is pickle's in Python, because the one in C
can be made to fill memory with its table of memos.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diwa_conventions.errors import UserError

MAX_BYTES = 512 * 2**20
MAX_LEVELS = 16
MAX_VALUES = 2_000_000
_DTYPE = re.compile(r"[<>|=]?([biufSU])(\d{1,6})|[|]?O8?")


def load_annotation_file(path: Path) -> Any:
    """The object in a ``.npy`` file with one pickled object; arrays in it may be nested lists or numpy arrays.

    UserError that names what was found, for anything but such a file or for a pickle that asks for more.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes; expected an annotation file of at most {MAX_BYTES}")
    with open(path, "rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        except Exception as error:  # numpy's parser of headers raises much
            raise UserError(f"{path} is not a .npy file ({error}); expected CALVIN's annotation file") from error
        if shape != () or dtype != np.dtype(object):
            raise UserError(f"{path} holds {dtype} {shape}; expected one pickled dict, as in CALVIN")
        return restricted_loads(stream.read(), path)


def restricted_loads(data: bytes, path: Path) -> Any:
    """The object in a pickle, or UserError that names what was refused."""
    try:
        return _Plain(path)(_Unpickler(io.BytesIO(data), path).load())
    except UserError:
        raise
    except (Exception, RecursionError, MemoryError) as error:
        # A damaged or hostile pickle fails in as many ways as there are.
        raise UserError(
            f"{path} holds a damaged pickle ({type(error).__name__}: {error}); download it again"
        ) from error


class _Unpickler(pickle._Unpickler):
    # Protocol 5 can ask for memory that the file does not fill; numpy writes files with protocol 4 at most.
    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code not in (pickle.BYTEARRAY8[0], pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0])
    }

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream)
        self._path = path

    def find_class(self, module: str, name: str, /) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise UserError(
                f"{self._path} asks for {module}.{name}, which was refused: it may hold only dicts, lists, tuples, "
                "texts, numbers and numpy arrays; do not trust this file"
            )
        return _Name(allowed)

    def persistent_load(self, pid: object) -> Any:
        raise UserError(f"{self._path} refers to objects outside of it; that was refused")

    def get_extension(self, code: int) -> None:
        raise UserError(f"{self._path} asks for extension {code}, which was refused")


class _Name:
    """What a name in the pickle stands for: can be called, and nothing else."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *words: Any) -> Any:
        return self._make(*words)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError(f"sets {name} of a name")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("sets the state of a name")


class _DType:
    """Stand-in for a numpy dtype without fields."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise ValueError(f"dtype {str(text)[:40]!r}; expected numbers, texts or objects")
        self._text = text.lstrip("<>|=")

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
            raise ValueError("a dtype with fields")
        if order != "|":
            self._text = order + self._text.lstrip("<>|=")

    def dtype(self) -> np.dtype[Any]:
        return np.dtype("O" if self._text.lstrip("<>|=").startswith("O") else self._text)


class _Array:
    """Stand-in for a numpy array that is filled later."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = []

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _DType) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("an array without shape or dtype")
        dtype = kind.dtype()
        if dtype == np.dtype(object):
            if not isinstance(content, list) or len(content) != math.prod(shape) or len(shape) > 1:
                raise ValueError(f"an array of objects with shape {shape}")
            self.value = content if shape else content[0]
            return
        if not isinstance(content, bytes) or len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} whose bytes do not fit it")
        flat = np.frombuffer(content, dtype) if dtype.itemsize else np.zeros(0, dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """numpy's way to begin an array; its real shape comes with the state."""
    return _Array()


def _scalar(kind: Any, content: Any) -> Any:
    if not isinstance(kind, _DType) or not isinstance(content, bytes) or len(content) != kind.dtype().itemsize:
        raise ValueError("a number whose bytes do not fit it")
    return np.frombuffer(content, kind.dtype())[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes that are not latin1")
    return text.encode("latin1")


def _ndarray(*words: Any) -> Any:
    raise ValueError("an array made directly")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): lambda text, align=False, copy=False: _DType(text),
    ("_codecs", "encode"): _encode,
}


class _Plain:
    """Takes the stand-ins out. UserError for values nested too deep or too many, which also stops endless ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values = 0

    def __call__(self, value: Any, levels: int = MAX_LEVELS) -> Any:
        self._values += 1
        if levels == 0 or self._values > MAX_VALUES:
            raise UserError(
                f"{self._path} nests its values deeper than {MAX_LEVELS} levels or has more than {MAX_VALUES} of them; "
                "that was refused"
            )
        if isinstance(value, _Array):
            value = value.value
        if isinstance(value, dict):
            return {key: self(item, levels - 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self(item, levels - 1) for item in value)
        if isinstance(value, (str, bytes, int, float, bool, np.ndarray, type(None))):
            return value
        raise UserError(
            f"{self._path} holds a {type(value).__name__}, which was refused; expected dicts, lists, texts and arrays"
        )
