"""The shape of the package: imports point down, one Keras, gin in one place, files short, names exported."""

import ast
import pathlib
import subprocess
import sys

import pytest

import spinenet_tf

PACKAGE = pathlib.Path(spinenet_tf.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From the top: a module may import those of its own line and of lines below.
LAYERS = (
  ("train", "evaluate", "predict", "prepare", "describe", "serve", "convert"),
  ("configs",),
  ("search",),
  ("importers",),
  ("training", "serving", "visualize"),
  ("data", "evaluation"),
  ("models",),
  ("heads", "backbones", "losses"),
  ("layers", "ops"),
  ("compat", "errors", "json_text"),
)
RANK = {name: i for i, names in enumerate(LAYERS) for name in names}


def _name(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: pathlib.Path) -> list[str]:
  """Returns the modules that a file imports, wherever in it."""
  found = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      found.append(node.module or "")
      found += [f"{node.module}.{alias.name}" for alias in node.names]
  return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
  if path.parent == PACKAGE and path.stem == "__init__":
    pytest.skip("the package's lazy names may point anywhere")
  mine = 0 if path.stem == "__main__" else RANK[_name(path)]  # a package's __main__ is a command
  for module in _imports(path):
    parts = module.split(".")
    if parts[0] == "spinenet_tf" and len(parts) > 1:
      assert RANK[parts[1]] >= mine, f"{path} imports {module}, which stands above it"


def test_gin_is_imported_in_configs_only():
  users = {_name(p) for p in SOURCES if any(m.split(".")[0] == "gin" for m in _imports(p))}
  assert users == {"configs"}


def test_keras_comes_from_compat_only(root):
  sources = [p for folder in ("spinenet_tf", "tests", "benchmarks") for p in (root / folder).rglob("*.py")]
  for path in sources:
    if path == PACKAGE / "compat.py":
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      is_tf_keras = isinstance(node, ast.Attribute) and node.attr == "keras" and getattr(node.value, "id", "") == "tf"
      assert not is_tf_keras, f"{path}:{node.lineno} takes Keras from TensorFlow"
    assert not {m.split(".")[0] for m in _imports(path)} & {"keras", "tf_keras"}, path


def test_no_file_is_long(root):
  tracked = [p for folder in ("spinenet_tf", "tests", "benchmarks") for p in (root / folder).rglob("*.py")]
  long = {str(p): n for p in tracked if (n := len(p.read_text().splitlines())) > 500}
  assert not long


def test_importing_the_package_imports_nothing_heavy():
  code = "import sys, spinenet_tf; sys.exit(any(m in sys.modules for m in ('tensorflow', 'numpy', 'gin')))"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve():
  for name in spinenet_tf.__all__:
    assert getattr(spinenet_tf, name).__doc__, name
  with pytest.raises(AttributeError, match=r"no 'build_yolo'.*build_retinanet"):
    spinenet_tf.build_yolo  # noqa: B018
