"""The chat page, driven as a person drives it, in headless Chromium; skipped where there is none."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from actune.core.api_list import schema_of_list, write_system
from actune.core.conversion import convert_style
from actune.core.types import Source, ToolSpec
from actune.formats.registry import detect_format, read_row

TESTS = Path(__file__).resolve().parents[2]
FOLDER = TESTS.parent / "src" / "actune" / "serving" / "page"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kit, serving = _load("browser_kit"), _load("page_server")
chunk, call_piece = serving.chunk, serving.call_piece
DONE = b"data: [DONE]\n\n"
USAGE = {"choices": [], "usage": {"prompt_tokens": 312, "completion_tokens": 25, "total_tokens": 337}}
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202e&lt;b&gt;</pre>"
NO_BROWSER = pytest.mark.skipif(kit.CHROMIUM is None, reason="needs Chromium")
IDLE = "!document.querySelector('[aria-busy=true]')"
BOXES = "document.querySelectorAll('.observation:not([hidden])').length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = kit.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def serve():
    servers = []

    def start(script, **given):
        servers.append(serving.PageServer(script, **given))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def visit(browser):
    pages = []

    def open_page(server, **given):
        page = browser.open(server.address, **given)
        pages.append(page)
        if not server.key:
            page.wait("document.querySelector('#model').options.length > 0")
        return page

    yield open_page
    for page in pages:
        page.close()


def ask(page, text):
    page.click("#question")
    page.type(text)
    page.press("Enter")


def calling(body):
    """Two parallel calls, their arguments in pieces, then an answer."""
    if body["messages"][-1]["role"] == "user":
        yield chunk(role="assistant", content="")
        yield chunk(reasoning_content="I have to call ")
        yield chunk(reasoning_content="two tools.")
        yield call_piece(0, name="repair_bike")
        yield call_piece(1, name="find_hotel", arguments='{"city": "To')
        yield call_piece(0, arguments='{"city": "Torela", "time": "10:30"}')
        yield call_piece(1, arguments='rela"}')
        yield chunk(reason="tool_calls")
    else:
        yield chunk(content="The code is ")
        yield chunk(content="BD103.")
        yield chunk(reason="stop")
    yield USAGE
    yield DONE


# --- a whole exchange -------------------------------------------------------------------------------------------------


@NO_BROWSER
@pytest.mark.parametrize(
    ("language", "title", "label"),
    [("en-US", "Chat with tools", "Observation of"), ("zh-CN", "带工具的对话", "的 Observation")],
)
def test_a_tool_exchange_from_the_question_to_the_answer(serve, visit, language, title, label):
    server = serve(calling)
    page = visit(server, language=language)
    assert page.text("h1") == title
    assert page.value("document.documentElement.lang")[:2] == language[:2]
    ask(page, "Please repair my bike.\n第二行")
    page.wait(f"{BOXES} === 2")
    assert page.text(".reasoning") == "I have to call two tools."
    assert page.text(".call-name").split("\n") == ["repair_bike", "find_hotel"]
    assert label in page.text(".observation-part label")
    page.type('{"code": "BD103"}')  # the first box has the focus
    page.press("Tab")
    page.type("第一行\n  zweite")
    assert page.value("document.querySelector('#send').disabled")  # the tools are to answer first
    page.press("Enter", modifiers=2)
    page.wait(f"document.querySelectorAll('.m-assistant').length === 2 && {IDLE}")
    assert "The code is BD103." in page.text(".m-assistant:last-child")
    assert "312" in page.text(".m-assistant:last-child .foot")
    calls = [
        {
            "id": "call00000",
            "type": "function",
            "function": {"name": "repair_bike", "arguments": '{"city": "Torela", "time": "10:30"}'},
        },
        {"id": "call00001", "type": "function", "function": {"name": "find_hotel", "arguments": '{"city": "Torela"}'}},
    ]
    assert server.bodies[-1]["messages"] == [
        {"role": "user", "content": "Please repair my bike.\n第二行"},
        {"role": "assistant", "content": "", "reasoning_content": "I have to call two tools.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call00000", "content": '{"code": "BD103"}'},
        {"role": "tool", "tool_call_id": "call00001", "content": "第一行\n  zweite"},
    ]
    assert [tool["function"]["name"] for tool in server.bodies[-1]["tools"]] == ["repair_bike", "find_hotel"]
    assert page.complaints() == []
    assert all(address.startswith(server.address) for address in page.addresses())


@NO_BROWSER
def test_the_language_can_be_switched_in_the_middle(serve, visit):
    page = visit(serve(calling))
    ask(page, "hello")
    page.wait(f"{BOXES} === 2")
    page.type("half")
    page.click("[data-language=zh]")
    assert "发送 2 个 Observation" in page.text(".main-button")
    assert page.text(".observation-part label").split("\n")[0] == "repair_bike 的 Observation（工具返回）"
    assert page.value("document.querySelector('.observation').value") == "half"


@NO_BROWSER
def test_two_models_answer_side_by_side_and_apart(serve, visit):
    server = serve(calling)
    page = visit(server)
    page.value("document.querySelector('#beside').value = 'base'")
    ask(page, "hello")
    page.wait(f"{BOXES} === 4")
    page.value(
        "[...document.querySelectorAll('.thread:last-child .observation')].forEach((e, i) => { e.value = 'b' + i; })"
    )
    page.click(".thread:last-child .main-button")
    page.wait(f"document.querySelectorAll('.thread:last-child .m-assistant').length === 2 && {IDLE}")
    assert page.value(BOXES) == 2  # the other one still waits
    assert server.bodies[-1]["model"] == "base"
    assert [message["content"] for message in server.bodies[-1]["messages"][2:]] == ["b0", "b1"]
    assert sorted(body["model"] for body in server.bodies[:2]) == ["base", "tuned"]


# --- what comes from outside ------------------------------------------------------------------------------------------


@NO_BROWSER
def test_markup_from_model_tools_and_server_stays_text(serve, visit):
    def script(body):
        if body["messages"][-1]["role"] == "tool":
            raise serving.Answered(400, json.dumps({"error": {"message": HOSTILE, "param": HOSTILE}}))
        yield chunk(content=HOSTILE)
        yield chunk(reasoning_content=HOSTILE)
        yield call_piece(0, name=HOSTILE, arguments=HOSTILE)
        yield chunk(reason="tool_calls")

    def outer(body):
        if body["messages"][-1]["role"] == "tool":
            next(script(body))
        return script(body)

    page = visit(serve(outer, models=(HOSTILE, "other")))
    page.value(f"document.querySelector('#system').value = {json.dumps(HOSTILE)}")
    ask(page, HOSTILE)
    page.wait(f"{BOXES} === 1")
    shown = [
        page.text(s)
        for s in (".m-system .text", ".m-user .text", ".content", ".m-assistant .who", ".call-name", ".raw")
    ]
    assert all(text in ("", HOSTILE) for text in shown)
    assert shown[1] == shown[4] == shown[5] == HOSTILE
    assert page.text(".warning") == "The arguments are no JSON object.\nNo such tool was given."
    page.type(HOSTILE)
    page.press("Enter", modifiers=2)
    page.wait("document.querySelector('.log .flag')")
    assert HOSTILE in page.text(".log .flag")
    assert page.value("document.querySelectorAll('main img, main script, main b').length") == 0
    assert page.value("document.title") != "owned"


@NO_BROWSER
def test_events_are_read_however_they_are_cut(serve, visit):
    def script(_body):
        events = ": a comment\r\n\r\n" + "".join(
            f"event: x\r\nid: 1\r\ndata: {json.dumps(piece, ensure_ascii=False)}\r\n\r\n"
            for piece in (chunk(content="杭州"), chunk(content=" 🌞晴"), chunk(reason="stop"))
        )
        for byte in events.encode():
            yield bytes([byte])
        yield b"data: [DONE]"

    page = visit(serve(script))
    ask(page, "天气")
    page.wait(f"document.querySelector('.m-assistant') && {IDLE}")
    assert page.text(".m-assistant .text:not(.reasoning)") == "杭州 🌞晴"
    assert page.complaints() == []


@NO_BROWSER
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            lambda: iter([chunk(content="half"), {"error": {"message": "out of memory", "type": "server_error"}}]),
            "The server reported an error: out of memory",
        ),
        (lambda: iter([chunk(content="half")]), "The connection ended before the answer did."),
        (lambda: iter([b"data: {broken\n\n"]), "The server reported an error: {broken"),
    ],
)
def test_an_answer_that_breaks_off_can_be_tried_again(serve, visit, script, said):
    broken = [True]

    def answers(_body):
        if broken.pop() if broken else False:
            return script()
        return iter([chunk(content="whole"), chunk(reason="stop"), DONE])

    server = serve(answers)
    page = visit(server)
    ask(page, "hello")
    page.wait("document.querySelector('.log .flag')")
    assert page.text(".log .flag") == said
    assert page.value("document.querySelector('#send').disabled")
    page.press("Enter")  # 'Try again' has the focus
    page.wait(f"!document.querySelector('.log .flag') && {IDLE}")
    assert page.text(".m-assistant .text:not(.reasoning)") == "whole"
    assert server.bodies[0] == server.bodies[1]


@NO_BROWSER
def test_a_refusal_is_shown_and_what_was_sent_can_be_taken_back(serve, visit):
    def script(body):
        if len(body["messages"]) == 1:
            return calling(body)
        raise serving.Answered(
            400, '{"error": {"message": "too long", "type": "invalid_request_error", "param": "messages"}}'
        )

    server = serve(script)
    page = visit(server)
    ask(page, "hello")
    page.wait(f"{BOXES} === 2")
    page.type("a" * 50)
    page.press("Enter", modifiers=2)
    page.wait("document.querySelector('.log .flag')")
    assert page.text(".log .flag") == "The server refused (400): too long [messages]"
    page.click(".log > .buttons button:last-child")
    page.wait(f"{BOXES} === 2")
    assert page.value("document.querySelector('.observation').value") == "a" * 50
    page.value("document.querySelector('.observation').value = 'b'")
    page.click(".m-assistant .main-button")
    page.wait("document.querySelector('.log .flag')")
    assert [message["content"] for message in server.bodies[-1]["messages"][2:]] == ["b", ""]


@NO_BROWSER
def test_stop_hangs_up(serve, visit):
    go_on = threading.Event()

    def script(_body):
        yield chunk(content="endless")
        while not go_on.wait(0.02):
            yield chunk(content=" and on")

    server = serve(script)
    page = visit(server)
    ask(page, "hello")
    page.wait("document.querySelector('.m-assistant')?.innerText.includes('and on')")
    page.press("Escape")
    page.wait("document.querySelector('.log .flag')")
    try:
        assert server.hung_up.wait(20)
    finally:
        go_on.set()
    assert page.text(".log .flag").startswith("Stopped.")
    page.click(".log > .buttons button:last-child")
    page.wait("!document.querySelector('.message')")
    assert page.value("document.querySelector('#question').value") == "hello"


@NO_BROWSER
def test_a_wanted_key_is_asked_for_sent_and_not_kept(serve, visit):
    server = serve(calling)
    server.key = "secret-1"
    page = visit(server)
    page.wait("!document.querySelector('#problem').hidden")
    assert page.text("#problem") == "The server refused (401): Incorrect API key. Give the API key in the settings."
    page.wait("document.activeElement.id === 'key'")
    page.type("secret-1")
    page.press("Tab")
    page.wait("document.querySelector('#model').options.length === 2")
    assert page.value("document.querySelector('#problem').hidden")
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert "secret" not in page.value(kept)


# --- tools, settings, rows --------------------------------------------------------------------------------------------

LISTS = [
    [{"name": "image", "description": 'an "image"', "required": "True"}],
    [],
    [
        {"name": "n", "description": "", "required": "false", "type": "Int"},
        {
            "name": "列表",
            "description": "城市: Parameters: []",
            "required": True,
            "type": "list",
            "items": {"type": "string"},
        },
        {"name": "deep", "required": 1, "schema": {"type": "dict", "required": ["x"]}},
    ],
]


@NO_BROWSER
def test_api_lists_become_what_the_rest_of_the_project_makes_of_them(serve, visit):
    page = visit(serve(calling))
    tools = [
        ToolSpec(
            name=f"tool_{n}",
            description=f"第{n}: do it. Parameters: x",
            parameters=schema_of_list(listed),
            parameter_list=listed,
        )
        for n, listed in enumerate(LISTS)
    ]
    wanted = [json.loads(json.dumps(tool.describe())) for tool in tools]
    given = [
        {"name": tool.name, "description": tool.description, "parameters": list(tool.parameter_list)} for tool in tools
    ]
    texts = [write_system("Be brief.", tools), write_system("", tools, "zh"), json.dumps(given), json.dumps(wanted)]
    texts.append(texts[0].split("APIs:\n")[1].split("\n\nUse the following")[0].replace("\n", "\r\n"))
    for text in texts:
        read = page.value(f"import('/page/tools.js').then((m) => m.readTools({json.dumps(text)}))")
        assert read == wanted


@NO_BROWSER
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"name": "f",}]', "line 1"),
        ('[\n{"name": "f"\n', "This is no JSON"),
        ('[{"name": "f"}, {"name": "f"}]', "The tool f stands twice."),
        ('[{"type": "function", "function": {"description": "x"}}]', "Tool 1 has no name."),
        ('[{"type": "web_search"}]', "Tool 1 has no name."),
        ('[{"type": "custom", "function": {"name": "f"}}]', 'Tool 1 is of type "custom"'),
        ('[{"name": "f", "parameters": {"type": "string"}}]', "The parameters of f are neither"),
        ("get_weather(city)", "No entry like '1. name: description Parameters: [...]' was found."),
        ("1. f: what it does", "Entry 1 is not like"),
        ("1. f: x Parameters: [{}]", "The Parameters of f are no JSON list"),
    ],
)
def test_tools_that_cannot_be_read_are_named_and_nothing_is_sent(serve, visit, text, said):
    server = serve(calling)
    page = visit(server)
    page.click("#tools")
    page.value("document.querySelector('#tools').select()")
    page.type(text)
    assert said in page.text("#tools-note")
    ask(page, "hello")
    page.wait("document.activeElement.id === 'tools'")
    assert server.bodies == []
    assert page.value("document.querySelector('#question').value") == "hello"


@NO_BROWSER
def test_settings_are_sent_and_those_of_the_row_are_fixed(serve, visit):
    server = serve(lambda body: iter([chunk(content="Hi."), chunk(reason="stop"), DONE]))
    page = visit(server)
    page.value(
        "document.querySelector('#example').value = 'none'; document.querySelector('#example').dispatchEvent(new Event('change'))"
    )
    page.value("document.querySelector('#temperature').value = ''; document.querySelector('#max-tokens').value = '7'")
    ask(page, "hello")
    page.wait(f"document.querySelector('.m-assistant') && {IDLE}")
    body = server.bodies[0]
    assert body.keys() == {"model", "messages", "max_tokens", "stream", "stream_options"}
    assert body["max_tokens"] == 7
    assert page.value(
        "document.querySelector('#system').matches(':disabled') && document.querySelector('#model').matches(':disabled')"
    )
    page.value("document.querySelector('#max-tokens').value = '0'")
    ask(page, "more")
    assert page.text("#problem") == "Most tokens is no number in its range."
    assert len(server.bodies) == 1
    page.click("#restart")
    assert not page.value("document.querySelector('#system').matches(':disabled')")


@NO_BROWSER
def test_the_saved_row_is_the_conversation_that_the_model_saw(serve, visit, browser, tmp_path):
    def script(body):
        if len(body["messages"]) < 6:
            return calling(body)
        return iter([chunk(content="cut he"), chunk(reason="length"), DONE])

    server = serve(script)
    page = visit(server)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.value("document.querySelector('#system').value = '你是助手。'")
    ask(page, "hello")
    page.wait(f"{BOXES} === 2")
    page.press("Enter", modifiers=2)
    page.wait(f"document.querySelectorAll('.m-assistant').length === 2 && {IDLE}")
    ask(page, "go on")
    page.wait(f"document.querySelectorAll('.m-assistant').length === 3 && {IDLE}")
    assert "Cut at the limit of tokens" in page.text(".warning")
    page.click(".after button")
    row = wait_for_row(tmp_path)
    assert row["messages"][:-1] == server.bodies[-1]["messages"]
    assert row["tools"] == server.bodies[-1]["tools"]
    assert detect_format([row]) == "openai"
    conversation = read_row(row, Source(file="row", line=1), "openai")
    assert [message.train for message in conversation.messages if message.role == "assistant"] == [True, True, False]
    assert conversation.repairs == ()


REACT = (
    'Thought: look\nAction: repair_bike\nAction Input: {"city": "杭州", "time": "10:30"}\nObservation:',
    "Thought: I now know\nFinal Answer: The code is BD103.",
)
NATIVE = (
    '<tool_call>{"name": "repair_bike", "arguments": {"city": "杭州", "time": "10:30"}}</tool_call>',
    "The code is BD103.",
)


@NO_BROWSER
@pytest.mark.parametrize(("style", "outputs"), [("react", REACT), ("chat", NATIVE)])
def test_with_the_real_server_a_saved_row_trains_the_prompts_that_were_asked(
    serving_kit, tools_folder, browser, tmp_path, style, outputs
):
    bench = serving_kit.Bench(tools_folder, outputs, style=style)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    with serving_kit.on_a_socket(bench) as address:
        page = browser.open(address)
        page.wait("document.querySelector('#model').options.length === 2")
        ask(page, "修自行车。")
        page.wait(f"{BOXES} === 1")
        assert page.text(".raw.arguments") == '{"city": "杭州", "time": "10:30"}'
        page.type('{"code": "BD103"}\n第二行')
        page.press("Enter", modifiers=2)
        page.wait(f"document.querySelectorAll('.m-assistant').length === 2 && {IDLE}")
        assert "The code is BD103." in page.text(".m-assistant:last-child")
        assert re.search(r"\d+ prompt \+ \d+ answer tokens", page.text(".m-assistant:last-child .foot"))
        assert page.complaints() == []
        page.click(".after button")
        row = wait_for_row(tmp_path)
        page.close()
    bench.close()
    conversation = convert_style(read_row(row, Source(file="row", line=1), "openai"), style)
    turns = bench.encoder.encode_turns(conversation)
    assert [turn.ids[: turn.start] for turn in turns] == [list(request.prompt) for request in bench.engine.requests]


def wait_for_row(folder: Path) -> dict:
    for _ in range(400):
        files = [path for path in folder.iterdir() if path.suffix == ".jsonl"]
        if files:
            return json.loads(files[0].read_text(encoding="utf-8"))
        time.sleep(0.05)
    raise AssertionError("nothing was saved")


# --- the files --------------------------------------------------------------------------------------------------------


def test_nothing_on_the_page_is_inline_or_from_elsewhere():
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://[^\s\"']+", text
        )
        assert set(found) <= {"http://www.w3.org/2000/svg"}, path.name
        if path.suffix == ".html":
            assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text) == []


def test_every_text_is_there_in_both_languages_and_used():
    words = (FOLDER / "words.js").read_text(encoding="utf-8")
    table = dict(re.findall(r"^  (\w+): (\[.*\]),$", words, re.MULTILINE))
    assert len(table) > 50
    for key, pair in table.items():
        english, chinese = re.fullmatch(r'\["(.*)", "(.*)"\]', pair).groups()
        assert set(re.findall(r"\{(\w+)\}", english)) == set(re.findall(r"\{(\w+)\}", chinese)), key
        assert re.search(r"[\u4e00-\u9fff]", chinese), key
    others = "".join(path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.name != "words.js")
    quoted = set(re.findall(r'"(\w+)"', others)) | set(re.findall(r'data-t="(\w+)"', others))
    assert set(table) - quoted == set()
    assert set(re.findall(r'data-t="(\w+)"', others)) <= set(table)
