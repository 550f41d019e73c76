"""Drawings of architectures: every line of the spec and no other, nothing on top of anything, both formats."""

import dataclasses
import itertools
import random
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from spinenet_tf.backbones.catalog import architecture, names
from spinenet_tf.backbones.edit import damaged
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError
from spinenet_tf.visualize.architecture import draw_architecture

SVG = "{http://www.w3.org/2000/svg}"


def _random(seed):
  """A network with any order, kinds and parents, up to 40 permuted blocks with one to five of them."""
  rng = random.Random(seed)
  stem = tuple(BlockSpec(level, "mbconv") for level in (2, 2, 3, 3, 4)[: rng.randint(1, 5)])
  levels = [rng.randint(1, 7) for _ in range(rng.randint(3, 35))] + rng.sample(range(3, 8), 5)
  blocks = []
  for i, level in enumerate(levels, len(stem)):
    parents = tuple(rng.sample(range(i), min(i, rng.choice((1, 2, 2, 2, 3, 5)))))
    kind = rng.choice(("bottleneck", "residual", "mbconv"))
    blocks.append(BlockSpec(level, kind, parents, i - len(stem) >= len(levels) - 5))
  return Architecture(f"random{seed}", stem, tuple(blocks), allow_disconnected=True)


def _all():
  cases = {name: architecture(name) for name in names()}
  cases.update({f"damage_{remove}": damaged("r0_sp53", remove) for remove in ("short", "long", "both")})
  cases.update({f"random_{seed}": _random(seed) for seed in range(4)})
  return cases


@pytest.fixture(scope="module", params=list(_all()))
def drawing(request):
  return draw_architecture(_all()[request.param])


def _expected(arch):
  """(source, target) -> kind, from the spec's fields alone."""
  edges = {(i - 1, i): "stem" for i in range(1, len(arch.stem))}
  for i, spec in enumerate(arch.blocks, len(arch.stem)):
    edges.update({(parent, i): "parent" for parent in spec.parents})
    edges.update({(parent, i): "unused" for parent in arch.unused_inputs(i)})
  return edges


def test_drawn_edges_are_the_specs(drawing):
  between_blocks = [e for e in drawing.edges if isinstance(e.source, int) and isinstance(e.target, int)]
  assert {(e.source, e.target): e.kind for e in between_blocks} == _expected(drawing.architecture)
  assert len(between_blocks) == len(_expected(drawing.architecture))
  others = [(e.source, e.target, e.kind) for e in drawing.edges if e not in between_blocks]
  assert others[0] == ("conv", 0, "stem") and (len(others) == 1) == (drawing.architecture.pyramid == "endpoints")
  assert list(drawing.wiring.routes) == list(drawing.edges)


def test_every_route_runs_from_its_source_to_its_target(drawing):
  nodes = {node.key: node for node in drawing.nodes}
  for edge, route in drawing.wiring.routes.items():
    for point, key, sign in ((route[0], edge.source, 1), (route[-1], edge.target, -1)):
      x, y = drawing.wiring.centers[key]
      assert abs(point[1] - y) < nodes[key].height / 2
      assert point[0] == pytest.approx(x + sign * nodes[key].half_width(point[1] - y))
    for (x0, y0), (x1, y1) in zip(route, route[1:]):
      assert x0 == x1 or (y0 == y1 and x0 < x1), "right angles, never backwards"
    assert route[-1][0] - route[-2][0] >= 0.12, "room for the arrow's head"


def _segments(drawing):
  return [(edge, a, b) for edge, route in drawing.wiring.routes.items() for a, b in zip(route, route[1:])]


def test_no_line_touches_a_block_it_does_not_belong_to(drawing):
  for edge, (x0, y0), (x1, y1) in _segments(drawing):
    for node in drawing.nodes:
      x, y = drawing.wiring.centers[node.key]
      w, low, high = node.width / 2, node.height / 2 + node.tag, node.height / 2
      if node.key in (edge.source, edge.target):
        w, low, high = w - 1e-6 if node.shape == "rectangle" else 0.0, high, high
      apart = max(x0, x1) <= x - w or min(x0, x1) >= x + w or max(y0, y1) <= y - low or min(y0, y1) >= y + high
      assert apart, (edge, node.key)


def test_no_two_lines_share_a_stretch(drawing):
  for (edge, a, b), (other, c, d) in itertools.combinations(_segments(drawing), 2):
    for along in (0, 1):
      across = 1 - along
      if a[across] == b[across] and c[across] == d[across] and edge != other:
        overlap = min(max(a[along], b[along]), max(c[along], d[along])) - max(
          min(a[along], b[along]), min(c[along], d[along])
        )
        assert overlap <= 0 or abs(a[across] - c[across]) > 0.025, (edge, other)


