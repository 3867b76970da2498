"""The compiled rounds of online learning-to-defer: scores, distribution, estimate, gradient, projected step.

One round of the reconstructed algorithm (paper v5, abstract; every constant reconstructed from its bounds):

    s_a = <w_a, x~>,  a in A_t                      scores over the pool
    p   = (1 - gamma) q + gamma / K                 q: greedy one-hot or softmax
    c^_a = f_a + 1[a observed] (c_a - f_a) / q_a    unbiased costs, q_a the probability of observing c_a
    g   = gradient of the surrogate at (s, c^)      in score space, zero outside the pool
    W  <- Projection_{||W||_F <= B}(W - eta g x~^T)

The baseline f is 0 for S-cost, 1 for the reward surrogates (reward 0: only what was seen counts) and a
per-action ridge regression for the doubly robust estimate. The matrix is kept as ``scale * weights`` and its
squared norm is tracked, so that the projection costs O(1) and a round O(K d).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reproven.harness.compiled import inlined, njit

S_COST, S_REWARD, CE_REWARD = 0, 1, 2
GREEDY, SOFTMAX = 0, 1
BANDIT, LABEL_AFTER_DEFERRAL, FULL = 0, 1, 2
THEORY, ADAGRAD, CONSTANT = 0, 1, 2

ROUNDS, NORM_SQ, GRADIENT_SQ, SCALE = 0, 1, 2, 3  # entries of State.scalars
FOLD_EVERY = 1024  # rounds after which the scale is folded into the weights and the norm recomputed
SMALLEST_SCALE = 1e-100  # fold earlier when projections shrank the scale below this


class Spec(NamedTuple):
    """Numbers of one learner, as the compiled code takes them (see `learner.OnlineL2D`)."""

    n_labels: int
    surrogate: int
    sampler: int
    doubly_robust: bool
    feedback: int
    step: int
    kappa: float
    exponent: float
    horizon: float  # 0: anytime
    radius: float
    lipschitz: float  # G rho of the theory step
    eta: float


class State(NamedTuple):
    """What a learner remembers; the arrays are changed in place.

    weights: (N, D), the matrix up to `scale`. scalars: (4,), rounds, ||W||_F^2, sum of squared gradient
    norms, scale. coefficients (N, D), inverse (N, D, D): ridge regression of the costs (doubly robust).
    """

    weights: np.ndarray
    scalars: np.ndarray
    coefficients: np.ndarray
    inverse: np.ndarray


class Rounds(NamedTuple):
    """Consecutive rounds of a stream, as the compiled code takes them, and room for what is played in them.

    first: rounds that came before. contexts: (M, D) with the constant in the last column; which: (T,) context of
    each round; label: (T,); wrong, available: (T, n_e); fee: (n_e,); uniforms: (T, 2), tie-break and draw.
    Written in place: actions (T,), the rows played, and propensities (T,), their probabilities.
    """

    n_labels: int
    first: int
    contexts: np.ndarray
    which: np.ndarray
    label: np.ndarray
    wrong: np.ndarray
    available: np.ndarray
    fee: np.ndarray
    uniforms: np.ndarray
    actions: np.ndarray
    propensities: np.ndarray


def new_state(rows: int, dimension: int, *, doubly_robust: bool, ridge: float = 1.0) -> State:
    """Return the state before the first round: W = 0 with `rows` rows of `dimension` entries."""
    regressions = rows if doubly_robust else 0
    inverse = np.broadcast_to(np.eye(dimension) / ridge, (regressions, dimension, dimension)).copy()
    scalars = np.zeros(4)
    scalars[SCALE] = 1.0
    return State(np.zeros((rows, dimension)), scalars, np.zeros((regressions, dimension)), inverse)


@inlined
def exploration(kappa, exponent, horizon, rounds):
    """gamma = min(1, kappa h^-exponent), h the horizon or, anytime, the number of this round."""
    h = horizon if horizon > 0 else rounds
    return min(1.0, kappa * h**-exponent)


@inlined
def pool_scores(weights, scale, x, pool, k, out):
    """out[i] = scale <weights[pool[i]], x> for the k actions of the pool."""
    for i in range(k):
        total = 0.0
        row = pool[i]
        for j in range(x.shape[0]):
            total += weights[row, j] * x[j]
        out[i] = scale * total


@inlined
def argmax_random_ties(values, k, u):
    """Position of the largest of k values; ties are broken by the uniform u."""
    best = values[0]
    ties = 1
    for i in range(1, k):
        if values[i] > best:
            best = values[i]
            ties = 1
        elif values[i] == best:
            ties += 1
    chosen = int(u * ties)
    for i in range(k):
        if values[i] == best:
            if chosen == 0:
                return i
            chosen -= 1
    return 0


@inlined
def softmax(scores, k, out):
    """out = softmax of the first k scores."""
    top = scores[0]
    for i in range(1, k):
        top = max(top, scores[i])
    total = 0.0
    for i in range(k):
        out[i] = np.exp(scores[i] - top)
        total += out[i]
    for i in range(k):
        out[i] /= total


@inlined
def greedy_mixture(best, gamma, k, out):
    """out = (1 - gamma) 1[best] + gamma / k."""
    for i in range(k):
        out[i] = gamma / k
    out[best] += 1.0 - gamma


@inlined
def distribution(sampler, gamma, scores, k, u, out):
    """out = (1 - gamma) q + gamma / k, q one-hot at the argmax (ties by u) or softmax."""
    if sampler == SOFTMAX:
        softmax(scores, k, out)
        for i in range(k):
            out[i] = (1.0 - gamma) * out[i] + gamma / k
    else:
        greedy_mixture(argmax_random_ties(scores, k, u), gamma, k, out)


@inlined
def draw(probabilities, k, u):
    """Position drawn by inverting the cumulative distribution at u."""
    cumulative = 0.0
    for i in range(k):
        cumulative += probabilities[i]
        if u < cumulative:
            return i
    last = k - 1  # rounding left the sum just below u: the last action of positive probability
    while probabilities[last] == 0.0:
        last -= 1
    return last


@inlined
def predicted_cost(coefficients, row, x):
    """Ridge prediction of a row's cost, clipped to [0, 1]."""
    total = 0.0
    for j in range(x.shape[0]):
        total += coefficients[row, j] * x[j]
    return min(1.0, max(0.0, total))


