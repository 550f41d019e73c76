"""Spaces: the closed formulas, points of the paper's networks, the way there and back, what is refused."""

import collections
import dataclasses
import math

import numpy as np
import pytest

from spinenet_tf.backbones.builder import build_backbone
from spinenet_tf.backbones.catalog import ALLOCATIONS, architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.search.presets import SPACES, find_space
from spinenet_tf.search.space import SearchSpace

# m, N, labelled and distinct permutations, log10 of pairs without and with the window.
SIZES = {
  "r35_sp18": (11, 6, 120, 120, 11.51, 10.77),
  "r23_sp30": (7, 10, 14_400, 2_400, 17.49, 14.77),
  "r14_sp39": (4, 13, 4_838_400, 50_400, 20.44, 17.55),
  "r0_sp53": (2, 15, 435_456_000, 604_800, 20.92, 18.03),
  "spinenet49": (2, 15, 435_456_000, 604_800, 20.92, 18.03),
}


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def small(**changes) -> SearchSpace:
  """Two blocks after the stem: 1 permutation, 1 x 3 pairs."""
  return SearchSpace(**{"name": "small", "stem": (2, 2), "levels": (3,), "output_levels": (3,), **changes})


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_closed_formulas(name):
  stem, count, labelled, distinct, every, window = SIZES[name]
  space = SPACES[name]
  sizes = space.sizes()
  assert (len(space.stem), space.block_count) == (stem, count)
  assert (sizes["labelled_permutations"], sizes["permutations"]) == (labelled, distinct)
  assert labelled == math.factorial(count - 5) * math.factorial(5)
  assert sizes["all_connections"] == math.prod(math.comb(i, 2) for i in range(stem, stem + count))
  assert round(math.log10(sizes["all_connections"]), 2) == every
  assert round(math.log10(sizes["connections"]), 2) == window
  assert sizes["adjustments"] == (4**10 * 2**15 if name == "spinenet49" else 1)
  assert sizes["points"] == distinct * sizes["connections"] * sizes["adjustments"]


def test_pairs_of_r35_sp18_by_hand():
  # One intermediate block sees 5 of 11 features; the outputs see 12, 13, 14, 15, 16.
  sizes = SPACES["r35_sp18"].sizes()
  assert sizes["connections"] == 10 * 66 * 78 * 91 * 105 * 120
  assert sizes["all_connections"] == 55 * 66 * 78 * 91 * 105 * 120
  assert round(math.log10(SPACES["spinenet49"].sizes()["adjustments"]), 1) == 10.5


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_blocks_are_those_of_table_1(name):
  space, allocation = SPACES[name], ALLOCATIONS[name]
  assert [b.level for b in space.stem] == [lvl for lvl, n in enumerate(allocation.stem, 2) for _ in range(n)]
  levels = [*space.levels, *space.output_levels]
  if name == "spinenet49":  # the offsets lead from R0-SP53's blocks to table 1's
    levels = [block.level for block in architecture(name).blocks]
    assert space.levels == SPACES["r0_sp53"].levels == (2, 3, 3, 3, 4, 4, 4, 4, 4, 5)
  assert tuple(map(levels.count, range(2, 8))) == allocation.permuted


def test_every_point_of_a_small_space(rng):
  space = small(levels=(3, 4), output_levels=(3, 4), offsets=(0, 1), types=("bottleneck", "residual"))
  points = list(space.points())
  # 2 x 2 permutations; pairs C(2,2) C(3,2) C(4,2) C(5,2) = 1 x 3 x 6 x 10; 2^2 offsets; 2^4 types.
  assert len(points) == len(set(points)) == space.sizes()["points"] == 4 * 180 * 4 * 16
  assert points == sorted(points) and all(map(space.is_valid, points[::97]))
  counts = small().sizes()["points"], len(list(small().points()))
  assert counts == (3, 3)
  assert not space.is_valid(points[0][:-1]) and not space.is_valid((*points[0][:-1], 2))


def test_random_points_are_drawn_alike(rng):
  space = small(levels=(3, 3, 4))
  points = list(space.points())  # 3 permutations x 1 x 3 x 6 x 10 pairs
  assert len(points) == 540
  drawn = [space.random_point(rng) for _ in range(54_000)]
  times = collections.Counter(drawn)
  counts = np.array([times[point] for point in points])
  assert (
    400 < ((counts - 100) ** 2 / 100).sum() < 680
  )  # chi squared with 539 degrees of freedom: mean 539, deviation 33


