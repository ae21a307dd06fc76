// One event stream, the words for its state, and re-reading this page when the stream alone cannot be trusted.

const STALE_AFTER_MS = 10_000; // without a stream
const SILENCE_MS = 25_000; // pings come every 15 s, but as comments that scripts cannot see
const REOPEN_MS = 3_000; // the browser retries by itself, except after an HTTP error

const label = document.getElementById("connection");
let lostAt = null;
let staleTimer;

function show(state) {
  if (label.dataset.state === state || label.dataset.state === "signed-out") return;
  label.dataset.state = state;
  label.textContent = {
    live: "Live",
    reconnecting: "Reconnecting…",
    stale: `Stale: as of ${new Date(lostAt).toLocaleTimeString()}, still trying`,
    "signed-out": "Signed out: reload to sign in",
  }[state];
}

function lost() {
  lostAt ??= Date.now();
  if (label.dataset.state !== "stale") show("reconnecting");
  staleTimer ??= setTimeout(show, STALE_AFTER_MS, "stale");
}

function found() {
  clearTimeout(staleTimer);
  staleTimer = undefined;
  lostAt = null;
  show("live");
}

// Follow `url`. `onJob(event)` sees every job event; `refresh()` re-reads the page and resolves to whether it could.
export function follow(url, onJob, refresh) {
  let source;
  let heard = Date.now();
  let reopenTimer;

  function open() {
    clearTimeout(reopenTimer);
    source?.close();
    const mine = (source = new EventSource(url));
    mine.addEventListener("open", () => {
      heard = Date.now();
      found();
      refresh(); // what happened between the page and this stream, or while we were away
    });
    mine.addEventListener("error", () => {
      if (mine !== source) return;
      lost();
      if (mine.readyState === EventSource.CLOSED) {
        reopenTimer = setTimeout(open, REOPEN_MS * (0.75 + Math.random() / 2));
        refresh(); // tells us when it was the session that ended
      }
    });
    mine.addEventListener("job", (message) => {
      heard = Date.now();
      onJob(JSON.parse(message.data));
    });
    mine.addEventListener("reset", () => {
      heard = Date.now();
      refresh();
    });
  }

  // A dead network keeps a stream "open" for minutes: when it is silent, ask.
  setInterval(async () => {
    if (Date.now() - heard < SILENCE_MS || source.readyState !== EventSource.OPEN) return;
    heard = Date.now();
    if (!(await refresh())) {
      lost();
      open();
    }
  }, 5_000);
  addEventListener("online", open);
  addEventListener("pageshow", (event) => event.persisted && open());
  open();
}

// This page as the server has it now, parsed, or null. Never throws.
export async function fetchPage(url) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(10_000) });
    if (new URL(response.url).pathname === "/sign-in") show("signed-out");
    else if (response.ok) return new DOMParser().parseFromString(await response.text(), "text/html");
  } catch {
    // No network or too slow: the caller tries again with the next event.
  }
  return null;
}

// Put the fresh page's `data-region` elements in place of ours where they differ.
export function replaceRegions(fresh) {
  for (const ours of document.querySelectorAll("[data-region]")) {
    const theirs = fresh.getElementById(ours.id);
    if (!theirs) continue;
    for (const { dataset } of ours.querySelectorAll("details[open][data-key]")) {
      theirs.querySelector(`details[data-key="${CSS.escape(dataset.key)}"]`)?.setAttribute("open", "");
    }
    if (ours.isEqualNode(theirs)) continue;
    // Whoever stood on a link or button with the keyboard stands on its successor afterwards.
    const stood = [...ours.querySelectorAll("a, button, summary, pre")].indexOf(document.activeElement);
    ours.replaceChildren(...document.importNode(theirs, true).childNodes);
    if (stood >= 0) (ours.querySelectorAll("a, button, summary, pre")[stood] ?? document.getElementById("main")).focus();
  }
}

// A version of `work` that runs once at a time, and rests `restMs` or ten times as long as the work took, whichever
// is more. A call during the rest waits for its end; a call during the work makes it run once more.
export function throttled(work, restMs) {
  let running = null;
  let again = false;
  let nextAt = 0;
  async function once() {
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, nextAt - Date.now())));
    again = false;
    const start = Date.now();
    const answer = await work();
    nextAt = Date.now() + Math.max(restMs, 10 * (Date.now() - start));
    return answer;
  }
  return function run() {
    if (running) {
      again = true;
      return running;
    }
    running = once().finally(() => {
      running = null;
      if (again) run();
    });
    return running;
  };
}

const number = (value) => (typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 6 }) : "");

// Show a job event's progress in a `.meter` (see `meter` in templates/_macros.html).
export function fillMeter(meter, { status, progress }) {
  meter.hidden = status !== "RUNNING" || !progress;
  if (meter.hidden) return;
  const bar = meter.querySelector("progress");
  const { current, total, message } = progress;
  if (total > 0) {
    bar.max = total;
    bar.value = current ?? 0;
  } else {
    bar.removeAttribute("value");
  }
  meter.querySelector(".meter-text").textContent =
    number(current) + (total ? ` of ${number(total)}` : "") + (message ? ` · ${message}` : "");
}
