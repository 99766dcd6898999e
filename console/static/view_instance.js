// #/instances/<id>

import { fill, h, keyed, ticker } from "./dom.js";
import { ago, bytes, count, exact, number } from "./format.js";
import { History } from "./history.js";
import { payload } from "./json.js";
import { card, chip, facts, finished, instanceLink, mono, span, when } from "./parts.js";
import { Steps } from "./steps.js";

export function show(root, page) {
  const id = page.route.parts[1];
  page.title(id);
  new Instance(root, page, id);
}

class Instance {
  constructor(root, page, id) {
    this.id = id;
    this.head = h("div", { class: "head" });
    this.banner = h("div", {});
    this.waiting = h("div", {});
    this.payloads = h("div", { class: "payloads" });
    this.columns = h("div", { class: "columns" }, this.waiting, this.payloads);
    this.steps = new Steps(page, id);
    this.history = new History(page, id);
    this.rest = h(
      "div",
      {},
      this.banner,
      this.columns,
      this.steps.element,
      this.history.element,
    );
    this.rest.hidden = true;
    fill(
      root,
      h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: "#/instances", "data-key": "up" }, "Instances"), " / ", mono(id)),
      this.head,
      this.rest,
    );
    page.watch({ view: "instance", id }, (value) => this.update(value));
  }

  update(value) {
    if (!value.found) {
      this.rest.hidden = true;
      fill(this.head, h("h1", {}, mono(value.id)), h("p", { class: "empty" }, value.purged ? "This instance has been purged." : "There is no such instance."));
      return;
    }
    this.rest.hidden = false;
    // Each part is made anew only when what it shows has changed.
    part(this.head, headOf(value), renderHead);
    part(this.banner, bannerOf(value), renderBanner);
    part(this.waiting, waitingOf(value), renderWaiting);
    part(this.payloads, payloadsOf(value), renderPayloads);
    this.waiting.hidden = !value.waiting;
    this.columns.classList.toggle("one", !value.waiting);
    this.steps.update(value);
    this.history.update(value);
  }
}

function part(element, shown, render) {
  keyed(element, [shown], () => "only", (item) => h("div", {}, render(item)));
}

// --- head -------------------------------------------------------------------------------------------------------------

function headOf(value) {
  const { id, name, status, workflowVersion, generation, parent, parentName, parentType, actorType } = value;
  const { owner, inMemory, created, scheduled, started, completed, turn, updated, history, attempts, unread, tags, deaths, executionId } = value;
  return {
    id, name, status, workflowVersion, generation, parent, parentName, parentType, actorType, owner, inMemory, created,
    scheduled, started, completed, turn, updated, history, attempts, unread, tags, deaths, executionId,
  };
}

function renderHead(value) {
  const ended = finished(value.status) ? (value.completed ?? value.updated) : null;
  const own = value.parentType === value.actorType || !value.parentType;
  return [
    h("div", { class: "title" }, h("h1", {}, mono(value.id)), chip(value.status), copyButton(value.id)),
    h(
      "p",
      { class: "under" },
      h("bdi", { class: "strong" }, value.name),
      value.workflowVersion ? ` version ${value.workflowVersion}` : "",
      value.generation > 1 ? `, generation ${value.generation}` : "",
      value.parent
        ? [" · child of ", own ? instanceLink(value.parent) : mono(value.parent), value.parentName ? [" (", h("bdi", {}, value.parentName), ")"] : ""]
        : "",
      Object.entries(value.tags).map(([name, tag]) => h("span", { class: "tag" }, h("bdi", {}, `${name}: ${tag}`))),
    ),
    facts([
      ["created", when(value.created)],
      ["scheduled for", value.scheduled ? when(value.scheduled) : null],
      [ended ? "took" : "running for", value.started ? span(value.started, ended) : null],
      ["last turn", value.turn ? when(value.turn) : when(value.updated)],
      ["history", count(value.history, "event")],
      ["tried in vain", value.attempts ? count(value.attempts, "time") : null],
      ["deaths of its process", value.deaths || null],
      ["messages not taken", value.unread ? number(value.unread) : null],
      ["lives on", value.owner ? [mono(value.owner.slice(0, 8)), value.inMemory ? ", in memory" : ""] : "no node"],
      ["state", allKeys(value)],
    ]),
  ];
}

