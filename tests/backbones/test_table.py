"""Tables as text, Markdown and JSON."""

import json

from spinenet_tf.backbones.table import Table, render

TABLE = Table(
  "Costs", {"model": "", "10^6": ".1f", "%": "+.1f"}, (("a|b", 12.34, None), ("long name", 1.0, -2.0)), ("A note.",)
)


def test_text_is_aligned():
  assert render([TABLE], "text").splitlines() == [
    "Costs",
    "model      10^6     %",
    "a|b        12.3",
    "long name   1.0  -2.0",
    "A note.",
  ]


def test_markdown_escapes_bars():
  lines = render([TABLE, TABLE], "markdown").splitlines()
  assert lines[:5] == ["### Costs", "", "| model | 10^6 | % |", "| --- | --- | --- |", "| a\\|b | 12.3 |  |"]
  assert lines.count("### Costs") == 2


def test_json_has_the_numbers_themselves():
  (table,) = json.loads(render([TABLE], "json"))
  assert table["rows"][0] == {"model": "a|b", "10^6": 12.34, "%": None}
  assert table["title"] == "Costs" and table["notes"] == ["A note."]
