"use strict";
// Data are scripts that call loaded(): pages opened from a folder may not fetch JSON.
const up = document.body.dataset.up, held = {}, asked = {};
function loaded(name, value) { held[name] = value; }

function load(name) {
  return asked[name] ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `${up}${name}.js`;
    script.onload = () => { script.remove(); done(held[name]); };
    script.onerror = () => failed(new Error(`${name}.js is missing from this site`));
    document.head.append(script);
  });
}

// Text is always set as text: names come from other people's files.
function make(tag, attributes = {}, ...inside) {
  const made = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

const shorter = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const number = value => value === null || value === undefined ? "–" : shorter.format(value).replace("-", "\u2212");
const share = value => value === null || value === undefined ? "–" : `${Math.round(100 * value)}%`;
const two = value => value === null || value === undefined ? "–" : value.toFixed(2);
const three = value => value.toFixed(3);
const whole = value => value.toLocaleString("en");

async function unitOf(site, unit, about) {
  const chunk = await load(`data/${site}/${Math.floor(unit / about.chunk)}`);
  return chunk[unit % about.chunk];
}

// A picture with the outline of the mask. place: [picture, value, tile, outline]
async function masked(place, site, about, height) {
  const [index, , tile, outline] = place, many = about.per_sheet;
  const name = Math.floor(index / many), own = await load(`pictures/${name}`);
  const [key, width, tall, licence, w, h, tiles, text] = own[index % many];
  const svg = make("svg:svg", { class: "masked", viewBox: `0 0 ${width} ${tall}`, role: "img", "aria-label": text || key });
  if (height) { svg.setAttribute("width", Math.round(height * width / tall)); svg.setAttribute("height", height); }
  // An inner frame: what lies beyond the picture (cells of padding) is not drawn.
  const frame = make("svg:svg", { width, height: tall });
  svg.append(make("svg:title", {}, text ? `${key}: ${text}` : key), frame);
  if (about.sheet) {
    const { side, columns } = about.sheet, at = index % many;
    const box = `${at % columns * side} ${Math.floor(at / columns) * side} ${w} ${h}`;
    const part = make("svg:svg", { width, height: tall, viewBox: box, preserveAspectRatio: "none" });
    part.append(make("svg:image", {
      href: `${up}pictures/${name}.webp`, width: Math.min(own.length, columns) * side,
      height: Math.ceil(own.length / columns) * side, class: width * tall <= 9216 ? "small" : "",
    }));
    frame.append(part);
  } else svg.classList.add("blank");
  const [a, b, c, d, e, f, rows, cols] = tiles[tile], grid = site.grid ?? [rows, cols];
  const cells = `matrix(${a} ${b} ${c} ${d} ${e} ${f}) scale(${cols / grid[1]} ${rows / grid[0]})`;
  const fine = `${cells} scale(${1 / site.fine})`, grids = `M0 0H${grid[1]}V${grid[0]}H0Z`;
  const seen = `M0 0H${grid[1] * site.fine}V${grid[0] * site.fine}H0Z`;
  frame.append(
    make("svg:path", { class: "unseen", "fill-rule": "evenodd", transform: cells, d: `M-9999 -9999H99999V99999H-9999Z${grids}` }),
    make("svg:path", { class: "veil", "fill-rule": "evenodd", transform: fine, d: seen + outline }),
    ...[0, 1].map(() => make("svg:path", { class: "mask", transform: fine, d: outline, "vector-effect": "non-scaling-stroke" })),
  );
  return { svg, key, licence: about.licences[licence], width: height ? height * width / tall : 0 };
}

function credit(licence) {
  const address = /https?:\/\/[^\s)]+/.exec(licence);
  const name = licence.replace(/[(\s]*https?:\/\/[^\s)]+[)\s]*/, " ").trim() || licence;
  return address ? make("a", { href: address[0], rel: "license noopener" }, name) : name;
}

const STATES = ["no detector", "detector", "rare", "dead"];

