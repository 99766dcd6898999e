// JSON as it was written, indented and coloured. Numbers and texts are never converted: what is shown is what is there.

import { h } from "./dom.js";

const TOKEN = /("(?:[^"\\]|\\.)*")|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null)|([{}[\],:])|(\s+)/gy;
const SHORT = 64;
/** Longer texts are shown without colours: each coloured word is an element. */
const COLOURED = 24_000;

/** A block with a payload: `{text, length, cut}`. */
export function payload(value) {
  const tokens = value.cut ? null : tokenize(value.text);
  const shown = tokens ? pretty(tokens, value.text) : [value.text];
  const block = h("pre", { class: "json", tabindex: "0" }, ...shown);
  if (!value.cut) return block;
  return h("div", {}, block, h("p", { class: "note" }, `The first ${value.text.length} of ${value.length} characters.`));
}

/** On one line, cut: for tables. */
export function inline(text, limit = 80) {
  return text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
}

/** The tokens of a JSON text; null when it is none. */
export function tokenize(text) {
  const found = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const match = TOKEN.exec(text);
    if (!match) return null;
    if (match[5] === undefined) found.push({ text: match[0], kind: kind(match) });
  }
  for (let index = 0; index + 1 < found.length; index++) {
    if (found[index].kind === "string" && found[index + 1].text === ":") found[index].kind = "key";
  }
  return found;
}

function kind(match) {
  if (match[1] !== undefined) return "string";
  if (match[2] !== undefined) return "number";
  if (match[3] !== undefined) return "word";
  return "mark";
}

function pretty(tokens, text) {
  const parts = [];
  const colour = text.length <= COLOURED;
  const flat = text.length <= SHORT;
  let depth = 0;
  const line = () => (flat ? "" : `\n${"  ".repeat(depth)}`);
  tokens.forEach((token, index) => {
    const next = tokens[index + 1]?.text;
    const shown = token.kind === "mark" || !colour ? token.text : h("span", { class: `j-${token.kind}` }, token.text);
    if (token.text === "{" || token.text === "[") {
      depth += 1;
      parts.push(token.text, next === "}" || next === "]" ? "" : line());
    } else if (token.text === "}" || token.text === "]") {
      depth -= 1;
      const empty = tokens[index - 1]?.text === "{" || tokens[index - 1]?.text === "[";
      parts.push(empty ? "" : line(), token.text);
    } else if (token.kind === "mark" && token.text === ",") {
      parts.push(",", flat ? " " : line());
    } else if (token.kind === "mark" && token.text === ":") {
      parts.push(": ");
    } else {
      parts.push(shown);
    }
  });
  return joined(parts);
}

function joined(parts) {
  const found = [];
  for (const part of parts) {
    if (typeof part === "string" && typeof found.at(-1) === "string") found[found.length - 1] += part;
    else found.push(part);
  }
  return found;
}
