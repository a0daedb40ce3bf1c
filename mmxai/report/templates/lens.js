const get = id => document.getElementById(id), svg = "http://www.w3.org/2000/svg";
const make = (name, parent, text) => { const e = parent.appendChild(document.createElement(name)); if (text !== undefined) e.textContent = text; return e };
const palette = [...Array(24).keys()].map(i => `hsl(${(i * 137.5 + 20) % 360} 68% 52%)`);
// A token that is the name of a colour is shown in it.
const plain = "red orange yellow green cyan blue purple pink brown black white gray grey magenta violet gold silver".split(" ");
const named = token => token.toLowerCase().split(/[^a-z]+/).find(word => plain.includes(word));
const blank = text => text.replace(/\n/g, "⏎").replace(/\t/g, "→").replace(/^ | $/g, "·") || "·";
const kindOf = state => state.split(".").slice(2).join(".").replace(/^z\.\d+$/, "z") || state;
const bare = state => state.replace(/^[^.]*\./, "");
let now, at = { state: 0, row: 0 };

const kinds = new Map();
data.states.forEach((state, i) => {
  const kind = kindOf(state), name = kind === "z" ? "heads of block " + state.split(".")[1] : kind;
  if (!kinds.has(name)) kinds.set(name, []);
  kinds.get(name).push(i);
});
const stream = data.stream;
if (stream.some(i => kinds.get(kindOf(data.states[i]))?.includes(i))) {
  ["resid_pre", "resid_mid", "resid_post"].forEach(kind => kinds.delete(kind));
  make("option", get("kind"), "residual stream").value = "stream";
}
kinds.forEach((_, name) => make("option", get("kind"), name === "v" ? "values" : name).value = name);
if (kinds.has("v") && data.states[0].startsWith("vision.")) get("kind").value = "v";
get("kinds").hidden = get("kind").options.length < 2;
const shown = () => get("kind").value === "stream" || !get("kind").value ? stream : kinds.get(get("kind").value);

make("option", get("colour"), "probability of what comes first").value = "p";
data.targets.forEach((name, t) => make("option", get("colour"), `probability of ${name}`).value = `t${t}`);
make("option", get("colour"), "entropy").value = "entropy";
if (data.samples[0].kl) make("option", get("colour"), "KL of the last to it").value = "kl";

const most = { entropy: 1, kl: 1 };
for (const name of ["entropy", "kl"])
  for (const one of data.samples)
    for (const line of one[name] || []) for (const v of line) most[name] = Math.max(most[name], v);

const level = (s, n) => {
  const by = get("colour").value;
  if (by === "p") return now.p[s][n][0] / 1000;
  if (by[0] === "t") return now.targets[+by.slice(1)][s][n]?.[0] ?? 0;
  return now[by][s][n] / most[by];
};

const point = (s, n) => {
  at = { state: s, row: n };
  document.querySelectorAll(".on").forEach(e => e.classList.remove("on"));
  document.querySelectorAll(`[data-row="${n}"]`).forEach(e => { if (e.dataset.state === undefined || +e.dataset.state === s) e.classList.add("on") });
  const [token, type, y, x, image, position] = now.rows[n];
  get("place").replaceChildren(bare(data.states[s]), make("span", get("place"), y < 0 ? `position ${position}${token < 0 ? "" : ": " + blank(now.names[token])}` : `cell ${y}, ${x}${now.images.length > 1 ? ` of tile ${image}` : ""}`));
  get("top").replaceChildren();
  now.top[s][n].forEach((t, i) => {
    make("span", get("top"), blank(now.names[t])).className = "name";
    const track = make("span", get("top"));
    track.className = "track";
    make("i", track).style.width = now.p[s][n][i] / 10 + "%";
    make("span", get("top"), (now.p[s][n][i] / 10).toFixed(1) + "%").className = "value";
  });
  const facts = [["entropy", now.entropy[s][n].toFixed(2) + " nats"]];
  if (now.kl) facts.push(["KL of the last to it", now.kl[s][n].toFixed(2) + " nats"], ["the last says", blank(now.names[now.best[n]])]);
  data.targets.forEach((name, t) => {
    const found = now.targets[t][s][n];
    if (found) facts.push([blank(now.names[now.aims[t][n]]), `${(100 * found[0]).toPrecision(3)}%, rank ${(found[1] + 1).toLocaleString("en")}`]);
  });
  get("facts").replaceChildren();
  facts.forEach(([name, value]) => { make("dt", get("facts"), name); make("dd", get("facts"), value) });
};