async function showGallery(list) {
  const about = await load("data/site"), only = document.body.dataset.site;
  const sites = about.sites.map((site, k) => k).filter(k => only === undefined || k == only);
  const data = await Promise.all(sites.map(k => load(`data/${k}/index`)));
  const entries = data.flatMap((one, i) => one.label.map((label, unit) => ({ site: sites[i], unit, label, iou: one.iou[unit], state: one.state[unit] })));
  const [find, state, category, sort, more, told] = ["find", "state", "category", "sort", "more", "told"].map(id => document.getElementById(id));
  about.categories.forEach((name, k) => category.append(make("option", { value: k }, name)));
  const said = entries.map(e => {
    const concept = about.concepts[e.label], site = about.sites[e.site];
    return `${concept ? `${concept[0]} ${about.categories[concept[1]]}` : ""} ${site.name} ${site.kind} ${e.unit} ${STATES[e.state]}`.toLowerCase();
  });
  entries.forEach((e, k) => e.said = said[k]);
  if (!entries.some(e => e.state === 1)) state.value = "";
  if (!about.sheet) document.getElementById("veil").parentElement.remove();
  const orders = {
    iou: (a, b) => b.iou - a.iou, unit: () => 0,
    label: (a, b) => (about.concepts[a.label]?.[0] ?? "\uffff").localeCompare(about.concepts[b.label]?.[0] ?? "\uffff") || b.iou - a.iou,
  };
  let left = [], shown = 0;
  function page() {
    const next = left.slice(shown, shown + 24);
    shown += next.length;
    list.append(...next.map(e => card(e, about)));
    more.hidden = shown >= left.length;
    told.textContent = `${whole(left.length)} of ${whole(entries.length)}`;
  }
  function choose() {
    // A name in quotes is a label; other words are looked for in all that is said of a unit.
    const [, label] = /^\s*"(.*)"\s*$/.exec(find.value) ?? [], words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const meant = label === undefined ? e => words.every(w => e.said.includes(w)) : e => about.concepts[e.label]?.[0] === label;
    left = entries.filter(e => (state.value === "" || e.state == state.value)
      && (category.value === "" || about.concepts[e.label]?.[1] == category.value) && meant(e));
    left.sort(orders[sort.value]);
    shown = 0;
    list.replaceChildren();
    page();
  }
  find.oninput = state.onchange = category.onchange = sort.onchange = choose;
  more.onclick = page;
  // The bars of a layer's labels lead here.
  const asked = () => {
    const [, words] = /^#label=(.*)$/.exec(location.hash) ?? [];
    if (words !== undefined) { find.value = `"${decodeURIComponent(words)}"`; state.value = "1"; category.value = ""; find.scrollIntoView(); }
    choose();
  };
  addEventListener("hashchange", asked);
  asked();
}

function card(entry, about) {
  const site = about.sites[entry.site], concept = about.concepts[entry.label];
  const link = make("a", { href: `${up}unit.html#${entry.site}/${entry.unit}` }, `${site.kind} ${entry.unit}`);
  const name = make("h3", {}, link, make("em", {}, concept ? concept[0] : STATES[entry.state]));
  const pictures = make("div", { class: "four" });
  const made = make("article", {}, make("header", {}, name, make("span", { class: "soft" }, `IoU ${(entry.iou / 1000).toFixed(2)}`)), pictures);
  if (document.body.dataset.site === undefined) made.append(make("p", { class: "soft" }, site.name));
  const fill = async () => {
    const record = await unitOf(entry.site, entry.unit, about);
    for (const place of record.p.slice(0, 4)) pictures.append((await masked(place, site, about)).svg);
  };
  // Units far down the page load nothing until they come near.
  const near = new IntersectionObserver(seen => {
    if (seen.some(s => s.isIntersecting)) { near.disconnect(); fill().catch(failed); }
  }, { rootMargin: "600px" });
  near.observe(made);
  return made;
}

