"use strict";
// What the relay says is text, whatever is in it: a name of a rule or a link never becomes markup.

const EVERY_MS = 2000;
const KEPT = 30; // samples of a spark line: a minute
const ROWS_MAX = 200; // rules shown at a time; the filter finds the others
const history = new Map(); // rule -> {rates, rx, tx, lost, time}
const filter = document.getElementById("filter");
let latest = null;

function element(tag, text, ...classes) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  made.classList.add(...classes.filter(Boolean));
  return made;
}

function scaled(number) {
  const units = ["", "k", "M", "G", "T"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) { number /= 1000; unit += 1; }
  return (unit && number < 100 ? number.toFixed(1) : number.toFixed(0)) + (units[unit] ? " " + units[unit] : " ");
}

function sum(counts) { return Object.values(counts).reduce((all, each) => all + each, 0); }

function ago(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function sample(stats) {
  for (const rule of stats.rules) {
    const tx = rule.outputs.reduce((all, each) => all + each.tx_packets, 0);
    const lost = sum(rule.drops) + rule.outputs.reduce((all, each) => all + sum(each.tx_errors), 0);
    const before = history.get(rule.name);
    const now = { rates: before ? before.rates : [], time: stats.time, rx: rule.rx_packets, tx, lost, bytes: rule.rx_bytes, health: rule.health, times: rule.relay_seconds };
    const seconds = before ? stats.time - before.time : 0;
    if (before && seconds > 0) {
      now.rx_rate = Math.max(0, rule.rx_packets - before.rx) / seconds;
      now.tx_rate = Math.max(0, tx - before.tx) / seconds;
      now.bit_rate = Math.max(0, rule.rx_bytes - before.bytes) * 8 / seconds;
      now.rates.push(now.rx_rate);
      now.rates.splice(0, now.rates.length - KEPT);
    }
    history.set(rule.name, now);
  }
  const names = new Set(stats.rules.map((rule) => rule.name));
  for (const name of history.keys()) if (!names.has(name)) history.delete(name);
}

function spark(rates) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 10`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const most = Math.max(...rates, 1);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const first = KEPT - rates.length;
  line.setAttribute("points", rates.map((rate, i) => `${first + i},${(9.5 - 9 * rate / most).toFixed(2)}`).join(" "));
  svg.append(line);
  return svg;
}

function cell(label, ...parts) {
  const made = element("td");
  if (label) made.dataset.label = label;
  made.append(...parts);
  return made;
}

function numeric(label, text, detail) {
  const made = cell(label, element("span", text));
  made.classList.add("number");
  if (detail) made.append(element("span", detail, "reason"));
  return made;
}

function ruleRow(rule) {
  const row = element("tr");
  const held = history.get(rule.name) || { rates: [] };
  const name = cell("", element("span", rule.name, "name"));
  if (rule.description) name.append(element("span", rule.description, "reason"));
  const state = cell("", element("span", rule.state, "state", rule.state));
  if (rule.losing) state.append(" ", element("span", "losing", "state", "losing"));
  if (rule.reason) state.append(element("span", rule.reason, "reason"));
  const streams = cell("");
  for (const input of rule.inputs) streams.append(element("div", input.from));
  for (const output of rule.outputs) {
    const line = element("div", "→ " + output.to + " ");
    if (output.state !== "active") line.append(element("span", output.state, output.state));
    if (output.reason) line.append(element("span", output.reason, "reason"));
    streams.append(line);
  }
  if (held.health) streams.append(element("span", healthWords(held.health), hurt(held.health) ? "hurt" : "reason"));
  const known = held.rx_rate !== undefined;
  row.append(name, state, streams,
    numeric("in", known ? scaled(held.rx_rate) + "/s" : "–", known ? scaled(held.bit_rate) + "bit/s" : ""),
    numeric("out", known ? scaled(held.tx_rate) + "/s" : "–", within(held.times)),
    numeric("lost", String(held.lost ?? 0)),
    cell("", spark(held.rates)));
  return row;
}

function milliseconds(seconds) { return `${Number((seconds * 1000).toPrecision(3))} ms`; }

function healthWords(health) {
  const words = [];
  if (health.rtp) {
    words.push(`RTP: lost ${health.rtp.lost}, duplicated ${health.rtp.duplicated}, reordered ${health.rtp.reordered}`);
    if (health.rtp.jitter_seconds !== null) words.push(`jitter ${milliseconds(health.rtp.jitter_seconds)}`);
    if (health.rtp.ssrc_changes) words.push(`SSRC changes ${health.rtp.ssrc_changes}`);
  }
  if (health.ts) {
    words.push(`MPEG-TS: continuity errors ${health.ts.continuity_errors}, PCR gaps ${health.ts.pcr_gaps}`);
    if (health.ts.bit_rate !== null) words.push(`${scaled(health.ts.bit_rate)}bit/s`);
  }
  if (health.unrecognised) words.push(`unrecognised ${health.unrecognised}`);
  if (health.silences) words.push(`silences ${health.silences}`);
  return words.join(", ");
}

function hurt(health) {
  return Boolean((health.rtp && health.rtp.lost) || (health.ts && health.ts.continuity_errors));
}

function within(times) {
  if (!times || !times.count) return "";
  const found = Object.entries(times.buckets).map(([bound, count]) => [Number(bound), count]);
  found.sort((a, b) => (Number.isNaN(a[0]) ? 1 : Number.isNaN(b[0]) ? -1 : a[0] - b[0]));
  const [bound] = found.find((each) => each[1] >= 0.99 * times.count);
  return Number.isNaN(bound) ? "99 % beyond 20 ms" : `99 % within ${milliseconds(bound)}`;
}

function matches(rule, wanted) {
  if (!wanted) return true;
  const text = [rule.name, rule.description, rule.state, rule.losing ? "losing" : "", ...rule.inputs.map((each) => each.from), ...rule.outputs.map((each) => each.to)];
  return text.join(" ").toLowerCase().includes(wanted);
}

function drawRules(rules) {
  const wanted = filter.value.trim().toLowerCase();
  const worst = { error: 0, pending: 1, parked: 2, active: 3, disabled: 4 };
  const found = rules.filter((rule) => matches(rule, wanted));
  found.sort((a, b) => (b.losing - a.losing) || (worst[a.state] - worst[b.state]));
  document.querySelector("#rules tbody").replaceChildren(...found.slice(0, ROWS_MAX).map(ruleRow));
  const more = document.getElementById("more");
  more.hidden = found.length <= ROWS_MAX;
  more.textContent = `${found.length - ROWS_MAX} more: write a part of a name above`;
}

function nearMiss(miss) {
  const vlan = miss.vlan && miss.vlan !== "none" ? ` in VLAN ${miss.vlan}` : "";
  const of_rule = miss.rule ? `, almost rule ${miss.rule}` : "";
  return `${miss.group} port ${miss.port} from ${miss.source}${vlan}: ${miss.verdict}, ${miss.packets} times${of_rule}`;
}

function drawLinks(links, stats) {
  const counted = new Map(stats.links.map((each) => [each.ifname, each]));
  const shown = links.filter((each) => counted.has(each.ifname));
  for (const ifname of counted.keys()) {
    if (!shown.some((each) => each.ifname === ifname)) shown.push({ ifname, operstate: "does not exist", warnings: [] });
  }
  document.querySelector("#links tbody").replaceChildren(...shown.map((link) => {
    const counts = counted.get(link.ifname);
    const row = element("tr");
    const state = cell("", element("span", link.operstate, "state", link.operstate === "UP" ? "UP" : "DOWN"));
    for (const warning of link.warnings) state.append(element("span", warning.text, "reason"));
    const queriers = [link.querier, link.mld_querier].filter((each) => each)
      .map((each) => `${each.address} v${each.version}, ${ago(stats.time - each.last_seen_time)} ago`);
    const others = Object.entries(counts.frames).filter(([verdict, count]) => verdict !== "relayed" && count);
    const missed = cell("not relayed", element("span", others.map(([verdict, count]) => `${verdict} ${count}`).join(", ") || "–"));
    for (const miss of counts.near_misses || []) missed.append(element("span", nearMiss(miss), "reason"));
    row.append(cell("", element("span", link.ifname, "name")), state, cell("querier", queriers.join("; ") || "–"),
      numeric("frames", counts.filter ? String(counts.rx_frames) : "–"),
      numeric("no room", counts.filter ? String(counts.ring_dropped_frames) : "–"), missed);
    return row;
  }));
}

function drawSummary(rules, stats) {
  const states = new Map();
  for (const rule of rules) states.set(rule.state, (states.get(rule.state) || 0) + 1);
  const summary = document.getElementById("summary");
  const parts = [`${rules.length} ${rules.length === 1 ? "rule" : "rules"}`];
  for (const state of ["error", "pending", "parked", "active", "disabled"]) if (states.has(state)) parts.push(`${states.get(state)} ${state}`);
  const losing = rules.filter((rule) => rule.losing).length;
  if (losing) parts.push(`${losing} losing`);
  parts.push(`up ${ago(stats.uptime_seconds)}`);
  summary.textContent = parts.join(" · ");
  summary.className = states.has("error") || losing ? "losing" : "";
  document.title = (states.has("error") || losing ? "! " : "") + "mcrelay";
}

function draw() {
  if (!latest) return;
  drawSummary(latest.rules, latest.stats);
  drawRules(latest.rules);
  drawLinks(latest.links, latest.stats);
}

async function ask(noun) {
  const answer = await fetch("/api/v1/" + noun, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${noun}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  try {
    const [rules, stats, links] = [await ask("rules"), await ask("stats"), await ask("links")];
    sample(stats);
    latest = { rules, stats, links };
    draw();
  } catch (error) {
    const summary = document.getElementById("summary");
    summary.textContent = "the relay does not answer; what is below is old";
    summary.className = "stale";
  }
  setTimeout(refresh, document.hidden ? 5 * EVERY_MS : EVERY_MS);
}

filter.addEventListener("input", draw);
refresh();
