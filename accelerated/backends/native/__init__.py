"""The ops in float32 on a CPU as native code, where the machine has a C++ compiler: one pass, and the same bits."""

from .build import NativeUnavailable, eager, library

__all__ = ["NativeUnavailable", "eager", "library"]
