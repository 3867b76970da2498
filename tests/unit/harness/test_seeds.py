"""Seeds by axis: shared where an axis is left out, apart where it is named."""

from __future__ import annotations

import numpy as np

from reproven.harness import seeds


def test_the_order_of_axes_does_not_matter_and_their_values_do():
    assert seeds.derive(0, "graphs", n=1, m=2) == seeds.derive(0, "graphs", m=2, n=1)
    made = {seeds.derive(b, p, n=n) for b in (0, 1) for p in ("graphs", "weights") for n in range(50)}
    assert len(made) == 200
    assert all(0 <= s < 2**63 for s in made)


def test_generators_repeat():
    a, b = (seeds.generator(1, "noise", k=2).standard_normal(5) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    c, d = (seeds.torch_generator(1, "noise", k=2).initial_seed() for _ in range(2))
    assert c == d


def test_a_seed_stays_what_it_was():
    # Stored results name seeds by these numbers: a change here orphans every accepted value.
    assert seeds.derive(0, "graphs", n=10) == 2713212760353780195