@inlined
def estimate_costs(spec, state, x, pool, k, p, played, costs, out):
    """out[i] = f_i + 1[c_i observed] (c_i - f_i) / P(c_i observed); reads only the observed costs.

    Bandit: the played action. Label after deferral: also every label when an expert was asked; a label's cost
    is then observed with probability p_label + sum of the experts' p. Full: everything, no estimate needed.
    """
    if spec.feedback == FULL:
        for i in range(k):
            out[i] = costs[i]
        return
    for i in range(k):
        if spec.doubly_robust:
            out[i] = predicted_cost(state.coefficients, pool[i], x)
        elif spec.surrogate == S_COST:
            out[i] = 0.0
        else:
            out[i] = 1.0
    if spec.feedback == BANDIT:
        out[played] += (costs[played] - out[played]) / p[played]
        return
    asked = 0.0  # probability that some expert is asked
    for i in range(k):
        if pool[i] >= spec.n_labels:
            asked += p[i]
    if pool[played] < spec.n_labels:
        out[played] += (costs[played] - out[played]) / (p[played] + asked)
        return
    for i in range(k):
        if pool[i] < spec.n_labels:
            out[i] += (costs[i] - out[i]) / (p[i] + asked)
    out[played] += (costs[played] - out[played]) / p[played]


@inlined
def score_gradient(surrogate, scores, costs, k, out):
    """out = d Psi / d s over the pool, Psi with costs c and rewards r = 1 - c.

    S-cost:    sum_a c_a (1 + s-_a)_+,  s- centred over the pool
    S-reward:  sum_a r_a sum_{a' != a} (1 + s-_{a'})_+, which is S-cost with costs sum_{a'} r_{a'} - r_a
    CE-reward: -sum_a r_a log softmax(s)_a
    """
    rewards = 0.0
    for i in range(k):
        rewards += 1.0 - costs[i]
    if surrogate == CE_REWARD:
        softmax(scores, k, out)
        for i in range(k):
            out[i] = rewards * out[i] - (1.0 - costs[i])
        return
    mean = 0.0
    for i in range(k):
        mean += scores[i]
    mean /= k
    total = 0.0
    for i in range(k):
        slope = costs[i] if surrogate == S_COST else rewards - (1.0 - costs[i])
        out[i] = slope if scores[i] - mean > -1.0 else 0.0
        total += out[i]
    total /= k
    for i in range(k):
        out[i] -= total


@njit
def fold_scale(state):
    """Multiply the scale into the weights and recompute the norm, to stop rounding from adding up."""
    weights, scalars = state.weights, state.scalars
    scale = scalars[SCALE]
    total = 0.0
    for row in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            w = weights[row, j] * scale
            weights[row, j] = w
            total += w * w
    scalars[SCALE] = 1.0
    scalars[NORM_SQ] = total