const drawTable = () => {
  const columns = now.rows.map((row, n) => n).filter(n => now.rows[n][2] < 0);
  get("positions").hidden = !columns.length;
  const table = make("table", get("table"));
  get("table").replaceChildren(table);
  table.className = "lens";
  const head = make("tr", make("thead", table)), body = make("tbody", table);
  make("th", head, "reads");
  columns.forEach(n => make("th", head, now.rows[n][0] < 0 ? now.types[now.rows[n][1]] : blank(now.names[now.rows[n][0]])).dataset.row = n);
  [...shown()].reverse().forEach(s => {
    const line = make("tr", body);
    make("th", line, bare(data.states[s]));
    columns.forEach(n => {
      const first = now.top[s][n][0], cell = make("td", line, blank(now.names[first]));
      cell.style.setProperty("--v", Math.min(1, level(s, n)).toFixed(3));
      if (now.best && now.best[n] === first) cell.classList.add("last");
      [cell.dataset.state, cell.dataset.row] = [s, n];
      cell.onpointerenter = () => point(s, n);
    });
  });
  get("table").scrollLeft = get("table").scrollWidth;
};

const drawMaps = () => {
  get("pictures").hidden = !now.images.length;
  if (!now.images.length) return;
  const states = shown();
  get("depth").max = states.length - 1;
  const s = states[+get("depth").value];
  get("where").textContent = bare(data.states[s]);
  const counts = new Map(), cells = now.rows.map((row, n) => n).filter(n => now.rows[n][2] >= 0 && now.rows[n][3] >= 0);
  // A token keeps its colour over blocks: by how often it comes first in any of them.
  states.forEach(i => cells.forEach(n => counts.set(now.top[i][n][0], (counts.get(now.top[i][n][0]) || 0) + 1)));
  const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)), colour = new Map(order.map((t, i) => [t, named(now.names[t]) || palette[i] || "#888"]));
  const tokens = get("colour").value === "p";
  get("maps").replaceChildren();
  now.images.forEach(tile => {
    const map = make("div", get("maps"));
    map.className = "map";
    if (tile.uri) { const img = make("img", map); img.src = tile.uri; img.alt = ""; if (Math.max(...tile.size) <= 192) img.className = "small" }
    const over = map.appendChild(document.createElementNS(svg, "svg"));
    over.setAttribute("viewBox", `0 0 ${tile.size.join(" ")}`);
    over.setAttribute("preserveAspectRatio", "none");
    const group = over.appendChild(document.createElementNS(svg, "g"));
    group.setAttribute("transform", `matrix(${tile.matrix.join(" ")})`);
    cells.filter(n => now.rows[n][4] === tile.image).forEach(n => {
      const cell = group.appendChild(document.createElementNS(svg, "rect")), first = now.top[s][n][0];
      for (const [name, value] of Object.entries({ x: now.rows[n][3], y: now.rows[n][2], width: 1, height: 1 })) cell.setAttribute(name, value);
      cell.setAttribute("fill", tokens ? colour.get(first) : "var(--accent)");
      cell.setAttribute("fill-opacity", (tokens ? .12 + .5 * level(s, n) : .05 + .85 * level(s, n)).toFixed(3));
      [cell.dataset.state, cell.dataset.row] = [s, n];
      cell.onpointerenter = () => point(s, n);
    });
  });
  get("legend").replaceChildren();
  if (!tokens) return;
  const here = new Map();
  cells.forEach(n => here.set(now.top[s][n][0], (here.get(now.top[s][n][0]) || 0) + 1));
  [...here.keys()].sort((a, b) => here.get(b) - here.get(a)).slice(0, 12).forEach(t => {
    const entry = make("span", get("legend"));
    make("i", entry).style.background = colour.get(t);
    entry.append(`${blank(now.names[t])} ${Math.round(100 * here.get(t) / cells.length)}%`);
  });
};

const draw = () => { drawTable(); drawMaps(); point(Math.min(at.state, data.states.length - 1), Math.min(at.row, now.rows.length - 1)) };
const choose = () => {
  now = data.samples[get("sample").value || 0];
  at = { state: shown().at(-1), row: now.rows.length - 1 };
  get("depth").max = shown().length - 1;
  get("depth").value = shown().length - 1;
  draw();
};
get("sample").onchange = get("kind").onchange = choose;
get("colour").onchange = draw;
get("depth").oninput = () => { drawMaps(); point(shown()[+get("depth").value], at.row) };
choose();
