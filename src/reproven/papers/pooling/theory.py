"""The theorems as functions: Lipschitz bounds of blocks, and gamma of Theorem 4.2.

Symbols as in the paper: rows x_i of X (n, d), H heads, W_Q, W_K, W_V (H, d, d/H), W_O (d, d), W_FFN (d, d); R
bounds the row norms. ``|.|`` of a matrix is its operator norm, distances of inputs are Frobenius'. The paper's
displays of C_1 and C_2 were lost: T1, T2 and C_2 are the dossier's reconstruction (section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import lambertw
from torch import Tensor

from reproven.papers.pooling.base import Pooling

KINDS = ("dot", "l2", "scsa")


@dataclass(frozen=True)
class Block:
    """One post-LN block with CenterNorm: ``X' = CN(X + MHA(X))``, ``Z = CN(X' + relu(X' W_FFN))``.

    kind: ``dot`` (scaled dot products), ``l2`` (Kim et al.: minus squared distances, tied W_Q = W_K, values through
        ``A_h = W_Q W_Q^T / sqrt(d/H)``) or ``scsa`` (LipsFormer's scaled cosine similarity).
    query, key, value: (H, d, d/H); output: (d, d); ffn: (d, d). causal: row i attends to rows up to i.
    nabla, nu, tau: of scsa alone, all positive.
    """

    kind: str
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    ffn: Tensor
    causal: bool = False
    nabla: float = 1.0
    nu: float = 1.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"attention {self.kind!r} is not one of {', '.join(KINDS)}")

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., n, d) to (..., n, d)."""
        inner = center_norm(x + attention(self, x))
        return center_norm(inner + (inner @ self.ffn).relu())


def random_block(
    kind: str, d: int, heads: int, generator: torch.Generator, scale: float = 1.0, causal: bool = False
) -> Block:
    """Draw a block with Gaussian weights of standard deviation ``scale / sqrt(d)``, float64; W_K = W_Q for ``l2``."""
    if d % heads:
        raise ValueError(f"{heads} heads do not divide the width {d}")

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale / math.sqrt(d)

    query = draw(heads, d, d // heads)
    key = query if kind == "l2" else draw(heads, d, d // heads)
    return Block(kind, query, key, draw(heads, d, d // heads), draw(d, d), draw(d, d), causal)


def center_norm(x: Tensor) -> Tensor:
    """LipsFormer's CenterNorm with gamma = 1, beta = 0: ``(d/(d-1)) (x - mean x)``; no division by a deviation."""
    d = x.shape[-1]
    return (x - x.mean(dim=-1, keepdim=True)) * (d / (d - 1))


def center_norm_lipschitz(d: int) -> float:
    """Return d/(d-1), exact."""
    if d < 2:
        raise ValueError(f"CenterNorm needs a width of 2 or more, not {d}")
    return d / (d - 1)


def attention(block: Block, x: Tensor) -> Tensor:
    """Return MHA(X), (..., n, d): the heads' outputs side by side, times W_O."""
    d, heads = x.shape[-1], len(block.query)
    width = d // heads
    rows = x[..., None, :, :]
    q, k, v = rows @ block.query, rows @ block.key, rows @ block.value
    if block.kind == "dot":
        scores = q @ k.mT / math.sqrt(width)
    elif block.kind == "l2":
        scores = -((q[..., :, None, :] - k[..., None, :, :]) ** 2).sum(dim=-1) / math.sqrt(width)
        v = rows @ (block.query @ block.query.mT) / math.sqrt(width) @ block.value
    else:
        q, k, v = (u / (u.square().sum(dim=-1, keepdim=True) + block.nabla).sqrt() for u in (q, k, v))
        scores = block.tau * q @ k.mT
        v = block.nu * v
    if block.causal:
        keep = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device).tril()
        scores = scores.masked_fill(~keep, -torch.inf)
    out = scores.softmax(dim=-1) @ v
    return out.transpose(-3, -2).flatten(-2) @ block.output


def spectral(matrix: Tensor) -> Tensor:
    """Return operator norms over the last two axes."""
    return torch.linalg.matrix_norm(matrix, 2)


def dot_product_lipschitz(block: Block, n: int, radius: float) -> float:
    """T1: ``|W_O| (sum_h |W_V|^2 (sqrt n + (1 + sqrt n) R^2 |A_h|)^2)^(1/2)``, ``A_h = W_Q W_K^T / sqrt(d/H)``."""
    root = math.sqrt(n)
    head = spectral(block.value) * (root + (1 + root) * radius**2 * _products(block))
    return float(spectral(block.output) * head.norm())


def dot_product_row_lipschitz(block: Block, radius: float) -> float:
    """T2: the constant of one output row, ``|W_O| (sum_h |W_V|^2 (1 + 2 R^2 |A_h|)^2)^(1/2)``; no n in it."""
    head = spectral(block.value) * (1 + 2 * radius**2 * _products(block))
    return float(spectral(block.output) * head.norm())


def l2_lipschitz(block: Block, n: int) -> float:
    """L2 attention with tied W_Q = W_K, for inputs of any size (Kim et al., Theorem 3.2; fourth power: dossier 3.2):

    ``sqrt(n/(d/H)) (4 W_0((n-1)/e) + 1) (sum_h |W_Q|^4 |W_V|^2)^(1/2) |W_O|``, W_0 Lambert's function.
    """
    if not torch.equal(block.query, block.key):
        raise ValueError("the bound of L2 attention holds for tied weights only; set key = query")
    heads = (spectral(block.query) ** 2 * spectral(block.value)).norm()
    phi = float(lambertw((n - 1) / math.e).real)
    width = block.query.shape[2]
    return float(math.sqrt(n / width) * (4 * phi + 1) * heads * spectral(block.output))


def scsa_lipschitz(block: Block, n: int) -> float:
    """Scaled cosine attention, inputs of any size: ``sqrt(H) |W_O| max_h (n^2 nu tau |W_K| + n nu tau |W_Q| + 2 n nu
    |W_V|) / sqrt(nabla)``, n or the window (the refined bound with 1/2 for the softmax, dossier 3.2)."""
    scale = block.nu / math.sqrt(block.nabla)
    keys, queries, values = spectral(block.key), spectral(block.query), spectral(block.value)
    head = scale * (n**2 * block.tau * keys + n * block.tau * queries + 2 * n * values)
    return float(math.sqrt(len(block.query)) * spectral(block.output) * head.max())


def c1(block: Block, n: int, radius: float, row: bool = False) -> float:
    """Return C_1 = 1 + Lipschitz constant of the attention; `row`: of one output row (dot products alone)."""
    if block.kind == "dot":
        return 1 + (
            dot_product_row_lipschitz(block, radius) if row else dot_product_lipschitz(block, n, radius)
        )
    if row:
        raise ValueError(f"no row-aware constant is known for {block.kind} attention")
    return 1 + (l2_lipschitz(block, n) if block.kind == "l2" else scsa_lipschitz(block, n))


def c2(block: Block) -> float:
    """Return C_2 = 1 + |W_FFN|."""
    return 1 + float(spectral(block.ffn))


def block_lipschitz(block: Block, n: int, radius: float = math.inf, row: bool = False) -> float:
    """Return ``K = (d/(d-1))^2 C_1 C_2``; `radius` is needed for dot products only."""
    d = block.ffn.shape[0]
    if block.kind == "dot" and not math.isfinite(radius):
        raise ValueError("dot-product attention has no global constant; give the radius R of the input rows")
    return center_norm_lipschitz(d) ** 2 * c1(block, n, radius, row) * c2(block)


def radius_after(block: Block, radius: float) -> float:
    """Return a bound on the row norms that the block makes of rows of norm up to `radius`."""
    scale = center_norm_lipschitz(block.ffn.shape[0])
    if block.kind == "scsa":
        drawn = math.sqrt(len(block.query)) * block.nu * float(spectral(block.output))
    else:
        value = block.value
        if block.kind == "l2":
            value = block.query @ block.query.mT @ value / math.sqrt(block.query.shape[2])
        drawn = radius * float(spectral(block.output) * spectral(value).norm())
    return scale**2 * (radius + drawn) * c2(block)


def stack_lipschitz(blocks: Sequence[Block], n: int, radius: float = math.inf) -> float:
    """Return the product of the blocks' constants, radii carried from layer to layer (the paper's multi-layer case)."""
    product = 1.0
    for block in blocks:
        product *= block_lipschitz(block, n, radius)
        radius = radius_after(block, radius)
    return product


def pooled_lipschitz(
    block: Block, pooling: Pooling, n: int, radius: float = math.inf, norm: str = "frobenius"
) -> float | None:
    """Return K times the pooling's factor; with ``operator`` the paper's own factors of Theorem 4.2."""
    factor = pooling.lipschitz(n, block.ffn.shape[0], norm)
    return None if factor is None else factor * block_lipschitz(block, n, radius)


def average_lipschitz(block: Block, n: int, radius: float) -> float:
    """Avg after a dot-product block: the smaller of ``K/sqrt n`` by T1 and the row constant by T2."""
    return min(block_lipschitz(block, n, radius) / math.sqrt(n), block_lipschitz(block, n, radius, row=True))


def gamma(epsilon: float, sigma: float, constant: float) -> float:
    """Return gamma = epsilon K factor / sigma of Theorem 4.2; 1 or more says nothing (Markov's inequality)."""
    if not sigma > 0 or not epsilon >= 0:
        raise ValueError(f"epsilon = {epsilon} must be at least 0 and sigma = {sigma} positive")
    return epsilon * constant / sigma


def softmax_jacobian_norm(probabilities: Tensor) -> Tensor:
    """Return ``|diag(p) - p p^T|`` of (..., n) distributions; never above 1/2 (the paper's proof uses 2)."""
    jacobian = torch.diag_embed(probabilities) - probabilities[..., :, None] * probabilities[..., None, :]
    return spectral(jacobian)


def local_lipschitz(
    function: Callable[[Tensor], Tensor], x: Tensor, generator: torch.Generator, steps: int = 30
) -> float:
    """Return the largest singular value of the Jacobian at x by power iteration: a lower bound of any constant."""
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    value = 0.0
    pull = torch.func.vjp(function, x)[1]
    for _ in range(steps):
        direction = direction / direction.norm()
        push = torch.func.jvp(function, (x,), (direction,))[1]
        value = float(push.norm())
        direction = pull(push)[0]
        if not float(direction.norm()) > 0:
            break
    return value


def rows_within(x: Tensor, radius: float) -> Tensor:
    """Return X with every row scaled to norm `radius`."""
    return x * (radius / x.norm(dim=-1, keepdim=True))


def _products(block: Block) -> Tensor:
    """Return ``|A_h|`` of every head."""
    return spectral(block.query @ block.key.mT / math.sqrt(block.query.shape[2]))