def test_encodings_of_the_papers_networks():
  space = SPACES["spinenet49"]
  point = space.encode("spinenet49")
  assert space.text(point).splitlines() == [
    "levels   2 3 3 3 4 4 4 5 4 4",
    "outputs  4 3 5 7 6",
    "parents  0,1 0,1 2,3 2,4 3,5 3,5 6,7 6,8 8,9 8,10 5,10 4,10 7,12 5,14 12,14",
    "offsets  0 +1 0 +1 +2 0 +1 +2 +1 +1",
    "types    bottleneck residual bottleneck bottleneck residual bottleneck residual residual" + 7 * " bottleneck",
  ]
  assert point[:15] == (0, 1, 1, 1, 2, 2, 2, 3, 2, 2, 1, 0, 2, 4, 3)
  assert point[15:25] == (0, 1, 0, 1, 2, 3, 2, 4, 2, 4)  # block 6 reads 3 and 5, the third and fifth of 1..5
  text = SPACES["r0_sp53"].text(SPACES["r0_sp53"].encode("r0_sp53"))
  assert text.splitlines() == [
    "levels   2 3 3 4 4 3 5 4 4 4",
    "outputs  3 4 5 7 6",
    "parents  0,1 0,1 2,3 2,4 3,5 5,6 4,7 4,8 8,9 8,10 4,10 6,7 8,13 6,9 7,9",
  ]
  text = SPACES["r23_sp30"].text(SPACES["r23_sp30"].encode("r23_sp30"))
  assert text.splitlines() == [
    "levels   4 4 4 3 2",
    "outputs  4 3 5 7 6",
    "parents  5,6 5,6 7,8 8,9 9,10 5,9 9,10 9,10 11,13 9,14",
  ]


@pytest.mark.parametrize("name", ["spinenet49", "r0_sp53", "r23_sp30", "hourglass", "fish"])
def test_networks_of_the_catalog_come_back(name):
  space, arch = SPACES[name], architecture(name)
  back = space.decode(space.encode(arch))
  assert dataclasses.replace(back, name=arch.name, note=arch.note) == arch
  assert space.encode(dataclasses.replace(arch, block_repeats=2, filter_scale=0.5)) == space.encode(name)


def test_the_window_holds_the_stem_and_is_as_wide_as_it_must_be():
  assert SPACES["r23_sp30"].candidates(7) == (2, 3, 4, 5, 6)  # all stem
  assert SPACES["spinenet49"].candidates(2) == (0, 1)
  assert SPACES["spinenet49"].candidates(8) == (3, 4, 5, 6, 7)
  assert SPACES["spinenet49"].candidates(12) == tuple(range(12))
  reach = [
    i - min(block.parents)
    for name in ("spinenet49", "r0_sp53", "r23_sp30")
    for i, block in enumerate(architecture(name).features)
    if block.parents and not block.is_output
  ]
  # R0-SP53's block 9 reads 4: five back. Block 12 of SpineNet-49, an output, reads 5, seven back.
  assert max(reach) == 5
  with pytest.raises(UserError, match=r"block 9 reads \[4, 8\]; it must be two of \[5, 6, 7, 8\]"):
    dataclasses.replace(SPACES["r0_sp53"], window=4).encode("r0_sp53")


@pytest.mark.parametrize("name", SPACES)
def test_points_and_architectures_there_and_back(name, rng):
  space = SPACES[name]
  for _ in range(150):
    point = space.random_point(rng)
    arch = space.decode(point)
    assert space.is_valid(point) and space.encode(arch) == space.canonical(point)
    assert space.decode(space.canonical(point)) == arch == Architecture.from_json(arch.to_json())
    assert space.canonical(point) == point or len(space.offsets) > 1
    assert arch.allow_disconnected == (not arch.used() >= set(range(len(arch.stem), len(arch.features))))


def test_a_thousand_points_of_spinenet49s_space_are_architectures(rng):
  space = SPACES["spinenet49"]
  loose, levels = 0, set()
  for _ in range(1000):
    arch = space.decode(space.random_point(rng))  # the rules of architectures are checked within
    assert arch.output_levels == (3, 4, 5, 6, 7) and arch.connect_unused
    loose += arch.allow_disconnected
    levels |= {block.level for block in arch.blocks}
  assert levels == set(range(1, 8)), "level 1 by the offset -1 of the L2 block"
  assert 450 < loose < 650  # what the docstring says: about half