@inlined
def projected_step(spec, state, gamma, x, pool, k, scores, gradient):
    """W <- Projection(W - eta g x^T) on the pool's rows; eta by theory, AdaGrad-norm or constant."""
    weights, scalars = state.weights, state.scalars
    x_sq = 0.0
    for j in range(x.shape[0]):
        x_sq += x[j] * x[j]
    g_sq = 0.0
    g_s = 0.0
    for i in range(k):
        g_sq += gradient[i] * gradient[i]
        g_s += gradient[i] * scores[i]
    if g_sq == 0.0:
        return
    scalars[GRADIENT_SQ] += g_sq * x_sq
    if spec.step == ADAGRAD:
        eta = np.sqrt(2.0) * spec.radius / np.sqrt(scalars[GRADIENT_SQ])
    elif spec.step == THEORY:
        # With all costs seen there is no importance weight, hence no gamma in the second moment.
        variance = 1.0 if spec.feedback == FULL else gamma
        h = spec.horizon if spec.horizon > 0 else scalars[ROUNDS]
        eta = spec.radius * np.sqrt(variance) / (spec.lipschitz * np.sqrt(h))
    else:
        eta = spec.eta
    factor = eta / scalars[SCALE]
    for i in range(k):
        if gradient[i] != 0.0:
            row = pool[i]
            for j in range(x.shape[0]):
                weights[row, j] -= factor * gradient[i] * x[j]
    norm_sq = scalars[NORM_SQ] - 2.0 * eta * g_s + eta * eta * g_sq * x_sq
    scalars[NORM_SQ] = norm_sq
    if norm_sq > spec.radius * spec.radius:
        scalars[SCALE] *= spec.radius / np.sqrt(norm_sq)
        scalars[NORM_SQ] = spec.radius * spec.radius
        if scalars[SCALE] < SMALLEST_SCALE:
            fold_scale(state)


@inlined
def ridge_update(coefficients, inverse, row, x, cost):
    """One recursive least-squares step of a row's cost on x (Sherman-Morrison)."""
    d = x.shape[0]
    gain = np.empty(d)
    denominator = 1.0
    residual = cost
    for j in range(d):
        total = 0.0
        for l in range(d):
            total += inverse[row, j, l] * x[l]
        gain[j] = total
        denominator += x[j] * total
        residual -= coefficients[row, j] * x[j]
    for j in range(d):
        g = gain[j] / denominator
        coefficients[row, j] += g * residual
        for l in range(d):
            inverse[row, j, l] -= g * gain[l]


@inlined
def learn_round(spec, state, gamma, x, pool, k, scores, p, played, costs, estimate, gradient):
    """Second half of a round: estimate the costs, take the step, refit the played row's regression."""
    estimate_costs(spec, state, x, pool, k, p, played, costs, estimate)
    score_gradient(spec.surrogate, scores, estimate, k, gradient)
    projected_step(spec, state, gamma, x, pool, k, scores, gradient)
    if spec.doubly_robust and spec.feedback != FULL:
        ridge_update(state.coefficients, state.inverse, pool[played], x, costs[played])
    if int(state.scalars[ROUNDS]) % FOLD_EVERY == 0:
        fold_scale(state)


@inlined
def fill_pool(block, use_experts, t, pool):
    """Rows of A_t: all labels, then the available experts in order of their rows; returns K."""
    for a in range(block.n_labels):
        pool[a] = a
    k = block.n_labels
    if use_experts:
        for j in range(block.available.shape[1]):
            if block.available[t, j]:
                pool[k] = block.n_labels + j
                k += 1
    return k


@njit  # the bandits' rounds are up to a third slower with a copy of it inside
def play(block, t, pool, p, k):
    """Draw from p over the k actions of the pool and write down the row; returns its position in the pool."""
    played = draw(p, k, block.uniforms[t, 1])
    block.actions[t] = pool[played]
    block.propensities[t] = p[played]
    return played


@inlined
def cost_of(block, row, t):
    """Cost in [0, 1] of a row at round t: error, plus the fee where an expert is asked."""
    if row < block.n_labels:
        return 1.0 if row != block.label[t] else 0.0
    j = row - block.n_labels
    return min(1.0, block.wrong[t, j] + block.fee[j])


@njit
def run_rounds(block, spec, use_experts, state):
    """Play a block; returns the largest |sum p - 1| and the smallest p_a K / gamma met (inf where gamma = 0)."""
    weights, scalars = state.weights, state.scalars
    rows = weights.shape[0]
    pool = np.empty(rows, np.int64)
    scores = np.empty(rows)
    p = np.empty(rows)
    costs = np.empty(rows)
    estimate = np.empty(rows)
    gradient = np.empty(rows)
    worst_sum = 0.0
    least_share = np.inf
    gamma = exploration(spec.kappa, spec.exponent, spec.horizon, 1.0)
    for t in range(len(block.which)):
        scalars[ROUNDS] += 1.0
        if spec.horizon == 0:
            gamma = exploration(spec.kappa, spec.exponent, 0.0, scalars[ROUNDS])
        x = block.contexts[block.which[t]]
        k = fill_pool(block, use_experts, t, pool)
        pool_scores(weights, scalars[SCALE], x, pool, k, scores)
        distribution(spec.sampler, gamma, scores, k, block.uniforms[t, 0], p)
        total = 0.0
        least = 1.0
        for i in range(k):
            total += p[i]
            least = min(least, p[i])
        worst_sum = max(worst_sum, abs(total - 1.0))
        if gamma > 0.0:
            least_share = min(least_share, least * k / gamma)
        played = play(block, t, pool, p, k)
        if spec.feedback == BANDIT:
            costs[played] = cost_of(block, pool[played], t)
        else:
            for i in range(k):
                costs[i] = cost_of(block, pool[i], t)
        learn_round(spec, state, gamma, x, pool, k, scores, p, played, costs, estimate, gradient)
    return worst_sum, least_share
