"""Methods on a CUDA device give what they give on the processor: device and precision come from the inputs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from reproven.papers import arc_ridge, embedding, pooling, prograd, sflcb, zero_one
from reproven.papers.critical_scaling import diagnose, row_stats
from reproven.papers.sac_bl.network import sac_score_maps, train_sac

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def seeded(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


POOLINGS = [
    pooling.Avg(), pooling.Sum(), pooling.SqrtMean(), pooling.Max(), pooling.Min(), pooling.Median(),
    pooling.Last(), pooling.First(), pooling.TopK(2), pooling.GeM(), pooling.LSE(), pooling.PositionMean(),
    pooling.AvgMax(), pooling.Covariance(), pooling.WAvg(), pooling.QueryAttention(), pooling.GatedABMIL(),
    pooling.PMA(heads=4), pooling.LatentDictionary(), pooling.AdaPool(), pooling.SimPool(),
    pooling.EfficientProbing(), pooling.SlicedWasserstein(),
]  # fmt: skip


@pytest.mark.parametrize("method", POOLINGS, ids=lambda p: type(p).__name__)
def test_poolings(method) -> None:
    tokens = seeded(3, 6, 8, dtype=torch.float32)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = pooling.PoolingLayer(method, d=8, n=6)
    here = layer(tokens, mask)
    there = copy.deepcopy(layer).to(DEVICE)(tokens.to(DEVICE), mask.to(DEVICE))
    assert there.device.type == DEVICE
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


def test_edits_of_gradients() -> None:
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)).double().eval()
    for i, p in enumerate(model.parameters()):
        p.data = seeded(*p.shape) / (i + 1)
    x, box = seeded(4, 3), [prograd.JacobianBox(-0.3, 0.3)]
    here = prograd.edit_gradients(model, "0", x, box)
    there = prograd.edit_gradients(copy.deepcopy(model).to(DEVICE), "0", x.to(DEVICE), box)
    assert there.status == here.status == "edited"
    assert all(c.holds for c in there.certificates)
    for p, q in zip(there.model.parameters(), here.model.parameters(), strict=True):
        assert p.device.type == DEVICE
        torch.testing.assert_close(p.cpu(), q, rtol=1e-5, atol=1e-6)


def test_arc_ridge_counts_the_same_path() -> None:
    x, y = seeded(50, 3), seeded(50, 1)
    lengths = []
    for device in ("cpu", DEVICE):
        model = nn.Linear(3, 1).double().to(device)
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        arc = arc_ridge.ArcRidge(torch.optim.SGD(model.parameters(), lr=1e-2), lam=1e-6)
        for _ in range(50):
            arc.optimizer.zero_grad()
            loss = ((model(x.to(device)) - y.to(device)) ** 2).mean()
            loss.backward()
            arc.step(loss)
        lengths.append([p.detach().cpu() for p in model.parameters()])
    for a, b in zip(*lengths, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_sflcb_ends_at_the_same_point() -> None:
    ends = []
    for device in ("cpu", DEVICE):
        one, zero = (torch.full((1, 1), v, dtype=torch.float64, device=device) for v in (1.0, 0.0))
        problem = sflcb.BilevelProblem(
            lambda x, y: ((y - 1) ** 2).sum(-1) + 0.1 * (x**2).sum(-1),
            lambda x, y: ((y - x) ** 2).sum(-1),
            one, -one, zero[0], mu_g=2.0, l_f1=2.0,
        )  # fmt: skip
        begin = sflcb.start(problem, zero[0], zero[0])
        steps = sflcb.Steps.common(0.1)
        found = sflcb.sflcb(problem, begin, iterations=300, delta=0.1, rho=0.5, steps=steps)
        assert found.state.x.device.type == device
        ends.append(found.state.x.cpu())
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def test_splits_of_networks() -> None:
    model = nn.Sequential(
        nn.Linear(4, 3, bias=False), nn.LeakyReLU(0.1), nn.Linear(3, 1, bias=False)
    ).double()
    model[0].weight.data, model[2].weight.data = seeded(3, 4), seeded(1, 3)
    rows = [[2**-0.5] * 2] * 3
    x = seeded(10, 4)
    wide, _ = embedding.split_layer(copy.deepcopy(model).to(DEVICE), "0", rows)
    assert next(wide.parameters()).device.type == DEVICE
    torch.testing.assert_close(wide(x.to(DEVICE)).cpu(), model(x), rtol=1e-12, atol=1e-12)


def test_networks_on_graphs() -> None:
    network = zero_one.GCN(width=8)
    weights = network.draw(2, [torch.Generator().manual_seed(0)])
    moved = weights.to(DEVICE, torch.float32)
    here = zero_one.limit_logits(network, weights)
    torch.testing.assert_close(zero_one.limit_logits(network, moved).cpu(), here, rtol=1e-6, atol=1e-9)
    assert (zero_one.limit_class(network, moved) == zero_one.limit_class(network, weights)).all()
    np.testing.assert_allclose(
        zero_one.decision_size(network, moved), zero_one.decision_size(network, weights), rtol=1e-5
    )


def test_row_statistics() -> None:
    rows = seeded(20, 300).numpy()
    here, there = row_stats(rows), row_stats(torch.as_tensor(rows, device=DEVICE))
    for name in vars(here):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_diagnostic_of_a_language_model(dtype) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=50,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.5,
            )
        ).eval()
    texts = [np.random.default_rng(0).integers(50, size=200)]
    here = diagnose(model, texts, [32, 64, 200], rows=8)
    there = diagnose(model.to(DEVICE, dtype), texts, [32, 64, 200], rows=8)
    tolerance = 2e-3 if dtype == torch.float32 else 0.5  # bfloat16: three digits of states, small gaps
    for keys in ("all", "no_first"):
        a, b = there.head_medians(keys=keys), here.head_medians(keys=keys)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=0)
        assert (there.stats[keys].keys == here.stats[keys].keys).all()


def test_the_sac_network_learns_and_scores() -> None:
    images = np.random.default_rng(0).integers(256, size=(8, 32, 32), dtype=np.uint8)
    network, info = train_sac(
        images, images, steps=2, batch=4, generator=torch.Generator().manual_seed(0), reconstructive_width=8,
        discriminative_width=8, exponents=3, device=DEVICE,
    )  # fmt: skip
    assert next(network.parameters()).device.type == DEVICE
    assert np.isfinite(info.losses).all()
    assert sac_score_maps(network, images).shape == images.shape
