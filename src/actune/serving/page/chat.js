// The page as a whole: settings, the box for messages, one conversation or two side by side.

import { listModels } from "./api.js";
import { Thread } from "./thread.js";
import { EXAMPLES, ToolsError, readTools } from "./tools.js";
import { make, worded } from "./view.js";
import { currentLanguage, label, say, setLanguage } from "./words.js";

const get = (id) => document.getElementById(id);
const [model, beside, system, tools, example] = ["model", "beside", "system", "tools", "example"].map(get);
const [temperature, maxTokens, key, question] = ["temperature", "max-tokens", "key", "question"].map(get);
const narrow = matchMedia("(max-width: 60rem)");
let threads = [];

// --- settings ----------------------------------------------------------------------------------------------------------

function fillExamples() {
  for (const [value, text] of [["json", "example_json"], ["list", "example_list"], ["none", "example_none"], ["own", "example_own"]]) {
    example.append(worded("option", text, { value }));
  }
  example.lastChild.hidden = true;
  example.value = "json";
  takeExample();
}

function takeExample() {
  if (example.value !== "own") tools.value = EXAMPLES[example.value].tools;
  checkTools();
  showHint();
}

function showHint() {
  const asked = EXAMPLES[example.value]?.question;
  question.placeholder = asked ? say("ask", { text: asked }) : "";
}

// Returns the tools, or null after saying what is wrong with them.
function checkTools() {
  const note = get("tools-note");
  try {
    const read = readTools(tools.value);
    const names = read.map((tool) => tool.function.name).join(", ");
    label(note, read.length > 1 ? "tools_some" : read.length ? "tools_one" : "tools_none", { n: read.length, names });
    note.classList.remove("error");
    tools.removeAttribute("aria-invalid");
    return read;
  } catch (error) {
    if (!(error instanceof ToolsError)) throw error;
    delete note.dataset.t;
    note.textContent = error.message;
    note.classList.add("error");
    tools.setAttribute("aria-invalid", "true");
    return null;
  }
}

async function loadModels() {
  try {
    const names = await listModels(key.value);
    const chosen = [model.value, beside.value];
    model.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    beside.replaceChildren(worded("option", "nobody", { value: "" }), ...names.map((name) => make("option", { value: name }, name)));
    if (names.includes(chosen[0])) model.value = chosen[0];
    if (names.includes(chosen[1])) beside.value = chosen[1];
    tell(null);
  } catch (error) {
    tell(error.message);
    if (error.status === 401) {
      get("settings").open = true;
      key.focus();
    }
  }
}

function tell(problem) {
  get("problem").hidden = problem === null;
  get("problem").textContent = problem ?? "";
}

// An empty field leaves the choice to the server.
function readNumber(input, name) {
  if (input.value === "" && !input.validity.badInput) return null;
  if (!input.validity.valid) throw new RangeError(say("no_number", { field: say(name) }));
  return Number(input.value);
}

const settings = () => ({
  temperature: readNumber(temperature, "temperature"),
  maxTokens: readNumber(maxTokens, "max_tokens"),
  key: key.value,
});

// --- conversations -----------------------------------------------------------------------------------------------------

function begin(given) {
  const shared = { system: system.value, tools: given, settings, changed: update, onStatus: (text) => { get("status").textContent = text; } };
  const names = beside.value ? [model.value, beside.value] : [model.value];
  threads = names.map((name) => new Thread({ ...shared, model: name }));
  get("threads").replaceChildren(...threads.map((thread) => thread.element));
  get("threads").classList.toggle("two", threads.length > 1);
}

function restart() {
  threads.forEach((thread) => thread.stop());
  threads = [];
  get("threads").replaceChildren(worded("p", "empty", { class: "note" }));
  get("threads").classList.remove("two");
  update();
  if (!narrow.matches) question.focus(); // there it would open the keyboard over the page
}

function update(changed) {
  const busy = threads.some((thread) => thread.state === "busy");
  const waiting = threads.some((thread) => thread.state !== "ready");
  get("stop").hidden = !busy;
  get("send").disabled = waiting;
  get("fixed").disabled = threads.length > 0;
  get("fixed-note").hidden = threads.length === 0;
  if (changed && threads.includes(changed)) moveFocus(changed, waiting);
}

// The focus follows the conversation, unless a person is already in one of its boxes.
function moveFocus(thread, waiting) {
  const active = document.activeElement;
  if (active !== null && active !== document.body && active !== question && !active.hidden && active.isConnected && !active.disabled
    && active.offsetParent !== null && active !== get("send") && active !== get("stop")) return;
  if (thread.state === "calls") thread.form?.focus();
  else if (!waiting) question.focus({ preventScroll: true });
}

function send() {
  const text = question.value;
  if (!text.trim() || get("send").disabled) return;
  try {
    settings();
  } catch (error) {
    return tell(error.message);
  }
  if (!threads.length) {
    const given = checkTools();
    if (given === null) {
      get("settings").open = true;
      return tools.focus();
    }
    if (!model.value) return loadModels();
    begin(given);
  }
  tell(null);
  question.value = "";
  const restore = (taken) => {
    if (!question.value) question.value = taken;
    question.focus();
  };
  // Side by side it is not taken back: the other conversation has it already.
  threads.forEach((thread) => thread.say(text, threads.length > 1 ? null : restore));
}

// --- events ------------------------------------------------------------------------------------------------------------

get("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Enter also chooses a Chinese word
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) threads.forEach((thread) => thread.stop());
});
get("stop").addEventListener("click", () => threads.forEach((thread) => thread.stop()));
get("restart").addEventListener("click", restart);
example.addEventListener("change", takeExample);
tools.addEventListener("input", () => {
  example.value = "own";
  checkTools();
  showHint();
});
key.addEventListener("change", loadModels);
for (const element of document.querySelectorAll("[data-language]")) {
  element.addEventListener("click", () => show(element.dataset.language));
}

function show(language) {
  setLanguage(language);
  checkTools();
  showHint();
}

if (narrow.matches) get("settings").open = false;
fillExamples();
restart();
show(currentLanguage());
loadModels();
