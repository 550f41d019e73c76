"""The classes of a data set: original id -> name, in the order of the model's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spinenet_tf.errors import UserError


def category_names(categories: Iterable[Any]) -> dict[int, str]:
  """Returns {original id: name}, in the order given, with names made unique.

  Args:
    categories: things with `id` and `name`, as attributes (`data.meta.Category`) or keys (COCO's JSON), or
      one thing that has them as `.categories` (`data.meta.Meta`). A name that stands twice gets its id
      appended, "bat (39)".

  Raises: UserError when there is none, an id is no whole number or stands twice, or a name is missing.
  """
  pairs = []
  for category in getattr(categories, "categories", categories):
    get = category.get if isinstance(category, Mapping) else lambda key, c=category: getattr(c, key, None)
    number, name = get("id"), get("name")
    if isinstance(number, bool) or not hasattr(number, "__index__") or name is None:
      raise UserError(f"category {category!r} needs a whole number `id` and a `name`")
    pairs.append((int(number), str(name)))
  if not pairs:
    raise UserError("no categories were given; they come from meta.json or from the COCO annotation file")
  ids, names = [p[0] for p in pairs], [p[1] for p in pairs]
  if len(set(ids)) < len(ids):
    raise UserError(f"category id(s) {sorted({i for i in ids if ids.count(i) > 1})} stand twice; each may stand once")
  return {i: name if names.count(name) == 1 else f"{name} ({i})" for i, name in pairs}


def output_ids(names: Mapping[int, str], class_ids: Sequence[int] | None = None) -> tuple[int, ...]:
  """Returns the original category id of each model output.

  Args:
    names: as `category_names` returns them.
    class_ids: the ids by model output where they differ from the categories in their order, such as range(91)
      for the authors' layout of COCO. Ids of no category are allowed: outputs that no object trains.

  Raises: UserError when an id stands twice or none of them is a category.
  """
  ids = tuple(names) if class_ids is None else tuple(int(i) for i in class_ids)
  if len(set(ids)) < len(ids):
    raise UserError(f"class_ids has {len(ids)} entries but only {len(set(ids))} different ones; each may stand once")
  if not set(ids) & set(names):
    raise UserError(f"none of the class_ids {list(ids)[:10]} is a category id; those are {list(names)[:10]}")
  return ids
