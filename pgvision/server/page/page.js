"use strict";

const $ = (id) => document.getElementById(id);
const COLORS = ["#ffb000", "#2fa8ff", "#ff5c8a", "#35c46a", "#b07cff", "#ff7a2f", "#00b8b0", "#c9d12a"];
const NAMES = { detect: "Find", segment: "Find", ask: "Ask", caption: "", read: "" };
const BUTTONS = { detect: "Find", segment: "Find", ask: "Ask", caption: "Describe", read: "Read" };
const EXAMPLES = ["cyclist", "astronaut", "cat", "coffee", "site-01"];
const SHOWN = 12; // known names and questions that are offered at once
const state = { picture: null, blob: null, name: "", models: [], live: false, stream: null, busy: false };
const sides = [0, 1].map((at) => makeSide(at));
const memory = { objects: ["helmet", ""], ask: ["how many workers wear a helmet?", ""] };
let lastTask = "detect";
let isFirst = true;

// --- an image to ask about --------------------------------------------------------------------

async function useFile(file) {
  stopVideo();
  fail("");
  isFirst = false;
  if (file.type.startsWith("video/")) {
    startVideo(URL.createObjectURL(file), file.name);
    return;
  }
  try {
    // Turned as its EXIF says: the service does the same.
    state.picture = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    forget();
    fail(`${file.name || "This"} is not an image that this browser can show. Try JPEG, PNG or WebP.`, "image-box");
    return;
  }
  state.blob = file;
  state.name = file.name || "pasted.png";
  clearAnswers();
  say(`${state.name}: ${state.picture.width} x ${state.picture.height}`);
}

function startVideo(source, name) {
  const video = $("video");
  video.hidden = false;
  if (typeof source === "string") video.src = source;
  else video.srcObject = source;
  state.name = name;
  video.onerror = () => { stopVideo(); fail(`${name} is not a video that this browser can play. Try MP4 or WebM.`, "image-box"); };
  video.onloadeddata = () => {
    $("live").hidden = false;
    grabFrame();
    say(`${name}: ask about the frame that is shown, or follow the video`);
  };
  if (state.stream) video.play();
}

function stopVideo() {
  follow(false);
  const video = $("video");
  video.onerror = video.onloadeddata = null;
  if (state.stream) state.stream.getTracks().forEach((track) => track.stop());
  if (video.src) URL.revokeObjectURL(video.src);
  state.stream = video.srcObject = null;
  video.removeAttribute("src");
  video.hidden = $("live").hidden = true;
  $("camera").textContent = "Use the camera";
}

function grabFrame() {
  const video = $("video");
  const frame = document.createElement("canvas");
  frame.width = video.videoWidth;
  frame.height = video.videoHeight;
  frame.getContext("2d").drawImage(video, 0, 0);
  state.picture = frame;
  state.blob = null;
  if (!state.live) clearAnswers();
}

async function useCamera() {
  if (state.stream) { stopVideo(); return; }
  stopVideo();
  fail("");
  if (!navigator.mediaDevices) {
    fail("Browsers give the camera to https and localhost only. Choose an image instead.", "image-box");
    return;
  }
  try {
    state.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: { ideal: "environment" } } });
  } catch (error) {
    fail({
      NotFoundError: "No camera was found. Connect one, or choose an image instead.",
      NotAllowedError: "The browser does not allow the camera here. Allow it beside the address, or choose an image instead.",
    }[error.name] || "The camera gives no image; another program may be using it. Close that, or choose an image instead.", "image-box");
    return;
  }
  $("camera").textContent = "Stop the camera";
  startVideo(state.stream, "camera.jpg");
}

async function follow(on) {
  state.live = on;
  $("live").setAttribute("aria-pressed", on);
  $("live").textContent = on ? "Stop following" : "Follow the video";
  const video = $("video");
  video.classList.toggle("behind", on); // frames are shown with their boxes instead
  if (on && video.paused) video.play();
  // The latest frame wins: the next one is taken when the last answer is there.
  while (state.live && !video.hidden) {
    grabFrame();
    if (!(await askAll())) { follow(false); return; }
    await new Promise(requestAnimationFrame);
    if (video.ended) follow(false);
  }
}

function forget() { state.picture = state.blob = null; clearAnswers(); }

// --- asking ------------------------------------------------------------------------------------

function task() { return document.querySelector("input[name=task]:checked").value; }

