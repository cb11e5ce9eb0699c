"""The forms of calls of `native_calls` and `native_pairs` as the field `tool_calls` of a `response_template`."""

from __future__ import annotations

import re

from actune.render.native_calls import Envelope, Form, Named, Tail
from actune.render.native_pairs import Pairs
from actune.render.response_patterns import (
    BALANCED,
    NAME,
    Spec,
    Unsayable,
    any_of,
    closers,
    find_edges,
    flexible,
    function,
    unique,
)

_WORD = re.compile(r"\w+")
Written = tuple[Spec, tuple[str, ...]]


def write_calls(form: Form, *, marker: str, stops: tuple[str, ...], late: bool, numbered: bool) -> Written:
    """Return (the field of the calls, the literals after them that belong to no field).

    `marker` stands before the first call, `late` says that a text may stand before it, `numbered` that every call has
    an id.

    Raises:
        Unsayable: the form has no expression in the spec.
    """
    match form:
        case Envelope():
            if not form.name:
                return _write_keyed(form, marker)
            return _write_envelope(form, marker, stops, late=late, numbered=numbered)
        case Named():
            return _write_named(form, marker, stops)
        case Pairs():
            return _write_pairs(form, marker, stops, late=late)
    raise Unsayable("the form of the calls is unknown")


# --- a JSON value that holds name and arguments ---


def _write_envelope(form: Envelope, marker: str, stops: tuple[str, ...], *, late: bool, numbered: bool) -> Written:
    paths = [form.name, form.arguments, *([form.id] if form.id else [])]
    if not all(_WORD.fullmatch(key) for path in paths for key in path):
        raise Unsayable("the keys of a call are no plain words")
    weak = not marker.strip()
    tail = Tail(None, form.tail.end) if weak or form.listed else form.tail
    if weak and form.tail.more is not None and not form.listed:
        raise Unsayable("nothing marks where calls begin")
    edges = find_edges(marker, tail, stops, begin=_begin_json(form))
    prefix = "" if form.listed else "content."
    name, arguments = ("{" + prefix + ".".join(path) + "}" for path in (form.name, form.arguments))
    number = "{" + prefix + ".".join(form.id) + "}" if form.id and numbered else None
    return {
        "open_pattern": _begin_envelope(form, late=late) if weak else edges.opens,
        **closers(edges.closes),
        **({"transform_each": True} if form.listed else {"repeats": True}),
        "content": "json",
        "transform": function(name, arguments, number=number),
    }, edges.rest


def _begin_envelope(form: Envelope, *, late: bool) -> str:
    """Return how a call without a marker begins: JSON with the keys of a call."""
    start = _begin_json(form)
    keys = "".join(rf'(?=[\s\S]*?"{re.escape(path[-1])}"\s*:)' for path in (form.name, form.arguments))
    if late:  # the text before may hold JSON as well; a call is what the output ends in
        return rf"\s*(?={start}){keys}(?={BALANCED}\s*(?:[<\[]|\Z))"
    return rf"\A\s*(?={start}){keys}"


def _begin_json(form: Envelope) -> str:
    """Return a pattern of the JSON of calls up to its first key."""
    key = '"' if form.first_key is None else rf'"{re.escape(form.first_key)}"\s*:'
    return (r"\[\s*" if form.listed else "") + r"\{\s*" + key


def _write_keyed(form: Envelope, marker: str) -> Written:
    """Return the field of calls whose name is the key of an object: the end of its value is found by its brackets."""
    if not form.listed or not marker.strip():
        raise Unsayable("the name of a call is a key of its JSON, and nothing marks where it begins")
    closes = r"\]" + (rf"\s*{end}" if (end := flexible(form.tail.end)) else "")
    key = r'\{\s*"(?P<name>(?:[^"\\]|\\.)+)"\s*:\s*(?=\{)'
    return {
        "open_pattern": rf"(?:\s*{flexible(marker)}\s*\[\s*|(?<=\}}\s*\}}\s*,\s*)){key}",
        "close_pattern": rf"\G(?:{BALANCED}|(?<=\}}))\K\s*\}}\s*(?:,\s*(?=\{{)|{closes})",
        "repeats": True,
        "content": "json",
        "transform": function("{name}", "{content}"),
    }, ()


# --- a name beside JSON arguments ---


def _write_named(form: Named, marker: str, stops: tuple[str, ...]) -> Written:
    if form.slots[-1] != "arguments":
        raise Unsayable("the arguments of a call stand before its name")
    if not marker.strip():
        raise Unsayable("nothing marks where calls begin")
    edges = find_edges(marker, form.tail, stops)
    parts = [edges.opens]
    for slot, between in zip(form.slots, form.between, strict=False):
        core = flexible(between)
        parts.append(NAME if slot == "name" else NAME.replace("name", slot))
        parts.append(rf"\s*{core}\s*" if core else r"\s*(?=\{)")
    return {
        "open_pattern": "".join(parts),
        **closers(edges.closes),
        "repeats": True,
        "content": "json",
        # Arguments that are no JSON stay the text they are: the client may mend them.
        "content_args": {"allow_non_json": True},
        "transform": function("{name}", "{content}", number="{id}" if "id" in form.slots else None),
    }, edges.rest


# --- keys and values between markers ---


