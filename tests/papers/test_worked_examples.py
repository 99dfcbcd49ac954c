"""Topology updates small enough to check with a pencil, and numbers that publications or their code give."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from slow_sparse_momentum import largest_remainder, share_out
from torch import Tensor

from lightning_sparse import SparseNetwork
from lightning_sparse.topology import RECIPES, LayerChange, LayerView, apportion, rewire
from lightning_sparse.topology.density import allocate
from lightning_sparse.topology.plan import LayerEvidence, plan_changes

LENET_300_100 = [(300, 784), (100, 300), (10, 100)]


def view(weight: Sequence[float], mask: Sequence[int], momentum: Sequence[float], name: str = "layer") -> LayerView:
    return LayerView(
        name,
        weight=torch.tensor([weight]),
        mask=torch.tensor([mask], dtype=torch.bool),
        generator=torch.Generator().manual_seed(0),
        momentum=torch.tensor([momentum]),
        gradient=torch.tensor([momentum]),
    )


def where(mask: Tensor) -> list[int]:
    return mask.reshape(-1).nonzero().reshape(-1).tolist()


def moved(changes: tuple[LayerChange, ...]) -> list[tuple[int, int]]:
    return [(change.pruned, change.grown) for change in changes]


def test_one_layer_loses_its_smallest_weights_and_gains_those_with_the_largest_momentum() -> None:
    # Half of four active weights: -0.1 (index 2) and 0.2 (index 1) go. Of what is inactive then, |momentum| is largest
    # at index 5 (4.0) and at index 2 (3.0), which was just pruned and restarts at zero.
    layer = view(
        weight=[0.5, 0.2, -0.1, -0.9, 0.0, 0.0, 0.0, 0.0],
        mask=[1, 1, 1, 1, 0, 0, 0, 0],
        momentum=[9.0, 1.0, -3.0, 9.0, 0.0, -4.0, 2.0, 1.0],
    )
    rewiring = rewire([layer], RECIPES["sparse_momentum"], prune_rate=0.5)
    assert where(rewiring.survivors["layer"]) == [0, 3]
    assert where(rewiring.masks["layer"]) == [0, 2, 3, 5]


def test_weights_move_to_the_layer_whose_active_weights_have_the_larger_mean_momentum() -> None:
    # Mean |momentum| of active weights is 3 and 1; inactive ones (100) don't count. Each layer loses 2 of 4, together
    # 4, of which the first gets 3/4 and the second 1/4.
    mask = [1, 1, 1, 1] + [0] * 8
    first = view([1, 2, 3, 4] + [0] * 8, mask, [3, -3, 3, -3] + [0] * 8, "first")
    second = view([1, 2, 3, 4] + [0] * 8, mask, [1, 1, -1, -1] + [100] * 8, "second")
    rewiring = rewire([first, second], RECIPES["sparse_momentum"], prune_rate=0.5)
    assert moved(rewiring.changes) == [(2, 3), (2, 1)]
    assert [change.share for change in rewiring.changes] == [0.75, 0.25]
    # The first: 2 and 3 survive, then |momentum| 3 at the just-pruned 0 and 1, then the first of the zeros.
    assert where(rewiring.masks["first"]) == [0, 1, 2, 3, 4]
    assert where(rewiring.masks["second"]) == [2, 3, 4]


def test_ties_keep_and_grow_the_lower_index() -> None:
    layer = view([1, -1, 1, -1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [1] * 8)
    rewiring = rewire([layer], RECIPES["sparse_momentum"], prune_rate=0.25)
    assert where(rewiring.survivors["layer"]) == [0, 1, 2]
    assert where(rewiring.masks["layer"]) == [0, 1, 2, 3]


def test_set_prunes_the_same_fraction_of_both_signs_and_zeros_first() -> None:
    # Four positive, two negative, one zero, half of seven rounds to 4 (3.5 to even). The zero goes, then by rank:
    # -1 is 1/2 of the negative; 2 and 4 are 1/4 and 2/4 of the positive: two quarters of the one, a half of the other.
    layer = view([8, 6, 4, 2, -1, -9, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0, 0], [0] * 9)
    rewiring = rewire([layer], RECIPES["set_original"], prune_rate=0.5)
    assert where(rewiring.survivors["layer"]) == [0, 1, 5]


def test_set_keeps_the_lower_index_of_equal_weights_as_magnitude_pruning_does() -> None:
    layer = view([1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6)
    assert where(rewire([layer], RECIPES["set"], 0.5).survivors["layer"]) == [0, 1]
    assert where(rewire([layer], RECIPES["set_original"], 0.5).survivors["layer"]) == [0, 1]


def test_edge_case_1_spreads_equally_what_a_layer_has_no_room_for() -> None:
    # Losses 1, 4, 4; claims 8 : 1 : 1 of 9 are 7.2, 0.9, 0.9. The first has room for its 2 zeros and the 1 it loses;
    # the other 4.2 go in halves to the others: 0.9 + 2.1 = 3.
    layers = [LayerEvidence("a", 4, 2, 8.0), LayerEvidence("b", 40, 8, 1.0), LayerEvidence("c", 40, 8, 1.0)]
    assert moved(plan_changes(layers, prune_rate=0.5)) == [(1, 3), (4, 3), (4, 3)]


def test_edge_case_1_with_the_numbers_of_the_paper() -> None:
    # "regrowing 100 weights for a layer of maximum 10 weights": the other 90 go equally to three layers, not by claim.
    assert apportion(106, [100.0, 3.0, 2.0, 1.0], capacities=[10, 500, 500, 500]) == [10, 33, 32, 31]


def test_edge_case_1_passes_on_what_the_next_layer_has_no_room_for_either() -> None:
    # Quotas 9, 2, 1: 5 too many for the first, 2.5 each for the others; the second has room for 3, so the third gets 5.
    assert apportion(12, [9.0, 2.0, 1.0], capacities=[4, 3, 99]) == [4, 3, 5]


def test_edge_case_2_prunes_a_growing_layer_by_its_sparsity() -> None:
    # Layer a: sparsity 2/10. It is to get half of 4 + 4, no more than it loses: an ordinary layer.
    ordinary = [LayerEvidence("a", 10, 8, 1.0), LayerEvidence("b", 80, 8, 1.0)]
    assert moved(plan_changes(ordinary, prune_rate=0.5)) == [(4, 4), (4, 4)]
    # It is to get 3/4 of 8 = 6 > 4: it prunes 0.2 * 8 = 1.6, rounded down to 1. Of 1 + 4 in all it gets
    # 3/4 * 5 = 3.75, but has room for its 2 zeros and the 1 it lost; 5 - 3 = 2 are left for b.
    growing = [LayerEvidence("a", 10, 8, 3.0), LayerEvidence("b", 80, 8, 1.0)]
    assert moved(plan_changes(growing, prune_rate=0.5)) == [(1, 3), (4, 2)]


def test_edge_case_2_leaves_a_dense_growing_layer_alone_and_lets_a_dense_shrinking_layer_shrink() -> None:
    growing = [LayerEvidence("dense", 6, 6, 9.0), LayerEvidence("sparse", 60, 6, 1.0)]
    assert moved(plan_changes(growing, prune_rate=0.5)) == [(0, 0), (3, 3)]
    shrinking = [LayerEvidence("dense", 6, 6, 1.0), LayerEvidence("sparse", 60, 6, 9.0)]
    # 6 in all: quotas 0.6 and 5.4 round to 1 and 5 (the larger remainder is the first's).
    assert moved(plan_changes(shrinking, prune_rate=0.5)) == [(3, 1), (3, 5)]


def test_a_layer_keeps_the_minimum_and_the_others_pay_for_it_in_equal_parts() -> None:
    # Everything is pruned. Quotas of 2 + 4 + 6 = 12: almost 0, 6, 6; the first must get one back.
    layers = [LayerEvidence("a", 20, 2, 1e-30), LayerEvidence("b", 20, 4, 1.0), LayerEvidence("c", 20, 6, 1.0)]
    # b (6 > 4) is growing: it prunes min(4, 4 * 16 / 20 = 3.2) = 3, so 11: 0, 5.5, 5.5 -> 1, 5, 5.
    assert moved(plan_changes(layers, prune_rate=1.0)) == [(2, 1), (3, 5), (6, 5)]
    assert moved(plan_changes(layers, prune_rate=1.0, min_active=0)) == [(2, 0), (3, 6), (6, 5)]


def test_shares_agree_with_the_loop_of_the_authors_library_but_for_its_safety_margin() -> None:
    # Its state {.8, .15, .05}, nonzero {90, 500, 5000}, zeros {10, 9500, 95000} gives 18.81 / 1508.59 / 1232.59 of
    # 2759 after 39 rounds: 18.81 is 0.99 of the room of 19, which we use in full, the rest is spread equally.
    quotas = [2759 * Fraction(share, 100) for share in (80, 15, 5)]
    assert [float(x) for x in share_out(2759, quotas, [0, 0, 0], [19, 9750, 97500])] == [19.0, 1507.95, 1232.05]
    layers = [
        LayerEvidence("a", 100, 90, 0.8),
        LayerEvidence("b", 10_000, 500, 0.15),
        LayerEvidence("c", 100_000, 5000, 0.05),
    ]
    # a is growing: of its 90 it prunes a tenth, its sparsity.
    assert moved(plan_changes(layers, prune_rate=0.5)) == [(9, 19), (250, 1508), (2500, 1232)]


@pytest.mark.parametrize(
    ("total", "densities"),
    [(13_310, [0.038484, 0.111334, 0.918507]), (26_620, [0.079568, 0.230189, 1.0])],
)
def test_erdos_renyi_kernel_densities_of_lenet_300_100_agree_with_rigl(total: int, densities: list[float]) -> None:
    counts = allocate(LENET_300_100, total, "erdos_renyi_kernel")
    assert sum(counts) == total
    sizes = [outputs * inputs for outputs, inputs in LENET_300_100]
    # Densities are given to six digits; counts are whole.
    for count, size, density in zip(counts, sizes, densities, strict=True):
        assert count == pytest.approx(density * size, abs=1)


def test_erdos_renyi_kernel_densities_of_lenet_300_100_by_hand() -> None:
    # Claims are 1084, 400, 110. At 5 %: 13,310 * 1084 / 1594 = 9051.47, 3340.03, 918.51.
    assert allocate(LENET_300_100, 13_310, "erdos_renyi_kernel") == [9051, 3340, 919]
    # At 10 % the last is full, and 25,620 are left: * 1084 / 1484 = 18714.3, 6905.7.
    assert allocate(LENET_300_100, 26_620, "erdos_renyi_kernel") == [18_714, 6906, 1000]


def test_a_uniform_density_leaves_every_layer_the_same_fraction() -> None:
    assert allocate(LENET_300_100, 13_310, "uniform") == [11_760, 1500, 50]


def test_largest_remainders_go_to_the_lower_index_of_equal_ones() -> None:
    assert largest_remainder(4, [Fraction(4, 3)] * 3) == [2, 1, 1]
    assert apportion(4, [1.0, 1.0, 1.0], capacities=[9, 9, 9]) == [2, 1, 1]


def trained(recipe_name: str) -> tuple[list[float], SparseNetwork]:
    """Return the weights of a dense and of a sparse layer, and their network, after an update by equal gradients."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 1, bias=False), torch.nn.Linear(4, 4, bias=False))
    dense, sparse = model.parameters()
    network = SparseNetwork(model, {"0": 1.0, "1": 0.5}, seed=0)
    with torch.no_grad():
        dense.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    dense.grad, sparse.grad = torch.ones(1, 4), torch.ones(4, 4)
    network.rewire(RECIPES[recipe_name], prune_rate=0.5)
    return dense.reshape(-1).tolist(), network


def test_a_dense_layer_of_a_sparse_network_keeps_its_weights_under_rigl() -> None:
    # As with the Erdos-Renyi-kernel densities of LeNet-300-100 at 10 %, whose last layer is dense: it has nothing to
    # explore, and RigL grows back just what it drops there.
    weights, network = trained("rigl")
    assert weights == [1.0, 2.0, 3.0, 4.0]
    assert network.layers["0.weight"].active == 4


def test_growth_starts_at_zero_under_rigl_too_whatever_was_written_where_weights_are_inactive() -> None:
    model = torch.nn.Linear(8, 1, bias=False)
    network = SparseNetwork(model, 0.5, seed=0)
    inactive = ~network.masks["weight"]
    with torch.no_grad():
        model.weight.fill_(7.0)  # a checkpoint of a dense network was loaded, say
    model.weight.grad = inactive.float()
    network.rewire(RECIPES["rigl"], prune_rate=0.5)
    grown = network.masks["weight"] & inactive
    assert grown.sum() == 2
    assert model.weight[grown].tolist() == [0.0, 0.0]
