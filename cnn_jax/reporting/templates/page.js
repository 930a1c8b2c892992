document.documentElement.classList.add("scripting");
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const number = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : number;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const key = row => {
      const cell = row.cells[column];
      return number ? (cell.dataset.key === "" ? null : Number(cell.dataset.key)) : cell.textContent;
    };
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return (number ? x - y : x.localeCompare(y)) * (down ? -1 : 1);
    };
    body.append(...[...body.rows].sort(order));
  }));
}
function pixels(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
// The colour of errors as the page gives it, "#RRGGBB", in three numbers.
function errorColor() {
  const color = document.querySelector("[data-error-color]").dataset.errorColor;
  return [1, 3, 5].map(start => parseInt(color.slice(start, start + 2), 16));
}
function errors(button) {
  const scene = button.closest(".scene"), prediction = button.querySelector("img");
  const canvas = document.createElement("canvas");
  canvas.width = prediction.naturalWidth;
  canvas.height = prediction.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(scene.querySelector(".image"), 0, 0, canvas.width, canvas.height);
  const out = context.getImageData(0, 0, canvas.width, canvas.height);
  const bright = errorColor();
  const guess = pixels(prediction).data, truth = pixels(scene.querySelector(".truth")).data;
  for (let i = 0; i < guess.length; i += 4) {
    const wrong = truth[i] !== guess[i] || truth[i + 1] !== guess[i + 1] || truth[i + 2] !== guess[i + 2];
    const grey = 0.45 * (0.299 * out.data[i] + 0.587 * out.data[i + 1] + 0.114 * out.data[i + 2]);
    const color = wrong ? bright : [grey, grey, grey];
    for (let channel = 0; channel < 3; channel++) out.data[i + channel] = color[channel];
  }
  context.putImageData(out, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "errors of the " + prediction.alt);
  return canvas;
}
function show(button, wanted) {
  const image = button.querySelector("img");
  let canvas = button.querySelector("canvas");
  if (wanted && !canvas) button.append(canvas = errors(button));
  image.hidden = wanted;
  image.style.display = wanted ? "none" : "";
  if (canvas) canvas.style.display = wanted ? "" : "none";
  button.setAttribute("aria-pressed", wanted);
}
const predictions = document.querySelectorAll(".prediction");
for (const button of predictions)
  button.addEventListener("click", () => show(button, button.getAttribute("aria-pressed") !== "true"));
const every = document.getElementById("errors");
if (every) every.addEventListener("click", () => {
  const wanted = every.getAttribute("aria-pressed") !== "true";
  every.setAttribute("aria-pressed", wanted);
  every.textContent = wanted ? "Show predictions everywhere" : "Show errors everywhere";
  predictions.forEach(button => show(button, wanted));
});
// A variant under the pointer or the focus is lit wherever it stands.
function light(event) {
  const of = event.target.closest?.("[data-of]")?.dataset.of;
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
  for (const number of of ? of.split(" ") : [])
    for (const found of document.querySelectorAll(`[data-of~="${number}"]:not(.pair)`)) found.classList.add("lit");
}
for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, light);
// Pairs: what one says when it is pressed; one of a matrix is reached by Tab, the others by arrows.
const told = document.querySelector(".told");
for (const matrix of document.querySelectorAll(".pairwise")) {
  const pairs = [...matrix.querySelectorAll(".pair")];
  pairs.forEach((pair, index) => pair.tabIndex = index ? -1 : 0);
  matrix.addEventListener("click", event => {
    const pair = event.target.closest(".pair");
    if (!pair) return;
    for (const other of document.querySelectorAll(".pair[aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
    pair.setAttribute("aria-pressed", "true");
    told.textContent = pair.getAttribute("aria-label");
    matrix.parentElement.after(told);
  });
  matrix.addEventListener("keydown", event => {
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const cell = event.target.closest("td");
    if (!move || !cell) return;
    event.preventDefault();
    const row = matrix.rows[cell.parentElement.rowIndex + move[0]];
    const next = row?.cells[cell.cellIndex + move[1]]?.querySelector(".pair");
    if (!next) return;
    for (const pair of pairs) pair.tabIndex = pair === next ? 0 : -1;
    next.focus();
  });
}