def _write_pairs(form: Pairs, marker: str, stops: tuple[str, ...], *, late: bool) -> Written:
    lead, opens, tail = form.lead.strip(), form.other.opens.strip(), form.other.tail
    if form.quote is not None:
        if not (lead.endswith("{") and opens == ":" and tail.end.lstrip().startswith("}")):
            raise Unsayable("strings have marks of their own, and the rest is not like JSON")
        return _write_marked(form, form.quote, marker, stops)
    if lead == "(" and opens == "=" and tail.end.lstrip().startswith(")"):
        return _write_python(form, marker, stops, late=late)
    return _write_tags(form, marker, stops)


def _write_marked(form: Pairs, quote: str, marker: str, stops: tuple[str, ...]) -> Written:
    """Return the field of calls that are JSON with bare keys and strings in marks of their own."""
    edges = find_edges(marker, _without(form.other.tail, "}"), stops)
    before = flexible(form.lead.strip().removesuffix("{"))
    return {
        "open_pattern": edges.opens + NAME + (rf"\s*{before}" if before else "") + r"\s*(?=\{)",
        **closers(edges.closes),
        "repeats": True,
        "content": "json",
        "content_args": {"unquoted_keys": True, "string_delims": [[quote, quote]]},
        "transform": function("{name}", "{content}"),
    }, edges.rest


def _write_python(form: Pairs, marker: str, stops: tuple[str, ...], *, late: bool) -> Written:
    """Return the field of a list of calls as in Python."""
    end, more = form.other.tail.end.lstrip(), form.other.tail.more
    if not (marker.strip().endswith("[") or not marker.strip()) or not end.startswith(")]"):
        raise Unsayable("calls are written as in Python, but not as a list")
    if more is not None and more.strip().strip(")").strip() != ",":
        raise Unsayable("calls are written as in Python, with something else than a comma between them")
    core = flexible(marker.strip().removesuffix("["))
    if not core and late:
        raise Unsayable("nothing marks where calls begin")
    begin = r"(?=\[\s*[A-Za-z_][\w.\-]*\()"
    closing = end.removeprefix(")]").strip()
    return {
        "open_pattern": (rf"\s*{core}\s*" if core else r"\A\s*") + begin,
        **closers((closing,) if closing else stops),
        "content": "python-call-list",
        "transform": function("{name}", "{arguments}"),
        "transform_each": True,
    }, ()


def _write_tags(form: Pairs, marker: str, stops: tuple[str, ...]) -> Written:
    """Return the field of calls with a tag a parameter; the schema of the tool tells numbers from texts."""
    value = form.text or form.other
    if value.key is None:
        raise Unsayable("no probe showed two arguments")
    parameter = _shared_end(form.lead, value.key)
    close = value.key[: len(value.key) - len(parameter)]
    after = form.lead[: len(form.lead) - len(parameter)]
    tail = _without(value.tail, close)
    if not parameter.strip() or not close.strip() or not value.opens.strip() or not marker.strip():
        raise Unsayable("keys and values stand between blanks alone")
    if form.text is not None and (_without(form.other.tail, close) != tail or form.other.key != value.key):
        raise Unsayable("texts and other values end in different ways")
    edges = find_edges(marker, tail, stops)
    begins = unique([parameter.strip(), *edges.closes])
    name_end = rf"\s*{flexible(after)}" if after.strip() else rf"\s*(?={any_of(begins)})"
    opens = unique([value.opens, form.other.opens])
    tag = (
        rf"{flexible(parameter)}(?P<key>[^\n]{{1,256}}?)(?:{'|'.join(map(_until_value, opens))})"
        rf"(?P<value>.*?){_after_value(close)}(?=\s*(?:{flexible(parameter)}|\Z))"
    )
    parser = {"value_parser": {"name": "json", "args": {"allow_non_json": True}}} if form.text is None else {}
    return {
        "open_pattern": edges.opens + NAME + name_end,
        **closers(edges.closes),
        "repeats": True,
        "content": "xml-inline",
        "content_args": {"tag_pattern": tag, **parser},
        "transform": function("{name}", "{content}"),
    }, edges.rest


def _until_value(opens: str) -> str:
    """Return a pattern of what stands before a value: of the blanks at its end no more than there are."""
    core, blanks = opens.rstrip(), opens[len(opens.rstrip()) :]
    return r"\s*" + flexible(core) + "".join(rf"{re.escape(blank)}?" for blank in blanks)


def _after_value(close: str) -> str:
    core, blanks = close.lstrip(), close[: len(close) - len(close.lstrip())]
    return "".join(rf"{re.escape(blank)}?" for blank in blanks) + flexible(core)


def _without(tail: Tail, start: str) -> Tail:
    """Return a tail without what ends the last value.

    Raises:
        Unsayable: it does not begin so.
    """
    parts = [tail.end, *([tail.more] if tail.more is not None else [])]
    if not all(part.lstrip().startswith(start.lstrip()) for part in parts):
        raise Unsayable("what ends a value depends on what follows it")
    end, more = (None if part is None else part.lstrip()[len(start.lstrip()) :] for part in (tail.end, tail.more))
    return Tail(more, end or "")


def _shared_end(one: str, other: str) -> str:
    """Return the text that both end in, cut so that it does not begin inside a marker."""
    size = 0
    while size < min(len(one), len(other)) and one[-size - 1] == other[-size - 1]:
        size += 1
    shared = one[len(one) - size :]
    if size < len(one) or size < len(other):
        while shared and shared[0] in ">])}":
            shared = shared[1:]
    return shared
