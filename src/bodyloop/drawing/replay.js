"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg", GREY = ["#dadde3", "#7c8593", "#aeb5c0"], EVERY = 1700;
  const KINDS = ["black", "boxes", "masks", "poses", "points", "names"];
  const CERTAIN = 0, HIDDEN = 1, ABSENT = 2;
  const $ = id => document.getElementById(id);
  const view = $("view"), layer = $("layer"), slider = $("slider");
  let at = D.steps.length - 1, chosen = null, pointed = null, timer = null;

  const svg = (tag, attributes, parent) => {
    const e = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    return parent ? parent.appendChild(e) : e;
  };
  const html = (tag, text, parent, name) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (name) e.className = name;
    return parent ? parent.appendChild(e) : e;
  };

  // one step of the replay, as groups by kind and, in them, by person

  function drawn(step) {
    const g = svg("g", {class: `step${step.key === "prompted" ? " guess" : ""}`});
    const kinds = Object.fromEntries(KINDS.map(k => [k, svg("g", {class: k}, g)]));
    const colours = who => (step.gone || []).includes(who) ? GREY : D.who[who].colours;
    const group = (kind, who) => {
      const dropped = step.key !== "known" && (colours(who)[2] === GREY[2]);
      return svg("g", {"data-who": who, class: dropped ? "grey" : ""}, kinds[kind]);
    };
    const grey = row => colours(row[0])[2] === GREY[2] ? 0 : 1;
    const below = rows => [...(rows || [])].sort((a, b) => grey(a) - grey(b));  // who does not count lies below
    const scores = {};
    for (const [who, path] of step.black || []) svg("path", {class: "black", d: D.paths[path]}, group("black", who));
    const area = b => (b[3] - b[1]) * (b[4] - b[2]);
    for (const [who, x1, y1, x2, y2, score] of [...(step.boxes || [])].sort((a, b) => grey(a) - grey(b) || area(b) - area(a))) {
      scores[who] = score;
      svg("rect", {class: "box", x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0),
        rx: 1, stroke: colours(who)[2]}, group("boxes", who));
    }
    for (const [who, path] of below(step.masks))
      svg("path", {class: "mask", d: D.paths[path], fill: colours(who)[2], stroke: colours(who)[2]}, group("masks", who));
    for (const [who, pose] of below(step.poses)) drawPose(group("poses", who), D.poses[pose], colours(who));
    for (const row of [...(step.points || [])].reverse()) drawPoint(group("points", row[0]), row, colours(row[0])[2]);
    return {g, names: () => drawNames(g, kinds.names, colours, scores)};
  }

  function drawPose(g, [width, points], colours) {
    const half = {}, halo = {}, radius = points.map(() => .95 * width);
    const add = (to, key, a, b) => { to[key] = (to[key] || "") + `M${a[0]} ${a[1]}L${b[0]} ${b[1]}`; };
    for (const [i, j] of D.links) {
      const a = points[i], b = points[j];
      if (!a || !b) continue;
      const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], near = .3 * Math.hypot(a[0] - b[0], a[1] - b[1]);
      for (const [k, p] of [[i, a], [j, b]]) {
        radius[k] = Math.min(radius[k], near);
        add(half, `${p[2]}${D.sides[k]}`, p, middle);
        add(halo, p[2], p, middle);
      }
    }
    const wide = look => width * (look === CERTAIN ? 1 : look === HIDDEN ? .5 : .4);
    for (const look of [ABSENT, HIDDEN, CERTAIN]) {
      const dash = look === ABSENT ? {"stroke-dasharray": `${.9 * width} ${1.2 * width}`} : {};
      if (halo[look]) svg("path", {class: "limb halo", d: halo[look], "stroke-width": wide(look) + .36 * width, opacity: .5, ...dash}, g);
      for (const side of [0, 1, 2]) {
        const d = half[`${look}${side}`];
        if (d) svg("path", {class: "limb", d, stroke: colours[side], "stroke-width": wide(look), ...dash}, g);
      }
    }
    points.forEach((p, k) => {
      if (!p) return;
      const r = Math.max(radius[k], .35 * width), colour = colours[D.sides[k]];
      if (p[2] === CERTAIN) svg("circle", {class: "joint", cx: p[0], cy: p[1], r, fill: colour, "stroke-width": .16 * width}, g);
      else svg("circle", {cx: p[0], cy: p[1], r, fill: "none", stroke: colour, "stroke-width": (p[2] === HIDDEN ? .3 : .2) * width,
        ...(p[2] === ABSENT ? {"stroke-dasharray": `${.5 * r} ${.6 * r}`} : {})}, g);
    });
  }

  function drawPoint(g, [, x, y, label, rank, name], colour) {
    const light = [1, 3, 5].reduce((sum, i) => sum + parseInt(colour.slice(i, i + 2), 16), 0) > 380;
    const c = svg("circle", {class: "point", cx: x, cy: y, fill: label ? colour : "#101218", stroke: label ? "#fff" : colour}, g);
    svg("title", {}, c).textContent = `${rank}. ${name}${label ? "" : " (not on this person)"}`;
    svg("text", {class: "rank", x, y, fill: label && light ? "#101218" : "#fff"}, g).textContent = label ? rank : "–";
  }

  function drawNames(g, names, colours, scores) {
    const corner = new Map(), of = kind => [...g.querySelectorAll(`.${kind} [data-who]`)];
    const shapes = ["boxes", "masks", "poses"].flatMap(of);
    const drawn = new Set(shapes.map(e => e.dataset.who));
    for (const e of [...shapes, ...of("points").filter(e => !drawn.has(e.dataset.who))]) {
      const b = e.getBBox(), who = Number(e.dataset.who), old = corner.get(who);
      if (b.width || b.height) corner.set(who, old ? [Math.min(old[0], b.x), Math.min(old[1], b.y)] : [b.x, b.y]);
    }
    const u = unit(), placed = [], rank = who => (colours(who)[2] === GREY[2] ? D.who.length : 0) + who;
    const meet = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
    for (const [who, [x, y]] of [...corner].sort((a, b) => rank(a[0]) - rank(b[0]))) {
      const mine = svg("g", {"data-who": who}, names);
      const text = svg("text", {class: "label", x: Math.max(x, 2 * u), y: Math.max(y, 17 * u), fill: colours(who)[0]}, mine);
      text.textContent = [D.who[who].short, scores[who]].filter(Boolean).join("  ");
      const room = text.getBBox();
      if (placed.some(b => meet(b, room))) mine.classList.add("crowded");  // shown when its person is looked at
      else placed.push(room);
    }
  }

  const unit = () => { const m = view.getScreenCTM(); return m && m.a ? 1 / m.a : 1; };
  const measure = () => view.style.setProperty("--u", unit());

  // where we are

  function go(to, still) {
    if (!D.steps.length) return;
    at = Math.min(Math.max(to, 0), D.steps.length - 1);
    const step = D.steps[at];
    for (const old of layer.querySelectorAll(".gone")) old.remove();
    for (const old of layer.children) {
      old.classList.add("gone");
      setTimeout(() => old.remove(), still ? 0 : 300);
    }
    const {g, names} = drawn(step);
    if (still) g.style.animation = "none";
    layer.append(g);
    measure();
    names();
    $("pass").textContent = `Pass ${step.pass}`;
    $("station").textContent = step.title;
    $("text").textContent = step.text;
    slider.value = at;
    slider.setAttribute("aria-valuetext", `Pass ${step.pass}, ${step.title}: ${step.text}`);
    $("back").disabled = at === 0;
    $("on").disabled = at === D.steps.length - 1;
    for (const b of $("passes").children) mark(b, Number(b.dataset.pass) === step.pass);
    stations(step);
    const here = new Set([...g.querySelectorAll("[data-who]")].map(e => Number(e.dataset.who)));
    for (const b of document.querySelectorAll(".list button")) b.classList.toggle("away", !here.has(Number(b.dataset.who)));
    light();
  }

  function stations(now) {
    const all = D.steps.map((s, i) => [s, i]).filter(([s]) => s.pass === now.pass);
    const focused = $("stations").contains(document.activeElement);
    $("stations").replaceChildren(...all.map(([s, i]) => {
      const b = html("button", s.title);
      b.addEventListener("click", () => { stop(); go(i); });
      mark(b, i === at);
      return b;
    }));
    if (focused) $("stations").querySelector("[aria-current]").focus();
  }

  const mark = (b, current) => current ? b.setAttribute("aria-current", "step") : b.removeAttribute("aria-current");

  function stop() {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
  }

  function play() {
    if (timer !== null) return stop();
    if (at === D.steps.length - 1) go(0);
    $("play").textContent = "Pause";
    timer = setInterval(() => { at < D.steps.length - 1 ? go(at + 1) : stop(); }, EVERY);
  }

  // who is looked at

  function light() {
    const who = pointed ?? chosen;
    const here = who === null ? [] : layer.querySelectorAll(`.step:not(.gone) [data-who="${who}"]`);
    for (const e of layer.querySelectorAll(".on")) e.classList.remove("on");
    for (const e of here) e.classList.add("on");
    view.classList.toggle("focus", here.length > 0);
    for (const b of document.querySelectorAll(".list button")) b.setAttribute("aria-pressed", Number(b.dataset.who) === chosen);
    card(who);
  }

  let told;
  function card(who) {
    if (told === who) return;
    told = who;
    const c = $("card");
    c.replaceChildren();
    if (who === null) {
      html("h3", "The run", c);
      html("p", "Point at a person, or choose one, to see which pass found it, what changed, and why.", c, "quiet");
      const list = html("ol", undefined, c);
      for (const [name, what, times] of D.passes) {
        const item = html("li", undefined, list);
        html("span", name, item, "quiet");
        html("div", what, item);
        html("div", times, item, "times");
      }
      return;
    }
    const w = D.who[who], head = html("h3", undefined, c);
    swatch(w, head);
    html("span", w.name, head);
    html("p", w.counts ? `found in pass ${w.found}` : `found in pass ${w.found}, not in the result`, c, "quiet");
    const list = html("ol", undefined, c);
    let last = null;
    for (const [pass, text] of w.history) {
      const item = html("li", undefined, list);
      if (pass !== last) html("span", `Pass ${pass}`, item, "quiet");
      item.append(text);
      last = pass;
    }
    const facts = html("dl", undefined, c);
    for (const [k, v] of w.facts) {
      const row = html("div", undefined, facts);
      html("dt", k, row);
      html("dd", v, row);
    }
  }

  function swatch(w, parent) {
    const s = html("span", undefined, parent, "swatch");
    s.style.background = `linear-gradient(135deg, ${w.colours[0]} 34%, ${w.colours[2]} 34% 66%, ${w.colours[1]} 66%)`;
  }

  function lists() {
    const counts = {people: 0, dropped: 0};
    D.who.forEach((w, i) => {
      const where = w.counts ? "people" : "dropped";
      counts[where]++;
      const b = html("button", undefined, html("li", undefined, $(where)));
      b.dataset.who = i;
      swatch(w, b);
      html("span", w.name, b);
      const score = w.facts.find(([k]) => k === "Box score");
      html("span", [`pass ${w.found}`, score && score[1]].filter(Boolean).join(" · "), b, "numbers");
      b.addEventListener("click", () => { chosen = chosen === i ? null : i; pointed = null; light(); });
      b.addEventListener("pointerenter", e => { if (e.pointerType === "mouse") { pointed = i; light(); } });
      b.addEventListener("pointerleave", () => { pointed = null; light(); });
    });
    $("people-title").textContent = `People (${counts.people})`;
    $("dropped-title").textContent = `Dropped (${counts.dropped})`;
    $("dropped-part").hidden = !counts.dropped;
  }

  // hands

  const whoAt = e => { const g = e.target.closest?.("[data-who]"); return g && !g.closest(".gone") ? Number(g.dataset.who) : null; };
  view.addEventListener("pointermove", e => {
    if (e.pointerType !== "mouse") return;
    const who = whoAt(e);
    if (who !== pointed) { pointed = who; light(); }
  });
  view.addEventListener("pointerleave", () => { pointed = null; light(); });
  view.addEventListener("click", e => { const who = whoAt(e); chosen = who === chosen ? null : who; light(); });
  $("back").addEventListener("click", () => { stop(); go(at - 1); });
  $("on").addEventListener("click", () => { stop(); go(at + 1); });
  $("play").addEventListener("click", play);
  slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
  const boxes = [...document.querySelectorAll("[data-kind]")];
  const toggle = box => view.classList.toggle(`no-${box.dataset.kind}`, !box.checked);
  for (const box of boxes) { toggle(box); box.addEventListener("change", () => toggle(box)); }
  document.addEventListener("keydown", e => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const steps = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: D.steps.length - 1};
    const kind = {b: "boxes", m: "masks", p: "poses", o: "points", n: "names"}[e.key.toLowerCase()];
    if (e.key in steps && e.target !== slider) { stop(); go(steps[e.key]); }
    else if (e.key === " " && !e.target.closest("button, input, summary")) play();
    else if (e.key === "Escape") { chosen = pointed = null; light(); return; }
    else if (kind) { const box = boxes.find(b => b.dataset.kind === kind); box.checked = !box.checked; toggle(box); return; }
    else return;
    e.preventDefault();
  });

  slider.max = Math.max(D.steps.length - 1, 0);
  for (const pass of new Set(D.steps.map(s => s.pass))) {
    const b = html("button", `Pass ${pass}`, $("passes"));
    b.dataset.pass = pass;
    b.addEventListener("click", () => { stop(); go(D.steps.findIndex(s => s.pass === pass)); });
  }
  lists();
  new ResizeObserver(() => { if (Number(view.style.getPropertyValue("--u")) !== unit()) go(at, true); }).observe(view);
  if (D.steps.length) go(at, true);
  else { $("station").textContent = "No pass was made"; light(); }
})();
