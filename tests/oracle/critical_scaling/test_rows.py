"""Row statistics against their plain twin, closed forms and brute force; the stream against what it must bracket."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reproven.papers.critical_scaling import on_device, rows, streaming
from reproven.papers.critical_scaling.certificates import (
    entropy_ceiling,
    entropy_floor,
    half_bracket,
    p_max_ceiling,
    p_max_floor,
)
from reproven.papers.critical_scaling.families import (
    AlmostSimplex,
    Clusters,
    Exponential,
    Gaussian,
    Needle,
    Pareto,
    RegularEdge,
    Simplex,
    Weibull,
)
from reproven.papers.critical_scaling.fast import fast_stats
from reproven.papers.critical_scaling.on_device import device_stats
from reproven.papers.critical_scaling.rows_reference import (
    beta_reference,
    counting_reference,
    entropy_reference,
    partition_reference,
    scale_reference,
)
from reproven.papers.critical_scaling.streaming_reference import bounds_reference

FAMILIES = [
    Gaussian(),
    Exponential(2.0),
    Weibull(0.5),
    RegularEdge(2.0),
    Pareto(1.5),
    Needle(6.0),
    AlmostSimplex(),
]


def drawn(family, rows_=6, n=57, seed=0):
    return family.sample(rows_, n, np.random.default_rng(seed))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_rows_equal_the_reference(family) -> None:
    scores = drawn(family)
    found = rows.row_stats(scores)
    for i, row in enumerate(scores.tolist()):
        b, k, t = scale_reference(row)
        np.testing.assert_allclose([found.scale[i], found.gap[i]], [b, t], rtol=1e-12, atol=0)
        assert found.depth[i] == k
        np.testing.assert_allclose(found.p_max[i], 1 / partition_reference(row, 1.0), rtol=1e-12, atol=0)
        np.testing.assert_allclose(found.entropy[i], entropy_reference(row, 1.0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.beta[i], beta_reference(row), rtol=1e-10, atol=0)
    gap = rows.gaps(scores)
    t = np.array([0.1, 1.0, 3.0])
    assert gap.counts(torch.as_tensor(t)).tolist() == [
        [counting_reference(row, x) for x in t] for row in scores.tolist()
    ]


@pytest.mark.parametrize("family", [*FAMILIES, Clusters()], ids=lambda f: type(f).__name__)
def test_single_precision_rows_equal_double_ones(family) -> None:
    scores = drawn(family, 30, 700).astype(np.float32)
    ours, exact = fast_stats(scores.copy()), rows.row_stats(scores)
    for name in ("scale", "gap", "p_max", "entropy"):  # float32 scores have gaps known to 1e-7
        np.testing.assert_allclose(getattr(ours, name), getattr(exact, name), rtol=2e-6, atol=1e-7)
    assert (ours.depth == exact.depth).all()
    # Solved on a summary of the row; clusters jump within a run.
    np.testing.assert_allclose(ours.beta, exact.beta, rtol=5e-3 if family == Clusters() else 1e-3, atol=0)
    rest = fast_stats(scores.copy(), first=1)
    np.testing.assert_allclose(rest.scale, rows.row_stats(scores[:, 1:]).scale, rtol=2e-6, atol=0)


@pytest.mark.parametrize("family", [*FAMILIES, Clusters()], ids=lambda f: type(f).__name__)
def test_rows_on_a_device_equal_those_of_the_host(family, monkeypatch) -> None:
    monkeypatch.setattr(on_device, "BLOCK", 2000)  # several blocks, the last one smaller
    scores = drawn(family, 31, 700).astype(np.float32)
    scores[::3, 0] = 1e3  # the first key wins, ties with the best, or is any other
    scores[1::6, 0] = scores[1::6, 1:].max(axis=1)
    both = device_stats(torch.as_tensor(scores), (0, 1))
    for ours, first in zip(both, (0, 1), strict=True):
        host = fast_stats(scores.copy(), first)
        for name in ("scale", "gap", "p_max", "entropy", "beta"):  # float32, summed in another order
            np.testing.assert_allclose(getattr(ours, name), getattr(host, name), rtol=2e-5, atol=1e-6)
        for name in ("depth", "keys", "ties", "status"):
            assert (getattr(ours, name) == getattr(host, name)).all(), name


def test_faults_get_the_same_status_in_both_versions() -> None:
    scores = drawn(Gaussian(), 8, 90).astype(np.float32)
    scores[0, 3], scores[1], scores[4, 5], scores[5] = np.nan, 0.25, np.inf, -np.inf
    scores[2, 1:] = -np.inf
    scores[3, 40:] = np.finfo(np.float32).min  # an additive mask
    exact, ours = rows.row_stats(scores), fast_stats(scores.copy())
    codes = [rows.NOT_FINITE, rows.ALL_TIES, rows.ONE_KEY, rows.OK, rows.NOT_FINITE, rows.ONE_KEY, 0, 0]
    assert exact.status.tolist() == codes
    assert ours.status.tolist() == codes
    there, rest = device_stats(torch.as_tensor(scores), (0, 1))
    assert there.status.tolist() == codes
    assert rest.status.tolist() == fast_stats(scores.copy(), first=1).status.tolist()
    assert there.keys[3] == rest.keys[3] + 1 == 40
    assert exact.excluded() == {"one key": 2, "all keys tie": 1, "NaN or infinite logits": 2}
    assert exact.keys[3] == ours.keys[3] == 40
    np.testing.assert_allclose(exact.scale[3], rows.row_stats(scores[3:4, :40]).scale[0], rtol=1e-12, atol=0)
    assert np.isnan(exact.scale[[0, 1, 2, 4, 5]]).all()
    assert (exact.depth[[0, 1, 2, 4, 5]] == 0).all()


def test_partial_ties_are_clipped_and_counted() -> None:
    row = np.array([[1.0, 1.0, 0.0, -1.0]])
    found = rows.row_stats(row)
    assert found.status[0] == rows.OK
    assert found.ties[0] == 1
    assert found.scale[0] == pytest.approx(math.log(2) / np.finfo(float).eps, rel=1e-12)
    assert np.isnan(found.beta[0])  # two winners never reach p_max = 2/3


def test_hand_computed_row() -> None:
    found = rows.row_stats([[0.0, -1.0, -1.0, -4.0]])
    assert found.scale[0] == pytest.approx(math.log(3), rel=1e-14)  # log 3 / 1 beats log 2 / 1 and log 4 / 4
    assert (found.depth[0], found.gap[0], found.keys[0]) == (2, 1.0, 4)


def test_invariances_shift_scale_and_order() -> None:
    scores = drawn(Gaussian(), 5, 40)
    found = rows.row_stats(scores)
    for other, factor in ((scores + 3.0, 1.0), (scores * 2.0, 0.5), (scores[:, ::-1].copy(), 1.0)):
        changed = rows.row_stats(other)
        np.testing.assert_allclose(changed.scale, factor * found.scale, rtol=1e-9, atol=0)
        np.testing.assert_allclose(changed.beta, factor * found.beta, rtol=1e-9, atol=0)
        assert (changed.depth == found.depth).all()


def test_the_partition_function_by_parts_is_the_sum() -> None:
    gap = rows.gaps(drawn(Weibull(0.5), 20, 300))
    for beta in (0.1, 1.0, 7.0):
        np.testing.assert_allclose(
            rows.partition_by_parts(gap, beta).log(), rows.log_partition(gap, beta), rtol=0, atol=1e-12
        )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4000), min_size=2, max_size=30).filter(lambda x: sorted(x)[-1] > sorted(x)[-2]),
    st.floats(0.05, 40),
)
def test_theorem_a_on_arbitrary_rows(points: list[int], c: float) -> None:
    scores = np.array([points], dtype=float) / 100
    gap = rows.gaps(scores)
    found = rows.row_stats(scores)
    beta = c * found.scale[0]
    p, h = (v.item() for v in rows.concentration(gap, beta))
    assert p >= p_max_floor(found.scale, beta)[0] - 1e-9
    assert p <= p_max_ceiling(found.scale, found.depth, beta)[0] + 1e-9
    assert h >= entropy_floor(found.scale, found.depth, beta)[0] - 1e-9
    assert h <= entropy_ceiling(found.scale, beta)[0] + 1e-9
    assert found.scale[0] * (1 - 1e-9) <= found.beta[0] <= 3 * found.scale[0] * (1 + 1e-9)
    low, high = half_bracket(found.scale, found.depth)
    half = rows.beta_at(gap, 0.5).item()
    assert low[0] * (1 - 1e-9) <= half <= high[0] * (1 + 1e-9)


def test_log_n_in_place_of_log_one_plus_n_breaks_the_bracket() -> None:
    """Negative control: a near-tie at the top has no weight, and beta_{2/3} leaves [B, 3 B]."""
    scores = np.array([[1.0, 0.9, -5.0, -5.0, -5.0]])
    gap = rows.gaps(scores)
    broken = rows.accumulation_scale(gap, log_n=True)[0].item()
    beta = rows.row_stats(scores).beta[0]
    assert beta > 3 * broken


def test_a_masked_key_is_no_key() -> None:
    """Negative control: counted as keys with a large gap, masked keys change B of bulk-controlled rows."""
    scores = np.tile(Simplex(0.0).quantiles(64), (1, 1))
    valid = np.arange(64)[None] < 32
    right = rows.row_stats(scores, valid)
    assert right.scale[0] == pytest.approx(math.log(32), rel=1e-12)
    wrong = rows.row_stats(np.where(valid, scores, scores.min() - 1.0))
    assert wrong.keys[0] == 64 != right.keys[0]
    assert rows.row_stats(np.where(valid, scores, scores.min())).scale[0] > right.scale[0] * 1.19


@pytest.mark.parametrize("order", ["as drawn", "ascending", "descending"])
@pytest.mark.parametrize("family", [*FAMILIES, Simplex(0.2), Clusters()], ids=lambda f: type(f).__name__)
def test_the_stream_brackets_b(family, order: str) -> None:
    for row in drawn(family, 4, 777, seed=3):
        x = {"as drawn": row, "ascending": np.sort(row), "descending": np.sort(row)[::-1]}[order]
        stream = streaming.ScaleStream(64)
        for chunk in np.array_split(x, 3):
            stream.update(chunk)
        found = stream.result()
        b = scale_reference(row.tolist())[0]
        assert found.low <= b * (1 + 1e-9)
        assert b <= found.high * (1 + 1e-9)
        # At most two bins wide (6 % each), however often the maximum rose.
        assert found.high <= found.low * 1.13
        if order == "descending":
            low, high = bounds_reference(x.tolist(), 64, 16)
            np.testing.assert_allclose(found.low, low, rtol=3e-6, atol=0)  # bins of float32 gaps
            assert found.high <= high * (1 + 3e-6)


def test_the_stream_is_exact_near_the_top() -> None:
    row = drawn(RegularEdge(2.0), 1, 5000, seed=4)[0]
    found = streaming.streaming_scale(row)
    assert found.exact
    np.testing.assert_allclose(found.low, scale_reference(row.tolist())[0], rtol=1e-12, atol=0)
    assert found.keys == 5000
    short = streaming.streaming_scale(row[:20])
    np.testing.assert_allclose(short.low, scale_reference(row[:20].tolist())[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 2000])
def test_the_stream_refuses_what_is_no_score(bad: float, place: int) -> None:
    row = np.random.default_rng(0).normal(size=3000)
    row[place] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        streaming.streaming_scale(row)


def test_annealed_profile_of_the_exponential_is_flat() -> None:
    gap = rows.gaps(Exponential(1.5).sample(4000, 512, np.random.default_rng(5)))
    profile = rows.annealed_profile(gap, np.array([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(profile, 1.5, rtol=0.06, atol=0)  # sampling error and 1/n
