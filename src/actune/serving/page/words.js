// Every text of the page in both languages: [English, Chinese]. {name} is replaced.

const TEXTS = {
  title: ["Chat with tools", "带工具的对话"],
  lead: ["You are the tools: the model calls, you write what comes back.", "由你充当工具：模型发出调用，你填写返回的结果。"],
  settings: ["Settings", "设置"],
  fixed_legend: ["Fixed for a conversation", "在一次对话中固定"],
  fixed: ["Fixed for this conversation; a new one can change them.", "本次对话中固定不变；开始新对话后可以修改。"],
  model: ["Model", "模型"],
  beside: ["Beside it", "并排对照"],
  nobody: ["no other", "无"],
  system: ["System text", "系统提示"],
  tools: ["Tools", "工具"],
  tools_help: ["OpenAI functions as JSON, or an API list; empty for none.", "OpenAI 函数的 JSON，或 API 列表；留空表示没有工具。"],
  tools_none: ["No tools: a plain chat.", "没有工具：普通对话。"],
  tools_some: ["{n} tools: {names}", "{n} 个工具：{names}"],
  tools_one: ["1 tool: {names}", "1 个工具：{names}"],
  example: ["Example", "示例"],
  example_json: ["functions (JSON)", "函数（JSON）"],
  example_list: ["API list", "API 列表"],
  example_none: ["none", "无"],
  example_own: ["your own", "自定义"],
  temperature: ["Temperature", "温度"],
  max_tokens: ["Most tokens", "最多词元数"],
  key: ["API key", "API 密钥"],
  key_note: ["Only where the server asks for one; it is kept until this page is closed.", "仅在服务器要求时填写；只保留到本页关闭。"],
  question: ["Your message", "你的消息"],
  ask: ["For example: {text}", "例如：{text}"],
  send: ["Send", "发送"],
  stop: ["Stop", "停止"],
  restart: ["New conversation", "新对话"],
  keys: ["Enter sends, Shift+Enter starts a line, Esc stops", "Enter 发送，Shift+Enter 换行，Esc 停止"],
  empty: ["Nothing said yet.", "还没有内容。"],
  user: ["You", "你"],
  system_name: ["System", "系统"],
  reasoning: ["Reasoning", "思考"],
  nothing: ["(no text)", "（没有文字）"],
  call: ["Call", "调用"],
  arguments_none: ["(no arguments)", "（没有参数）"],
  arguments_bad: ["The arguments are no JSON object.", "参数不是 JSON 对象。"],
  tool_unknown: ["No such tool was given.", "没有提供这个工具。"],
  observation_of: ["Observation of {name}", "{name} 的 Observation（工具返回）"],
  observations_send: ["Send observation", "发送 Observation"],
  observations_send_many: ["Send {n} observations", "发送 {n} 个 Observation"],
  observations_keys: ["Ctrl+Enter sends", "Ctrl+Enter 发送"],
  working: ["The model is writing.", "模型正在输出。"],
  done: ["The answer is complete.", "回答完毕。"],
  asks: ["The model calls {names}. Fill in what comes back.", "模型调用了 {names}。请填写返回的结果。"],
  usage: ["{prompt} prompt + {completion} answer tokens, {seconds} s", "提示 {prompt} + 回答 {completion} 词元，{seconds} 秒"],
  time: ["{seconds} s", "{seconds} 秒"],
  cut: ["Cut at the limit of tokens. A saved row does not train this answer.", "达到词元上限，被截断。保存的数据行不训练这条回答。"],
  filtered: ["Ended by the server ({reason}).", "被服务器结束（{reason}）。"],
  stopped: ["Stopped. What came so far is no part of the conversation.", "已停止。已输出的部分不计入对话。"],
  again: ["Try again", "重试"],
  back: ["Take back what was sent", "撤回所发内容"],
  save: ["Save as a training row", "保存为训练数据行"],
  no_models: ["The server offers no model.", "服务器没有提供模型。"],
  no_server: ["The server does not answer: {why}. Is it still running?", "服务器没有响应：{why}。它还在运行吗？"],
  broke: ["The connection ended before the answer did.", "回答尚未结束，连接已中断。"],
  refused: ["The server refused ({status}): {message}", "服务器拒绝了请求（{status}）：{message}"],
  failed: ["The server reported an error: {message}", "服务器报告错误：{message}"],
  key_wanted: ["Give the API key in the settings.", "请在设置中填写 API 密钥。"],
  key_bad: ["The API key holds blanks or letters that no key has.", "API 密钥含有空格或不能用于密钥的字符。"],
  no_number: ["{field} is no number in its range.", "“{field}”不是有效范围内的数字。"],
  json_bad: ["This is no JSON: {why}", "不是 JSON：{why}"],
  json_place: ["{why} (line {line}, column {column})", "{why}（第 {line} 行，第 {column} 列）"],
  not_list: ["A list of functions is wanted: [{...}, {...}]", "需要函数的列表：[{...}, {...}]"],
  tool_object: ["Tool {n} is no object.", "第 {n} 个工具不是对象。"],
  tool_kind: ["Tool {n} is of type {kind}; only functions can be called here.", "第 {n} 个工具的类型是 {kind}；这里只能调用函数。"],
  tool_name: ["Tool {n} has no name.", "第 {n} 个工具没有名称。"],
  tool_twice: ["The tool {name} stands twice.", "工具 {name} 出现了两次。"],
  tool_description: ["The description of {name} is no text.", "{name} 的描述不是文字。"],
  tool_parameters: ["The parameters of {name} are neither a JSON Schema of type object nor a list of names.", "{name} 的参数既不是 object 类型的 JSON Schema，也不是参数列表。"],
  list_empty: ["No entry like '1. name: description Parameters: [...]' was found.", "没有找到“1. 名称: 描述 Parameters: [...]”这样的条目。"],
  list_entry: ["Entry {n} is not like '{n}. name: description Parameters: [...]': {text}", "第 {n} 条不是“{n}. 名称: 描述 Parameters: [...]”的形式：{text}"],
  list_parameters: ["The Parameters of {name} are no JSON list of objects with a name.", "{name} 的 Parameters 不是带 name 的对象的 JSON 列表。"],
};

let language = /^zh\b/i.test(navigator.language || "") ? "zh" : "en";

export const currentLanguage = () => language;

// Returns the text `key` in the chosen language.
export function say(key, values = {}) {
  const text = TEXTS[key][language === "zh" ? 1 : 0];
  return text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
}

// Sets the language of everything that stands in the page with `data-t`; its values stand as JSON in `data-v`.
export function setLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = say("title") + " · actune";
  for (const element of document.querySelectorAll("[data-t]")) {
    element.textContent = say(element.dataset.t, JSON.parse(element.dataset.v || "{}"));
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
}

// Writes a text that follows the language into an element.
export function label(element, key, values = {}) {
  element.dataset.t = key;
  element.dataset.v = JSON.stringify(values);
  element.textContent = say(key, values);
  return element;
}
