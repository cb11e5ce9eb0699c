import pytest

from actune.core.schema import find_properties, find_types


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}}, ["a"]),
        ({"type": "object", "a": {"type": "string"}, "required": ["a"]}, ["a"]),
        ({"a": {"description": "x"}, "b": {"type": "str"}}, ["a", "b"]),
        ({"type": "dict", "properties": {"a": {}}}, ["a"]),
        ({"type": "array", "items": {"type": "string"}}, []),
        ({"type": "object", "additionalProperties": {"type": "string"}}, []),
        ({}, []),
        (None, []),
    ],
)
def test_properties(schema: object, names: list[str]):
    assert list(find_properties(schema)) == names


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": "str, optional"}, {"string"}),
        ({"type": ["int", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "Boolean"}, {"enum": ["a"]}]}, {"boolean", "string"}),
        ({"enum": ["a", "b"]}, {"string"}),
        ({"enum": [1, "b"]}, set()),
        ({"type": "float", "nullable": True}, {"number", "null"}),
        ({}, set()),
        ("string", set()),
    ],
)
def test_types(schema: object, types: set[str]):
    assert find_types(schema) == types
