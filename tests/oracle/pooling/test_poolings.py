"""Every pooling against plain loops, torch's own attention, sentence-transformers, and its Lipschitz constant."""

import numpy as np
import pytest
import torch

from reproven.papers.pooling import controls, fixed, learned
from reproven.papers.pooling.pooling_reference import REFERENCE

D, N = 16, 9
POOLINGS = [
    fixed.Avg(), fixed.Sum(), fixed.SqrtMean(), fixed.Max(), fixed.Min(), fixed.Median(), fixed.Last(),
    fixed.First(), fixed.TopK(3), fixed.GeM(), fixed.GeM(1.5), fixed.GeM(signed=False), fixed.LSE(), fixed.LSE(0.5),
    fixed.PositionMean(), fixed.AvgMax(), fixed.Covariance(5, 0), fixed.Covariance(3, 12), fixed.Covariance(0, 0),
    learned.WAvg(), learned.WAvg(convex=False), learned.WAvg(align="start"), learned.QueryAttention(0.5),
    learned.GatedABMIL(8), learned.PMA(4), learned.LatentDictionary(5, 4), learned.AdaPool(4, "mean"),
    learned.AdaPool(2, "last"), learned.AdaPool(2, "first"), learned.SimPool(), learned.EfficientProbing(4),
    learned.SlicedWasserstein(6, 9),
]  # fmt: skip


def draw(pooling, seed=0, batch=4):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, N, D, generator=g, dtype=torch.float64)
    counts = torch.tensor([N, 5, 1, 7])[:batch]
    p = {
        k: (v + 0.3 * torch.randn(v.shape, generator=g)).double()
        for k, v in pooling.parameters(D, N, g).items()
    }
    return z, counts, p


def padded(z, counts, side):
    """The real tokens at the `side`, something absurd in the padding, and the mask."""
    out, mask = torch.full_like(z, 1e3), torch.zeros(z.shape[:2], dtype=torch.bool)
    for i, count in enumerate(counts):
        place = slice(0, count) if side == "right" else slice(N - count, N)
        out[i, place], mask[i, place] = z[i, :count], True
    return out, mask


def name(pooling):
    return repr(pooling)


