"""Measures the peak rate of this device: the rate of a large matrix product.

python benchmarks/gemm.py
"""

import argparse
import os
import time

from harness import Worker


def gemm_gflops(dtype: str = "float32", device: str = "cpu", size: int | None = None, seconds: float = 2.0) -> float:
    """GFLOP/s of the best of several (size × size) products, 2 size³ operations each, at the threads in use."""
    import torch

    size = size or (8192 if device.startswith("cuda") else 2048)
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    b = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def synchronize(device: str):
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def limit_gflops(**arguments) -> float:
    """`gemm_gflops` in a process of its own, so that the one that measures stays small."""
    worker = Worker(_setup, **arguments)
    worker.run()
    worker.close()
    return worker.times.value


def _setup(**arguments):
    return lambda: gemm_gflops(**arguments)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    for dtype in ("float32", "bfloat16"):
        print(f"{dtype}: {gemm_gflops(dtype, args.device):,.0f} GFLOP/s")
