"""Pictures with boxes: sizes, colours, what is on top, and that nothing about the input makes drawing fail."""

import numpy as np
import pytest
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.visualize import boxes as lib
from spinenet_tf.visualize.boxes import color, draw, grid

GREY = np.full((200, 300, 3), 128, np.uint8)


def found(boxes, classes=None, scores=None, names=None):
  classes = [1] * len(boxes) if classes is None else classes
  return {"boxes": np.array(boxes, np.float32), "classes": np.array(classes), "scores": scores, "names": names}


def has(picture, rgb):
  return (np.asarray(picture) == rgb).all(axis=-1)


def test_box_lies_where_it_should():
  picture = draw(GREY, found([[50, 100, 150, 250]], scores=[0.9], names=["cat"]))
  assert picture.size == (300, 200) and picture.mode == "RGB"
  colored = has(picture, color(1))
  assert colored[150, 110:240].all() and colored[60:140, 100].all() and colored[60:140, 250].all()
  assert not colored[80:140, 110:240].any(), "the inside stays"
  assert (np.asarray(picture)[170:, :50] == 128).all()
  assert (GREY == 128).all(), "the image given is left alone"


def test_colors_are_stable_and_do_not_run_out():
  colors = [color(i) for i in range(1000)]
  assert colors == [color(i) for i in range(1000)]
  assert len(set(colors[:91])) == 91
  near = [max(abs(a - b) for a, b in zip(colors[i], colors[i + 1])) for i in range(200)]
  assert min(near) > 40, "neighbours must differ"
  color(-1), color(10**12)
  draw(GREY, found([[0, 0, 50, 50]], classes=[123456]))


def test_high_scores_on_top():
  same = [[20, 20, 180, 280], [20, 20, 180, 280]]
  picture = draw(GREY, found(same, classes=[1, 2], scores=[0.4, 0.9]))
  assert has(picture, color(2))[100].any() and not has(picture, color(1))[100].any()


def test_score_threshold():
  picture = draw(GREY, found([[20, 20, 90, 90], [100, 100, 180, 280]], [1, 2], [0.2, 0.5]), score_threshold=0.5)
  assert has(picture, color(2)).any() and not has(picture, color(1)).any()


@pytest.mark.parametrize("size", [(1, 1), (8, 400), (400, 8), (30, 30), (64, 64), (1200, 900)])
def test_any_picture_size(size):
  height, width = size
  boxes = [[0, 0, height, width], [-5, -5, height + 9, width + 9], [0, 0, 0, 0], [height / 2, 0, height, width]]
  names = ["a very long class name that fits nowhere at all " * 3] * 4
  assert draw(np.zeros((*size, 3), np.uint8), found(boxes, scores=[0.9] * 4, names=names)).size == (width, height)


def test_strange_boxes_do_not_stop_drawing():
  boxes = [[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [500, 500, 600, 600], [90, 90, 10, 10]]
  assert draw(GREY, found(boxes)).size == (300, 200)
  assert (np.asarray(draw(GREY, found(boxes))) == 128).all()


def test_labels_stay_inside_and_apart(monkeypatch):
  places = []
  original = lib._place

  def record(*args):
    places.append(original(*args))
    return places[-1]

  monkeypatch.setattr(lib, "_place", record)
  rng = np.random.default_rng(0)
  corner = rng.uniform(-20, 280, (60, 2))
  draw(
    GREY,
    found(np.concatenate([corner, corner + 40], 1), scores=rng.uniform(0, 1, 60), names=["person"] * 60),
    labels=True,
  )
  places = [p for p in places if p is not None]
  assert len(places) > 8
  for i, (left, top, right, bottom) in enumerate(places):
    assert 0 <= left < right < 300 and 0 <= top < bottom < 200
    assert not any(lib._overlap(places[i], other) for other in places[:i])


def labels_drawn(monkeypatch, count, side=40, classes=None, name="a name of some length", **arguments):
  """Draws squares on 300 x 200 pixels, and returns for how many of them a label was wanted."""
  wanted = []
  monkeypatch.setattr(lib, "_place", lambda *args: wanted.append(args))
  picture = draw(GREY, found([[10, 10, 10 + side, 10 + side]] * count, classes, names=[name] * count), **arguments)
  assert has(picture, color(1)).any()
  return len(wanted)


def test_labels_give_way_in_a_crowd(monkeypatch):
  assert labels_drawn(monkeypatch, 20) == 20
  assert labels_drawn(monkeypatch, 21) == 0
  assert labels_drawn(monkeypatch, 21, labels=True) == 21
  assert labels_drawn(monkeypatch, 2, labels=False) == 0
  # Few enough for the picture, but larger than the objects: no label says more than that all are the same.
  assert labels_drawn(monkeypatch, 21, 10, name="cell") == 0
  assert labels_drawn(monkeypatch, 21, 40, name="cell") == 21
  assert labels_drawn(monkeypatch, 21, 10, [1] * 20 + [2], name="cell") == 21


def test_truth_dashed_or_beside():
  truth = found([[20, 20, 180, 280]], [1])
  both = draw(GREY, found([[60, 60, 120, 200]], [2], [0.9]), truth=truth)
  edge = has(both, (255, 255, 255))[20, 20:280]
  assert 0.3 < edge.mean() < 0.7 and has(both, color(2)).any()
  beside = draw(GREY, found([[60, 60, 120, 200]], [2], [0.9]), truth=truth, side_by_side=True)
  assert beside.size == (604, 200)
  assert has(beside, color(1))[:, :300].any() and not has(beside, color(2))[:, :300].any()
  assert has(beside, color(2))[:, 304:].any() and not has(beside, color(1))[:, 304:].any()


def test_min_size_enlarges_boxes_too():
  picture = draw(np.full((32, 64, 3), 128, np.uint8), found([[8, 16, 24, 48]]), min_size=320)
  assert picture.size == (320, 160)
  assert has(picture, color(1))[120, 90:230].all()


@pytest.mark.parametrize("empty", [None, found([]), {"boxes": [], "classes": []}])
def test_nothing_found(empty):
  assert (np.asarray(draw(GREY, empty)) == 128).all()


def test_grey_and_pil_images():
  assert draw(GREY[..., 0], found([[5, 5, 50, 50]])).mode == "RGB"
  assert draw(Image.new("CMYK", (30, 20)), found([[5, 5, 15, 15]])).size == (30, 20)


@pytest.mark.parametrize(
  "image", [np.zeros((9, 9, 3), np.float32), np.zeros((9, 9, 4), np.uint8), np.zeros((0, 9, 3), np.uint8)]
)
def test_other_arrays_are_refused(image):
  with pytest.raises(UserError, match=r"uint8\[H, W, 3\]"):
    draw(image)


def test_lengths_must_agree():
  with pytest.raises(UserError, match="1 boxes, 2 classes"):
    draw(GREY, found([[0, 0, 9, 9]], [1, 2]))


def test_grid():
  sheet = grid([GREY] * 5, tile=(50, 90))
  assert sheet.size == (3 * 94 - 4, 2 * 54 - 4)
  assert grid([GREY, GREY[:100]], columns=1).size == (300, 404)
  with pytest.raises(UserError, match="at least one image"):
    grid([])
