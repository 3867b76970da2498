"""Baselines, retention, tiny transfer runs, paper-tier loaders on fixtures, experiment functions and figures."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from reproven.data import provider
from reproven.harness.context import Context
from reproven.harness.errors import Blocked
from reproven.papers.arc_ridge import experiments, figures, finetuning, paper_scale, vision
from reproven.papers.arc_ridge.arc import ArcRidge
from reproven.papers.arc_ridge.claims import each_at_most_other, metric_ratio_at_least, strongest_above
from reproven.papers.arc_ridge.retention import kernel_alignment, linear_cka, linear_probe_accuracy
from reproven.papers.arc_ridge.text import LastBlock, flip_labels, frozen_part, noise_entropy
from reproven.papers.arc_ridge.transfer import digits_transfer

matplotlib.use("Agg")
METHODS = {
    "ft_none": finetuning.NoRegularisation(),
    "arc_ridge": finetuning.ArcRidgePath(),
    "ft_weight_decay": finetuning.WeightDecay(),
    "ft_anchored_ridge": finetuning.AnchoredRidge(),
    "ft_patience": finetuning.Patience(patience=5),
    "ft_oracle_stop": finetuning.OracleStopping(),
    "ft_gradient_norm": finetuning.GradientNormStopping(),
    "ft_discrepancy": finetuning.DiscrepancyPrinciple(),
    "ft_linear_probe": finetuning.LinearProbe(),
    "ft_probe_then_tune": finetuning.ProbeThenFineTune(),
    "ft_interpolation": finetuning.WeightInterpolation(),
    "ft_kernel_ridge": finetuning.KernelRidge(),
}
GRID = {"lams": [0.001, 0.01], "arc_lams": [3.0, 100.0]}


def frame(ctx: Context) -> pd.DataFrame:
    parts = [pd.DataFrame({**s.coords, "metric": s.metric, "value": s.values}) for s in ctx.series]
    return pd.concat([part.assign(seed=0, run="r") for part in parts], ignore_index=True)


def images() -> SimpleNamespace:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(10), 140)
    return SimpleNamespace(data=rng.integers(0, 255, (1400, 28, 28)).astype(np.uint8), targets=targets)


@pytest.fixture(scope="module")
def digits() -> Context:
    ctx = Context(methods=METHODS, datasets={"images": images})
    digits_transfer(
        ctx,
        tasks=2,
        train=16,
        validation=6,
        test=20,
        noise=0.5,
        steps=25,
        rate=0.02,
        pretraining=3,
        lams=[0.03, 10.0],
    )
    return ctx


def test_every_method_gives_errors_and_figures_draw(digits):
    data = frame(digits)
    selected = data[data["metric"] == "selected_error"]
    assert set(selected["method"]) == set(METHODS)
    assert np.isfinite(data["value"]).all()
    best = data[data["metric"] == "best_error"].groupby(["method", "task"])["value"].mean()
    for task in (0, 1):
        stops = ("ft_none", "ft_patience", "ft_discrepancy", "ft_gradient_norm")
        assert all(best["ft_oracle_stop", task] <= best[m, task] + 1e-6 for m in stops)
    for draw in (figures.vision_errors, figures.vision_retention, figures.vision_methods):
        draw(data)


def tiny_problem() -> vision.DigitsRegression:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 12, 25, 25, generator=g)
    start = 0.2 * torch.randn(1, vision.BODY + vision.HIDDEN + 1, generator=g)
    y = torch.randn(1, 12, generator=g)
    return vision.DigitsRegression(start, x, y, (x[:, :4], y[:, :4]), (x, y), [0.1, 1.0, 10.0], 0.5, 0.02, 60)


def test_stacked_path_stops_where_the_optimiser_does():
    problem = tiny_problem()
    path = problem.path()
    for lam, (point, found) in zip(path.lams, path.stops):
        theta = torch.nn.Parameter(problem.start.clone())
        arc = ArcRidge(torch.optim.SGD([theta], lr=0.02), lam, rule="stop")
        for _ in range(61):
            arc.optimizer.zero_grad()
            (0.5 * (vision.outputs(theta, problem.x)[..., 0] - problem.y).square().mean()).backward()
            if arc.step().stopped:
                break
        assert bool(found[0] if found.ndim else found) == arc.stopped
        if arc.stopped:
            torch.testing.assert_close(
                point, theta.detach()[0] if point.ndim == 1 else theta.detach(), rtol=0, atol=1e-5
            )


def test_penalties_are_those_of_torch():
    problem = tiny_problem()
    theta = torch.nn.Parameter(problem.start.clone())
    optimiser = torch.optim.SGD([theta], lr=0.02, weight_decay=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        (0.5 * (vision.outputs(theta, problem.x)[..., 0] - problem.y).square().mean()).backward()
        optimiser.step()
    (end,) = problem.train(problem.start, [0.3], None)
    torch.testing.assert_close(end, theta.detach(), rtol=0, atol=1e-5)
    theta = torch.nn.Parameter(problem.start.clone())
    optimiser = torch.optim.SGD([theta], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        fit = 0.5 * (vision.outputs(theta, problem.x)[..., 0] - problem.y).square().mean()
        (fit + 0.5 * 2.0 * (theta - problem.start).square().sum()).backward()
        optimiser.step()
    free, held = problem.train(problem.start, [0.0, 2.0], problem.start)
    torch.testing.assert_close(held, theta.detach(), rtol=0, atol=1e-5)
    assert float((held - problem.start).norm()) < float((free - problem.start).norm())


def test_convolutions_are_torchs():
    problem = tiny_problem()
    parts, at = {}, 0
    for name, (a, b) in vision.SHAPES.items():
        parts[name] = problem.start[0, at : at + a * b].reshape(a, b)
        at += a * b
    image = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(1))
    x = image.unfold(1, 5, 2).unfold(2, 5, 2).reshape(1, 3, 25, 25)
    h = torch.conv2d(image[:, None], parts["w1"].T.reshape(8, 1, 5, 5), parts["b1"][0], stride=2).tanh()
    h = torch.conv2d(h, parts["w2"].T.reshape(16, 3, 3, 8).permute(0, 3, 1, 2), parts["b2"][0]).tanh()
    h = torch.tanh(h.permute(0, 2, 3, 1).reshape(3, -1) @ parts["w3"] + parts["b3"])
    torch.testing.assert_close(vision.features(problem.start, x)[0], h, rtol=0, atol=1e-5)


def test_rules_by_hand():
    errors = torch.tensor([[5.0, 1.0], [4.0, 2.0], [3.0, 3.0], [9.0, 0.5], [1.0, 0.1]])
    assert finetuning.patience_index(errors, 1).tolist() == [2, 0]
    assert finetuning.patience_index(errors, 5).tolist() == [4, 4]
    assert torch.equal(finetuning.wise(torch.zeros(2), torch.ones(2), 0.25), torch.full((2,), 0.25))
    with pytest.raises(ValueError, match="share = 2"):
        finetuning.wise(torch.zeros(2), torch.ones(2), 2)
    with pytest.raises(ValueError, match="anchor has shape"):
        finetuning.wise(torch.zeros(3), torch.ones(2), 0.5)
    with pytest.raises(ValueError, match="patience = 0"):
        finetuning.patience_index(errors, 0)


def test_retention_against_packages_and_invariances():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(1, 60, 4, generator=g, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64)).Q
    assert float(linear_cka(a, 3 * a @ rotation)) == pytest.approx(1, abs=1e-12)
    assert float(linear_cka(a, torch.randn(1, 60, 4, generator=g, dtype=torch.float64))) < 0.5
    gram = a @ a.mT
    assert float(kernel_alignment(gram, 2 * gram)) == pytest.approx(1, abs=1e-12)
    assert float(kernel_alignment(gram, -gram)) == pytest.approx(-1, abs=1e-12)
    labels = (a[0, :, 0] > 0).long() + (a[0, :, 1] > 1).long()
    ours = linear_probe_accuracy(a, labels[None], a, labels[None], strength=1e-9)
    package = (
        RidgeClassifier(alpha=1e-9).fit(a[0].numpy(), labels.numpy()).score(a[0].numpy(), labels.numpy())
    )
    assert float(ours) == pytest.approx(package, abs=1e-12)
    constant = torch.ones(1, 10, 3, dtype=torch.float64)
    dead = linear_probe_accuracy(constant, torch.arange(10)[None] % 2, constant, torch.arange(10)[None] % 2)
    assert float(dead) == pytest.approx(0.5)


def test_label_noise():
    labels = np.arange(100) % 4
    moved = flip_labels(labels, 0.2, 4, np.random.default_rng(0))
    assert (moved != labels).sum() == 20
    assert set(moved) <= set(range(4))
    assert noise_entropy(0.0, 4) == 0
    assert noise_entropy(0.75, 4) == pytest.approx(np.log(4))
    with pytest.raises(ValueError, match="share of wrong labels = 1"):
        flip_labels(labels, 1.0, 4, np.random.default_rng(0))


def tiny_bert():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )
    return BertModel(config).eval()


def test_the_last_block_on_frozen_states_is_the_encoder():
    encoder = tiny_bert()

    def tokenizer(texts, **_):
        ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    h, mask = frozen_part(encoder, tokenizer, ["a", "b"], 4)
    layer = encoder.encoder.layer[-1]
    block = LastBlock(layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm, 3)
    with torch.no_grad():
        whole = encoder(**tokenizer([])).last_hidden_state
        pooled = (whole * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(block.features(h, mask), pooled, rtol=0, atol=1e-5)
        assert not block(h, mask).any(), "a zero head"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(provider, "cache_folder", lambda: tmp_path)
    return tmp_path


def test_paper_tier_is_blocked_without_files(cache):
    small = {"tasks": 1, "test": 4, "steps": 4, "rate": 1e-4, "batch": 4, "every": 1, **GRID}
    with pytest.raises(Blocked, match="utkface: place images"):
        paper_scale.faces(Context(), shift=[False], labels=[8], noise=[0.0], size=32, **small)
    with pytest.raises(Blocked, match="yelp_review_full: place train.parquet"):
        paper_scale.reviews_transfer(Context(), labels=[8], noise=[0.0], tokens=8, **small)


def test_faces_on_a_fixture(cache):
    from PIL import Image
    from torchvision.models import resnet18

    folder = cache / "utkface" / "images"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(16):
        pixels = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(
            folder / f"{20 + i}_{i % 2}_{4 if i > 11 else i % 4}_2017{i:04d}.jpg.chip.jpg"
        )
    (folder / "61_3_20170109142408075.jpg").write_bytes(b"")  # a name without gender, as in the real set
    found = paper_scale.utkface(folder)
    assert len(found.paths) == 16
    assert sorted(found.age)[:2] == [20.0, 21.0]
    (cache / "resnet18").mkdir()
    torch.save(resnet18(weights=None).state_dict(), cache / "resnet18" / "resnet18-f37072fd.pth")
    methods = {m: METHODS[m] for m in ("ft_none", "arc_ridge", "ft_anchored_ridge", "ft_linear_probe")}
    ctx = Context(methods=methods)
    paper_scale.faces(
        ctx, shift=[True], labels=[8], noise=[10.0], tasks=1, test=4, size=32, steps=2, rate=1e-4, batch=4, every=1,
        **GRID,
    )  # fmt: skip
    data = frame(ctx)
    assert np.isfinite(data["value"]).all()
    assert set(data["method"]) == set(methods)
    with pytest.raises(ValueError, match="holds no UTKFace file"):
        paper_scale.utkface(cache)


def test_reviews_on_a_fixture(cache):
    from transformers import BertTokenizer, DistilBertConfig, DistilBertModel

    home = cache / "distilbert-base-uncased"
    home.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "food"]
    (home / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(home / "vocab.txt")).save_pretrained(home)
    config = DistilBertConfig(
        vocab_size=8, dim=12, n_heads=2, n_layers=1, hidden_dim=16, max_position_embeddings=16
    )
    DistilBertModel(config).save_pretrained(home)
    (cache / "yelp_review_full").mkdir()
    table = pd.DataFrame({"label": np.arange(20) % 5, "text": ["good food", "bad food"] * 10})
    for split in ("train", "test"):
        table.to_parquet(cache / "yelp_review_full" / f"{split}.parquet")
    ctx = Context(
        methods={m: METHODS[m] for m in ("ft_none", "arc_ridge", "ft_weight_decay", "ft_probe_then_tune")}
    )
    paper_scale.reviews_transfer(
        ctx, labels=[15], noise=[0.2], tasks=1, test=6, tokens=6, steps=3, rate=1e-3, batch=4, every=1, **GRID
    )
    assert np.isfinite(frame(ctx)["value"]).all()
    with pytest.raises(ValueError, match="15 reviews|are too few"):
        paper_scale.reviews_transfer(
            ctx,
            labels=[50],
            noise=[0.2],
            tasks=1,
            test=6,
            tokens=6,
            steps=3,
            rate=1e-3,
            batch=4,
            every=1,
            **GRID,
        )
    table.drop(columns="label").to_parquet(cache / "bad.parquet")
    with pytest.raises(ValueError, match="expected label and text"):
        paper_scale.reviews(cache / "bad.parquet")


def test_theory_experiments_record_and_draw():
    runs = {
        experiments.kernel_suite: {"seeds": 2, "n": 8, "p": 20, "lams": [1.0], "sigmas": [1.0]},
        experiments.widths: {"width": [8, 12], "models": 1, "control_width": [8], "inputs": 3},
        experiments.vanishing: {"width": 12, "models": 1, "lams": [1e-4, 1e-3], "inputs": 3},
        experiments.drift: {"width": 12, "models": 1, "lams": [0.05], "taus": [0.4, 0.8], "inputs": 3, "h": 0.05},
        experiments.truncation: {"width": 8, "models": 1, "lam": 0.3, "etas": [0.1, 0.05], "time": 5.0, "inputs": 3},
        experiments.minibatches: {
            "width": 8, "models": 1, "steps": 60, "eta": 0.02, "every": 5, "lam": 0.3, "noise": 0.1, "inputs": 3,
        },
        experiments.chain: {"case": "ntk-8", "models": 1, "inputs": 2, "pieces": 4, "rounds": 4},
        experiments.refinement: {"width": 8, "models": 1, "inputs": 2, "pieces": [3, 6], "rounds": 4},
        experiments.scalar_toy: {
            "lams": [1.0], "temperatures": [0.1], "blocks": 1, "draws": 50, "chains": 10, "langevin_steps": 5,
        },
        experiments.uniqueness: {"nets": 2, "width": 8, "lams": 5, "inputs": 3},
    }  # fmt: skip
    drawn = {
        experiments.kernel_suite: (figures.risks, figures.arc_against_distance),
        experiments.widths: (figures.widths,),
        experiments.vanishing: (figures.vanishing,),
        experiments.drift: (figures.drift,),
        experiments.truncation: (figures.truncation,),
        experiments.minibatches: (figures.minibatches,),
        experiments.chain: (figures.geodesics,),
        experiments.scalar_toy: (figures.toy,),
    }
    for run, budget in runs.items():
        ctx = Context()
        run(ctx, **budget)
        data = frame(ctx)
        assert np.isfinite(data["value"]).all(), run.__name__
        for draw in drawn.get(run, ()):
            draw(data)


def test_own_claim_tests_hold_and_fire():
    rows = [
        {"metric": m, "value": v, "model": i, "seed": 0, "method": m, "strength": 1.0}
        for i in range(8)
        for m, v in (("a", 1.0 + 0.01 * i), ("b", 2.0 + 0.02 * i))
    ]
    data = pd.DataFrame(rows)
    args = {"samples": ["model"], "confidence": 0.99}
    assert each_at_most_other(data, a="a", b="b", **args).verdict == "holds"
    assert each_at_most_other(data, a="b", b="a", **args).verdict == "violated"
    assert metric_ratio_at_least(data, a="b", b="a", bound=1.5, **args).verdict == "holds"
    assert metric_ratio_at_least(data, a="a", b="b", bound=1.5, **args).verdict == "violated"
    assert strongest_above(data, a="b", b="a", **args).verdict == "holds"
    assert strongest_above(data, a="a", b="b", **args).verdict == "violated"