async function showUnit(into) {
  const [k, unit] = location.hash.slice(1).split("/").map(Number), about = await load("data/site");
  const site = about.sites[k];
  if (!site || !(unit >= 0 && unit < site.units)) {
    into.replaceChildren(make("p", {}, "There is no such unit; an address is unit.html#<layer>/<unit>."));
    return;
  }
  const u = await unitOf(k, unit, about), title = `${site.kind} ${unit}`, first = u.c[0];
  const concept = first && about.concepts[first[0]];
  document.title = `${title} · ${site.name}`;
  const nav = document.getElementById("nav");
  const step = (to, id, text) => to >= 0 && to < site.units ? make("a", { href: `#${k}/${to}`, id }, text) : make("span", { class: "gone" }, text);
  nav.replaceChildren(nav.firstElementChild, make("a", { href: `sites/${site.file}.html` }, site.name), step(unit - 1, "previous", `← ${unit - 1 < 0 ? "" : unit - 1}`), step(unit + 1, "following", `${unit + 1 < site.units ? unit + 1 : ""} →`));
  const heading = make("h1", {}, title, " ");
  if (concept) heading.append(make("span", { class: "soft" }, `${concept[0]} (${about.categories[concept[1]]})`));
  const state = u.n === 0 ? "dead: never above its threshold" : u.n < site.least ? `rare: above its threshold in fewer than ${site.least} cells`
    : first && first[1] > site.level ? `a detector: IoU above ${site.level}` : `no detector: IoU at most ${site.level}`;
  const beaten = site.controls.filter(c => first && first[1] > c[1]).map(c => c[0]), all = beaten.length === site.controls.length;
  const beside = !site.controls.length || !first ? "" : all ? "; above what 99% of units reach in every control"
    : beaten.length ? `; above what 99% of units reach in the control ${beaten.join(", ")}, not in every one` : "; no more than units reach in the controls";
  const figures = { "cells above": whole(u.n), threshold: number(u.t) };
  if (first) Object.assign(figures, {
    IoU: three(first[1]), [`${share(site.confidence)} interval`]: first[2] === null ? "–" : `${three(first[2])} to ${three(first[3])}`,
    "of what the grid can": first[4] ? share(first[1] / first[4]) : "–",
    precision: two(u.m[0]), recall: two(u.m[1]), F1: two(u.m[2]), ...(u.m[3] === null ? {} : { correlation: two(u.m[3]) }),
    ...(u.a ? { AUPRC: two(u.a[0]) } : {}),
  });
  const told = make("dl", { class: "figures" }, ...Object.entries(figures).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  const shown = make("div", { class: "shown" });
  into.replaceChildren(heading, make("p", { class: "soft" }, state + beside), told, candidates(u, site, about),
    make("h2", {}, "Highest ", make("span", {}, "the pictures in which it is highest, and its mask")),
    make("p", { class: "tools" }, ...(about.sheet ? [dimming()] : []), make("span", { class: "soft" },
      `Outlined: activation above the threshold. Pale: never seen by the model. ${about.sheet ? "Point at a picture to see it whole." : "The pictures themselves are not published here."}`)), shown);
  if (!u.p.length) shown.append("It has no picture.");
  for (const place of u.p) {
    const { svg, key, licence, width } = await masked(place, site, about, 168);
    const caption = make("figcaption", { style: `--w: ${Math.max(110, Math.round(width))}px` }, make("b", {}, number(place[1])), make("span", {}, about.sheet ? credit(licence) : key));
    shown.append(make("figure", {}, svg, caption));
  }
}

let dim = true;
function dimming() {
  const box = make("input", { type: "checkbox", id: "veil" });
  box.checked = dim;
  box.onchange = () => { dim = box.checked; };
  return make("label", {}, box, " dim outside the mask");
}

function candidates(u, site, about) {
  const bars = make("div", { class: "bars" });
  const control = site.controls.reduce((best, c) => !best || c[1] > best[1] ? c : best, null);
  const most = Math.max(0.001, ...u.c.map(c => c[3] ?? c[1]), control ? control[1] : 0), at = v => `${(100 * v / most).toFixed(1)}%`;
  u.c.forEach(([concept, iou, low, high], place) => {
    const [name, category] = about.concepts[concept];
    const track = make("span", { class: "track" }, make("i", { style: `width: ${at(iou)}` }));
    if (low !== null) track.append(make("s", { style: `left: ${at(low)}; width: ${at(high - low)}` }));
    if (control) track.append(make("u", { style: `left: ${at(control[1])}` }));
    const weak = iou <= site.level ? " weak" : "";
    bars.append(make("span", { class: (place ? "name" : "name first") + weak }, name, make("span", { class: "soft" }, ` ${about.categories[category]}`)),
      track, make("span", { class: "value" }, three(iou) + (low === null ? "" : ` (${three(low)} to ${three(high)})`)));
  });
  const panel = make("div", { class: "panel" }, make("h3", {}, "Concepts ", make("span", {}, "IoU, and its interval")), u.c.length ? bars : "Its mask touches no concept.");
  if (control) panel.append(make("p", { class: "soft" }, `Dashed: what 99% of units stay below in the control "${control[0]}" (${number(control[1])}).`));
  if (u.f) {
    const [form, iou, single, pictures] = u.f;
    panel.append(make("p", { id: "form" }, "Logical form: ", make("b", {}, form), make("span", { class: "soft" },
      `, IoU ${three(iou)}, of a single concept ${three(single)} (${whole(pictures)} pictures)`)));
  }
  return make("div", { class: "grid" }, panel);
}

function failed(error) {
  const main = document.querySelector("main");
  if (!main.querySelector("p.error")) main.prepend(make("p", { class: "error" }, error.message));
}

const list = document.getElementById("gallery"), into = document.getElementById("unit");
if (list) showGallery(list).catch(failed);
if (into) {
  showUnit(into).catch(failed);
  addEventListener("hashchange", () => { scrollTo(0, 0); showUnit(into).catch(failed); });
  addEventListener("keydown", event => {
    const to = document.getElementById({ ArrowLeft: "previous", ArrowRight: "following" }[event.key]);
    if (to && !event.altKey && !event.ctrlKey && !event.metaKey) location = to.href;
  });
}
