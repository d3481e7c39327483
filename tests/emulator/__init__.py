"""Run compiled GPU kernels with no GPU: NVIDIA's PTX and AMD's assembly, interpreted strictly in NumPy.

`emulator.ptx.launch` and `emulator.amd.launch` run a text; `emulator.driver.on` runs what Triton would launch.
README.md tells the rest.
"""