@pytest.mark.slow
def test_points_build(rng):
  space = dataclasses.replace(SPACES["spinenet49"], settings={"filter_scale": 0.1, "endpoint_filters": 8})
  points = [space.random_point(rng) for _ in range(40)]
  archs = [space.decode(point) for point in points]
  strange = [arch for arch in archs if arch.allow_disconnected and min(block.level for block in arch.blocks) == 1]
  whole = [arch for arch in archs if not arch.allow_disconnected]
  for arch in (strange[0], whole[0]):
    model = build_backbone(arch, (128, 128))
    assert {level: x.shape[1:] for level, x in model.output.items()} == {
      str(level): (128 // 2**level, 128 // 2**level, 8) for level in range(3, 8)
    }


def test_offsets_stay_within_the_levels(rng):
  space = small(levels=(2, 6), offsets=(-1, 0, 2))
  assert (space.allowed_offsets(2), space.allowed_offsets(6)) == ((-1, 0, 2), (-1, 0))
  points = list(space.points())
  assert len(points) == space.sizes()["points"] == 2 * 18 * 6
  for point in points:
    for neighbour in (space.mutate(point, rng) for _ in range(4)):
      assert space.is_valid(neighbour) and neighbour != point
  assert dataclasses.replace(space, lowest_level=2).allowed_offsets(2) == (0, 2)


def test_of_equal_architectures_one_point_is_canonical():
  space = small(levels=(3, 4), offsets=(-1, 0, 1))
  #  Final levels 4, 3: bases 4, 3 as they are, or 3 + 1, 4 - 1.
  pairs = (0, 1, 0, 1, 0, 1)
  straight, crossed = (1, 0, 0, *pairs, 1, 1), (0, 1, 0, *pairs, 2, 0)
  assert space.canonical(straight) == space.canonical(crossed) == straight
  assert space.decode(straight) == space.decode(crossed)
  assert space.key(straight) == space.key(crossed)
  points = list(space.points())
  assert len({space.canonical(p) for p in points}) == len({space.decode(p) for p in points}) < len(points)


def test_mutations_reach_every_neighbour(rng):
  space = small(levels=(3, 4), types=("bottleneck", "residual"))
  point = next(space.points())
  seen = {space.mutate(point, rng) for _ in range(2000)}
  # A swap of the two levels; pairs of 3 and of 4 candidates: 2 and 4 others that share one; 3 types.
  assert len(seen) == 1 + 2 + 4 + 3
  chain = small(stem=(2, 2), levels=(), output_levels=(3,), types=("bottleneck", "residual"))
  assert {chain.mutate((0, 0, 1, 0), rng) for _ in range(5)} == {(0, 0, 1, 1)}


def test_spaces_come_back_from_dictionaries_and_files(tmp_path):
  for space in SPACES.values():
    assert SearchSpace.from_dict(space.to_dict()) == space == SearchSpace.from_json(space.to_json())
  mine = small(settings={"filter_scale": 0.5, "level_filters": [8] * 7}, offsets=[0, 1])
  mine.to_json(tmp_path / "mine.json")
  assert find_space(tmp_path / "mine.json") == mine == find_space(mine.to_dict()) and hash(mine)
  arch = mine.decode(next(mine.points()))
  assert arch.filter_scale == 0.5 and arch.level_filters == (8,) * 7
  assert find_space("SpineNet-49") is SPACES["spinenet49"] and find_space("R0-SP53") is SPACES["r0_sp53"]


def test_fingerprints_tell_spaces_apart():
  prints = {space.fingerprint() for space in SPACES.values()}
  assert len(prints) == len(SPACES) and all(len(p) == 64 for p in prints)
  assert small().fingerprint() == small(name="other").fingerprint()
  assert small(levels=(3, 4)).fingerprint() == small(levels=(4, 3)).fingerprint() != small().fingerprint()
  fixed = {"levels": (3, 4), "learn_permutation": False}
  assert small(**fixed).fingerprint() != small(**{**fixed, "levels": (4, 3)}).fingerprint()


def test_what_is_not_learned_is_fixed():
  pairs = ((0, 1), (2, 1))
  space = small(learn_connections=False, learn_permutation=False, parents=pairs, types=("bottleneck", "residual"))
  assert [d.kind for d in space.decisions] == ["type", "type"]
  arch = space.decode((1, 0))
  assert [(b.block, b.parents) for b in arch.blocks] == [("residual", (0, 1)), ("bottleneck", (1, 2))]
  assert space.encode(arch) == (1, 0)
  assert all(d.kind.endswith("parent") for d in SPACES["hourglass"].decisions)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"output_levels": ()}, r"output_levels is empty; a pyramid needs at least one output level"),
    ({"window": 1}, r"window is 1; an intermediate block chooses two parents among the last"),
    ({"stem": (2,)}, r"the stem has 1 block\(s\), .* give the stem two blocks or more"),
    ({"output_levels": (3, 4, 4)}, r"3 output blocks for 2 levels.*keep level\(s\) \[4\] once"),
    ({"output_levels": (3, 5)}, r"with a gap; add level\(s\) \[4\]"),
    ({"levels": (3, 8)}, r"levels has 8; levels are whole numbers from 1 to 7"),
    ({"levels": (7,), "offsets": (1, 2)}, r"levels has 7, which no offset of \[1, 2\] leaves between"),
    ({"offsets": ()}, r"offsets is \[\]; it must hold different whole numbers"),
    ({"types": ("bottleneck", "conv")}, r"types is \['bottleneck', 'conv'\]; it must hold different ones of"),
    ({"lowest_level": 0}, r"lowest_level is 0; it must be a whole number from 1 to 7"),
    ({"learn_permutation": "yes"}, r"learn_permutation is 'yes'; it must be true or false"),
    ({"parents": ((0, 1), (1, 2))}, r"parents are given and learn_connections is true"),
    ({"learn_connections": False}, r"parents has 0 entries for 2 blocks"),
    ({"learn_connections": False, "parents": ((0, 1), (1, 9))}, r"block 3: parents are \[1, 9\]; .* \[0, 1, 2\]"),
    (
      {"learn_connections": False, "learn_permutation": False, "parents": ((0, 1), (1, 2))},
      r"there is nothing to decide",
    ),
    ({"settings": {"filter_scale": -1}}, r"filter_scale is -1; it must be above 0"),
    ({"settings": {"colour": "red"}}, r"settings do not fit an architecture.*colour"),
    ({"name": ""}, r"needs a name"),
  ],
)
def test_what_is_no_space(changes, message):
  with pytest.raises(UserError, match=message):
    small(**changes)


