"""Online learning-to-defer: answer, or ask one of the experts who are there now, and learn from what comes back.

One decision at a time, on your own stream::

    learner = Deferrer(OnlineL2D(schedule="anytime"), n_labels=2, dimension=3)
    action, propensity = learner.decide([0.1, -0.4, 1.0], available=["ann", "bob"])
    learner.learn(Feedback(cost=0.0))  # of the action taken, in [0, 1]: error plus fee
    learner.save("state.npz")  # load continues exactly

A whole stream at once, compiled, about three million rounds a second::

    stream = static(100_000, np.random.default_rng(0))
    trace = OnlineL2D(surrogate="s_reward").run(stream, np.random.default_rng(1))
    regret = stream.pseudo_regret(trace.actions).sum()

What is supported:

* the learner: `OnlineL2D` (surrogates, samplers, estimators, steps, feedback regimes), `Deferrer` with `Feedback`,
  `Action`, `Choice`; twins: `ReferenceLearner`, line by line, and `run_seeds`, NumPy over seeds
* baselines on the same streams: `RidgeBandit` (epsilon-greedy, LinUCB, Thompson, SquareCB), `ForgettingRidge` (sliding
  window, discount), `Banditron`, `Soba`, `Gaptron`, `BatchL2D`, `VowpalWabbit`, `Control` (random, best expert, oracle)
* streams: `Stream`, `static`, `realizable`, `massart`, `varying`, `shift`, `specialists` (experts on your features),
  `schedule` (arrivals, departures, on and off)
* theory on numbers: modules `calibration` and `misranking`

Every `run(stream, rng)` returns a `Trace`: actions, propensities, info. Row a < n is label a, row n + j expert j.
"""

from reproven.papers.online_l2d import calibration, misranking
from reproven.papers.online_l2d.batch import BatchL2D
from reproven.papers.online_l2d.controls import Control
from reproven.papers.online_l2d.deferrer import Action, Choice, Deferrer, Feedback
from reproven.papers.online_l2d.forgetting import ForgettingRidge
from reproven.papers.online_l2d.learner import OnlineL2D, Trace
from reproven.papers.online_l2d.learner_numpy import run_seeds
from reproven.papers.online_l2d.learner_reference import ReferenceLearner
from reproven.papers.online_l2d.linear_bandits import Banditron, RidgeBandit
from reproven.papers.online_l2d.multiclass_bandits import Gaptron, Soba
from reproven.papers.online_l2d.real_streams import specialists
from reproven.papers.online_l2d.streams import Stream, massart, realizable, schedule, shift, static, varying
from reproven.papers.online_l2d.vowpal import VowpalWabbit

__all__ = [
    "Action",
    "Banditron",
    "BatchL2D",
    "Choice",
    "Control",
    "Deferrer",
    "Feedback",
    "ForgettingRidge",
    "Gaptron",
    "OnlineL2D",
    "ReferenceLearner",
    "RidgeBandit",
    "Soba",
    "Stream",
    "Trace",
    "VowpalWabbit",
    "calibration",
    "massart",
    "misranking",
    "realizable",
    "run_seeds",
    "schedule",
    "shift",
    "specialists",
    "static",
    "varying",
]
