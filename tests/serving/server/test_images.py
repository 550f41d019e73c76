"""Sizes are read from headers, whatever the picture claims."""

import io
import struct

import pytest
from PIL import Image

from spinenet_tf.serving.server import images
from tests.serving.server.client import picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(1, 1), (37, 20), (300, 201)])
def test_sizes_of_all_formats(kind, size):
  assert images.check(picture(size=size, kind=kind), 100_000) == size[::-1]


def test_a_progressive_jpeg_and_one_with_a_thumbnail_of_another_size():
  assert images.check(picture(size=(50, 40), kind="JPEG", progressive=True), 10_000) == (40, 50)
  thumbnail = b"Exif\0\0" + picture(size=(9, 9), kind="JPEG")
  assert images.check(picture(size=(50, 40), kind="JPEG", exif=thumbnail), 10_000) == (40, 50)


def test_real_photos(shared_data):
  for path in sorted((shared_data / "coco_sample").rglob("*.jpg"))[:20]:
    with Image.open(path) as image:
      assert images.check(path.read_bytes(), 10**7) == image.size[::-1]


def test_the_limit_is_exact():
  assert images.check(picture(size=(30, 20)), 600) == (20, 30)
  with pytest.raises(images.ImageTooLarge, match=r"600 pixels \(30x20\), at most 599"):
    images.check(picture(size=(30, 20)), 599)


def test_all_frames_of_a_gif_count():
  frames = [Image.effect_noise((30, 20), i * 30 + 10) for i in range(4)]
  stream = io.BytesIO()
  frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
  assert images.check(stream.getvalue(), 2400) == (20, 30)
  with pytest.raises(images.ImageTooLarge, match="2400 pixels"):
    images.check(stream.getvalue(), 2399)


def test_a_frame_larger_than_its_gif_counts():
  data = bytearray(picture(size=(30, 20), kind="GIF"))
  at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
  data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
  with pytest.raises(images.ImageTooLarge, match="3600000000"):
    images.check(bytes(data), 10**6)


def test_a_jpeg_of_many_scans_is_refused():
  data = picture(kind="JPEG")
  with pytest.raises(images.BadImage, match="102 scans"):
    images.check(data[:-2] + b"\xff\xda\0\0" * 101 + data[-2:], 10**6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_cut_anywhere_it_is_told_or_left_to_the_decoder(kind):
  data = picture(size=(37, 20), kind=kind)
  for length in range(min(len(data), 700)):
    try:
      assert images.check(data[:length], 10**6) == (20, 37)
    except images.BadImage as error:
      assert str(error)
  noise = bytes(range(256)) * 20
  for length in range(2, 30):
    try:
      images.check(data[:length] + noise, 10**9)
    except images.BadImage as error:
      assert str(error)


@pytest.mark.parametrize(("orientation", "size"), [(1, (16, 24)), (3, (16, 24)), (6, (24, 16)), (8, (24, 16))])
def test_the_shown_size_follows_the_orientation(orientation, size):
  exif = Image.Exif()
  exif[0x0112] = orientation
  assert images.shown_size(picture(kind="JPEG", exif=exif), 10**6) == size
