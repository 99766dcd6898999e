// Asking the node: once, or as a stream of server-sent events over fetch, which can show the API token.

import { setNow } from "./format.js";

const TOKEN_KEY = "perdure-api-token";
const RETRY_FIRST = 500;
const RETRY_LAST = 5000;
/** The node gives a sign of life every 5 s. */
const SILENCE = 16_000;
/** Without a stream the view is asked for again. */
const POLL = 10_000;

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let askForToken = async () => {};

/** `ask(again)` returns when somebody has given a token. */
export function onToken(ask) {
  askForToken = ask;
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

function address(path, query) {
  const url = new URL(path, document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

async function answer(path, query, signal) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const response = await fetch(address(path, query), {
    signal,
    cache: "no-store",
    credentials: "omit",
    headers: token ? { "dapr-api-token": token } : {},
  });
  if (response.ok) return response;
  let said = {};
  try {
    said = await response.json();
  } catch {
    // Not a node's answer: a proxy's, perhaps.
  }
  if (response.status === 401) {
    await askForToken(token !== null);
    signal?.throwIfAborted();
    return answer(path, query, signal);
  }
  throw new Refused(response.status, said.errorCode ?? "", said.message ?? `${response.status} ${response.statusText}`);
}

/** The JSON at a path; null for an empty answer. `Refused`. */
export async function get(path, query, signal) {
  const response = await answer(path, query, signal);
  return response.status === 204 ? null : response.json();
}

/**
 * Keeps a view up to date until `close`. `on.value(value)`, `on.error(message, code)` (it goes on), and
 * `on.state("connecting" | "live" | "polling" | "disconnected" | "paused")`.
 */
export class Watch {
  constructor(query, on) {
    this.query = query;
    this.on = on;
    this.closed = false;
    this.failures = 0;
    this.visible = () => this.seen();
    document.addEventListener("visibilitychange", this.visible);
    this.run();
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.visible);
    this.abort?.abort();
    this.wake?.();
  }

  /** A tab that nobody looks at costs the node nothing, and leaves the browser's few connections to those that are. */
  seen() {
    if (document.hidden) {
      this.abort?.abort();
    } else {
      this.failures = 0;
      this.wake?.();
    }
  }

  async run() {
    while (!this.closed) {
      if (document.hidden) {
        this.state("paused");
        await this.sleep(null);
        continue;
      }
      this.abort = new AbortController();
      try {
        await this.follow(this.abort.signal);
      } catch (error) {
        if (this.closed) return;
        await this.failed(error);
      }
    }
  }

  async failed(error) {
    if (document.hidden) return;
    if (error instanceof Refused && error.status < 500) {
      // Asking again would not help.
      this.state("live");
      this.on.error(error.message, error.code);
      await this.sleep(null);
    } else if (error.code === "ERR_TOO_MANY_STREAMS" && (await this.poll())) {
      await this.sleep(POLL);
    } else {
      this.state("disconnected");
      await this.sleep(Math.min(RETRY_FIRST * 2 ** this.failures++, RETRY_LAST) * (0.75 + Math.random() / 2));
    }
  }

  async follow(signal) {
    if (!this.failures) this.state("connecting");
    const response = await answer("console/events", this.query, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const silence = setTimeout(() => this.abort.abort(), SILENCE);
      let part;
      try {
        part = await reader.read();
      } finally {
        clearTimeout(silence);
      }
      if (part.done) throw new Error("the stream has ended");
      this.failures = 0;
      this.state("live");
      const frames = (rest + part.value).split("\n\n");
      rest = frames.pop();
      // Only the newest counts.
      const data = frames.findLast((frame) => frame.startsWith("data: "));
      if (data) this.take(JSON.parse(data.slice(6)));
    }
  }

  /** Asks once, in place of the stream that there is no room for. */
  async poll() {
    try {
      this.take(await get("console/view", this.query, this.abort.signal));
    } catch {
      return false;
    }
    this.state("polling");
    return true;
  }

  take(found) {
    if (this.closed) return;
    setNow(found.now);
    if (found.error) this.on.error(found.error.message, found.error.code);
    else this.on.value(found.value);
  }

  state(state) {
    if (!this.closed && state !== this.told) {
      this.told = state;
      this.on.state(state);
    }
  }

  sleep(milliseconds) {
    return new Promise((resolve) => {
      const timer = milliseconds === null ? null : setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
