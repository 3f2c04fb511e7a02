"""Time of reading a model's weights, with the memory settings of stages/python and in small pages.

The sum of many products of one matrix each is what writing a text costs: each token reads all
weights once. The last line is a JSON object: `ratio` is small pages over large ones.
"""

import json
import os
import subprocess
import sys
import time

import torch

from stages.distil.interface.errors import report_errors

ROWS, COLUMNS, MATRICES, TOKENS = 1536, 576, 160, 48  # 283 MB in bfloat16
PASSES = 20
SETTINGS = ("GLIBC_TUNABLES", "MALLOC_TOP_PAD_", "THP_MEM_ALLOC_ENABLE")
SMALL = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
    "MALLOC_TOP_PAD_": "131072",
    "THP_MEM_ALLOC_ENABLE": "0",
}


def read_weights() -> float:
    """Return the median seconds of a pass over all matrices."""
    torch.manual_seed(0)
    weights = [torch.randn(ROWS, COLUMNS).to(torch.bfloat16) for _ in range(MATRICES)]
    tokens = torch.randn(TOKENS, COLUMNS).to(torch.bfloat16)
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        for weight in weights:
            torch.nn.functional.linear(tokens, weight)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[PASSES // 2]


def measure(settings: dict[str, str]) -> float:
    """Return what another process with these settings measures."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        ["stages/python", "-m", "benchmarks.pages", "once"],
        env=kept | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    """Print both times and their ratio."""
    if sys.argv[1:] == ["once"]:
        print(read_weights())
        return
    large, small = measure({}), measure(SMALL)
    print(f"large pages: {large * 1000:.0f} ms, small pages: {small * 1000:.0f} ms a pass")
    print(
        json.dumps(
            {"large_s": round(large, 4), "small_s": round(small, 4)}
            | {"ratio": round(small / large, 2)}
        )
    )


if __name__ == "__main__":
    sys.exit(report_errors("pages", debug=False, action=main))