def test_blocks_stand_by_order_and_level_and_do_not_overlap(drawing):
  centers = drawing.wiring.centers
  for a, b in zip(drawing.nodes, drawing.nodes[1:]):
    assert centers[a.key][0] + a.width / 2 < centers[b.key][0] - b.width / 2
    assert (centers[a.key][1] < centers[b.key][1]) == (a.level < b.level)
  keys = [node.key for node in drawing.nodes if isinstance(node.key, int)]
  assert keys == list(range(len(drawing.architecture.features)))


def test_texts_do_not_cover_each_other(drawing):
  renderer = drawing.figure.canvas.get_renderer() if hasattr(drawing.figure.canvas, "get_renderer") else None
  axes = drawing.figure.axes[0]
  extents = [(t.get_text(), t.get_window_extent(renderer)) for t in axes.texts if t.get_text()]
  extents.append(("legend", axes.get_legend().get_window_extent(renderer)))
  whole = drawing.figure.bbox
  for text, box in extents:
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, text
  for (text, a), (other, b) in itertools.combinations(extents, 2):
    assert not a.overlaps(b), (text, other)


def test_edges_of_the_feature_pyramid_network():
  edges = {(e.source, e.target): e.kind for e in draw_architecture("r50_fpn").edges if isinstance(e.target, str)}
  assert edges == {
    (6, "P3"): "lateral",
    (12, "P4"): "lateral",
    (15, "P5"): "lateral",
    ("P5", "P4"): "top_down",
    ("P4", "P3"): "top_down",
    ("P5", "P6"): "coarser",
    ("P6", "P7"): "coarser",
  }


def test_the_edge_of_the_out_degree_0_rule_is_dashed():
  kinds = {(e.source, e.target): e.kind for e in draw_architecture("r0_sp53").edges}
  assert [pair for pair, kind in kinds.items() if kind == "unused"] == [(11, 13)]


@pytest.mark.parametrize("name", ["spinenet49", "r0_sp53", "r23_sp30", "r50_fpn", "spinenet49_mobile"])
def test_svg_holds_every_edge_and_text(name, tmp_path):
  arch = architecture(name)
  draw_architecture(name).save(tmp_path / "a.svg")
  root = ET.parse(tmp_path / "a.svg").getroot()
  ids = [element.get("id", "") for element in root.iter()]
  edges = [m.groups() for m in (re.fullmatch(r"edge_(\d+)_(\d+)_(\w+)", i) for i in ids) if m]
  assert {(int(a), int(b)): kind for a, b, kind in edges} == _expected(arch)
  assert [i for i in ids if i.startswith("node_")].count("node_3") == 1
  texts = {"".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")}
  assert {str(i) for i in range(len(arch.features))} | {"P3", "P4", "P5", "P6", "P7", name, "stem"} <= texts
  assert any("output" in text for text in texts)
  dashed = [
    e.get("id") for e in root.iter(f"{SVG}g") if "edge_" in e.get("id", "") and "dasharray" in ET.tostring(e, "unicode")
  ]
  assert {i for i in dashed if i.endswith("_unused")} == {i for i in ids if i.endswith("_unused")}
  assert not {i for i in dashed if i.endswith(("_parent", "_stem", "_lateral"))}


def test_files_are_the_same_each_time(tmp_path):
  for name in ("a", "b"):
    draw_architecture("spinenet49").save(tmp_path / f"{name}.svg")
  assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_png(tmp_path):
  drawing = draw_architecture("spinenet49")
  drawing.save(tmp_path / "a.PNG", dpi=50)
  picture = Image.open(tmp_path / "a.PNG")
  assert picture.format == "PNG" and abs(picture.width - 50 * drawing.figure.get_size_inches()[0]) <= 1
  assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_blocks_that_are_left_out_are_marked(tmp_path):
  arch = damaged("r0_sp53", "long")
  draw_architecture(arch).save(tmp_path / "a.svg")
  root = ET.parse(tmp_path / "a.svg").getroot()
  groups = {e.get("id"): ET.tostring(e, "unicode") for e in root.iter(f"{SVG}g")}
  dotted = {i for i in range(17) if "dasharray" in groups[f"node_{i}"]}
  assert dotted == {2, 11}
  assert any("left out" in "".join(e.itertext()) for e in root.iter(f"{SVG}text"))


def test_the_note_is_written_under_it():
  texts = [t.get_text().replace("\n", " ") for t in draw_architecture("fish").figure.axes[0].texts]
  assert architecture("fish").note in texts


def test_what_is_refused(tmp_path):
  drawing = draw_architecture(dataclasses.replace(architecture("spinenet49"), name="mine"))
  for name in ("a.pdf", "a", "a.jpeg"):
    with pytest.raises(UserError, match=rf"{name}'; the name must end in one of \['.png', '.svg'\]"):
      drawing.save(tmp_path / name)
  with pytest.raises(UserError, match="no folder"):
    drawing.save(tmp_path / "nowhere" / "a.png")
  with pytest.raises(UserError, match="no architecture named"):
    draw_architecture("spinenet50")
