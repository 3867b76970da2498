"""A GCN layer on a dense random graph against PyG's fastest documented paths and a bare matrix product."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.zero_one.adjacency import MatrixGraphs, PackedGraph
from reproven.papers.zero_one.features import feature_law
from reproven.papers.zero_one.graphs import erdos_renyi_bits
from reproven.papers.zero_one.models import GCN

GIBIBYTE = 2**30


def gcn_layer(ctx: Context, *, n: int, d: int, repeats: int, memory_n: int) -> None:
    """Time one GCN layer on G(n, 1/2) in one process, all contestants in turn; record ratios of the least times.

    Contestants: this layer; PyG's GCNConv with its normalisation cached, on a compressed sparse row matrix
    (``pyg_csr``) and on an edge list (``pyg_edge_index``); one bare product (n, n) @ (n, d).
    Records: ``speedup`` of this layer over each PyG path; ``matmul_speedup``, what a layer that costs nothing beside
    the bare product would reach; ``time_over_matmul``; ``difference``, the largest absolute and relative difference
    of results; ``peak_memory_gb`` of a fresh process that samples G(memory_n, 1/2) and runs the layer.

    Args:
        n: nodes. d: width. repeats: rounds. memory_n: nodes of the memory measurement.
    """
    require("torch_geometric", "zero_one")
    bits = erdos_renyi_bits(n, 0.5, ctx.derive("graphs", n=n))
    A = PackedGraph(bits, n).dense()
    x = feature_law("uniform").sample(d, n, ctx.generator("features", n=n))[None]
    network = GCN(width=d)
    weights = network.draw(1, [ctx.torch_generator("weights")]).layers[0]
    graphs = MatrixGraphs(A)
    _ = graphs.degree  # the peers' normalisation is cached too
    rows = x[0].T.contiguous()

    contestants: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: network.layer(weights, graphs, x[:, None])[0, 0].T,
        "matmul": lambda: A[0] @ rows,
        **_pyg(A[0], rows, weights["neighbour"][0]),
    }
    with torch.no_grad():
        results = {
            name: run() for name, run in contestants.items()
        }  # the first call warms up and fills caches
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for done in range(repeats):
            for name, run in contestants.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
            ctx.progress(0.9 * (done + 1) / repeats, "timing")
    best = {name: min(times) for name, times in seconds.items()}
    where: dict[str, Any] = {"n": n, "d": d}
    for peer in ("pyg_csr", "pyg_edge_index"):
        ctx.record("speedup", best[peer] / best["ours"], unit="x", direction="higher", peer=peer, **where)
        ctx.record("matmul_speedup", best[peer] / best["matmul"], unit="x", peer=peer, **where)
        gap = (results["ours"] - results[peer]).abs().max().item()
        scale = results[peer].abs().max().item()
        for kind, value in (("absolute", gap), ("relative", gap / scale)):
            ctx.record("difference", value, unit="1", direction="lower", peer=peer, kind=kind, **where)
    ctx.record("time_over_matmul", best["ours"] / best["matmul"], unit="x", direction="lower", **where)
    ctx.record(
        "peak_memory_gb", _peak_memory(memory_n, d) / GIBIBYTE, unit="GiB", direction="lower", n=memory_n, d=d
    )


def _pyg(A: torch.Tensor, rows: torch.Tensor, w: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    from torch_geometric.nn import GCNConv

    def run(adjacency: torch.Tensor) -> Callable[[], torch.Tensor]:
        conv = GCNConv(*w.shape, bias=False, cached=True)
        conv.lin.weight.data = w.T.contiguous()
        return lambda: conv(rows, adjacency)

    return {"pyg_csr": run(A.to_sparse_csr()), "pyg_edge_index": run(A.nonzero().T.contiguous())}


def _peak_memory(n: int, d: int) -> float:
    """Return the peak resident memory in bytes of a fresh process that samples a graph and runs the layer."""
    program = f"from {__name__} import one_layer; one_layer({n}, {d})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the layer on n={n} nodes failed: {done.stderr[-500:]}")
    return float(done.stdout)


def one_layer(n: int, d: int) -> None:
    """Sample G(n, 1/2), run one GCN layer, print the peak resident memory of this process in bytes."""
    network = GCN(width=d)
    rng = torch.Generator().manual_seed(0)
    weights = network.draw(1, [rng])
    x = torch.rand(1, d, n, generator=rng)
    with torch.no_grad():
        network.pooled(weights, PackedGraph(erdos_renyi_bits(n, 0.5, 0), n), x)
    print(_own_peak())  # to the parent, through a pipe


def _own_peak() -> float:
    """Return the peak resident memory of this process in bytes.

    Linux hands a child the ``ru_maxrss`` of the parent it was forked from, so that its own file is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
