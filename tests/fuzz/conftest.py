"""How many examples: few and always the same in `make test`; `make fuzz` sets SPINENET_TF_FUZZ to many and draws new ones."""

from hypothesis import HealthCheck, Phase, settings

from tests.fuzz import fuzzing

shared = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile(
  "bounded", max_examples=40, derandomize=True, phases=(Phase.explicit, Phase.reuse, Phase.generate), **shared
)
settings.register_profile("long", max_examples=max(fuzzing.EXAMPLES, 1), print_blob=True, **shared)
settings.load_profile("long" if fuzzing.EXAMPLES else "bounded")


def pytest_terminal_summary(terminalreporter):
  """Says how often each target was called."""
  for name, (calls, refused) in sorted(fuzzing.CALLS.items()):
    terminalreporter.write_line(f"{name}: {calls} executions, {refused} of them refused with a UserError")