function allKeys(value) {
  const href = `#/actors/${encodeURIComponent(value.actorType)}/${encodeURIComponent(value.id)}`;
  return h("a", { href }, "all keys");
}

function copyButton(text) {
  if (!navigator.clipboard) return null;
  const button = h("button", { class: "quiet", type: "button", title: "Copy the id" }, "copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  return button;
}

// --- what is wrong ------------------------------------------------------------------------------------------------------

function bannerOf({ status, reason, sides, stall, failure, trouble }) {
  return { status, reason, sides, stall, failure, trouble };
}

const STALLS = {
  "non-determinism": "Its code does something else than its history says it did.",
  blocked: "Its code held the event loop too long.",
  unregistered: "No node that has it knows its workflow.",
  unreadable: "A part of its state cannot be read.",
  rejected: "The store refuses what it would write.",
  crashed: "The process died each time its code ran.",
  internal: "The runtime itself failed on it.",
};
const ADVICE = {
  "non-determinism": "Deploy the code that it was started with and resume it, or start a new instance.",
  blocked: "Resume it once the code no longer does that.",
  unregistered: "It goes on when a node with that workflow takes it.",
  crashed: "Resume it once the code no longer does that.",
};

function renderBanner({ status, reason, sides, stall, failure, trouble }) {
  const found = [];
  if (trouble) found.push(h("div", { class: "banner bad", role: "alert" }, h("h2", {}, "Damaged"), h("p", { class: "reason" }, trouble)));
  if (status === "stalled") found.push(stalled(reason, sides, stall));
  else if (status === "failed" && failure) found.push(failed(failure));
  else if (reason) found.push(h("div", { class: "banner" }, h("h2", {}, status), h("p", { class: "reason" }, reason)));
  return found;
}

function stalled(reason, sides, stall) {
  return h(
    "div",
    { class: "banner bad", role: "alert" },
    h("h2", {}, "Stalled"),
    STALLS[stall] ? h("p", {}, STALLS[stall]) : null,
    sides
      ? h(
          "div",
          { class: "sides" },
          h("div", {}, h("h3", {}, "The history says"), h("p", { class: "reason" }, sides.history)),
          h("div", {}, h("h3", {}, "The code now"), h("p", { class: "reason" }, sides.code)),
        )
      : h("p", { class: "reason" }, reason),
    ADVICE[stall] ? h("p", { class: "note" }, ADVICE[stall]) : null,
  );
}

function failed(failure) {
  return h(
    "div",
    { class: "banner bad", role: "alert" },
    h("h2", {}, "Failed"),
    h("p", { class: "reason" }, h("strong", {}, failure.type), ": ", failure.message),
    failure.stack ? stack(failure.stack) : null,
    failure.inner ? cause(failure.inner) : null,
  );
}

function cause(failure) {
  return h(
    "div",
    { class: "cause" },
    h("h3", {}, "because of"),
    h("p", { class: "reason" }, h("strong", {}, failure.type), ": ", failure.message),
    failure.stack ? stack(failure.stack) : null,
    failure.inner ? cause(failure.inner) : null,
  );
}

function stack(text) {
  return h("details", {}, h("summary", {}, "Stack"), h("pre", { tabindex: "0" }, text));
}

// --- what it waits for --------------------------------------------------------------------------------------------------

function waitingOf({ waiting, status, scheduled, started }) {
  return { waiting, status, scheduled: started ? null : scheduled };
}

function renderWaiting({ waiting, status, scheduled }) {
  if (!waiting) return [];
  const items = [
    ...(scheduled ? [wait("start", "its start", [when(scheduled)])] : []),
    ...(waiting.events ?? []).map((name) =>
      wait("event", ["event ", h("bdi", { class: "strong" }, name)], ["until somebody raises it"]),
    ),
    ...waiting.items.map(waitItem),
  ];
  const more = waiting.total - waiting.items.length;
  return card(
    "Waiting for",
    { class: "waiting" },
    items.length ? h("ul", { class: "waits" }, items) : null,
    more > 0 ? h("p", { class: "note" }, `… and ${number(more)} more.`) : null,
    status === "suspended" ? h("p", { class: "note" }, "It is paused: whatever comes waits until it is resumed.") : null,
    status === "stalled" ? h("p", { class: "note" }, "It is stalled: whatever comes waits until it is resumed.") : null,
    waiting.nothing && status === "running"
      ? h("p", { class: "note warn" }, "Its code waits for nothing that can come.")
      : null,
    waiting.why && status !== "stalled" ? h("p", { class: "note" }, `Which events it waits for is not known: ${waiting.why}.`) : null,
    !items.length && !waiting.nothing && !waiting.why && status === "running" ? h("p", { class: "note" }, "Its next turn.") : null,
  );
}

function wait(kind, what, how) {
  return h("li", { class: `wait k-${kind}` }, h("div", { class: "what" }, what), h("div", { class: "how" }, how));
}

function due(time) {
  return ticker("time", { title: exact(time) }, () => ago(time));
}

function waitItem(item) {
  const name = h("bdi", { class: "strong" }, item.name);
  const task = h("span", { class: "task" }, `task ${item.task}`);
  switch (item.kind) {
    case "activity":
      return wait("activity", ["activity ", name, task], [where(item), attempts(item), " · since ", when(item.since)]);
    case "retry":
      return wait("retry", ["the next attempt of ", name, task], [
        due(item.due),
        ` · ${count(item.attempt, "attempt")} so far`,
        item.error ? h("div", { class: "error" }, item.error) : "",
      ]);
    case "child":
      return wait("child", ["child workflow ", name, task], [
        item.app ? mono(item.instance) : instanceLink(item.instance),
        item.app ? ` of app ${item.app}` : "",
        attempts(item),
        " · since ",
        when(item.since),
      ]);
    case "wait":
      return wait("event", ["event ", name, task], ["gives up ", due(item.due)]);
    default:
      return wait("timer", ["a timer", task], ["due ", due(item.due), ` · ${exact(item.due)}`]);
  }
}

function attempts(item) {
  return item.attempt > 1
    ? [` · attempt ${item.attempt}`, item.error ? h("div", { class: "error" }, `before: ${item.error}`) : ""]
    : "";
}

function where(item) {
  const node = item.node ? mono(item.node.slice(0, 8)) : "";
  const app = item.app ? ` of app ${item.app}` : "";
  switch (item.state) {
    case "running":
      return [h("span", { class: "good" }, "running"), " on node ", node];
    case "queued":
      return ["queued on node ", node, ": it runs as many as it may"];
    case "answered":
      return ["done on node ", node, ", its answer is on the way"];
    case "sent":
      return ["with node ", node];
    case "expected":
      return ["by the table with node ", node];
    default:
      return h("span", { class: "bad-text" }, `no node${app} has this activity`);
  }
}

// --- what went in and came out ------------------------------------------------------------------------------------------

function payloadsOf({ input, customStatus, output }) {
  return { input, customStatus, output };
}

function renderPayloads({ input, customStatus, output }) {
  const one = (title, value) =>
    value ? card(title, { extra: value.length > 1000 ? h("span", { class: "note" }, bytes(value.length)) : null }, payload(value)) : null;
  return [
    input ? one("Input", input) : card("Input", {}, h("p", { class: "note" }, "none")),
    one("Custom status", customStatus),
    one("Output", output),
  ];
}
