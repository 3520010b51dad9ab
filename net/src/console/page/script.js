// The page: which view is shown, and asking the node once a second for as long as somebody looks.

import { pill } from "./dom.js";
import { Group, Groups, Topic, Topics } from "./lists.js";
import { History, Overview } from "./overview.js";
import { Records } from "./records.js";

const INTERVAL_MS = 1000;
const RETRY_MS = 3000;
const PATIENCE_MS = 6000;

const place = document.getElementById("view");
const notice = document.getElementById("notice");
const pauseButton = document.getElementById("pause");
const themeButton = document.getElementById("theme");

const history = new History();
let view;
let isPaused = false;
let isUnreachable = false;
let timer;

/** Asks the node; what it refuses is an error in its own words. */
async function api(what, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const response = await fetch(`api/v1/${what}${query && "?" + query}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (response.headers.get("content-type") !== "application/json") throw new Error((await response.text()).trim());
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

const VIEWS = {
  overview: () => {
    const overview = new Overview();
    return { element: overview.element, shown: () => overview.show(history) };
  },
  topics: () => new Topics(api),
  topic: (parameters) => new Topic(api, parameters),
  groups: () => new Groups(api),
  group: (parameters) => new Group(api, parameters),
  records: (parameters) => new Records(api, parameters, go),
};
const TABS = { topic: "topics", group: "groups" };

function go(path, parameters) {
  const hash = `#/${path}?${new URLSearchParams(parameters)}`;
  if (hash === location.hash) show();
  else location.hash = hash;
}

function say(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

async function show() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const name = path in VIEWS ? path : "overview";
  view = VIEWS[name](new URLSearchParams(query));
  place.replaceChildren(view.element);
  window.scrollTo(0, 0);
  say("");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${TABS[name] ?? name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · Corelog`;
  const shown = view;
  if (shown.begin) await shown.begin().catch((error) => shown === view && say(told(error)));
  else await tick();
}

const told = (error) =>
  error.name === "TimeoutError" ? "The node does not answer." : error instanceof TypeError ? "The node cannot be reached. Trying again." : error.message;

function showNode(answer) {
  document.getElementById("node").textContent = `node ${answer.node} · ${answer.version}`;
  const { status, reason } = answer.health;
  const offline = answer.health.partitions_offline ?? 0;
  const health = document.getElementById("health");
  const [text, kind] = status !== "ok" ? [status, "bad"] : offline > 0 ? [`${offline} offline`, "warn"] : ["healthy", "good"];
  const shown = pill(text, kind);
  health.className = shown.className;
  health.textContent = text;
  health.title = reason ?? "";
}

/** One round of questions. The next one begins when this one is answered. */
async function tick() {
  clearTimeout(timer);
  let wait = INTERVAL_MS;
  const asked = view;
  try {
    const answer = await api("node");
    history.add(answer);
    showNode(answer);
    asked.shown?.();
    await asked.update?.();
    if (asked === view && (!asked.begin || isUnreachable)) say("");
    isUnreachable = false;
  } catch (error) {
    if (asked === view) say(told(error));
    isUnreachable = true;
    wait = RETRY_MS;
  }
  clearTimeout(timer);
  if (!isPaused && !document.hidden) timer = setTimeout(tick, wait);
}

pauseButton.addEventListener("click", () => {
  isPaused = !isPaused;
  pauseButton.textContent = isPaused ? "Resume" : "Pause";
  pauseButton.setAttribute("aria-pressed", String(isPaused));
  if (isPaused) clearTimeout(timer);
  else tick();
});

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  const root = document.documentElement;
  if (theme === "auto") root.removeAttribute("data-theme");
  else root.setAttribute("data-theme", theme);
  themeButton.textContent = theme[0].toUpperCase() + theme.slice(1);
  themeButton.dataset.now = theme;
}

function remembered() {
  try {
    return localStorage.getItem("corelog-theme");
  } catch {
    return null;
  }
}

themeButton.addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(themeButton.dataset.now) + 1) % THEMES.length];
  setTheme(theme);
  try {
    localStorage.setItem("corelog-theme", theme);
  } catch {
    // A browser that keeps nothing: the theme lasts as long as the page.
  }
});
setTheme(THEMES.includes(remembered()) ? remembered() : "auto");

document.addEventListener("visibilitychange", () => !document.hidden && !isPaused && tick());
window.addEventListener("hashchange", show);
show().then(() => view.begin && tick());
