"""Serves an exported model: REST as TensorFlow Serving has it, and a page for trying photos.

python -m spinenet_tf.serve --model=exported/bccd [--name=bccd] [--port=8501]

Needs the extra `serve` (pip install 'spinenet_tf[serve]'). Ends on SIGTERM or Ctrl-C after finishing what is in flight.
See docs/serving.md.
"""

from __future__ import annotations

from absl import flags, logging

from spinenet_tf.errors import UserError, run_command
from spinenet_tf.serving.server.model import Place
from spinenet_tf.serving.server.settings import LOOPBACK, Settings


def define_flags() -> None:
  """Defines this command's flags; not at import, where several commands' flags would collide."""
  usual = Settings()
  flags.DEFINE_string(
    "model", None, "Folder that export/saved_model.py wrote, or one with numbered versions.", required=True
  )
  flags.DEFINE_string("name", None, "Name of the model in URLs; by default its folder's.")
  flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all of this machine's.")
  flags.DEFINE_integer("port", 8501, "Port; 0 for any free one.", 0, 65535)
  flags.DEFINE_float("max_body_mb", usual.max_body_mb, "Largest body of a request in MiB.")
  flags.DEFINE_integer("max_pixels", usual.max_pixels, "Largest height x width of one encoded picture.")
  flags.DEFINE_integer(
    "max_batch", usual.max_batch, "Most rows in a request, and most that go through the network together."
  )
  flags.DEFINE_float("max_delay_ms", usual.max_delay_ms, "How long a request waits for others to share its batch.")
  flags.DEFINE_integer("max_queue", usual.max_queue, "Requests in flight; one more gets 503.")
  flags.DEFINE_integer("max_values", usual.max_values, "Most values in the JSON of one request or answer.")
  flags.DEFINE_float("read_timeout", usual.read_timeout, "Seconds in which a request's body has to arrive.")
  flags.DEFINE_float("drain_timeout", usual.drain_timeout, "Seconds for requests in flight after SIGTERM.")
  flags.DEFINE_list(
    "allowed_hosts", None, "Names that the Host header may give, '*' for any; by default any unless --host is loopback."
  )
  flags.DEFINE_integer("threads", 0, "TensorFlow's threads within an operation; 0 for one a core.", 0)
  flags.DEFINE_bool("access_log", False, "Print a line for each request.")


def settings_from_flags(values: flags.FlagValues) -> Settings:
  """Returns the limits that the flags say. Raises: UserError for one out of range."""
  hosts = tuple(values.allowed_hosts or (LOOPBACK if values.host in LOOPBACK else ()))
  return Settings(
    max_body_mb=values.max_body_mb,
    max_pixels=values.max_pixels,
    max_batch=values.max_batch,
    max_delay_ms=values.max_delay_ms,
    max_queue=values.max_queue,
    max_values=values.max_values,
    read_timeout=values.read_timeout,
    drain_timeout=values.drain_timeout,
    allowed_hosts=() if "*" in hosts else hosts,
  )


def main(argv: list[str]) -> int:
  """Returns the exit code."""
  values = flags.FLAGS
  if not values["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  if argv[1:]:
    raise UserError(f"unknown argument {argv[1]!r}; the model is given as --model=FOLDER")
  settings = settings_from_flags(values)
  place = Place.find(values.model, values.name)

  from spinenet_tf.serving.server.run import bind, serve

  bound = bind(values.host, values.port)
  set_up_devices(values.threads)
  serve(place, settings, bound, values.access_log)
  return 0


def set_up_devices(threads: int) -> None:
  """Has TensorFlow take so many threads, and no more of a GPU's memory than it uses."""
  import tensorflow as tf

  if threads:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
  for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)


if __name__ == "__main__":
  define_flags()
  run_command(main)