async function askAll() {
  if (!state.picture) { fail("There is no image yet: choose one, paste one, or take an example.", "image-box"); return false; }
  if (NAMES[task()] && !$("words-0").value.trim()) {
    fail(task() === "ask" ? "Write a question." : "Write what to find.", "words");
    $("words-0").focus();
    return false;
  }
  const blob = state.blob || await new Promise((done) => state.picture.toBlob(done, "image/jpeg", 0.92));
  const pair = $("compare").checked && NAMES[task()];
  state.busy = $("run").disabled = !state.live;
  if (!state.live) { say("asking ..."); $("views").classList.add("busy"); }
  const begun = performance.now();
  const done = await Promise.all(sides.slice(0, pair ? 2 : 1).map((side) => ask(side, blob)));
  state.busy = $("run").disabled = false;
  $("views").classList.remove("busy");
  if (done.every(Boolean)) {
    fail("");
    if (!state.live && innerWidth < 740 && !isFirst) $("view-0").scrollIntoView({ block: "nearest", behavior: "smooth" });
    const spent = performance.now() - begun;
    say(state.live ? `${(1000 / spent).toFixed(1)} frames a second` : `answered in ${Math.round(spent)} ms`);
    describeCall();
  } else if (!done.includes(null)) {
    say("");
    if (!state.live) clearAnswers(); // an old answer beside a new error would mislead
  }
  return done.every(Boolean);
}

/** The fields of one request, beside its image. */
function fieldsOf(at) {
  const words = $(`words-${at}`).value.trim();
  const fields = {};
  if (state.models.length > 1) fields.model = $("model").value;
  if (task() === "ask") fields.question = words;
  if (task() === "detect" || task() === "segment") {
    fields.classes = words;
    if ($("tile").checked) fields.tile = "auto";
  }
  if ($("insist").checked) fields.unknown = "ask";
  if (task() === "segment") fields.masks = "polygons";
  return fields;
}

/** Write the request that was just sent as a curl command and as Python. */
function describeCall() {
  const fields = fieldsOf(0);
  const url = new URL(`v1/${task()}`, location.href).href;
  const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
  // Of -F curl would send what stands before the first ";".
  const parts = Object.entries(fields).map(([name, value]) => ` \\\n  --form-string ${quoted(`${name}=${value}`)}`);
  const file = state.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
  const key = $("key").value ? ` \\\n  -H 'X-API-Key: KEY'` : "";
  $("api-curl").textContent = `curl ${quoted(url)}${key} \\\n  -F ${quoted(`image=@"${file}"`)}${parts.join("")}`;
  const data = JSON.stringify(fields);
  const headers = $("key").value ? `\n    headers={"X-API-Key": "KEY"},` : "";
  $("api-python").textContent = `import requests\n\nwith open(${JSON.stringify(state.name)}, "rb") as image:\n    answer = requests.post(\n        ${JSON.stringify(url)},\n        files={"image": image},\n        data=${data},${headers.replace("    ", "        ")}\n    ).json()\nprint(answer${task() === "ask" || task() === "caption" || task() === "read" ? '["text"]' : '["annotations"]'})`;
  $("api").hidden = false;
}

async function ask(side, blob) {
  const form = new FormData();
  form.append("image", blob, state.name);
  for (const [name, value] of Object.entries(fieldsOf(side.at))) form.append(name, value);
  const picture = state.picture;
  const answer = await call(`v1/${task()}`, { method: "POST", body: form });
  if (!state.live && picture !== state.picture) return null; // another image was chosen meanwhile
  if (!answer) return false;
  side.picture = picture;
  side.answer = answer;
  side.hover = null;
  show(side);
  return true;
}

async function call(path, options = {}) {
  const key = $("key").value;
  if (key) options.headers = { "X-API-Key": key };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    fail("The service does not answer. Is pgvision serve still running?");
    return null;
  }
  if (reply.ok) return reply.json();
  let words = `The service answers ${reply.status}.`;
  let code = "";
  try { ({ message: words, code } = (await reply.json()).error); } catch { /* no message */ }
  if (reply.status === 401) { $("key-row").hidden = false; $("key").focus(); words = "This service needs a key: write it beside Key, above."; }
  const places = { bad_prompt: "words", bad_field: "words", bad_picture: "image-box", too_many_pixels: "image-box", too_large: "image-box", too_many_prompts: "options" };
  fail(words, places[code] || "run-row");
  return null;
}

// --- showing -----------------------------------------------------------------------------------

