"""The GPUs that a cost is worked out for, and how many lanes of each pipe a streaming multiprocessor has."""

from dataclasses import dataclass

REGISTERS = 65536
WARPS = 64
BLOCKS = 32
# a block's shared memory is charged this much on top
RESERVED_SHARED = 1024


@dataclass(frozen=True)
class Device:
    """One GPU, from its maker's data sheet and the CUDA programming guide's throughput table.

    Parameters
    ----------
    name : str
    capability : int
        80 for sm_80.
    multiprocessors : int
        SMs that are switched on.
    clock : float
        Boost clock, Hz.
    bandwidth : float
        Device memory, bytes a second, as the data sheet has it; a copy reaches about nine tenths.
    tensor_flops : float
        Dense bfloat16 with float32 sums, operations a second.
    shared : int
        Bytes of shared memory an SM.
    lanes : dict of str to int
        What a pipe of one SM starts each clock, counted in threads.
    source : str
    """

    name: str
    capability: int
    multiprocessors: int
    clock: float
    bandwidth: float
    tensor_flops: float
    shared: int
    lanes: dict[str, int]
    source: str

    @property
    def clocks(self) -> float:
        """Clocks of all SMs together, a second."""
        return self.multiprocessors * self.clock


# issue: four schedulers, one instruction of 32 threads each. fma: float32 and integer products; heavy: the half of
# it that also multiplies integers, where there are two halves. lsu: 32 addresses, and 128 bytes of data, a clock
DEVICES = (
    Device(
        "A100",
        80,
        108,
        1.41e9,
        2.039e12,
        312e12,
        164 << 10,
        {"issue": 128, "fma": 64, "fma heavy": 64, "alu": 64, "xu": 16, "lsu": 32, "fp64": 32},
        "A100 80GB SXM data sheet; Ampere architecture white paper",
    ),
    Device(
        "H100",
        90,
        132,
        1.755e9,
        3.35e12,
        989e12,
        228 << 10,
        {"issue": 128, "fma": 128, "fma heavy": 64, "alu": 64, "xu": 16, "lsu": 32, "fp64": 64},
        "H100 SXM5 data sheet; Hopper architecture white paper (clock under load)",
    ),
    Device(
        "B200",
        100,
        148,
        1.85e9,
        8.0e12,
        2250e12,
        228 << 10,
        {"issue": 128, "fma": 128, "fma heavy": 64, "alu": 64, "xu": 16, "lsu": 32, "fp64": 64},
        "HGX B200 data sheet; Blackwell architecture brief (clock approximate)",
    ),
)


def device(capability: int) -> Device:
    """The device with this compute capability."""
    for candidate in DEVICES:
        if candidate.capability == capability:
            return candidate
    known = ", ".join(str(candidate.capability) for candidate in DEVICES)
    raise ValueError(f"target must be one of {known}, got {capability}")


def occupancy(gpu: Device, registers: int, shared: int, warps_a_block: int) -> float:
    """The share of an SM's warps that can be resident at once, limited by registers, shared memory and blocks.

    Parameters
    ----------
    registers : int
        A thread's; handed out in eights, to whole warps.
    shared : int
        A block's bytes.
    warps_a_block : int
    """
    registers_a_block = -(-registers // 8) * 8 * 32 * warps_a_block
    blocks = min(BLOCKS, WARPS // warps_a_block, REGISTERS // registers_a_block)
    if shared:
        blocks = min(blocks, gpu.shared // (shared + RESERVED_SHARED))
    return blocks * warps_a_block / WARPS
