"""A safetensors file with a JSON record in its metadata, and the SHA-256 of all of it.

    8 bytes   length of the header, little-endian
    header    {"__metadata__": {"sha256": "<64 digits>", "record": "<JSON>"}, "<tensor>": {...}, ...} without blanks
    data      the tensors, one after another

The digest is of every byte of the file but its own 64 digits, which are always at the same place. So it is checked
before anything is parsed, and no bit of a file can change unnoticed. Any reader of safetensors reads the tensors.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import DamagedCheckpoint

_START = b'{"__metadata__":{"sha256":"'
_DIGITS = slice(8 + len(_START), 8 + len(_START) + 64)
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def write(file: BinaryIO, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a record that JSON can hold, and tensors of any device and memory format; neither is stored."""
    entries: dict[str, Any] = {"__metadata__": {"sha256": "0" * 64, "record": json.dumps(record)}}
    # large elements first, so that all are aligned
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    end = 0
    for name, x in ordered:
        entries[name] = {"dtype": _NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    head = len(header).to_bytes(8, "little") + header
    parts = [x.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data for _, x in ordered]
    digest = _digest(head[: _DIGITS.start], head[_DIGITS.stop :], *parts)
    file.writelines((head[: _DIGITS.start], digest, head[_DIGITS.stop :], *parts))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors of a file. It is read once, so that what was verified is what is used.

    Raises
    ------
    DamagedCheckpoint
        It differs from what was written, or was not written by `write`.
    OSError
        It cannot be read, which says nothing about what it holds.
    """
    with _open_regular(path) as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        del data[file.readinto(data) :]  # type: ignore[attr-defined]
    view = memoryview(data)
    if view[_DIGITS] != _digest(view[: _DIGITS.start], view[_DIGITS.stop :]):
        raise DamagedCheckpoint(f"{path}: not what was written (its SHA-256 is not the one in it)")
    try:
        start = 8 + int.from_bytes(view[:8], "little")
        entries = json.loads(bytes(view[8:start]))
        record = json.loads(entries.pop("__metadata__")["record"])
        if not isinstance(record, dict):
            raise ValueError("its record is no JSON object")
        return record, {name: _tensor(data, start, **entry) for name, entry in entries.items()}
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: not a checkpoint ({error!r})") from None


def _tensor(data: bytearray, start: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    count, (low, high) = math.prod(shape), data_offsets
    element = _TYPES[dtype]
    if min(shape, default=0) < 0 or low < 0 or high - low != count * element.itemsize or start + high > len(data):
        raise ValueError(f"a tensor of shape {shape} at bytes {low} to {high}")
    if count == 0:
        return torch.empty(shape, dtype=element)
    return torch.frombuffer(data, dtype=element, count=count, offset=start + low).reshape(shape)


def _open_regular(path: Path) -> BinaryIO:
    # a pipe would be waited for
    if not stat.S_ISREG(path.stat().st_mode):
        raise DamagedCheckpoint(f"{path}: not a file")
    return path.open("rb")


def _digest(*parts: Iterable[int]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)  # type: ignore[arg-type]
    return digest.hexdigest().encode()
