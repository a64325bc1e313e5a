"""What this machine can do: the rates that floors are made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from speed.timing import best


@dataclass(frozen=True)
class Machine:
    """Measured rates of one thread.

    Args:
        float32, float64: matrix products, operations a second. bandwidth: bytes a second, read and written.
    """

    float32: float
    float64: float
    bandwidth: float

    def text(self) -> str:
        """For people."""
        return (
            f"{self.float32 / 1e9:.0f} GFLOP/s float32, {self.float64 / 1e9:.0f} GFLOP/s float64, "
            f"{self.bandwidth / 1e9:.0f} GB/s"
        )

    def asdict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def measured() -> Machine:
    """Rates of this machine, now."""

    def product(dtype: torch.dtype, n: int = 1024) -> float:
        a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
        return 2.0 * n**3 / best(lambda: a @ b)

    x = torch.ones(2**25)  # 128 MB, larger than any cache
    y = torch.empty_like(x)
    return Machine(product(torch.float32), product(torch.float64), 2.0 * x.nbytes / best(lambda: y.copy_(x)))


PEAK = """
def peak():
    with open("/proc/self/status") as status:  # not getrusage: a child inherits its parent's peak there
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
"""
"""Source of a function for other interpreters: largest resident kilobytes of this process so far. Linux."""
