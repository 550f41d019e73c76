"""What the fuzz tests share: the property, and inputs that are nearly right."""

import collections
import contextlib
import copy
import json
import os
import resource
import signal
import struct

from hypothesis import strategies as st

from spinenet_tf.errors import UserError

EXAMPLES = int(os.environ.get("SPINENET_TF_FUZZ", "0"))  # of each test; 0 for the few of `make test`
SECONDS, MEBIBYTES = 60, 700  # one call may take
LETTERS = 3000  # of a message
CALLS = collections.defaultdict(lambda: [0, 0])
EXTREMES = [0, 1, -1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64, -(2**63), 10**30]


@contextlib.contextmanager
def bounded():
  """Fails a call that hangs or takes much memory."""

  def ring(*_):
    raise AssertionError(f"not done after {SECONDS} seconds")

  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  previous = signal.signal(signal.SIGALRM, ring)
  signal.alarm(SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
  assert grown < MEBIBYTES, f"took {grown:.0f} MiB"


def survives(target, call, expected=()):
  """The property: `call` works, or raises a UserError with something to read; quickly, in little memory.

  Args:
    target: name to count under.
    call: without arguments.
    expected: errors that count as refusals, too.
  Returns: what it returned, None where it refused.
  """
  CALLS[target][0] += 1
  try:
    with bounded():
      return call()
  except UserError as error:
    CALLS[target][1] += 1
    assert 10 < len(str(error)) < LETTERS, str(error)[:500]
    return None
  except expected:
    CALLS[target][1] += 1
    return None


numbers = st.one_of(
  st.integers(-3, 20), st.sampled_from(EXTREMES), st.floats(), st.floats(-2, 500, width=32), st.booleans()
)
scalars = st.one_of(
  st.none(), numbers, st.text(max_size=8), st.sampled_from(["", "a/b", "../x", "\x00", "\ud800", "é"])
)
values = st.recursive(
  scalars,
  lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
  max_leaves=8,
)


@st.composite
def changed_json(draw, documents, most=3):
  """One of some documents with up to `most` nodes replaced, removed or repeated."""
  document = copy.deepcopy(draw(st.sampled_from(documents)))
  for _ in range(draw(st.integers(0, most))):
    place, key = _node(draw, document)
    if place is None:
      break
    action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]))
    if action == "replace":
      place[key] = draw(values)
    elif action == "remove":
      del place[key]
    elif isinstance(place, list):
      place.insert(key, copy.deepcopy(place[key]))
    else:
      place[draw(st.text(max_size=6))] = copy.deepcopy(place[key])
  return document


def _node(draw, document):
  """Container and key of a random node."""
  place, key = None, None
  here = document
  while isinstance(here, (dict, list)) and here:
    place = here
    key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
    here = here[key]
    if draw(st.integers(0, 3)) == 0:
      break
  return place, key


@st.composite
def changed_bytes(draw, seeds, most=4):
  """One of some byte strings, with up to `most` bytes or stretches changed, cut out, doubled or cut off."""
  data = bytearray(draw(st.sampled_from(seeds)))
  for _ in range(draw(st.integers(0, most))):
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    length = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
    action = draw(st.sampled_from(["byte", "byte", "number", "cut", "double", "insert", "end"]))
    if action == "byte" and data:
      data[at] = draw(st.integers(0, 255))
    elif action == "number":
      number = draw(st.sampled_from(EXTREMES)) % 2**32
      data[at : at + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", number)
    elif action == "cut":
      del data[at : at + length]
    elif action == "double":
      data[at:at] = data[at : at + length]
    elif action == "insert":
      data[at:at] = draw(st.binary(max_size=16))
    elif action == "end":
      del data[at:]
  return bytes(data)


def json_bytes(documents):
  """Files: changed documents, mostly as JSON; sometimes with bytes changed, or nested deeply."""
  texts = changed_json(documents).map(_dump)
  plain = [_dump(document) for document in documents]
  deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b"\xff\xfe", b"", b"null", b"[]", b'"a"'])
  return st.one_of(texts, texts, texts, changed_bytes(plain), deep)


def _dump(value):
  return json.dumps(value).encode("utf-8", "surrogatepass")