function makeSide(at) {
  const view = $(`view-${at}`);
  view.append($("view").content.cloneNode(true));
  const side = { at, view, answer: null, picture: null, hover: null };
  const canvas = side.canvas = view.querySelector("canvas");
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = side.picture ? side.picture.width / box.width : 1;
    setHover(side, objectAt(side, (event.clientX - box.left) * scale, (event.clientY - box.top) * scale));
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => setHover(side, null));
  view.querySelector(".save-picture").onclick = () => savePicture(side);
  view.querySelector(".save-coco").onclick = () => saveCoco(side);
  return side;
}

function kept(side) {
  const least = Number($("slider").value);
  return (side.answer?.annotations || []).filter((one) => one.score === undefined || one.score >= least);
}

function color(one) { return COLORS[(one.category_id - 1) % COLORS.length]; }

function outline(one) {
  const path = new Path2D();
  if (Array.isArray(one.segmentation)) {
    for (const ring of one.segmentation) {
      for (let at = 0; at < ring.length; at += 2) path[at ? "lineTo" : "moveTo"](ring[at], ring[at + 1]);
      path.closePath();
    }
  }
  return path;
}

function draw(side, context, scale, unit) {
  const { picture } = side;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.drawImage(picture, 0, 0);
  for (const one of kept(side)) {
    const [x, y, w, h] = one.bbox;
    const isHot = one === side.hover;
    context.strokeStyle = context.fillStyle = color(one);
    if (one.segmentation) {
      const path = outline(one);
      context.globalAlpha = isHot ? 0.6 : 0.4;
      context.fill(path);
      context.globalAlpha = 1;
      context.lineWidth = 1.5 * unit;
      context.stroke(path);
    }
    context.lineWidth = (isHot ? 4 : 2.5) * unit;
    context.strokeRect(x, y, w, h);
  }
  // Labels last, so that no box hides one; each where it hides no other.
  const size = 13 * unit;
  const taken = [];
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const one of kept(side)) {
    const text = caption(one);
    const wide = context.measureText(text).width + 6 * unit;
    const tall = size + 5 * unit;
    const [left, top, w, h] = one.bbox;
    const places = [[left, top - tall], [left, top + h], [left + w, top], [left - wide, top], [left, top]];
    const isFree = ([x, y]) => x >= 0 && y >= 0 && x + wide <= picture.width && y + tall <= picture.height
      && !taken.some(([x2, y2, w2, h2]) => x < x2 + w2 && x2 < x + wide && y < y2 + h2 && y2 < y + tall);
    const [x, y] = places.find(isFree) || [Math.max(0, Math.min(left, picture.width - wide)), Math.max(0, top - tall)];
    taken.push([x, y, wide, tall]);
    context.fillStyle = color(one);
    context.fillRect(x, y, wide, tall);
    context.fillStyle = "#111";
    context.fillText(text, x + 3 * unit, y + 3 * unit);
  }
}

function caption(one) {
  return one.score === undefined ? one.label : `${one.label} ${one.score.toFixed(2)}`;
}

function paint(side) {
  if (!side.picture) return;
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  const scale = Math.max(0.05, (side.canvas.clientWidth * ratio) / side.picture.width);
  side.canvas.width = Math.round(side.picture.width * scale);
  side.canvas.height = Math.round(side.picture.height * scale);
  draw(side, side.canvas.getContext("2d"), scale, ratio / scale);
}

function show(side) {
  const { answer, view } = side;
  const pair = !view.hidden && !$("view-1").hidden;
  const text = (name, words) => { view.querySelector(name).textContent = words; };
  view.querySelector(".stage").hidden = !side.picture;
  text("h2", pair && answer ? answer.prefix : "");
  paint(side);
  const found = kept(side);
  const all = answer?.annotations;
  text(".answer", answer?.text !== undefined ? answer.text || "(nothing)" : "");
  text(".summary", summary(answer, found, all));
  side.canvas.setAttribute("aria-label", all ? found.map(caption).join(", ") || "nothing found" : state.name);
  view.dataset.count = all ? found.length : "";
  const notes = answer ? warnings(answer) : [];
  fillList(view.querySelector(".notes"), notes, (note) => document.createTextNode(note));
  view.classList.toggle("doubtful", notes.length > 0);
  fillList(view.querySelector(".objects"), found, (one) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = caption(one);
    button.style.borderLeftColor = color(one);
    button.onfocus = button.onpointerenter = () => setHover(side, one);
    button.onblur = button.onpointerleave = () => setHover(side, null);
    return button;
  });
  view.querySelector(".downloads").hidden = !answer;
  view.querySelector(".save-coco").hidden = !all;
  view.querySelector("details").hidden = !answer;
  if (!answer) return;
  text(".prefix", answer.prefix);
  text(".raw", answer.raw_text || "(nothing)");
  text(".rejects", answer.rejects.map((one) => `${one.text}: ${one.reason}`).join("\n") || "none");
  text(".timings", Object.entries(answer.timings).map(([name, spent]) => `${name} ${(1000 * spent).toFixed(1)} ms`).join("\n"));
}

