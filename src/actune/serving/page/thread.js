// One conversation with one model: what was said, in the form that the server takes, and how it goes on.
// States: ready (a person's message is next), busy, calls (Observations are next), broken (try again or take back).

import { streamAnswer } from "./api.js";
import { AnswerView, ObservationForm, button, make, said } from "./view.js";
import { label, say } from "./words.js";

export class Thread {
  // `settings()` gives {temperature, maxTokens, key} for the next answer; `changed(thread)` is told of every new state.
  constructor({ model, system, tools, settings, changed, onStatus }) {
    Object.assign(this, { model, tools, settings, changed, onStatus });
    this.known = new Set(tools.map((tool) => tool.function.name));
    this.messages = system ? [{ role: "system", content: system }] : [];
    this.untrained = new Set();
    this.state = "ready";
    this.log = make("div", { class: "log" });
    this.saveButton = button("save", () => this.save());
    this.saveButton.hidden = true;
    this.element = make("section", { class: "thread", "aria-label": model },
      make("h2", { dir: "auto" }, model), this.log, make("div", { class: "buttons after" }, this.saveButton));
    if (system) this.log.append(said("system", system));
  }

  // Sends a person's message. `restore(text)` puts it back where it was written; without it it cannot be taken back.
  say(text, restore) {
    const element = said("user", text);
    this.log.append(element);
    const takeBack = restore && (() => {
      element.remove();
      restore(text);
    });
    this.#send([{ role: "user", content: text }], takeBack);
  }

  observe(form, texts) {
    if (this.state !== "calls") return;
    form.close();
    const results = form.calls.map((call, index) => ({ role: "tool", tool_call_id: call.id, content: texts[index] }));
    this.#send(results, () => {
      form.open();
      this.form = form;
    });
  }

  stop() {
    this.aborter?.abort();
  }

  #send(added, takeBack) {
    const before = this.messages.length;
    this.messages.push(...added);
    this.takeBack = takeBack && (() => {
      this.messages.length = before;
      takeBack();
      this.#enter(this.form && added[0].role === "tool" ? "calls" : "ready");
    });
    this.#answer();
  }

  async #answer() {
    const view = new AnswerView(this.model);
    this.log.append(view.element);
    this.aborter = new AbortController();
    this.form = null;
    this.#enter("busy");
    const began = performance.now();
    try {
      const { temperature, maxTokens, key } = this.settings();
      const body = { model: this.model, messages: this.messages };
      if (this.tools.length) body.tools = this.tools;
      if (temperature !== null) body.temperature = temperature;
      if (maxTokens !== null) body.max_tokens = maxTokens;
      const hear = (answer) => follow(view.element, () => view.show(answer));
      const answer = await streamAnswer(body, { key, signal: this.aborter.signal, hear });
      this.#take(view, answer, (performance.now() - began) / 1000);
    } catch (error) {
      this.#break(view, error);
    }
  }

  #take(view, answer, seconds) {
    answer.calls.forEach((call, index) => { call.id ||= "call" + String(this.messages.length * 100 + index).padStart(5, "0"); });
    const message = { role: "assistant", content: answer.content };
    if (answer.reasoning) message.reasoning_content = answer.reasoning;
    if (answer.calls.length) {
      message.tool_calls = answer.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
    }
    this.messages.push(message);
    if (answer.reason === "length") this.untrained.add(message);
    follow(view.element, () => view.finish(answer, seconds, this.known));
    this.saveButton.hidden = false;
    if (!answer.calls.length) return this.#enter("ready");
    follow(view.element, () => {
      const form = new ObservationForm(view, answer.calls, (texts) => this.observe(form, texts));
      this.form = form;
    });
    this.#enter("calls", answer.calls.map((call) => call.name).join(", "));
  }

  #break(view, error) {
    const aborted = error.name === "AbortError";
    view.leave();
    const note = make("p", { class: "flag" });
    if (aborted) label(note, "stopped");
    else note.textContent = error.message;
    const clear = () => [view.element, note, row].forEach((element) => element.remove());
    const row = make("div", { class: "buttons" },
      button("again", () => { clear(); this.#answer(); }),
      this.takeBack ? button("back", () => { clear(); this.takeBack(); }) : null);
    this.log.append(note, row);
    this.#enter("broken");
    this.onStatus(aborted ? say("stopped") : error.message);
    row.firstChild.focus();
    note.scrollIntoView({ block: "nearest" });
  }

  #enter(state, names = "") {
    this.state = state;
    if (state === "busy") this.onStatus(say("working"));
    if (state === "ready") this.onStatus(say("done"));
    if (state === "calls" && names) this.onStatus(say("asks", { names }));
    this.changed(this);
  }

  // One line of an `openai` file; answers that were cut are kept and not trained.
  row() {
    const messages = this.messages.map((message) => (this.untrained.has(message) ? { ...message, train: false } : message));
    return JSON.stringify(this.tools.length ? { messages, tools: this.tools } : { messages }) + "\n";
  }

  save() {
    const address = URL.createObjectURL(new Blob([this.row()], { type: "application/jsonl" }));
    const name = this.model.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 60);
    const time = new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");
    const link = make("a", { href: address, download: `conversation-${name}-${time}.jsonl` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}

// Does what changes the page, and keeps its end in view where it was in view before.
function follow(element, change) {
  const page = document.scrollingElement;
  const near = page.scrollHeight - page.scrollTop - page.clientHeight < 120;
  change();
  if (near) page.scrollTop = page.scrollHeight;
}
