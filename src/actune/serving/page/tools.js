// What a person writes into the box of tools -> OpenAI tools. Two forms: JSON, and the API list of a ReAct system text.
// A flat list of parameters becomes a JSON Schema exactly as src/actune/core/api_list.py does it (schema_of_list).

import { say } from "./words.js";

const TYPES = {
  str: "string", text: "string", int: "integer", long: "integer", float: "number", double: "number",
  bool: "boolean", list: "array", tuple: "array", dict: "object", map: "object", json: "object",
};
const MARK = "Parameters: ";

export class ToolsError extends Error {}

const fail = (key, values) => { throw new ToolsError(say(key, values)); };
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isNamedList = (value) => Array.isArray(value) && value.every((x) => isObject(x) && typeof x.name === "string");

// Returns the tools in OpenAI's form; throws a ToolsError whose message a person can read.
export function readTools(text) {
  const trimmed = text.trim();
  if (!trimmed) return [];
  const given = /^[[{]/.test(trimmed) ? readJson(text) : readApiList(text);
  const names = new Set();
  return given.map((item, index) => {
    const tool = readTool(item, index + 1);
    if (names.has(tool.function.name)) fail("tool_twice", { name: tool.function.name });
    names.add(tool.function.name);
    return tool;
  });
}

function readJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    fail("json_bad", { why: placeOf(error.message, text) });
  }
  if (isObject(value)) value = Array.isArray(value.tools) ? value.tools : [value];
  if (!Array.isArray(value)) fail("not_list");
  return value;
}

// Engines name the place as "position N", with or without line and column.
function placeOf(why, text) {
  const found = /position (\d+)/.exec(why);
  if (!found || /line \d+/.test(why)) return why;
  const lines = text.slice(0, Number(found[1])).split("\n");
  return say("json_place", { why, line: lines.length, column: lines.at(-1).length + 1 });
}

function readTool(item, n) {
  if (!isObject(item)) fail("tool_object", { n });
  const wrapped = item.function !== undefined && item.function !== null;
  if (wrapped && item.type !== undefined && item.type !== "function") fail("tool_kind", { n, kind: JSON.stringify(item.type) });
  const given = wrapped ? item.function : item;
  if (!isObject(given)) fail("tool_object", { n });
  const name = given.name;
  if (typeof name !== "string" || !name.trim()) fail("tool_name", { n });
  if (given.description != null && typeof given.description !== "string") fail("tool_description", { name });
  const parameters = given.parameters;
  if (isNamedList(parameters)) {
    const described = { name, description: given.description || "", parameters: schemaOfList(parameters) };
    return { type: "function", function: described };
  }
  const schema = parameters == null || (isObject(parameters) && !Object.keys(parameters).length)
    ? { type: "object", properties: {} } : parameters;
  if (!isObject(schema) || (schema.type ?? "object") !== "object") fail("tool_parameters", { name });
  return { type: "function", function: { ...given, parameters: schema } };
}

// --- the API list ------------------------------------------------------------------------------------------------------

function readApiList(text) {
  const source = text.replace(/\r\n?/g, "\n");
  const first = /(?:^|\n)[ ]*1\. [^:\n]+:/.exec(source);
  if (!first) fail("list_empty");
  const closing = /\n\s*(?:Use the following format:|请使用以下格式：)/.exec(source);
  const body = source.slice(first.index, closing && closing.index > first.index ? closing.index : source.length);
  const tools = [];
  let rest = body.trim();
  while (rest) {
    const n = tools.length + 1;
    const head = new RegExp("^" + n + "\\. ([^:\\n]+):[ ]?").exec(rest);
    if (!head) fail("list_entry", { n, text: rest.slice(0, 60) });
    const name = head[1].trim();
    const next = new RegExp("\\n\\s*" + (n + 1) + "\\. [^:\\n]+:").exec(rest);
    const entry = rest.slice(head[0].length, next ? next.index : rest.length);
    tools.push(readEntry(name, entry, n));
    rest = next ? rest.slice(next.index).trim() : "";
  }
  return tools;
}

// The description may hold anything, also the word Parameters: the list that reaches to the end of the entry counts.
function readEntry(name, entry, n) {
  let at = entry.indexOf(MARK);
  if (at < 0) fail("list_entry", { n, text: (name + ": " + entry).slice(0, 60) });
  for (; at >= 0; at = entry.indexOf(MARK, at + 1)) {
    let listed = null;
    try {
      listed = JSON.parse(entry.slice(at + MARK.length));
    } catch {
      continue;
    }
    if (isNamedList(listed)) return { name, description: entry.slice(0, at).replace(/ $/, ""), parameters: listed };
  }
  return fail("list_parameters", { name });
}

function schemaOfList(listed) {
  const properties = {};
  const required = [];
  for (const item of listed) {
    const entry = isObject(item.schema) ? { ...item.schema } : {};
    for (const [key, value] of Object.entries(item)) if (!["name", "required", "schema"].includes(key)) entry[key] = value;
    if (typeof entry.type === "string") entry.type = TYPES[entry.type.toLowerCase()] ?? entry.type.toLowerCase();
    properties[item.name] = entry;
    if (["true", "1", "yes"].includes(String(item.required ?? "False").trim().toLowerCase())) required.push(item.name);
  }
  return required.length ? { type: "object", properties, required } : { type: "object", properties };
}

// --- examples ----------------------------------------------------------------------------------------------------------

const text = (description) => ({ type: "string", description });
const tool = (name, description, properties) => ({
  type: "function",
  function: { name, description, parameters: { type: "object", properties, required: Object.keys(properties) } },
});

// The functions are those of examples/demo_tools.py, the list is the one of the reference recipe (examples/fire_alarm).
export const EXAMPLES = {
  json: {
    tools: JSON.stringify([
      tool("repair_bike", "Repair a bike.", { city: text("the city"), time: text("the time of day") }),
      tool("find_hotel", "Find a hotel.", { city: text("the city") }),
    ], null, 1),
    question: "Please repair my bike in the city of Torela, at 10:30.",
  },
  list: {
    tools: [
      '1. fire_recognition: Call this tool to interact with the fire recognition API. This API is used to recognize whether there is fire in the image. Parameters: [{"name": "image", "description": "The input image to recognize fire", "required": "True"}]',
      "2. fire_alert: Call this tool to interact with the fire alert API. This API will start an alert to warn the building's administraters. Parameters: []",
      "3. call_police: Call this tool to interact with the police calling API. This API will call 110 to catch the thief. Parameters: []",
      "4. call_fireman: Call this tool to interact with the fireman calling API. This API will call 119 to extinguish the fire. Parameters: []",
    ].join("\n\n"),
    question: "Is there fire in /images/hall.jpg? If so, warn the building.",
  },
  none: { tools: "", question: "" },
};
