"""gin: from files and command-line bindings to an `Experiment`. The only module that imports gin.

Names that files can bind: `data.*`, `schedule.*`, `train.*`; `model.*`, `loss.*`, `detection.*` for RetinaNet; with
`train.task = 'mask_rcnn'` `model.*`, `mask_rcnn.*`, `mask_rcnn_loss.*`, `detection.*`; with
`train.task = 'solo'` `model.*`, `solo.*`, `solo_loss.*`, `solo_detection.*`; with
`train.task = 'classification'` `classifier.*`, `classifier_loss.*`; and the parameters of
optimizers, which `train.optimizer` refers to: `@sgd`, `@adam`, `@rmsprop`, `@lars`, and with tensorflow-addons `@tfa.LAMB` and
its like. The fields are those of the classes in `training.settings` and of `training.schedules.Schedule`.
A search (`python -m spinenet_tf.search`) has `search.*`, `searcher.*` and `proxy.*` beside the experiment of its children, and
`space.*` where `search.space` is `@space()`.
`model.architecture` may be `@scaled()` or `@damaged()`, whose parameters are those of the functions in `backbones.edit`.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import pathlib
import re
from collections.abc import Sequence

import gin

from spinenet_tf.backbones import edit
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import TF_VERSION
from spinenet_tf.errors import UserError
from spinenet_tf.search import settings as search_settings
from spinenet_tf.search.presets import find_space
from spinenet_tf.search.proxy import Proxy
from spinenet_tf.search.space import SearchSpace
from spinenet_tf.training import optimizers, settings, solo_settings
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.tasks import find_task

_PARTS = {
  "model": settings.ModelSettings,
  "mask_rcnn": settings.MaskRCNNSettings,
  "solo": solo_settings.SoloSettings,
  "classifier": settings.ClassifierSettings,
  "data": settings.DataSettings,
  "schedule": Schedule,
  "loss": settings.LossSettings,
  "mask_rcnn_loss": settings.MaskRCNNLossSettings,
  "solo_loss": solo_settings.SoloLossSettings,
  "classifier_loss": settings.ClassifierLossSettings,
  "detection": settings.DetectionSettings,
  "solo_detection": solo_settings.SoloDetectionSettings,
  "train": settings.RunSettings,
}
_SEARCH_PARTS = {
  "search": search_settings.SearchSettings,
  "searcher": search_settings.searcher,
  "proxy": search_settings.ProxySettings,
  "space": SearchSpace,
}
_BUILDERS = {name: gin.external_configurable(part, name=name) for name, part in {**_PARTS, **_SEARCH_PARTS}.items()}
_FILES = {"architecture": Architecture, "space": SearchSpace}  # bindings that may name a JSON file, and what is in it

_EDITS = {"scaled": edit.scaled, "damaged": edit.damaged}
for _name, _edit in _EDITS.items():
  gin.external_configurable(_edit, name=_name)

for _optimizer in (optimizers.sgd, optimizers.adam, optimizers.rmsprop):
  gin.external_configurable(_optimizer)


@gin.configurable
@functools.wraps(optimizers.lars)
def lars(*args, **kwargs):
  """Calls `optimizers.lars` unlocked, as Model Garden adds configurables of its own when it is imported."""
  with gin.unlock_config():
    return optimizers.lars(*args, **kwargs)


ADDONS = ("LAMB", "LazyAdam", "RectifiedAdam", "NovoGrad", "Yogi", "AdaBelief", "AdamW", "SGDW")


def _register_addons() -> bool:
  """Makes the optimizers of tensorflow-addons bindable, where it is installed and imports. Returns: whether it does."""
  if TF_VERSION > (2, 15) or importlib.util.find_spec("tensorflow_addons") is None:
    return False
  import warnings

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it announces its end of life at length
    import tensorflow_addons

  for name in ADDONS:
    gin.external_configurable(getattr(tensorflow_addons.optimizers, name), module="tfa", name=name)

  def lookahead(learning_rate, inner=optimizers.sgd, sync_period: int = 6, slow_step_size: float = 0.5):
    """Returns the optimizer `inner` under Lookahead."""
    return tensorflow_addons.optimizers.Lookahead(inner(learning_rate), sync_period, slow_step_size)

  gin.external_configurable(lookahead, module="tfa", name="Lookahead")
  return True


_HAS_ADDONS = _register_addons()


def experiments_directory() -> pathlib.Path:
  """The checkout's folder of gin files, beside the package."""
  return pathlib.Path(__file__).resolve().parent.parent / "experiments"


