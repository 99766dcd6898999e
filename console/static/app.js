// The frame around the views: which one the address names, how live it is, the keyboard.

import { get, keepToken, onToken, Refused, Watch } from "./api.js";
import { fill, h } from "./dom.js";
import { show as actor } from "./view_actor.js";
import { show as actors } from "./view_actors.js";
import { show as cluster } from "./view_cluster.js";
import { show as instance } from "./view_instance.js";
import { show as instances } from "./view_instances.js";

const main = document.getElementById("view");
const live = document.getElementById("live");
const liveText = document.getElementById("live-text");

const STATES = {
  connecting: "connecting",
  live: "live",
  polling: "every 10 s",
  disconnected: "disconnected",
  paused: "paused",
};

/** What a view has of the frame around it. */
class Page {
  constructor(route, previous) {
    this.route = route;
    /** The route before, if it was of the same view: so that going on does not begin anew. */
    this.previous = previous;
    this.cleanups = [];
    this.controller = new AbortController();
  }

  title(text) {
    document.title = text ? `${text} · Perdure` : "Perdure";
  }

  /** Keeps the view up to date. */
  watch(query, value) {
    const watch = new Watch(query, {
      value: (found) => {
        trouble("");
        value(found);
      },
      error: (message) => trouble(message),
      state: (state) => {
        live.dataset.state = state;
        liveText.textContent = STATES[state];
        if (state === "disconnected") trouble("The node cannot be reached. What is shown is what was last heard of it.");
      },
    });
    this.cleanups.push(() => watch.close());
    return watch;
  }

  /** JSON, as long as the view is shown; undefined when it is no more, or when it cannot be had. */
  async ask(path, query) {
    try {
      return await get(path, query, this.controller.signal);
    } catch (error) {
      if (this.controller.signal.aborted) return undefined;
      trouble(error instanceof Refused ? error.message : "The node cannot be reached.");
      return undefined;
    }
  }

  cleanup(call) {
    this.cleanups.push(call);
  }

  close() {
    this.controller.abort();
    for (const call of this.cleanups) call();
  }
}

const troubleLine = h("p", { class: "trouble", role: "alert" });

function trouble(text) {
  if (troubleLine.textContent !== text) troubleLine.textContent = text;
  troubleLine.hidden = !text;
}

// --- routes ---------------------------------------------------------------------------------------------------------

function parse() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { parts, query: new URLSearchParams(query ?? "") };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function viewOf({ parts }) {
  if (parts[0] === "instances" && parts.length === 1) return instances;
  if (parts[0] === "instances" && parts.length === 2) return instance;
  if (parts[0] === "actors" && parts.length === 1) return actors;
  if (parts[0] === "actors" && parts.length === 3) return actor;
  if (parts[0] === "cluster" && parts.length === 1) return cluster;
  return null;
}

let current = null;

function go() {
  const route = parse();
  if (!route.parts.length) {
    location.replace("#/instances");
    return;
  }
  const view = viewOf(route);
  const same = current && current.view === view && view === instances;
  current?.page.close();
  const page = new Page(route, same ? current.page : null);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === route.parts[0]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  trouble("");
  if (!view) {
    page.title("Not found");
    fill(main, h("p", { class: "empty" }, "There is no such page."));
    current = { view, page };
    return;
  }
  // A view that goes on keeps what it shows, and the focus, until the new rows are there.
  const root = same ? current.root : h("div", { class: "page" });
  if (!same) {
    fill(main, troubleLine, root);
    scrollTo(0, 0);
    if (current) main.focus({ preventScroll: true });
  }
  current = { view, page, root };
  view(root, page);
}

addEventListener("hashchange", go);

// --- the token ------------------------------------------------------------------------------------------------------

let asking = null;

onToken((again) => {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("token");
    const input = document.getElementById("token-value");
    const why = document.getElementById("token-why");
    why.textContent = again
      ? "That was not the API token of this node."
      : "This node wants its API token. It is kept in this tab until you close it.";
    const form = document.getElementById("token-form");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener(
      "submit",
      () => {
        keepToken(input.value.trim());
        input.value = "";
        asking = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
    input.focus();
  });
  return asking;
});

// --- the keyboard ---------------------------------------------------------------------------------------------------

let leader = 0;

function typing(target) {
  return target.closest("input, select, textarea, dialog[open]") !== null;
}

function click(selector) {
  const found = document.querySelector(selector);
  if (found && !found.disabled) found.click();
}

function move(step) {
  const links = [...main.querySelectorAll("a.row")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + step, 0), links.length - 1);
  links[next].focus();
  links[next].scrollIntoView({ block: "nearest" });
}

const KEYS = {
  "/": () => document.querySelector("input[type=search]")?.focus(),
  "?": () => document.getElementById("help").showModal(),
  j: () => move(1),
  k: () => move(-1),
  "[": () => click("[data-key=newer]"),
  "]": () => click("[data-key=older]"),
  u: () => click("[data-key=up]"),
};
const PLACES = { i: "#/instances", a: "#/actors", c: "#/cluster" };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if (Date.now() - leader < 1500 && PLACES[event.key]) {
    location.hash = PLACES[event.key];
    leader = 0;
  } else if (event.key === "g") {
    leader = Date.now();
    return;
  } else if (KEYS[event.key]) {
    KEYS[event.key]();
  } else {
    return;
  }
  event.preventDefault();
});

document.getElementById("help-open").addEventListener("click", () => KEYS["?"]());
document.getElementById("skip").addEventListener("click", () => main.focus());

// --- beginning ------------------------------------------------------------------------------------------------------

async function tellApp() {
  try {
    const found = await get("v1.0/metadata");
    document.getElementById("app").textContent =
      found.namespace === "default" ? found.id : `${found.namespace} / ${found.id}`;
    document.getElementById("app").title = `app ${found.id}, namespace ${found.namespace}, Perdure ${found.runtimeVersion}`;
  } catch {
    setTimeout(tellApp, 5000);
  }
}

go();
tellApp();
