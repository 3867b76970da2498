"""Surrogates against automatic differentiation, enumeration, linear programs; where the lemma breaks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from reproven.papers.online_l2d import calibration, kernels, misranking
from reproven.papers.online_l2d.learner import SURROGATES


def autograd(surrogate, scores, costs):
    s = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    c = torch.tensor(costs, dtype=torch.float64)
    r = 1 - c
    hinge = torch.relu(1 + s - s.mean())
    if surrogate == "s_cost":
        value = (c * hinge).sum()
    elif surrogate == "s_reward":
        value = sum(r[a] * (hinge.sum() - hinge[a]) for a in range(len(r)))
    else:  # augmented softmax over labels and experts (Verma et al. 2023), weighted by the rewards
        value = -(r * torch.log_softmax(s, dim=0)).sum()
    value.backward()
    return value.item(), s.grad.numpy()


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("seed", range(5))
def test_score_gradient_is_the_derivative(surrogate, seed):
    rng = np.random.default_rng(seed)
    K = 2 + seed
    scores, costs = 2 * rng.normal(size=K), rng.random(K)
    value, expected = autograd(surrogate, scores, costs)
    got = calibration.full_gradient(surrogate, scores, costs)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    assert calibration.surrogate_value(surrogate, scores[None], costs[None])[0] == pytest.approx(
        value, rel=1e-12
    )


@pytest.mark.parametrize("method", calibration.variants(), ids=str)
def test_estimated_gradient_is_unbiased_and_reads_only_what_is_revealed(method):
    rng = np.random.default_rng(3)
    for K, n_labels, gamma in [(2, 1, 0.3), (5, 3, 0.1), (6, 6, 1.0)]:
        scores, costs = rng.normal(size=K), rng.random(K)
        p = calibration.sampling_distribution(method.sampler, scores, gamma)
        gradients = calibration.played_gradients(method, n_labels, scores, costs, p, gamma)
        assert np.isfinite(gradients).all()  # hidden costs are NaN: reading one would show
        full = calibration.full_gradient(method.surrogate, scores, costs)
        np.testing.assert_allclose(p @ gradients, full, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("K", [2, 3, 5, 8])
def test_calibration_lemma(surrogate, K):
    rng = np.random.default_rng(K)
    costs, scores = rng.random((20_000, K)), 2 * rng.normal(size=(20_000, K))
    costs[:2000] = costs[:2000].round(1)  # ties between actions
    assert calibration.calibration_slack(surrogate, scores, costs).min() >= -1e-9


def test_the_lemma_needs_centred_scores():
    # sum of the scores is not 0: at s = -1 the hinge vanishes although the worst action may be first
    costs = np.array([[0.9, 0.1]])
    uncentred = np.array([[-1.0, -1.0 - 1e-9]])
    value = (costs * np.maximum(1 + uncentred, 0)).sum()
    excess = value - calibration.surrogate_minimum("s_cost", costs)[0]
    assert excess - calibration.target_excess(uncentred, costs)[0] < -0.5


def test_square_root_of_cross_entropy_cannot_be_linear():
    # two actions an epsilon apart, scores tied: surrogate excess is of order epsilon squared
    costs = np.array([[0.5, 0.5 + 1e-3]])
    scores = np.array([[0.0, 1e-12]])
    value = calibration.surrogate_value("ce_reward", scores, costs)
    excess = float((value - calibration.surrogate_minimum("ce_reward", costs))[0])
    assert 0 <= excess < 1e-5 < calibration.target_excess(scores, costs)[0]


def test_surrogate_minimum_against_a_linear_program():
    rng = np.random.default_rng(0)
    for K in range(2, 8):
        costs = rng.random(K)
        assert calibration.linear_program_minimum(costs) == pytest.approx(K * costs.min(), abs=1e-9)


def test_draw_follows_the_distribution_and_ties_are_random():
    p = np.array([0.2, 0.0, 0.5, 0.3])
    edges = {0.0: 0, 0.1999: 0, 0.2: 2, 0.6999: 2, 0.7: 3, 0.9999999: 3}
    for u, expected in edges.items():
        assert kernels.draw(p, 4, u) == expected
    assert (
        kernels.draw(np.array([0.5, 0.5 - 1e-12, 0.0]), 3, 1 - 1e-13) == 1
    )  # never a zero-probability action
    scores = np.array([1.0, 3.0, 3.0, 3.0])
    found = [kernels.argmax_random_ties(scores, 4, u) for u in (0.0, 0.34, 0.99)]
    assert found == [1, 2, 3]


def test_cross_entropy_minimiser_is_log_reward():
    case = misranking.random_instance(np.random.default_rng(4))
    scores = misranking.cross_entropy_minimiser(case)
    difference = scores - np.log(1 - case.costs)
    np.testing.assert_allclose(difference, difference[0], atol=1e-5)  # BFGS stops at a gradient of 1e-9
    assert misranking.pool_regret(case, scores) == pytest.approx(0.0, abs=1e-12)


def test_hinge_minimum_against_brute_force():
    case = misranking.random_instance(np.random.default_rng(1), n_labels=2, n_experts=1)
    least, scores = misranking.hinge_minimum(case)

    def value(s):
        total = 0.0
        for pool, weight in zip(case.pools, case.weights):
            part = s[pool] - s[pool].mean()
            total += weight * (case.costs[pool] * np.maximum(1 + part, 0)).sum()
        return total

    assert value(scores) == pytest.approx(least, abs=1e-9)
    grid = np.linspace(-4, 4, 41)
    brute = min(value(np.array([0.0, a, b])) for a, b in itertools.product(grid, grid))
    assert least <= brute + 1e-9
    assert brute - least < 0.3  # the grid is coarse: 0.2 a step


def test_a_known_instance_must_misrank():
    # On {0, 1, 2} with 2 best the hinge ties 0 and 1; on {0, 1} it wants them 2 apart.
    pools = np.array([[True, True, True], [True, True, False]])
    easy = misranking.Instance(np.array([0.5, 0.4, 0.39]), pools[1:], np.ones(1))
    assert misranking.hinge_minimum(easy)[0] == pytest.approx(
        misranking.hinge_minimum(easy, rank_right=True)[0]
    )
    forced = 0
    rng = np.random.default_rng(0)
    for _ in range(40):
        case = misranking.random_instance(rng)
        forced += (
            misranking.hinge_minimum(case, rank_right=True)[0] > misranking.hinge_minimum(case)[0] + 1e-7
        )
    assert forced > 0