def parse(gin_files: Sequence[str], gin_params: Sequence[str] = ()) -> None:
  """Reads gin files, in order, then bindings; later ones win.

  Includes are looked up in the working directory, beside each of the files, and in `experiments/`; so are the files, and
  the JSON files of architectures. Those are read now and take the place of their names: what `bound_text` returns does
  not depend on files.

  Raises: UserError on one line, with file and line, for whatever gin objects to; for an architecture that is missing or
    broken.
  """
  gin.clear_config()
  files = [_find(name) for name in gin_files]
  folders = [pathlib.Path(), *(file.parent for file in files), experiments_directory()]
  _check_includes(files, folders)
  gin.config._LOCATION_PREFIXES[:] = list(dict.fromkeys(str(folder) for folder in folders))
  # Gin would also take a folder of the search path for a Python package to look into, and fails where it is no real one.
  gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
  try:
    gin.parse_config_files_and_bindings([str(f) for f in files], list(gin_params), finalize_config=True)
  except Exception as error:  # gin raises ValueError, TypeError, SyntaxError, RuntimeError and others
    raise UserError(_explain(error)) from error
  _read_architectures(folders)


def _read_architectures(folders: Sequence[pathlib.Path]) -> None:
  """Puts the content of files of architectures and search spaces into the bindings that name them."""
  found = {}
  for (scope, selector), values in gin.config._CONFIG.items():
    for what in _FILES.keys() & values.keys():
      name = values[what]
      if isinstance(name, str) and name.endswith(".json"):
        path = next((file for folder in folders if (file := folder / os.path.expanduser(name)).is_file()), None)
        if path is None:
          raise UserError(
            f"no {what} file {name!r}; such files are looked up in the working directory, beside the files given to "
            f"--gin_file, and in {experiments_directory()}"
          )
        found[f"{scope}/{selector}.{what}" if scope else f"{selector}.{what}"] = (path, _FILES[what])
  with gin.unlock_config():
    for binding, (path, kind) in found.items():
      try:
        gin.bind_parameter(binding, kind.from_json(path).to_dict())
      except UserError as error:
        raise UserError(f"{path}: {error}") from error


def experiment() -> settings.Experiment:
  """Builds the experiment that the parsed configuration describes.

  Raises: UserError for values out of range.
  """
  try:
    train = _BUILDERS["train"]()
    used = find_task(train.task).uses  # bindings of other parts are found unused, and refused
    return settings.Experiment(train=train, **{name: _BUILDERS[name]() for name in used})
  except UserError as error:
    raise UserError(_plain(error)) from error
  except Exception as error:
    raise UserError(_explain(error)) from error


def search() -> search_settings.Search:
  """Builds the search that the parsed configuration describes.

  Raises: UserError for values out of range, an unknown space, and a file for the best network that is not there.
  """
  children = experiment()
  try:
    made = _BUILDERS["search"]()
    space = find_space(made.space)
    _find(made.train_with)
    return search_settings.Search(made, space, _BUILDERS["searcher"](), _BUILDERS["proxy"](), children)
  except UserError as error:
    raise UserError(_plain(error)) from error
  except Exception as error:
    raise UserError(_explain(error)) from error


def proxy(text: str) -> Proxy:
  """Returns the objective of a search, in a process that knows its configuration only as `bound_text`."""
  gin.clear_config()
  gin.parse_config(text)
  made = search()
  return Proxy(made.experiment, made.proxy)


def bound_text() -> str:
  """Returns all bindings, as a gin file that gives the same experiment again."""
  return gin.config_str()


