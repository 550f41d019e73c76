"""What training on many devices takes, computed: arithmetic, gradients over the network, images from the hosts.

  python -m benchmarks.scaling [--machine=v100x8] [--efficiency=0.5] [--models=spinenet49s:640,spinenet49:896]

Nothing is run. A step takes as long as the slowest of three: arithmetic (six operations for each multiply-add: forward, and
twice that backward) at a share of the devices' peak, the ring all-reduce of the gradients, the hosts' decoding and
augmenting. Published training times stand beside: of the PyTorch re-implementation on 8 V100s, protocol B (350 epochs).
"""

from __future__ import annotations

import argparse
import dataclasses

from spinenet_tf.backbones.profile import profile
from spinenet_tf.errors import UserError

TRAIN_IMAGES = 118_287
FLOPS_PER_MULTIPLY_ADD = 6
BYTES = 4  # of a gradient's value
HOST_RATE = 220  # images a second and core at 640 pixels: benchmarks.input_pipeline, 441 on 2 cores


@dataclasses.dataclass(frozen=True)
class Machine:
  """Devices that train together.

  Attributes:
    devices: how many.
    peak: operations a second of one, in the precision of training.
    link: bytes a second that a device sends while all reduce their gradients.
    cores: of all hosts together.
    batch: images a step over all devices.
    epochs: of the schedule.
    note: precision and where the figures are from.
  """

  devices: int
  peak: float
  link: float
  cores: int
  batch: int
  epochs: int
  note: str


MACHINES = {
  "v100x1": Machine(1, 15.7e12, 100e9, 8, 8, 350, "float32; V100 data sheet"),
  "v100x8": Machine(8, 15.7e12, 100e9, 64, 64, 350, "float32; V100 data sheet, NVLink's 6 x 25 GB/s, two thirds of it"),
  "v100x8_half": Machine(8, 125e12, 100e9, 64, 64, 350, "mixed_float16; V100 data sheet"),
  "tpu_v3_32": Machine(32, 61.5e12, 70e9, 384, 256, 350, "bfloat16; 123 TFLOPS a chip of two cores, links of 70 GB/s"),
}

# (architecture, side): hours of the re-implementation.
PUBLISHED = {
  ("spinenet49s", 640): 3 * 24 + 5,
  ("spinenet49", 640): 4 * 24 + 2,
  ("spinenet49", 896): 6 * 24 + 16,
  ("spinenet96", 1024): 11 * 24 + 7,
}


@dataclasses.dataclass(frozen=True)
class Step:
  """One training step.

  Attributes:
    arithmetic: seconds of it.
    network: seconds of the all-reduce.
    input: seconds in which the hosts deliver a batch.
    sent: bytes that each device sends.
    images: in it.
  """

  arithmetic: float
  network: float
  input: float
  sent: float
  images: int

  @property
  def seconds(self) -> float:
    """Of the step; the three overlap."""
    return max(self.arithmetic, self.network, self.input)

  @property
  def bound_by(self) -> str:
    """The slowest of the three."""
    return max(("arithmetic", "network", "input"), key=lambda name: getattr(self, name))

  def hours(self, epochs: int) -> float:
    """Of that many passes over COCO's training images."""
    return epochs * TRAIN_IMAGES / self.images * self.seconds / 3600


def simulate(multiply_adds: int, parameters: int, size: int, machine: Machine, efficiency: float) -> Step:
  """Returns what a step takes.

  Args:
    multiply_adds: of one image, forward.
    parameters: whose gradients are summed.
    size: of the image's side in pixels.
    machine: that trains.
    efficiency: share of the peak that is reached, in (0, 1].

  Raises: UserError for another efficiency.
  """
  if not 0 < efficiency <= 1:
    raise UserError(f"efficiency is {efficiency}; it is a share of the devices' peak, in (0, 1]")
  sent = 2 * (machine.devices - 1) / machine.devices * BYTES * parameters
  return Step(
    arithmetic=machine.batch * multiply_adds * FLOPS_PER_MULTIPLY_ADD / (machine.devices * machine.peak * efficiency),
    network=sent / machine.link,
    input=machine.batch / (HOST_RATE * machine.cores) * (size / 640) ** 2,
    sent=sent,
    images=machine.batch,
  )


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--machine", default="v100x8", choices=MACHINES)
  parser.add_argument("--efficiency", type=float, default=0.5)
  parser.add_argument("--models", default=",".join(f"{name}:{size}" for name, size in PUBLISHED))
  args = parser.parse_args()
  machine = MACHINES[args.machine]
  print(f"{args.machine}: {machine.devices} devices, {machine.peak / 1e12:g} TFLOPS each ({machine.note}),")
  print(f"{args.efficiency:.0%} of it, batch {machine.batch}, {machine.epochs} epochs of COCO; computed, not run\n")
  head = ("model", "arithmetic", "network", "MB sent", "input", "bound by", "images/s", "hours", "published")
  print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
  for text in args.models.split(","):
    name, _, side = text.partition(":")
    size = int(side or 640)
    cost = profile(name, num_classes=91, input_size=(size, size))
    step = simulate(cost.multiply_adds, cost.parameters, size, machine, args.efficiency)
    known = PUBLISHED.get((name, size)) if args.machine.startswith("v100x8") else None
    times = [f"{1000 * seconds:.0f} ms" for seconds in (step.arithmetic, step.network, step.input)]
    row = [f"{name}, {size}", times[0], times[1], f"{step.sent / 1e6:.0f}", times[2], step.bound_by]
    row += [f"{step.images / step.seconds:.0f}", f"{step.hours(machine.epochs):.0f}", f"{known} h" if known else ""]
    print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
  main()
