// Elements from values. Text is only ever set as text: nothing here can turn a value into markup.

/** An element; `attributes` may hold `class`, `on…` handlers, `style` (an object), and plain attributes. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) set(element, name, value);
  add(element, children);
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
  else if (name === "class") element.className = value;
  else element.setAttribute(name, value === true ? "" : String(value));
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Replaces the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

/**
 * Makes the children of `parent` those of `items`, and leaves alone those that did not change: what has the focus, is
 * selected or opened stays so.
 */
export function keyed(parent, items, key, render) {
  const known = parent.known ?? new Map();
  const now = new Map();
  let focus = parent.contains(document.activeElement) ? document.activeElement : null;
  const nodes = items.map((item, index) => {
    const id = key(item, index);
    const text = JSON.stringify(item);
    const before = known.get(id);
    const same = before && before.text === text;
    const node = same ? before.node : render(item, index, before?.node);
    if (before && !same && before.node.contains(focus)) focus = counterpart(before.node, node, focus);
    now.set(id, { text, node });
    return node;
  });
  parent.known = now;
  nodes.forEach((node, index) => {
    const there = parent.children[index];
    if (there !== node) parent.insertBefore(node, there ?? null);
  });
  while (parent.children.length > nodes.length) parent.lastElementChild.remove();
  if (focus?.isConnected && document.activeElement !== focus) focus.focus({ preventScroll: true });
}

const FOCUSABLE = "a, button, input, select, summary, pre";

/** What in `after` is in the place that `element` has in `before`. */
function counterpart(before, after, element) {
  const index = [...before.querySelectorAll(FOCUSABLE)].indexOf(element);
  return index < 0 ? null : (after.querySelectorAll(FOCUSABLE)[index] ?? null);
}

const ticking = new Set();

/** A text that changes with time: `text()` is asked every second while the element is shown. */
export function ticker(tag, attributes, text) {
  const element = h(tag, attributes, text());
  ticking.add({ element, text, seen: false });
  return element;
}

setInterval(() => {
  for (const one of ticking) {
    if (one.element.isConnected) {
      one.seen = true;
      const text = one.text();
      if (one.element.textContent !== text) one.element.textContent = text;
    } else if (one.seen) {
      ticking.delete(one);
    } else {
      one.seen = true;
    }
  }
}, 1000);