def operative_text() -> str:
  """Returns the values in force, defaults included, of everything that was built."""
  return gin.operative_config_str()


def unused_bindings() -> list[str]:
  """Returns the bindings that nothing used so far, as "a.b", and macros by name."""
  bound, operative = gin.config._CONFIG, gin.config._OPERATIVE_CONFIG
  used = {selector: set(values) for (_, selector), values in operative.items() if selector != "gin.macro"}
  used_macros = {scope for (scope, selector) in operative if selector == "gin.macro"}
  unused = []
  for (scope, selector), values in bound.items():
    if selector == "gin.macro":
      unused += [] if scope in used_macros else [scope]
      continue
    short = selector.split(".")[-1]
    unused += [f"{short}.{name}" for name in values if name not in used.get(selector, set())]
  return sorted(unused)


def check_unused(optional: Sequence[str] = ()) -> None:
  """Checks that every binding took effect; called when everything is built.

  Args:
    optional: bindings that need not, as `unused_bindings` spells them.

  Raises: UserError that names them.
  """
  if left := [name for name in unused_bindings() if name not in optional]:
    raise UserError(
      f"nothing used the binding(s) {', '.join(left)}; mistyped, or meant for a part that this experiment does not have: "
      "remove them, or list them in train.optional_bindings"
    )


def _find(name: str) -> pathlib.Path:
  for folder in (pathlib.Path(), experiments_directory(), experiments_directory().parent):
    path = folder / os.path.expanduser(name)
    if path.is_file():
      return path
  raise UserError(f"no gin file {name!r}; those of this package lie in {experiments_directory()}")


def _plain(error: BaseException) -> str:
  """The text of an error without what gin appends to it."""
  return str(error).split("\n  In call to configurable")[0].strip()


def _explain(error: Exception) -> str:
  """One line about what gin found wrong, with file and line."""
  text = _plain(error)
  place = re.search(r'In (?:file )?"?([^"\n]+\.gin)"?, line (\d+)', str(error))
  if not place and getattr(error, "filename", None) and getattr(error, "lineno", None):
    place = (None, error.filename, error.lineno)
  where = f"{place[1]}, line {place[2]}: " if place else ""
  message = re.sub(r"\s+", " ", text.split("\n  In ")[0]).strip()
  return f"{where}{message}{_hint(message)}"


def _hint(message: str) -> str:
  """What may have been meant."""
  if "No configurable matching" in message:
    if "tfa" in message and not _HAS_ADDONS:
      return "; tensorflow-addons cannot be used here: it needs TensorFlow 2.15 and Python below 3.12"
    return f"; known: {', '.join(sorted(_BUILDERS))}, the optimizers sgd, adam, rmsprop, lars, and scaled and damaged"
  part = re.match(r"Configurable '(\w+)' doesn't have a parameter", message)
  if part and hasattr(fields := {**_PARTS, **_SEARCH_PARTS}.get(part[1]), "__dataclass_fields__"):
    return f"; {part[1]} has: {', '.join(fields.__dataclass_fields__)}"
  if part and part[1] in _EDITS:
    return f"; {part[1]} has: {', '.join(inspect.signature(_EDITS[part[1]]).parameters)}"
  return ""


def _check_includes(files: Sequence[pathlib.Path], folders: Sequence[pathlib.Path]) -> None:
  """Raises UserError for the first include that none of the folders has; gin's own error does not name it."""
  pending, seen = list(files), set(files)
  while pending:
    file = pending.pop()
    try:
      lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f"{file} cannot be read as text ({error}); give a gin file in UTF-8") from error
    for number, line in enumerate(lines, 1):
      match = re.match(r"""\s*include\s+['"]([^'"]+)['"]""", line)
      if not match:
        continue
      found = next((folder / match[1] for folder in folders if (folder / match[1]).is_file()), None)
      if found is None:
        raise UserError(
          f"{file}, line {number}: there is no file {match[1]!r} to include; includes are looked up in the working "
          f"directory, beside the file given to --gin_file, and in {experiments_directory()}"
        )
      if found not in seen:
        seen.add(found)
        pending.append(found)
