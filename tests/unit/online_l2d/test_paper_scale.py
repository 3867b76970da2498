"""Paper-scale loaders on small files in the publishers' formats, and blocked without them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from reproven.data.images import ImageSet
from reproven.data.split import TrainTest
from reproven.harness.context import Context
from reproven.harness.errors import Blocked
from reproven.papers.online_l2d import paper_scale
from reproven.papers.online_l2d.controls import Control
from reproven.papers.online_l2d.learner import OnlineL2D


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path))
    return tmp_path


def test_blocked_says_what_to_place_where(cache):
    with pytest.raises(Blocked, match=f"covtype.data.gz.*{cache / 'covertype'}"):
        paper_scale.covertype_rows()
    with pytest.raises(Blocked, match=r"cifar10h-counts.npy.*jcpeterson"):
        paper_scale.with_votes(None)


def write_covertype(path, rows):
    path.parent.mkdir()
    with gzip.open(path, "wt") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)


def test_covertype(cache):
    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [rng.integers(0, 3000, (20, 10)), rng.integers(0, 2, (20, 44)), 1 + np.arange(20) % 7]
    )
    write_covertype(cache / "covertype" / "covtype.data.gz", rows)
    x, y = paper_scale.covertype_rows()
    assert x.shape == (20, 54)
    assert y.tolist() == (rows[:, -1] - 1).tolist()
    varied = rows[:, :-1].std(axis=0) > 0
    np.testing.assert_allclose(x.std(axis=0)[varied], 1.0, rtol=1e-12)


def test_covertype_of_another_shape_is_refused(cache):
    write_covertype(cache / "covertype" / "covtype.data.gz", [[1, 2, 3]])
    with pytest.raises(ValueError, match="3 columns"):
        paper_scale.covertype_rows()


@pytest.mark.parametrize(
    "content", [b"no archive", gzip.compress(b"1,2,x\n"), gzip.compress(b"1,2\n" * 999)[:20]]
)
def test_a_damaged_covertype_is_named(cache, content):
    path = cache / "covertype" / "covtype.data.gz"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"covtype.data.gz is damaged.*fetch it again"):
        paper_scale.covertype_rows()


def test_damaged_votes_are_named(cache):
    images, _ = tiny_cifar()
    (cache / "cifar10h").mkdir()
    (cache / "cifar10h" / paper_scale.VOTES).write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"cifar10h-counts.npy is damaged.*fetch it again"):
        paper_scale.with_votes(images)


def people(m=200):
    rng = np.random.default_rng(0)
    classes = np.arange(m) % 10
    agree = np.where(rng.random(m) < 0.5, 50, 15)
    votes = rng.multinomial(51 - agree, np.full(10, 0.1))
    votes[np.arange(m), classes] += agree
    return paper_scale.HumanVotes(rng.random((m, 32, 32)), classes, votes)


def test_panels_vote_by_majority():
    chances = np.array([[1.0, 0.0], [0.4, 0.6]])
    rng = np.random.default_rng(0)
    ones = np.array([paper_scale.panel_answers(chances, 1, rng) for _ in range(4000)])
    threes = np.array([paper_scale.panel_answers(chances, 3, rng) for _ in range(4000)])
    assert (ones[:, 0] == 0).all()
    assert ones[:, 1].mean() == pytest.approx(0.6, abs=0.035)  # 4.5 standard errors
    assert threes[:, 1].mean() == pytest.approx(0.648, abs=0.035)  # 0.6^3 + 3 0.6^2 0.4


def test_human_stream_has_the_costs_it_declares():
    data = people()
    rng = np.random.default_rng(1)
    world = paper_scale.human_stream(data, rng.normal(size=(200, 4)), 40_000, rng, warm_up=100)
    drawn = world.costs() - world.mean_cost[0, world.index]
    np.testing.assert_allclose(drawn.mean(axis=0), 0.0, atol=0.02)  # draws and simulated panels both err
    assert world.n_experts == len(paper_scale.PANELS)
    assert set(world.index[:100]).isdisjoint(world.index[100:])


def tiny_cifar(m=200):
    data = people(m)
    images = (data.images[..., None] * 255).astype(np.uint8).repeat(3, axis=-1)
    return ImageSet(images, data.classes, [str(i) for i in range(10)]), data.votes


def place_votes(cache, votes):
    (cache / "cifar10h").mkdir()
    np.save(cache / "cifar10h" / "cifar10h-counts.npy", votes)


def test_humans_experiment(cache):
    images, votes = tiny_cifar()
    place_votes(cache, votes)
    methods = {"l2d_s_cost": OnlineL2D(), "random": Control("random"), "oracle": Control("oracle")}
    ctx = Context(methods=methods, datasets={"cifar10": lambda: TrainTest(train=images, test=images)})
    paper_scale.humans(ctx, replicates=1, rounds=1500, tuning_rounds=300, warm_up=100, components=8)
    cost = {s.coords["method"][0]: s.values[0] for s in ctx.series if s.metric == "cost"}
    assert cost["oracle"] < cost["l2d_s_cost"]
    assert cost["oracle"] < cost["random"]


def test_votes_of_another_shape_are_refused(cache):
    images, votes = tiny_cifar()
    place_votes(cache, votes[:-1])
    with pytest.raises(ValueError, match=r"shape \(199, 10\), expected \(200, 10\)"):
        paper_scale.with_votes(images)


@pytest.mark.parametrize("bad", [-1.0, np.nan, 0.0])
def test_votes_that_are_no_counts_are_refused(cache, bad):
    images, votes = tiny_cifar()
    votes = votes.astype(float)
    votes[3] = bad
    place_votes(cache, votes)
    with pytest.raises(ValueError, match=r"cifar10h-counts.npy holds what is no count"):
        paper_scale.with_votes(images)


def test_covertype_experiment(cache):
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=(300, 54)).round(3), 1 + np.arange(300) % 7])
    write_covertype(cache / "covertype" / "covtype.data.gz", rows)
    ctx = Context(methods={"random": Control("random"), "oracle": Control("oracle")})
    paper_scale.covertype(ctx, replicates=1, rounds=600, tuning_rounds=200, warm_up=50, components=8)
    cost = {s.coords["method"][0]: s.values[0] for s in ctx.series if s.metric == "cost"}
    assert cost["oracle"] < cost["random"]
