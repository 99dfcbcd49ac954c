from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sparse.topology.plan import LayerChange, LayerEvidence, plan_changes


def evidence(*layers: tuple[int, int, float | None]) -> list[LayerEvidence]:
    return [LayerEvidence(f"layer{i}", size, active, claim) for i, (size, active, claim) in enumerate(layers)]


def pruned(changes: tuple[LayerChange, ...]) -> list[int]:
    return [change.pruned for change in changes]


def grown(changes: tuple[LayerChange, ...]) -> list[int]:
    return [change.grown for change in changes]


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[LayerEvidence], float, int]:
    with_claims = draw(st.booleans())
    layers = []
    for i in range(draw(st.integers(1, 8))):
        size = draw(st.integers(1, 60))
        active = draw(st.sampled_from([0, 1, size - 1, size]) | st.integers(0, size))
        claim = draw(st.sampled_from([0.0, 0.0, 1.0, 1e-30, 1e30]) | st.floats(0, 10))
        layers.append(LayerEvidence(f"layer{i}", size, active, claim if with_claims else None))
    return layers, draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]) | st.floats(0, 1)), draw(st.integers(0, 4))


@settings(max_examples=500, deadline=None)
@given(plan=plans())
def test_as_many_weights_are_grown_as_pruned_and_every_layer_can_carry_it_out(
    plan: tuple[list[LayerEvidence], float, int],
) -> None:
    layers, prune_rate, min_active = plan
    changes = plan_changes(layers, prune_rate, min_active)
    assert sum(pruned(changes)) == sum(grown(changes))
    for layer, change in zip(layers, changes, strict=True):
        assert (change.name, change.size, change.before) == (layer.name, layer.size, layer.active)
        assert 0 <= change.pruned <= round(prune_rate * layer.active)
        assert 0 <= change.grown <= layer.size - layer.active + change.pruned
        assert min(min_active, layer.active) <= change.active <= layer.size
        assert change.active == layer.active - change.pruned + change.grown


@settings(max_examples=200, deadline=None)
@given(plan=plans())
def test_shares_are_fractions_of_one(plan: tuple[list[LayerEvidence], float, int]) -> None:
    layers, prune_rate, min_active = plan
    shares = [change.share for change in plan_changes(layers, prune_rate, min_active)]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(1) or shares == [0.0] * len(layers)


def test_every_layer_prunes_the_rounded_fraction_of_its_active_weights() -> None:
    # 0.5 * 3 = 1.5 and 0.5 * 5 = 2.5 both round to 2, as Python rounds.
    assert pruned(plan_changes(evidence((99, 3, None), (99, 5, None), (99, 8, None)), 0.5)) == [2, 2, 4]


def test_a_prune_rate_of_zero_moves_nothing_and_a_larger_one_something() -> None:
    layers = evidence((50, 20, 1.0), (50, 20, 3.0))
    assert pruned(plan_changes(layers, 0.0)) == grown(plan_changes(layers, 0.0)) == [0, 0]
    assert pruned(plan_changes(layers, 0.3)) == [6, 6]
    assert grown(plan_changes(layers, 0.3)) == [3, 9]


def test_without_claims_every_layer_regrows_what_it_lost() -> None:
    changes = plan_changes(evidence((50, 20, None), (50, 49, None), (50, 0, None)), 0.5)
    assert pruned(changes) == grown(changes) == [10, 24, 0]


@pytest.mark.parametrize("claim", [None, 0.0])
def test_a_full_layer_that_would_regrow_what_it_lost_keeps_its_weights(claim: float | None) -> None:
    changes = plan_changes(evidence((50, 20, claim), (50, 50, claim)), 0.5)
    assert pruned(changes) == grown(changes) == [10, 0]


def test_claims_that_are_zero_everywhere_say_nothing() -> None:
    changes = plan_changes(evidence((50, 20, 0.0), (50, 40, 0.0)), 0.5)
    assert pruned(changes) == grown(changes) == [10, 20]


@pytest.mark.parametrize("claim", [None, 0.0, 1.0])
def test_a_dense_network_has_no_topology_to_change(claim: float | None) -> None:
    changes = plan_changes(evidence((50, 50, claim), (10, 10, claim)), 0.5)
    assert pruned(changes) == grown(changes) == [0, 0]


