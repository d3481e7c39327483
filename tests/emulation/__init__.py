"""Run compiled GPU kernels with no GPU: NVIDIA's PTX and AMD's assembly, interpreted strictly in NumPy.

`emulation.ptx.launch` and `emulation.amd.launch` run a text; `emulation.driver.on` runs what Triton would launch.
docs/emulation.md tells the rest.
"""
