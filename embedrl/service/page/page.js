// The search page. Everything shown comes from /about and /search and is put in as text, never as HTML.
const at = (id) => document.getElementById(id);
const state = { picture: null, ranks: {}, question: null, number: 0 };

function say(words, bad = false) {
  at("status").textContent = words;
  at("status").classList.toggle("bad", bad);
}

async function ask(path, body) {
  const headers = { "content-type": "application/json" };
  if (at("token").value) headers.authorization = `Bearer ${at("token").value}`;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  if (answer.status === 401) at("token-field").hidden = false;
  const content = await answer.json().catch(() => ({ error: { message: `the service answered ${answer.status}` } }));
  if (!answer.ok) throw new Error(content.error?.message ?? `the service answered ${answer.status}`);
  return content;
}

async function about() {
  const facts = await ask("/about");
  const rows = facts.rows.toLocaleString("en");
  at("about").textContent = `${rows} items, ${facts.with_tcot.toLocaleString("en")} with T-CoTs, ${facts.model}`;
  document.querySelector('input[value="tcot"]').disabled = !facts.reasoner;
  at("rerank-field").hidden = !facts.reranker;
  const own = new Set(["key", "vector", "item", "files", "relative_files", "thumbnail", "evidence"]);
  at("columns").textContent = "Columns: " + Object.keys(facts.columns).filter((name) => !own.has(name)).join(", ");
}

// ------------------------------------------------------------------ the query's picture

function take(file) {
  if (!file || !file.type.startsWith("image/")) return say("That is not a picture.", true);
  const reader = new FileReader();
  reader.onload = () => {
    state.picture = reader.result;
    at("preview").src = reader.result;
    at("preview").hidden = at("clear").hidden = false;
    at("drop-words").hidden = true;
    say("");
  };
  reader.readAsDataURL(file);
}

function drop_picture() {
  state.picture = null;
  at("file").value = "";
  at("preview").hidden = at("clear").hidden = true;
  at("drop-words").hidden = false;
}

at("drop").addEventListener("click", (event) => event.target !== at("clear") && at("file").click());
at("drop").addEventListener("keydown", (event) => (event.key === "Enter" || event.key === " ") && at("file").click());
at("file").addEventListener("click", (event) => event.stopPropagation());
at("file").addEventListener("change", () => at("file").files[0] && take(at("file").files[0]));
at("clear").addEventListener("click", drop_picture);
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) take(file);
});

// ------------------------------------------------------------------ what comes back

const SECTIONS = [["thinking", "Thinking"], ["rethink", "Rethink"], ["answer", "Answer"]];

function show_tcot(place, tcot) {
  place.replaceChildren();
  let shown = false;
  for (const [tag, title] of SECTIONS) {
    const part = tcot.match(new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`));
    if (!part) continue;
    const paragraph = document.createElement("p");
    const head = document.createElement("b");
    head.textContent = title;
    paragraph.append(head, part[1].trim());
    place.append(paragraph);
    shown = true;
  }
  if (!shown) place.append(tcot);
}

function draw_boxes(frame, boxes) {
  boxes.forEach(([left, top, right, bottom], i) => {
    const box = document.createElement("div");
    box.className = "box";
    box.style.left = `${left / 10}%`;
    box.style.top = `${top / 10}%`;
    box.style.width = `${(right - left) / 10}%`;
    box.style.height = `${(bottom - top) / 10}%`;
    const number = document.createElement("span");
    number.textContent = i + 1;
    box.append(number);
    frame.append(box);
  });
}

function mark_words(place, text, query) {
  const words = new Set(query.toLowerCase().match(/[\p{L}\p{N}]{2,}/gu) ?? []);
  for (const part of text.split(/([\p{L}\p{N}]+)/u)) {
    const node = words.has(part.toLowerCase()) ? document.createElement("mark") : document.createElement("span");
    node.textContent = part;
    place.append(node);
  }
}

function moved(mode, hit) {
  const before = state.ranks[mode === "tcot" ? "raw" : "tcot"];
  if (!before) return "";
  const other = mode === "tcot" ? "raw" : "with T-CoT";
  const rank = before.get(hit.key);
  if (rank === undefined) return `new (not in ${other})`;
  return rank === hit.rank ? `as ${other}` : `${other}: ${rank}`;
}

function card(hit, mode, words) {
  const node = at("card").content.cloneNode(true);
  const pick = (name) => node.querySelector(`.${name}`);
  if (hit.thumbnail) {
    const image = pick("frame").querySelector("img");
    image.src = hit.thumbnail;
    image.alt = hit.path || hit.text;
    draw_boxes(pick("frame"), hit.evidence.boxes ?? []);
  } else {
    pick("picture").remove();
  }
  pick("rank").textContent = hit.rank;
  pick("score").textContent = hit.score.toFixed(3);
  pick("moved").textContent = moved(mode, hit);
  mark_words(pick("words"), hit.text.length > 240 ? `${hit.text.slice(0, 240)}…` : hit.text, words);
  const seen = [];
  if (hit.evidence.keywords) seen.push(`keywords: ${hit.evidence.keywords.join(", ")}`);
  if (hit.evidence.frames) seen.push(`key frames: ${hit.evidence.frames.join(", ")}`);
  if (hit.answer) mark_words(pick("why"), [hit.answer, ...seen].join(" · "), words);
  else pick("why").textContent = seen.join(" · ");
  const facts = Object.entries(hit.metadata).map(([name, value]) => `${name}: ${value}`);
  pick("meta").textContent = [hit.path.split("/").pop(), ...facts].filter(Boolean).join(" · ");
  if (hit.tcot) show_tcot(pick("notes"), hit.tcot);
  else pick("more").remove();
  return node;
}

async function search(event) {
  event?.preventDefault();
  const mode = document.querySelector('input[name="mode"]:checked').value;
  const text = at("text").value.trim();
  if (!text && !state.picture) return say("Give a text or a picture.", true);
  const k = Number(at("k").value) || 12;
  const body = { text, image: state.picture, k, where: at("where").value.trim() || null, hybrid: at("hybrid").checked && !!text };
  body.rerank = at("rerank").checked ? Math.max(k, 20) : 0;
  const question = JSON.stringify(body);
  if (question !== state.question) state.ranks = {};
  state.question = question;
  const number = ++state.number;
  at("go").disabled = true;
  say(mode === "tcot" ? "The Reasoner reads the query …" : "Searching …");
  try {
    const answer = await ask("/search", { ...body, reason: mode === "tcot" });
    if (number !== state.number) return;
    state.ranks[mode] = new Map(answer.hits.map((hit) => [hit.key, hit.rank]));
    at("query").hidden = !answer.query.tcot;
    if (answer.query.tcot) {
      at("drawn").src = answer.query.picture;
      show_tcot(at("tcot"), answer.query.tcot);
    }
    const words = `${text} ${answer.query.answer}`;
    at("hits").replaceChildren(...answer.hits.map((hit) => card(hit, mode, words)));
    say(`${answer.hits.length} items in ${answer.seconds.all.toFixed(2)} s`);
  } catch (error) {
    if (number === state.number) say(error.message, true);
  } finally {
    if (number === state.number) at("go").disabled = false;
  }
}

at("form").addEventListener("submit", search);
for (const one of document.querySelectorAll('input[name="mode"]')) one.addEventListener("change", () => state.question && search());
at("text").addEventListener("keydown", (event) => event.key === "Enter" && !event.shiftKey && search(event));
at("token").addEventListener("change", () => about().then(() => say(""), (error) => say(error.message, true)));
about().catch((error) => say(error.message, true));