def test_what_is_no_point():
  space = SPACES["spinenet49"]
  point = space.encode("spinenet49")
  with pytest.raises(UserError, match=r"a point has 70 choices, this one has 3; it is of another space"):
    space.decode((0, 1, 2))
  with pytest.raises(UserError, match=r"choice 1 of a point \(level of block 3\) is 0; .* one of \[1, 2, 3\]"):
    space.decode((0, 0, *point[2:]))
  with pytest.raises(UserError, match=r"choice 16 .*second_parent of block 2\) is 0; .* one of \[1\]"):
    space.decode((*point[:16], 0, *point[17:]))


def test_what_is_no_network_of_a_space(tmp_path):
  with pytest.raises(UserError, match=r"block 3 is residual; the space has \['bottleneck'\]|levels \[2, 4, 3"):
    SPACES["r0_sp53"].encode("spinenet49")
  with pytest.raises(UserError, match=r"its stem has levels \[2, 2, 2, 3"):
    SPACES["r0_sp53"].encode("r50_fpn")
  with pytest.raises(UserError, match=r"outputs have levels \[3, 4, 5, 6, 7\], the space's \[7, 6, 5, 4, 3\]"):
    SPACES["hourglass"].encode("fish")
  with pytest.raises(UserError, match=r"no search space named 'spine'; there are r35_sp18"):
    find_space("spine")
  with pytest.raises(UserError, match="no search space file"):
    find_space(tmp_path / "none.json")
  with pytest.raises(UserError, match=r"unknown key\(s\) \['windows'\]"):
    find_space({"name": "a", "stem": [2, 2], "levels": [3], "windows": 3})
  with pytest.raises(UserError, match=r"key\(s\) \['levels', 'stem'\] missing"):
    find_space({"name": "a"})
  with pytest.raises(UserError, match=r"is not JSON"):
    SearchSpace.from_json("{")
