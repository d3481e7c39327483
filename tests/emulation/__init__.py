"""The ops in the emulator: which calls run there, the process that runs them, and faults planted in the kernels."""