@pytest.mark.parametrize(("claim", "gains"), [(1e-30, [3, 10, 8]), (0.0, [3, 18, 0])])
def test_a_layer_without_active_weights_grows_by_the_excess_of_others_if_it_claims_anything(
    claim: float, gains: list[int]
) -> None:
    changes = plan_changes(evidence((10, 8, 1.0), (40, 40, 0.1), (99, 0, claim)), 0.5)
    # Losses 4 and 20; the first is to get 24 / 1.1 = 21.8: it prunes 0.2 * 8 = 1.6, that is 1, so 21 are shared out:
    # 19.1, 1.9 and 0. The first has room for 3; 16.1 / 2 go to each of the others: 3, 9.95, 8.05.
    assert pruned(changes) == [1, 20, 0]
    assert grown(changes) == gains


@settings(max_examples=300, deadline=None)
@given(plan=plans())
def test_a_layer_that_claims_nothing_is_left_alone_and_the_others_change_as_if_it_were_not_there(
    plan: tuple[list[LayerEvidence], float, int],
) -> None:
    layers, prune_rate, min_active = plan
    layers = [LayerEvidence("first", 30, 10, 1.0), *layers, LayerEvidence("last", 40, 20, 0.0)]
    changes = plan_changes(layers, prune_rate, min_active)
    silent = [change for layer, change in zip(layers, changes, strict=True) if not layer.claim]
    others = tuple(change for layer, change in zip(layers, changes, strict=True) if layer.claim)
    assert all((change.pruned, change.grown, change.share) == (0, 0, 0.0) for change in silent)
    assert others == plan_changes([layer for layer in layers if layer.claim], prune_rate, min_active)


def test_the_smallest_claim_is_one() -> None:
    # Losses 5 and 10; the second is to get all 15, more than it loses, and prunes 0.5 * 20 = 10 at most.
    losing, silent = (plan_changes(evidence((50, 10, claim), (40, 20, 1.0)), 0.5) for claim in (5e-324, 0.0))
    assert [(change.pruned, change.grown) for change in losing] == [(5, 0), (10, 15)]
    assert [(change.pruned, change.grown) for change in silent] == [(0, 0), (10, 10)]


def test_full_layers_pass_nothing_on_to_one_that_claims_nothing() -> None:
    # Losses 5, 4 and 8. The first two are to get more than they have room for.
    layers = evidence((10, 10, 2.0), (8, 8, 2.0), (100, 16, 1.0), (400, 80, 0.0))
    assert [change.active for change in plan_changes(layers, 0.5)] == [10, 8, 16, 80]
    claiming = evidence((10, 9, 2.0), (8, 7, 2.0), (100, 16, 1.0), (400, 80, 1e-9))
    assert plan_changes(claiming, 0.5)[3].active > 40


def test_a_layer_that_would_lose_all_keeps_the_minimum() -> None:
    # The second is to get all 24, more than it loses, and so prunes 0.6 * 20 = 12. Of 4 + 12 the first gets 3 back.
    layers = evidence((50, 4, 1e-30), (50, 20, 1.0))
    assert pruned(plan_changes(layers, 1.0, min_active=3)) == [4, 12]
    assert grown(plan_changes(layers, 1.0, min_active=3)) == [3, 13]
    assert grown(plan_changes(layers, 1.0, min_active=0)) == [0, 16]


def test_a_minimum_beyond_what_a_layer_had_is_what_it_had() -> None:
    changes = plan_changes(evidence((50, 2, 1e-30), (50, 20, 1.0), (50, 0, 0.0)), 1.0, min_active=5)
    assert [change.active for change in changes][::2] == [2, 0]


@pytest.mark.parametrize("prune_rate", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_prune_rate_that_is_no_fraction_is_refused(prune_rate: float) -> None:
    with pytest.raises(ValueError, match=r"prune rate in \[0, 1\].*got"):
        plan_changes(evidence((50, 20, None)), prune_rate)


def test_no_layers_need_no_plan() -> None:
    assert plan_changes([], 0.5) == ()
