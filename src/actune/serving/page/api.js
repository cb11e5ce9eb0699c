// The two addresses of the server that the page talks to. Errors are ServerErrors with a text that a person can read.

import { say } from "./words.js";

const MOST_OF_AN_ERROR = 600;

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const address = (path) => new URL(path, document.baseURI).href;

function headers(key) {
  const given = { "Content-Type": "application/json" };
  if (key) given.Authorization = "Bearer " + key;
  return given;
}

async function ask(path, key, options) {
  if (!/^[\x21-\x7e]*$/.test(key)) throw new ServerError(say("key_bad"));
  let response;
  try {
    response = await fetch(address(path), { ...options, headers: headers(key), cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(say("no_server", { why: error.message }));
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

// An error in OpenAI's shape is {"error": {"message", "type", "param", "code"}}; others are shown as far as they are short.
async function refusal(response) {
  const text = await response.text().catch(() => "");
  let message = text.trim() || response.statusText;
  try {
    message = messageOf(JSON.parse(text).error) || message;
  } catch {
    // no JSON: the text itself is shown
  }
  if (response.status === 401) message += " " + say("key_wanted");
  return new ServerError(say("refused", { status: response.status, message: message.slice(0, MOST_OF_AN_ERROR) }), response.status);
}

function messageOf(error) {
  if (typeof error === "string") return error;
  if (!error || typeof error.message !== "string") return "";
  return error.param ? error.message + " [" + error.param + "]" : error.message;
}

// Returns the names of the server's models.
export async function listModels(key) {
  const response = await ask("v1/models", key, { method: "GET" });
  const body = await response.json().catch(() => null);
  const names = (Array.isArray(body?.data) ? body.data : []).map((model) => model?.id).filter((id) => typeof id === "string");
  if (!names.length) throw new ServerError(say("no_models"));
  return names;
}

// Streams one answer; `hear` is told of every change and gets the answer so far.
// Returns {content, reasoning, calls: [{id, name, arguments}], reason, usage}; throws a ServerError, or an AbortError.
export async function streamAnswer(body, { key, signal, hear }) {
  const options = { method: "POST", body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }), signal };
  const response = await ask("v1/chat/completions", key, options);
  const answer = { content: "", reasoning: "", calls: [], reason: null, usage: null };
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      take(answer, parse(data));
      hear(answer);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
    throw new ServerError(say("broke"));
  }
  if (answer.reason === null) throw new ServerError(say("broke"));
  answer.calls = answer.calls.filter(Boolean);
  return answer;
}

function parse(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    throw new ServerError(say("failed", { message: data.slice(0, MOST_OF_AN_ERROR) }));
  }
  if (event?.error) {
    const message = messageOf(event.error) || JSON.stringify(event.error);
    throw new ServerError(say("failed", { message: message.slice(0, MOST_OF_AN_ERROR) }));
  }
  return event;
}

// Adds a chunk to the answer so far. Pieces of a call come under its index; id and name come once.
function take(answer, chunk) {
  if (chunk?.usage) answer.usage = chunk.usage;
  const choice = chunk?.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  if (typeof delta.content === "string") answer.content += delta.content;
  const reasoning = delta.reasoning_content ?? delta.reasoning;
  if (typeof reasoning === "string") answer.reasoning += reasoning;
  for (const piece of delta.tool_calls ?? []) {
    const index = Number.isInteger(piece.index) ? piece.index : answer.calls.length;
    if (index < 0 || index > 1000) throw new ServerError(say("broke"));
    const call = (answer.calls[index] ??= { id: "", name: "", arguments: "" });
    if (piece.id) call.id = piece.id;
    if (piece.function?.name) call.name += piece.function.name;
    if (typeof piece.function?.arguments === "string") call.arguments += piece.function.arguments;
  }
  if (choice.finish_reason) answer.reason = choice.finish_reason;
}

// Yields the data of each server-sent event: lines end in \n, \r\n or \r, several data lines are one text.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += value ?? "";
      // A \r at the end of a piece may be half of \r\n.
      const held = !done && rest.endsWith("\r") ? "\r" : "";
      const lines = rest.slice(0, rest.length - held.length).split(/\r\n|\n|\r/);
      rest = lines.pop() + held;
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
