"""Start the MCP servers of a configuration as `--tools` does, call each of their tools, then some at the same time.

    python benchmarks/mcp_servers.py mcp.json --calls 20

Arguments are made from the schemas, so a tool that wants more sense may answer that they do not fit: what matters is that
every call comes back, that the servers end, and that calls go side by side.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from contextlib import closing

from actune.agents.tools.loading import load_toolbox
from actune.core.errors import ActuneError
from actune.core.types import ToolCall

_EXAMPLES = {"integer": 2, "number": 1.5, "boolean": True, "string": "x", "null": None}


def make_value(schema: object, root: Mapping[str, object], depth: int = 0) -> object:
    """Return a value that a schema takes, as far as its types say."""
    if not isinstance(schema, Mapping) or depth > 8:
        return "x"
    reference = str(schema.get("$ref", ""))
    if reference.startswith("#/$defs/"):
        return make_value(root["$defs"][reference.removeprefix("#/$defs/")], root, depth + 1)
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    for key in ("enum", "anyOf", "oneOf"):
        if schema.get(key):
            return schema[key][0] if key == "enum" else make_value(schema[key][0], root, depth + 1)
    if schema.get("type") == "array":
        return [make_value(schema.get("items"), root, depth + 1)] if schema.get("items") else []
    if schema.get("type") == "object":
        return {key: make_value(inner, root, depth + 1) for key, inner in (schema.get("properties") or {}).items()}
    return _EXAMPLES.get(str(schema.get("type")), "x")


def main() -> None:
    """Print a line a tool: its error code, the time, the beginning of the Observation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="file with mcpServers")
    parser.add_argument("--calls", type=int, default=20, help="calls of the first tool that works, at the same time")
    parser.add_argument("--seconds", type=float, default=10.0, help="time of a call")
    given = parser.parse_args()
    started = time.perf_counter()
    try:
        toolbox = load_toolbox([given.config], seconds=given.seconds, notice=print)
    except ActuneError as error:
        raise SystemExit(f"error: {error}") from None
    with closing(toolbox):
        print(f"{len(toolbox.specs)} tools after {time.perf_counter() - started:.1f} s")
        working = None
        errors: dict[str, int] = {}
        for spec in toolbox.specs:
            arguments = make_value({"type": "object", **spec.parameters}, spec.parameters)
            call = ToolCall(name=spec.name, arguments=json.dumps(arguments))
            seen = toolbox.call(call)
            working = working or (call if seen.error is None else None)
            errors[seen.error or "answered"] = errors.get(seen.error or "answered", 0) + 1
            print(f"  {spec.name}: {seen.error or 'answered'} {seen.seconds:.2f} s {seen.text[:90]!r}")
        print(", ".join(f"{count} {what}" for what, count in sorted(errors.items())))
        if working is not None:
            before = time.perf_counter()
            many = toolbox.call_all([working] * given.calls)
            good = sum(one.error is None for one in many)
            print(
                f"{given.calls} calls of {working.name} at once: {good} answered, {time.perf_counter() - before:.2f} s"
            )
    print(f"ended after {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