/** Notes of the answer, and what the model was never trained on. */
function warnings(answer) {
  const model = state.models.find((one) => one.id === answer.model);
  const notes = [...answer.notes];
  const asked = (answer.categories || []).map((one) => one.name);
  const drawn = asked.filter((name) => model?.trained_on?.[name] === "drawings");
  if (drawn.length) notes.push(`${answer.model} was trained on ${drawn.join(", ")} in drawings only: on photographs it may find nothing, or wrong things.`);
  if (answer.text === "") notes.push(...answer.rejects.map((one) => one.reason));
  return notes;
}

function summary(answer, found, all) {
  if (!answer) return "";
  const parts = [];
  if (all) parts.push(found.length === all.length ? `${all.length} found` : `${found.length} of ${all.length} found are shown`);
  if (answer.score !== undefined && answer.score !== null) parts.push(`score ${answer.score.toFixed(2)}`);
  for (const [name, chance] of Object.entries(answer.presence || {})) parts.push(`${name} is in the image: ${Math.round(100 * chance)}%`);
  if (answer.truncated) parts.push("the answer was cut off");
  return parts.join(" · ");
}

function fillList(list, items, make) {
  list.replaceChildren(...items.map((item) => {
    const row = document.createElement("li");
    row.append(make(item));
    return row;
  }));
}

function objectAt(side, x, y) {
  const under = kept(side).filter(({ bbox: [left, top, w, h] }) => x >= left && y >= top && x <= left + w && y <= top + h);
  return under.sort((one, other) => one.area - other.area)[0] || null;
}

function setHover(side, one) {
  const tip = side.view.querySelector(".tip");
  if (one !== side.hover) { side.hover = one; paint(side); }
  tip.hidden = !one;
  if (!one) return;
  const lines = [caption(one)];
  if (one.text && one.text !== one.label) lines.push(`the model wrote: ${one.text}`);
  if (one.edge_std) {
    const [left, top, right, bottom] = one.edge_std.map((spread) => spread.toFixed(1));
    lines.push(`edges ± pixels: left ${left}, top ${top}`, `right ${right}, bottom ${bottom}`);
  }
  tip.textContent = lines.join("\n");
  const scale = side.canvas.clientWidth / side.picture.width;
  const x = (one.bbox[0] + one.bbox[2]) * scale + 8;
  tip.style.left = `${Math.max(0, Math.min(x, side.canvas.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, one.bbox[1] * scale)}px`;
}

function clearAnswers() {
  for (const side of sides) {
    side.answer = side.hover = null;
    side.view.querySelector(".tip").hidden = true;
    side.picture = state.picture;
    show(side);
  }
}

// --- taking along ------------------------------------------------------------------------------

function stem() { return state.name.replace(/\.\w+$/, "") || "image"; }

function savePicture(side) {
  const canvas = document.createElement("canvas");
  canvas.width = side.picture.width;
  canvas.height = side.picture.height;
  draw({ ...side, hover: null }, canvas.getContext("2d"), 1, Math.max(1, canvas.width / 900));
  canvas.toBlob((blob) => save(blob, `${stem()}.overlay.png`), "image/png");
}

