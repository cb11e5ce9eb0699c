"""Which traces are right: `actune convert ... --keep_if examples/rejection_sampling/check.py`.

The expected calls and answers are read from the file that the environment variable EXPECTED names.
"""

import json
import os
from pathlib import Path

with Path(os.environ["EXPECTED"]).open(encoding="utf-8") as file:
    _EXPECTED = {row["id"]: row for row in map(json.loads, file)}


def keep(trace: dict) -> bool:
    """Tell whether a trace made exactly the expected calls and gave the expected answer."""
    expected = _EXPECTED[trace["id"]]
    made = [(call["name"], call["arguments"]) for step in trace["steps"] for call in step["calls"]]
    right = [(step["name"], step["arguments"]) for step in expected["steps"]]
    return made == right and trace.get("final_answer") == expected["answer"]
