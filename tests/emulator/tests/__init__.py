"""Tests of the emulator: its opcodes against arithmetic in fractions, what it must refuse, and faults planted in it."""
