// What stands in a conversation. Whatever comes from a model or a person becomes a text node; nothing here parses HTML.

import { label, say } from "./words.js";

export function make(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name === "class") made.className = value;
    else if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const worded = (tag, key, given = {}, values = {}) => label(make(tag, given), key, values);
export const button = (key, call, values = {}) => worded("button", key, { type: "button", on: { click: call } }, values);
const raw = (text, kind = "") => make("pre", { class: "raw " + kind, dir: "auto" }, text);

export function said(role, text) {
  const title = role === "user" ? "user" : "system_name";
  return make("article", { class: "message m-" + role }, worded("p", title, { class: "who" }),
    make("div", { class: "text", dir: "auto" }, text));
}

// One answer of a model, shown while it comes in: reasoning, text, then a box for each call.
export class AnswerView {
  constructor(model) {
    this.reasoning = make("div", { class: "text reasoning", dir: "auto" });
    this.reasoningPart = make("section", { class: "part", hidden: true },
      worded("p", "reasoning", { class: "part-title" }), this.reasoning);
    this.content = make("div", { class: "text", dir: "auto" });
    this.calls = make("div", { class: "calls" });
    this.foot = make("p", { class: "note foot" });
    this.element = make("article", { class: "message m-assistant", "aria-busy": "true" },
      make("p", { class: "who", dir: "auto" }, model), this.reasoningPart, this.content, this.calls, this.foot);
    this.boxes = [];
  }

  show(answer) {
    grow(this.reasoning, answer.reasoning);
    this.reasoningPart.hidden = !answer.reasoning;
    grow(this.content, answer.content);
    answer.calls.forEach((call, index) => {
      if (!call) return;
      const box = (this.boxes[index] ??= new CallView(this.calls));
      box.show(call);
    });
  }

  finish(answer, seconds, known) {
    this.element.setAttribute("aria-busy", "false");
    this.boxes = this.boxes.filter(Boolean);
    this.boxes.forEach((box, index) => box.judge(answer.calls[index], known));
    if (!answer.content && !answer.reasoning && !answer.calls.length) label(this.content, "nothing");
    const usage = answer.usage;
    const values = { prompt: usage?.prompt_tokens, completion: usage?.completion_tokens, seconds: seconds.toFixed(1) };
    label(this.foot, Number.isInteger(values.prompt) && Number.isInteger(values.completion) ? "usage" : "time", values);
    if (answer.reason === "length") this.warn("cut");
    else if (answer.reason !== "stop" && answer.reason !== "tool_calls") this.warn("filtered", { reason: answer.reason });
  }

  warn(key, values = {}) {
    this.foot.before(worded("p", key, { class: "warning" }, values));
  }

  // What came of an answer that was stopped or failed stays to be read; it is no part of the conversation.
  leave() {
    this.element.setAttribute("aria-busy", "false");
    this.element.classList.add("left");
  }
}

// Only the new piece is appended, so a selection stays and long answers stay quick.
function grow(element, text) {
  const shown = element.textContent.length;
  if (text.length > shown) element.append(text.slice(shown));
}

class CallView {
  constructor(parent) {
    this.name = make("code", { class: "call-name", dir: "auto" });
    this.arguments = raw("", "arguments");
    this.element = make("section", { class: "call" },
      make("p", { class: "call-head" }, worded("span", "call", { class: "part-title" }), " ", this.name), this.arguments);
    parent.append(this.element);
  }

  show(call) {
    this.name.textContent = call.name;
    grow(this.arguments, call.arguments);
  }

  judge(call, known) {
    if (!call.arguments) label(this.arguments, "arguments_none");
    else if (!isObject(call.arguments)) this.element.append(worded("p", "arguments_bad", { class: "warning" }));
    if (!known.has(call.name)) this.element.append(worded("p", "tool_unknown", { class: "warning" }));
  }
}

function isObject(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value);
  } catch {
    return false;
  }
}

let boxes = 0;

// A form with one box for the Observation of each call, inside the boxes of the calls of an answer.
export class ObservationForm {
  constructor(view, calls, send) {
    this.view = view;
    this.calls = calls;
    const submit = () => send(this.inputs.map((input) => input.value));
    const keys = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
        event.preventDefault();
        submit();
      }
    };
    this.parts = view.boxes.map((box, index) => {
      const id = "observation-" + ++boxes;
      const input = make("textarea", { id, class: "observation", rows: 2, dir: "auto", spellcheck: false, on: { keydown: keys } });
      const part = make("div", { class: "observation-part" },
        worded("label", "observation_of", { for: id, class: "part-title" }, { name: calls[index].name }), input);
      box.element.append(part);
      return { part, input };
    });
    this.inputs = this.parts.map(({ input }) => input);
    const many = calls.length > 1;
    this.send = button(many ? "observations_send_many" : "observations_send", submit, { n: calls.length });
    this.send.classList.add("main-button");
    this.row = make("div", { class: "buttons" }, this.send, worded("span", "observations_keys", { class: "note keys" }));
    view.element.append(this.row);
  }

  focus() {
    this.inputs[0].focus();
  }

  // Turns the boxes into text, or back into boxes when what was sent is taken back.
  close() {
    this.shown = this.parts.map(({ part, input }) => {
      const text = raw(input.value, "observed");
      input.hidden = true;
      part.append(text);
      return text;
    });
    this.row.hidden = true;
  }

  open() {
    this.shown.forEach((text) => text.remove());
    this.inputs.forEach((input) => { input.hidden = false; });
    this.row.hidden = false;
    this.focus();
  }
}