@pytest.mark.parametrize("pooling", POOLINGS, ids=name)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_pooling_is_what_plain_loops_say_under_either_padding(pooling, side):
    z, counts, p = draw(pooling)
    if isinstance(pooling, fixed.Covariance) and pooling.iterations:
        counts = torch.tensor([N, 5, 9, 7])  # the root of a singular matrix converges slowly
    got = pooling(*padded(z, counts, side), p)
    assert got.shape == (4, pooling.width(D))
    assert got.dtype == torch.float64
    arrays = {k: v.numpy() for k, v in p.items()}
    tolerance = 1e-4 if isinstance(pooling, fixed.Covariance) and pooling.iterations else 1e-10
    for row, count, ours in zip(z, counts, got):
        wanted = REFERENCE[type(pooling).__name__](row[:count].numpy(), pooling, arrays)
        np.testing.assert_allclose(ours.numpy(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pooling", POOLINGS, ids=name)
def test_copies_pool_as_each_alone_and_rows_as_a_batch(pooling):
    z, counts, p = draw(pooling)
    tokens, mask = padded(z, counts, "right")
    tokens = tokens.masked_fill(~mask[..., None], 0.0)
    other = {k: v * 1.5 + 0.1 for k, v in p.items()}
    both = pooling.ensemble(tokens, mask, {k: torch.stack([p[k], other[k]]) for k in p})
    assert len(both) == (2 if pooling.learns else 1)
    for ours, alone in zip(both, (p, other)):
        torch.testing.assert_close(ours, pooling(tokens, mask, alone), rtol=1e-10, atol=1e-10)
    rows = torch.cat([pooling(tokens[i : i + 1], mask[i : i + 1], p) for i in range(4)])
    torch.testing.assert_close(both[0], rows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pooling", POOLINGS, ids=name)
def test_only_those_that_know_positions_see_the_order(pooling):
    z, _, p = draw(pooling)
    shuffled = z[:, torch.randperm(N, generator=torch.Generator().manual_seed(1))]
    same = torch.allclose(pooling(z, None, p), pooling(shuffled, None, p), rtol=1e-8, atol=1e-8)
    positional = isinstance(pooling, fixed.Last | fixed.First | fixed.PositionMean | learned.WAvg)
    positional |= isinstance(pooling, learned.AdaPool) and pooling.query != "mean"
    assert same != positional


@pytest.mark.parametrize("pooling", POOLINGS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_gradients_pass_through(pooling, dtype):
    z, counts, p = draw(pooling)
    tokens, mask = padded(z, counts, "left")
    tokens = tokens.masked_fill(~mask[..., None], 0.0).to(dtype).requires_grad_()
    out = pooling(tokens, mask, {k: v.to(dtype) for k, v in p.items()})
    assert out.dtype == dtype
    if not isinstance(pooling, fixed.Covariance):  # the root has no gradient at one token
        out.float().sum().backward()
        assert torch.isfinite(tokens.grad).all()


@pytest.mark.parametrize("pooling", POOLINGS, ids=name)
@pytest.mark.parametrize("norm", ["frobenius", "operator"])
def test_the_lipschitz_constant_is_never_exceeded(pooling, norm):
    z, _, p = draw(pooling, batch=1)
    if isinstance(pooling, fixed.GeM) and not pooling.signed:
        z = z.abs()
    radius = float(z.norm(dim=2).max()) + 0.1
    constant = pooling.lipschitz(N, D, norm, p, radius)
    if constant is None:
        assert not isinstance(pooling, fixed.Avg | fixed.Max | learned.WAvg)
        return
    flat = lambda x: pooling(x, None, p)[0]  # noqa: E731
    jacobian = torch.func.jacrev(flat)(z).reshape(-1, N, D)
    worst = float(torch.linalg.matrix_norm(jacobian.reshape(len(jacobian), -1), 2))
    if norm == "operator":  # the sharpest change of unit operator norm is not known: random and rank-one ones
        g = torch.Generator().manual_seed(3)
        worst = 0.0
        for _ in range(200):
            e = torch.randn(N, D, generator=g, dtype=torch.float64)
            u, _, v = torch.linalg.svd(e, full_matrices=False)
            for change in (e / torch.linalg.matrix_norm(e, 2), u @ v, torch.outer(u[:, 0], v[0])):
                worst = max(worst, float(torch.einsum("knd,nd->k", jacobian, change).norm()))
    assert worst <= constant * (1 + 1e-9)


def test_a_bad_input_is_one_clear_line():
    z = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"row 1 has no real token"):
        fixed.Avg()(z, torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match=r"mask \(2, 4\) does not fit tokens \(2, 3, 4\)"):
        fixed.Max()(z, torch.ones(2, 4))
    with pytest.raises(ValueError, match="n = 0"):
        fixed.Sum()(z[:, :0])
    with pytest.raises(ValueError, match="batch axis"):
        fixed.Sum()(z[0])
    with pytest.raises(ValueError, match="learns; give parameters"):
        learned.WAvg()(z)
    with pytest.raises(ValueError, match="positions"):
        learned.WAvg()(z, None, learned.WAvg().parameters(4, 2, torch.Generator()))
    with pytest.raises(ValueError, match="heads do not divide"):
        learned.PMA(3).parameters(4, 2, torch.Generator())
    for wrong in (lambda: fixed.TopK(0), lambda: fixed.GeM(0.5), lambda: fixed.LSE(-1.0),
                  lambda: learned.AdaPool(query="middle"), lambda: learned.QueryAttention(0.0),
                  lambda: fixed.Avg().lipschitz(3, 4, "nuclear")):  # fmt: skip
        with pytest.raises(ValueError):
            wrong()


def test_slots_depend_on_the_padding_and_places_do_not():
    z, counts, _ = draw(learned.WAvg())
    p = {"w": torch.randn(N, dtype=torch.float64)}
    left, right = padded(z, counts, "left"), padded(z, counts, "right")
    for align, same in (("start", True), ("end", True), ("slot", False)):
        pool = learned.WAvg(align=align)
        assert torch.allclose(pool(*left, p), pool(*right, p)) == same


def test_pma_is_torchs_attention():
    """torch.nn.MultiheadAttention scales by the head's width: the seed is rescaled to match the authors' scaling."""
    pool = learned.PMA(4)
    z, counts, p = draw(pool)
    tokens, mask = padded(z, counts, "right")
    layer = torch.nn.MultiheadAttention(D, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.cat([p["q"], p["k"], p["v"]]))
        layer.in_proj_bias.copy_(torch.cat([torch.zeros(2 * D), p["v_bias"]]))
        layer.out_proj.weight.copy_(torch.eye(D))
        layer.out_proj.bias.zero_()
    query = (p["seed"] / np.sqrt(4)).expand(4, 1, D)
    out = layer(query, tokens, tokens, key_padding_mask=~mask)[0][:, 0] + p["q"] @ p["seed"]
    wanted = out + (out @ p["o"].T + p["o_bias"]).relu()
    torch.testing.assert_close(pool(tokens, mask, p), wanted.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [("mean", fixed.Avg()), ("max", fixed.Max()), ("cls", fixed.First()), ("lasttoken", fixed.Last()),
     ("mean_sqrt_len_tokens", fixed.SqrtMean()), ("weightedmean", fixed.PositionMean())],
)  # fmt: skip
def test_sentence_transformers_agrees_under_right_padding(mode, pooling):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    z, counts, _ = draw(pooling)
    tokens, mask = padded(z, counts, "right")
    features = {"token_embeddings": tokens, "attention_mask": mask.long()}
    theirs = modules.Pooling(D, pooling_mode=mode)(features)["sentence_embedding"]
    torch.testing.assert_close(pooling(tokens, mask), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("broken", "right"),
    [
        (controls.UnmaskedAvg(), fixed.Avg()),
        (controls.UnmaskedMax(), fixed.Max()),
        (controls.UnmaskedLast(), fixed.Last()),
    ],
)
def test_the_unmasked_twin_is_told_apart(broken, right):
    z, counts, _ = draw(right)
    tokens, mask = padded(z, counts, "right")
    assert not torch.allclose(broken(tokens, mask), right(tokens, mask))
    torch.testing.assert_close(broken(z, None), right(z, None))


@pytest.mark.parametrize("pooling", [fixed.Avg(), fixed.Sum(), fixed.Max(), fixed.Last()], ids=name)
def test_long_rows_take_the_fast_path_to_the_same_place(pooling):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(3, 200, 200, generator=g)
    mask = torch.arange(200) < torch.tensor([200, 17, 90])[:, None]
    holes = mask & (torch.arange(200) != 5)
    for m in (mask, mask.flip(1), holes):
        wanted = torch.stack([pooling(row[keep][None])[0] for row, keep in zip(z, m)])
        torch.testing.assert_close(pooling(z, m), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("holes", [False, True])
def test_tokens_beyond_the_cache_are_reduced_in_one_pass_to_what_torch_gives(monkeypatch, dtype, holes):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(5, 30, 17, generator=g, dtype=torch.float64).to(dtype)
    z[1, 2, 3], z[2, 4, 5], z[3, :, 6] = torch.nan, torch.inf, -torch.inf
    mask = torch.rand(5, 30, generator=g) > 0.4 if holes else None
    real = torch.ones(5, 30, dtype=torch.bool) if mask is None else mask
    real[:, 2:5] = True
    monkeypatch.setattr(fixed, "CACHE", 1)
    torch.testing.assert_close(
        fixed.Max()(z, mask),
        z.masked_fill(~real[..., None], -torch.inf).amax(1),
        rtol=0,
        atol=0,
        equal_nan=True,
    )
    torch.testing.assert_close(
        fixed.Sum()(z, mask), z.masked_fill(~real[..., None], 0).sum(1), equal_nan=True,
        **({"rtol": 0.02, "atol": 0.05} if dtype == torch.bfloat16 else {}),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("pooling", [fixed.Max(), fixed.Sum()], ids=name)
def test_gradients_and_transforms_see_tokens_beyond_the_cache_too(monkeypatch, pooling):
    monkeypatch.setattr(fixed, "CACHE", 1)
    z = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(pooling)(z), torch.stack([pooling(part) for part in z]))
    ours = torch.func.grad(lambda t: pooling(t).square().sum())(z[0])
    leaf = z[0].clone().requires_grad_()
    pooling(leaf).square().sum().backward()
    plain = z[0].clone().requires_grad_()
    (plain.amax(1) if isinstance(pooling, fixed.Max) else plain.sum(1)).square().sum().backward()
    torch.testing.assert_close(ours, plain.grad)
    torch.testing.assert_close(leaf.grad, plain.grad)