function saveCoco(side) {
  const { images, categories } = side.answer;
  const text = JSON.stringify({ images, annotations: kept(side), categories }, null, 1);
  save(new Blob([text], { type: "application/json" }), `${stem()}.coco.json`);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- the page ----------------------------------------------------------------------------------

function say(words) { $("status").textContent = words; }

/** Show an error at the place of the mistake. */
function fail(words, place) {
  const error = $("error");
  if (words) $(place || "run-row").after(error);
  error.textContent = words;
}

function showTask() {
  const chosen = task();
  const kindOf = (name) => (name === "ask" ? "ask" : "objects");
  if (NAMES[lastTask]) memory[kindOf(lastTask)] = [0, 1].map((at) => $(`words-${at}`).value);
  if (NAMES[chosen]) [0, 1].forEach((at) => { $(`words-${at}`).value = memory[kindOf(chosen)][at]; });
  if (NAMES[chosen]) lastTask = chosen;
  $("words").hidden = !NAMES[chosen];
  $("words-name").textContent = NAMES[chosen];
  $("run").textContent = BUTTONS[chosen];
  $("slider-row").hidden = $("tile-row").hidden = kindOf(chosen) === "ask" || !NAMES[chosen];
  $("compare-row").hidden = !NAMES[chosen];
  const pair = $("compare").checked && Boolean(NAMES[chosen]);
  $("words-1").hidden = $("view-1").hidden = !pair;
  const model = state.models.find((one) => one.id === $("model").value);
  const known = (chosen === "ask" ? model?.questions : model?.classes) || [];
  offer(known, chosen === "ask");
  $("hint").textContent = !model ? "" : chosen === "ask"
    ? (known.length ? `The model was trained on these ${known.length} questions:` : "Any question.")
    : (known.length ? "The model knows these; click to add:" : "Any phrase. Put ; between several.");
  clearAnswers();
}

/** Offer what the model knows as buttons: a class is added, a question replaces the old one. */
function offer(known, isQuestion) {
  const chip = (word) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word;
    button.onclick = () => {
      const input = $("words-0");
      const names = input.value.split(";").map((name) => name.trim()).filter(Boolean);
      if (isQuestion) input.value = word;
      else input.value = (names.includes(word) ? names.filter((name) => name !== word) : [...names, word]).join("; ");
    };
    return button;
  };
  const rest = known.slice(SHOWN);
  const more = document.createElement("button");
  more.type = "button";
  more.textContent = `${rest.length} more ...`;
  more.onclick = () => more.replaceWith(...rest.map(chip));
  $("known").replaceChildren(...known.slice(0, SHOWN).map(chip), ...(rest.length ? [more] : []));
}

async function useExample(name) {
  const blob = await (await fetch(`page/example-${name}.jpg`)).blob();
  await useFile(new File([blob], `${name}.jpg`, { type: "image/jpeg" }));
}

/** Show what the model does before anything is asked: an example with its result. */
async function showFirst() {
  const model = state.models.find((one) => one.id === $("model").value);
  const knows = (model?.classes || ["helmet"]).includes("helmet");
  const isPhotographic = model?.trained_on?.helmet !== "drawings";
  await useExample(isPhotographic ? EXAMPLES[0] : EXAMPLES.at(-1));
  isFirst = true;
  if (!knows) $("words-0").value = model.classes[0];
  if (await askAll()) say(`This is an example: ${$("words-0").value}. Next, choose an image of your own, or change the words and press ${$("run").textContent}.`);
}

async function begin() {
  const models = await call("v1/models");
  if (!models) return;
  fail("");
  state.models = models.data;
  const chosen = $("model").value;
  $("model").replaceChildren(...state.models.map((one) => new Option(one.id, one.id)));
  if (chosen) $("model").value = chosen;
  showTask();
  if (!state.models.every((one) => one.ready)) {
    say("The model is loading ...");
    setTimeout(begin, 1000);
    return;
  }
  if ($("status").textContent.includes("loading")) say("The model is ready.");
  if (isFirst && !state.picture) showFirst();
}

for (const name of EXAMPLES) {
  const button = document.createElement("button");
  button.type = "button";
  const image = document.createElement("img");
  image.src = `page/example-${name}.jpg`;
  image.alt = `Example: ${name}`;
  button.append(image);
  button.onclick = () => useExample(name);
  $("examples").append(button);
}
$("file").onchange = () => { if ($("file").files[0]) useFile($("file").files[0]); $("file").value = ""; };
$("drop").onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } };
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) useFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) useFile(file);
});
$("camera").onclick = useCamera;
$("live").onclick = () => follow(!state.live);
$("video").onseeked = () => { if (!state.live) grabFrame(); };
$("video").onpause = () => { if (!state.live) grabFrame(); };
$("form").onsubmit = (event) => {
  event.preventDefault();
  if (!$("video").hidden && !state.live) grabFrame();
  if (!state.busy && !state.live) askAll();
};
$("slider").oninput = () => {
  $("slider-value").textContent = Number($("slider").value).toFixed(2);
  sides.forEach(show);
};
$("tasks").onchange = $("compare").onchange = $("model").onchange = showTask;
$("key").onchange = () => { sessionStorage.setItem("key", $("key").value); begin(); };
$("key").value = sessionStorage.getItem("key") || "";
new ResizeObserver(() => sides.forEach(paint)).observe($("views"));
begin();
