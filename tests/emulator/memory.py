"""The memories of a GPU: every access is checked, and what was never written is NaN in every floating type."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

# a NaN in float16, bfloat16, float32 and float64, and far out of range as an index
POISON = 0x7FFF
# unreadable bytes around each buffer: more than any one access is wide
GUARD = 1024
# what the hardware aligns allocations to; addresses keep theirs modulo this
ALIGNMENT = 256


class EmulationError(Exception):
    """The program did what a GPU would not allow, or something that the emulator does not know."""


class AccessError(EmulationError):
    """An access out of bounds or misaligned."""


@dataclass(frozen=True)
class Buffer:
    """Memory of the host that a kernel may read and write.

    Parameters
    ----------
    address : int
        Where it begins; a kernel sees the same address modulo 256.
    bytes : ndarray of uint8
        A view of the memory itself.
    """

    address: int
    bytes: np.ndarray

    @classmethod
    def at(cls, address: int, size: int) -> Self:
        """The `size` bytes from `address` on, which the caller keeps alive."""
        if size == 0:
            return cls(address, np.empty(0, np.uint8))
        return cls(address, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)))

    @classmethod
    def of(cls, array: np.ndarray) -> Self:
        """The memory that an array spans, whatever its strides."""
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data,) * 2
        return cls.at(low, high - low)


class Memory:
    """Bytes that lanes read and write at addresses of their own, all of them aligned to the width of the access.

    Parameters
    ----------
    data : ndarray of uint8
        A multiple of 16 bytes.
    name : str
        What errors call it.
    """

    def __init__(self, data: np.ndarray, name: str) -> None:
        self.name = name
        self.data = data
        self.views = {width: data.view(f"u{width}") for width in (1, 2, 4, 8)}
        self.views[16] = data.view(np.uint64).reshape(-1, 2)

    def offsets(self, address: np.ndarray, size: int, where: np.ndarray) -> np.ndarray:
        """Where in `data` the lanes' addresses are; raises `AccessError` unless all `size` bytes are there."""
        raise NotImplementedError

    def load(self, address: np.ndarray, width: int, count: int, where: np.ndarray, align: int) -> np.ndarray:
        """`count` words of `width` bytes from each address.

        Parameters
        ----------
        address : ndarray of uint64, shape (n,)
        width, count : int
        where : ndarray
            What selects these lanes' own memory, where each has one.
        align : int
            Bytes that addresses must be divisible by.

        Returns
        -------
        ndarray, shape (n, count)
            Unsigned words.
        """
        at = self._checked(address, width * count, where, align)
        if width * count == align and align in self.views:
            rows = self.views[align][at // align]
            return np.ascontiguousarray(rows).view(f"u{width}").reshape(len(at), count)
        first = at // width
        return self.views[width][first[:, None] + np.arange(count)]

    def store(self, address: np.ndarray, values: np.ndarray, where: np.ndarray, align: int) -> None:
        """Write rows of words (n, count); of two lanes at one address the later one wins."""
        width = values.dtype.itemsize
        at = self._checked(address, width * values.shape[1], where, align)
        self.views[width][(at // width)[:, None] + np.arange(values.shape[1])] = values

    def _checked(self, address: np.ndarray, size: int, where: np.ndarray, align: int) -> np.ndarray:
        misaligned = address % np.uint64(align) != 0
        if misaligned.any():
            lane = int(misaligned.argmax())
            raise AccessError(
                f"{self.name} access misaligned: {size} bytes at {int(address[lane]):#x}, "
                f"which {align} does not divide, {int(misaligned.sum())} lanes in all"
            )
        return self.offsets(address, size, where)

    def _refuse(self, bad: np.ndarray, address: np.ndarray, size: int, allowed: str) -> None:
        if bad.any():
            lane = int(bad.argmax())
            raise AccessError(
                f"{self.name} access out of bounds: {size} bytes at {int(address[lane]):#x}, {allowed}, "
                f"{int(bad.sum())} lanes in all"
            )


class Global(Memory):
    """Device memory: copies of the buffers, each with unreadable bytes around it.

    Parameters
    ----------
    buffers : sequence of Buffer
        One that is given twice has one address; two that overlap in part are refused.
    """

    BASE = 1 << 32

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.places: dict[tuple[int, int], int] = {}
        self.buffers = buffers
        end = GUARD
        for buffer in sorted(buffers, key=lambda buffer: (buffer.address, -len(buffer.bytes))):
            key = (buffer.address, len(buffer.bytes))
            if key in self.places:
                continue
            if any(start < key[0] + key[1] and key[0] < start + size for start, size in self.places):
                raise ValueError("two arguments overlap in memory without being the same")
            place = end + (buffer.address - end) % ALIGNMENT
            self.places[key] = place
            end = place + key[1] + GUARD
        data = np.full(-(-end // 16) * 8, POISON, np.uint16).view(np.uint8)
        self.readable = np.zeros(data.size, bool)
        super().__init__(data, "global")
        for buffer in buffers:
            self.refresh(buffer)

    def refresh(self, buffer: Buffer) -> None:
        """Take a buffer's contents from the host."""
        place = self.places[buffer.address, len(buffer.bytes)]
        self.data[place : place + len(buffer.bytes)] = buffer.bytes
        self.readable[place : place + len(buffer.bytes)] = True

    def address(self, buffer: Buffer) -> int:
        """What a kernel is told of where a buffer is."""
        return self.BASE + self.places[buffer.address, len(buffer.bytes)]

    def offsets(self, address: np.ndarray, size: int, where: np.ndarray) -> np.ndarray:
        at = (address - np.uint64(self.BASE)).astype(np.int64)
        bad = (at < 0) | (at > self.data.size - size)
        inside = np.where(bad, 0, at)
        # guards are wider than an access: one that leaves a buffer has its first or its last byte there
        bad |= ~self.readable[inside] | ~self.readable[inside + size - 1]
        self._refuse(bad, address, size, "outside every buffer")
        return at

    def write_back(self) -> None:
        """Hand the buffers' contents to the host."""
        for buffer in self.buffers:
            place = self.places[buffer.address, len(buffer.bytes)]
            buffer.bytes[:] = self.data[place : place + len(buffer.bytes)]


class Private(Memory):
    """Memory of which each owner, a program or a thread, has `size` bytes that begin at address 0.

    Parameters
    ----------
    name : str
    owners, size : int
    """

    def __init__(self, name: str, owners: int, size: int) -> None:
        self.size = size
        self.stride = -(-size // 16) * 16
        super().__init__(np.full(max(8, owners * self.stride // 2), POISON, np.uint16).view(np.uint8), name)

    def offsets(self, address: np.ndarray, size: int, where: np.ndarray) -> np.ndarray:
        bad = address > np.uint64(max(0, self.size - size)) if size <= self.size else np.ones(len(address), bool)
        self._refuse(bad, address, size, f"of {self.size}")
        return address.astype(np.int64) + where * self.stride


def arguments_as_buffers(arguments: Sequence[Any]) -> list[Any]:
    """Arrays as buffers; numbers and buffers as they are."""
    return [Buffer.of(value) if isinstance(value, np.ndarray) else value for value in arguments]
