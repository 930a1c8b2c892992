// The page itself: from a picture to the network's answer, and into its layers.

(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const about = JSON.parse($("about").textContent);
  let language = (navigator.language || "en").startsWith("es") ? "es" : "en";
  let words = WORDS[language];
  let ort, network, layers, session, last, shown, notice = () => "";

  // ---- words

  const number = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
    return value.toLocaleString(language, { maximumFractionDigits: size < 10 ? 4 : 2, useGrouping: false });
  };
  const short = (value) => value.toLocaleString(language, { maximumSignificantDigits: 3, useGrouping: false });
  function say(make) { notice = make; $("status").textContent = make(); }

  function speak(to) {
    language = to;
    words = WORDS[to];
    document.documentElement.lang = to;
    $("english").setAttribute("aria-pressed", to === "en");
    $("spanish").setAttribute("aria-pressed", to === "es");
    for (const held of document.querySelectorAll("[data-text]")) held.textContent = words[held.dataset.text];
    $("camera").textContent = $("video").hidden ? words.camera : words.stop;
    $("board").setAttribute("aria-label", `${words.pencil}. ${words.keys}`);
    $("status").textContent = notice();
    $("about-network").textContent = words.network_about(about);
    $("about-runtime").textContent = about.runtime ? words.outside(about.runtime.url) : words.inside;
    if (last) answer();
    if (layers) list();
    if (shown) look(shown.index, shown.channel, shown.place);
    document.dispatchEvent(new CustomEvent("spoken"));
  }

  // ---- the runtime and the network

  async function unpacked(id) {
    const packed = Uint8Array.from(atob($(id).textContent.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  async function fetched(name) {
    const { url, files } = about.runtime;
    const options = { integrity: files[name], referrerPolicy: "no-referrer" };
    // Without a connection, or where the bytes aren't those of the hash, there is no response.
    const response = await fetch(url + name, options).catch((error) => ({ ok: false, status: error.message }));
    if (!response.ok) {
      const told = () => words.not_loaded(url + name);
      throw Object.assign(new Error(`${url}${name}: ${response.status}`), { told });
    }
    return new Uint8Array(await response.arrayBuffer());
  }
  async function load() {
    if (typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined") {
      say(() => words.no_wasm);
      return;
    }
    say(() => words.loading);
    const part = about.runtime ? fetched : (name) => unpacked(`runtime-${name}`);
    const [code, binary, file] = await Promise.all([
      part("ort.wasm.bundle.min.mjs"), part("ort-wasm-simd-threaded.wasm"), unpacked("network")]);
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    ort = await import(address);
    ort = ort.InferenceSession ? ort : ort.default;
    ort.env.wasm.wasmBinary = binary.buffer;
    ort.env.wasm.numThreads = 1;
    network = Network.parse(file);
    layers = Network.layers(network);
    session = await ort.InferenceSession.create(file);
    say(() => words.ready);
    $("example").hidden = !about.example;
    list();
    document.body.dataset.ready = "yes";
  }

  // ---- from a picture to an answer

  // Everything that is computed waits for what was asked for before it.
  let queue = Promise.resolve();
  const next = (work) => (queue = queue.then(work).catch((error) => {
    say(() => words.failed(error.message ?? error));
    document.body.dataset.failed = String(error.stack ?? error);
  }));

  function prepared(image, drawn) {
    const picture = Pixels.planes(image, about.channels), { width, height } = picture;
    const sizes = (w, h) => `${w} × ${h}`;
    const smaller = (scale) => {
      const w = Math.max(Math.round(width * scale), 1), h = Math.max(Math.round(height * scale), 1);
      return { picture: Pixels.resized(picture, [0, 0, width, height], w, h),
        note: () => words.shrunk(sizes(width, height), sizes(w, h)) };
    };
    if (about.image_px) {
      const [rows, columns] = about.image_px;
      if (drawn && about.channels === 1) return { picture: Pixels.centred(picture, columns, rows) };
      const fits = width === columns && height === rows;
      const made = fits && about.crop_share === 1 ? picture : Pixels.fitted(picture, columns, rows, about.crop_share);
      return { picture: made, note: fits ? null : () => words.other_size(sizes(width, height), sizes(columns, rows)) };
    }
    const fits = (columns, rows) => width <= columns && height <= rows;
    if (about.task === "detection") { // of one size, which holds the whole picture
      const [rows, columns] = about.window_px;
      return fits(columns, rows) ? { picture } : smaller(Math.min(columns / width, rows / height));
    }
    if (!about.multiple_px) { // another network of one size
      const [rows, columns] = about.window_px;
      if (width === columns && height === rows) return { picture };
      return { picture: Pixels.fitted(picture, columns, rows, 1),
        note: () => words.other_size(sizes(width, height), sizes(columns, rows)) };
    }
    return fits(about.longest_px, about.longest_px) ? { picture } : smaller(about.longest_px / Math.max(width, height));
  }

  // The sides of what is computed of a picture: whole strides of the network, or all that it takes.
  function sides({ width, height }) {
    if (about.task === "detection") return [about.window_px[1], about.window_px[0]];
    const step = about.multiple_px ?? 1, round = (size) => Math.ceil(size / step) * step;
    return [round(width), round(height)];
  }

  async function computed(running, picture, outputs) {
    const padded = Pixels.padded(picture, ...sides(picture), Boolean(about.objects));
    const shape = [1, padded.height, padded.width, about.channels];
    const images = new ort.Tensor("float32", Pixels.values(padded), shape);
    const results = await running.run({ images }, outputs);
    return { results, images, padded };
  }

  async function predict(image, drawn = false) {
    const { picture, note } = prepared(image, drawn);
    const begun = performance.now();
    const { results, padded } = await computed(session, picture);
    const { data } = results.output, ms = performance.now() - begun;
    last = { picture, padded, probabilities: data, ms, image, drawn };
    if (window.page.taught) last.taught = await window.page.taught.probabilities(picture);
    say(note ?? (() => words.ready));
    answer();
    document.body.dataset.answers = Number(document.body.dataset.answers ?? 0) + 1;
    if (shown) await show(shown.index, shown.channel, shown.place);
  }

  function answer() {
    const { picture, padded, probabilities, ms, taught } = last;
    $("result").hidden = $("inside").hidden = false;
    Pixels.draw($("seen"), picture);
    $("seen").setAttribute("aria-label", `${words.seen}, ${picture.width} × ${picture.height} px`);
    const classes = taught ? window.page.taught.names : about.classes, colors = taught ? [] : about.colors;
    const dense = about.task === "segmentation" && !taught;
    $("map-figure").hidden = !(dense || about.objects);
    $("least-line").hidden = !about.objects;
    $("speed").textContent = words.speed(number(Math.round(ms)));
    if (about.objects) { objects(); return; }
    let shares = taught ?? probabilities;
    if (dense) {
      shares = new Float64Array(classes.length);
      const { width, height } = picture, map = $("map");
      map.width = width; map.height = height;
      const image = new ImageData(width, height);
      for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const at = (y * padded.width + x) * classes.length;
        let best = 0;
        for (let k = 1; k < classes.length; k++) if (probabilities[at + k] > probabilities[at + best]) best = k;
        shares[best] += 1 / (width * height);
        image.data.set([...colors[best], 255], 4 * (y * width + x));
      }
      map.getContext("2d").putImageData(image, 0, 0);
    }
    const order = Array.from(classes.keys()).sort((a, b) => shares[b] - shares[a]).slice(0, dense ? classes.length : 5);
    const percent = (k) => (100 * shares[k]).toLocaleString(language, { maximumFractionDigits: 1, minimumFractionDigits: 1 });
    $("classes").replaceChildren(...order.map((k) => {
      const item = entry(classes[k], colors[k], `${percent(k)} %`), bar = document.createElement("i"), held = document.createElement("div");
      held.className = "bar";
      bar.style.width = `${100 * shares[k]}%`;
      held.append(bar);
      item.append(held);
      return item;
    }));
    if (dense) $("map").setAttribute("aria-label", `${words.map}: ${order.map((k) => `${classes[k]} ${(100 * shares[k]).toFixed(0)} %`).join(", ")}`);
  }

  // A class in the list of the answer: its colour, its name, what is said of it.
  function entry(name, color, said) {
    const item = document.createElement("li"), [swatch, called, value] = ["span", "span", "span"].map((tag) => document.createElement(tag));
    swatch.className = "swatch";
    if (color) swatch.style.background = `rgb(${color.join()})`; else swatch.style.visibility = "hidden";
    called.className = "name";
    called.textContent = name;
    value.textContent = said;
    item.append(swatch, called, value);
    return item;
  }

  // What a network of objects found, from a score on.
  function found() {
    const { picture, padded, probabilities } = last, { classes } = about;
    last.found ??= about.task === "detection" ? { found: Objects.boxes(probabilities, classes.length, picture, about.objects) }
      : Objects.instances(probabilities, classes.length, padded, picture, about.objects);
    const least = Number($("least").value);
    return { ...last.found, found: last.found.found.filter((one) => one.score >= least) };
  }

  function objects() {
    const { classes, colors } = about, { picture, padded } = last, { found: every, numbers } = found();
    $("least-value").textContent = $("least").valueAsNumber.toLocaleString(language, { minimumFractionDigits: 2 });
    Pixels.draw($("map"), picture);
    Objects.draw($("map"), every, colors, numbers, padded.width);
    const score = (one) => one.score.toLocaleString(language, { maximumFractionDigits: 2, minimumFractionDigits: 2 });
    const counts = classes.map((name, label) => [name, every.filter((one) => one.label === label)]);
    $("classes").replaceChildren(...counts.map(([name, ones], label) => {
      const item = entry(name, colors[label], ones.length), scores = document.createElement("small");
      scores.className = "scores";
      scores.textContent = ones.slice(0, 20).map(score).join("  ") + (ones.length > 20 ? " …" : "");
      item.append(scores);
      return item;
    }));
    $("map").setAttribute("aria-label", `${words.objects}: ${counts.map(([name, ones]) => `${name} ${ones.length}`).join(", ")}`);
  }

  // ---- the layers

  const title = (layer) => {
    const size = layer.kind === "Conv" || layer.kind === "ConvTranspose"
      ? ` ${network.tensors[layer.node.inputs[1]].dims.slice(2).join("×")}`
      : layer.node.attributes.kernel_shape ? ` ${layer.node.attributes.kernel_shape.join("×")}` : "";
    return words.kinds[layer.kind] + size;
  };
  const whereabouts = (layer) => layer.scope.replace(/\/(convolution|norm)$/, "").replaceAll("/", " / ");
  function list() {
    $("layers").replaceChildren(...layers.map((layer, index) => {
      const item = document.createElement("li"), button = document.createElement("button"), where = document.createElement("small");
      button.type = "button";
      button.append(`${index + 1}. ${title(layer)}`);
      where.textContent = whereabouts(layer) || "\u00a0";
      button.append(where);
      if (shown?.index === index) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => next(() => show(index)).then(() => $("layer").focus({ preventScroll: false })));
      item.append(button);
      return item;
    }));
  }

  let opened = {}; // sessions that hand out a layer's tensors
  async function tensors(layer) {
    const wanted = [...new Set([layer.output, layer.source])].filter((name) => name !== "images" && name !== "output");
    const key = wanted.join();
    if (!opened[key]) {
      for (const old of Object.keys(opened).slice(0, -3)) { await opened[old].release(); delete opened[old]; }
      opened[key] = await ort.InferenceSession.create(Network.withOutputs(network, wanted));
    }
    const { results, images } = await computed(opened[key], last.picture);
    return { ...results, images };
  }

  async function show(index, channel = 0, place = null) {
    const layer = layers[index], held = await tensors(layer);
    const result = Network.maps(held[layer.output], layer.channels);
    const source = held[layer.source] ?? null;
    const before = source && Network.maps(source, layer.source === "images" ? 3 : layer.sourceChannels);
    shown = { index, layer, result, before, source, channel, place, all: false };
    look(index, Math.min(channel, result.channels - 1), place);
    document.body.dataset.layer = index;
  }

  // Blue below 0, orange above; a map without values below 0 is grey.
  function paint(canvas, width, height, at) {
    let low = Infinity, high = -Infinity;
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      const value = at(y, x);
      if (value < low) low = value;
      if (value > high) high = value;
    }
    canvas.width = width; canvas.height = height;
    const image = new ImageData(width, height), most = Math.max(-low, high) || 1;
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      const value = at(y, x), share = low < 0 ? value / most : high > 0 ? value / high : 0;
      const color = low >= 0 ? [255 * share, 255 * share, 255 * share]
        : share < 0 ? [247 + 214 * share, 247 + 130 * share, 247 + 50 * share]
        : [247 - 20 * share, 247 - 130 * share, 247 - 220 * share];
      image.data.set([...color, 255], 4 * (y * width + x));
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return { low, high };
  }

  function look(index, channel, place) {
    const { layer, result } = shown;
    shown.channel = channel;
    shown.place = place;
    $("layer").hidden = false;
    [...$("layers").querySelectorAll("button")].forEach((button, k) =>
      k === index ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current"));
    $("layer-title").textContent = `${index + 1}. ${title(layer)}${layer.scope ? `, ${whereabouts(layer)}` : ""}`;
    const single = result.height * result.width === 1;
    $("layer-about").textContent = single ? words.vector(result.channels) : words.maps(result.channels, result.height, result.width);
    const count = shown.all ? result.channels : Math.min(result.channels, 64);
    $("more").hidden = count === result.channels || result.channels > 5000;
    $("maps").className = single ? "bars" : "";
    $("maps").replaceChildren(...Array.from({ length: count }, (_, k) => {
      const button = document.createElement("button"), label = document.createElement("span");
      button.type = "button";
      if (!single) {
        const canvas = document.createElement("canvas");
        paint(canvas, result.width, result.height, (y, x) => result.at(k, y, x));
        button.append(canvas);
      }
      const head = single && index === layers.length - 1 && result.channels === about.classes.length;
      label.textContent = !single ? k : `${head ? `${about.classes[k]}: ` : ""}${short(result.at(k, 0, 0))}`;
      button.setAttribute("aria-label", words.place(k, 0, 0).split(",")[0]);
      button.setAttribute("aria-pressed", k === channel);
      button.append(label);
      button.addEventListener("click", () => {
        look(index, k, single ? [0, 0] : null);
        $("maps").children[k]?.focus();
      });
      return button;
    }));
    $("closer").hidden = single;
    if (!single) {
      const { low, high } = paint($("channel"), result.width, result.height, (y, x) => result.at(channel, y, x));
      $("channel").setAttribute("aria-label", words.channel(channel, number(low), number(high)));
      $("channel-about").textContent = words.channel(channel, number(low), number(high));
      if (place) mark(place);
    }
    kernels();
    explain();
  }

  function mark([row, column]) {
    const context = $("channel").getContext("2d");
    context.fillStyle = "#d6006c";
    context.fillRect(column, row, 1, 1);
  }

  function kernels() {
    const { layer, channel } = shown, held = layer.kind === "Conv";
    $("kernel-figure").hidden = !held;
    if (!held) return;
    const kernel = network.tensors[layer.node.inputs[1]], [, within, height, width] = kernel.dims;
    $("kernels").replaceChildren(...Array.from({ length: Math.min(within, 64) }, (_, k) => {
      const canvas = document.createElement("canvas"), start = (channel * within + k) * height * width;
      const values = kernel.data.subarray(start, start + height * width);
      paint(canvas, width, height, (y, x) => values[y * width + x]);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", Array.from(values, number).join(" "));
      canvas.title = Array.from({ length: height }, (_, y) => Array.from(values.subarray(y * width, (y + 1) * width), number).join("  ")).join("\n");
      return canvas;
    }));
  }

  function table(caption, rows) {
    const box = document.createElement("div"), made = document.createElement("table");
    box.className = "scroll";
    made.createCaption().textContent = caption;
    for (const cells of rows) {
      const line = made.insertRow();
      for (const cell of cells) line.insertCell().textContent = cell;
    }
    box.append(made);
    return box;
  }

  // The sum that made one value.
  function explain() {
    const { layer, result, before, source, channel, place } = shown;
    $("sum").hidden = !place;
    if (!place) return;
    const [row, column] = place, held = result.at(channel, row, column), { attributes } = layer.node;
    const spot = `${words.place(channel, row, column)}: `;
    delete $("sum").dataset.sum;
    const signed = (value) => (value < 0 ? `− ${number(-value)}` : `+ ${number(value)}`);
    $("terms").replaceChildren();
    if (layer.kind === "Conv" && before) {
      const { terms, bias, sum } = Network.convolutionSum(layer, network, before, channel, row, column);
      const order = [...terms].sort((a, b) => Math.abs(b.part) - Math.abs(a.part)), few = order.slice(0, 6), rest = order.slice(6);
      $("terms").append(...few.map((term) => table(words.from(term.channel, number(term.part)),
        term.rows.map((cells) => cells.map((cell) => `${number(cell.value)} × ${number(cell.weight)}`)))));
      const parts = few.map((term, k) => (k ? signed(term.part) : number(term.part)));
      if (rest.length) parts.push(`${signed(rest.reduce((all, term) => all + term.part, 0))} (${words.others(rest.length, "").replace(/: $/, "")})`);
      if (layer.bias) parts.push(`${signed(bias)} (${words.bias("").trim()})`);
      $("sum-line").textContent = `${spot}${parts.join(" ")} ${words.computed(number(sum), number(held))}`;
      $("sum").dataset.sum = sum;
    } else if (layer.kind === "MatMul" && source && source.dims.length === 2) {
      const { terms, bias, sum } = Network.denseSum(layer, network, source, channel);
      $("terms").append(table(words.largest_terms(Math.min(terms.length, 12), terms.length),
        terms.slice(0, 12).map((term) => [term.channel, `${number(term.value)} × ${number(term.weight)}`, number(term.part)])));
      $("sum-line").textContent = `${spot}Σ ${layer.bias ? signed(bias) : ""} ${words.computed(number(sum), number(held))}`;
      $("sum").dataset.sum = sum;
    } else if (layer.kind === "MaxPool" && before) {
      const [height, width] = attributes.kernel_shape, [down, across] = attributes.strides, pads = attributes.pads ?? [0, 0, 0, 0];
      const rows = [];
      for (let i = 0; i < height; i++) rows.push(Array.from({ length: width }, (_, j) => {
        const y = row * down + i - pads[0], x = column * across + j - pads[1];
        return y >= 0 && x >= 0 && y < before.height && x < before.width ? number(before.at(channel, y, x)) : "";
      }));
      $("terms").append(table("", rows));
      $("sum-line").textContent = spot + words.largest(number(held), height * width);
    } else if (layer.kind === "Relu" && before) {
      $("sum-line").textContent = spot + words.relu(number(before.at(channel, row, column)), number(held));
    } else if (layer.norm && before) {
      const [shift, factor, offset] = layer.norm.map((held) => held[held.length === 1 ? 0 : channel]);
      const x = before.at(channel, row, column);
      $("sum-line").textContent = spot
        + words.normed(number(x), signed(shift), number(factor), signed(offset), number(held));
      $("sum").dataset.sum = (x + shift) * factor + offset;
    } else if (layer.kind === "ReduceMean" && before) {
      $("sum-line").textContent = spot + words.averaged(number(held), before.height * before.width);
    } else $("sum-line").textContent = spot + words.value(number(held));
    $("sum").dataset.value = held;
  }

  // ---- what the user does

  async function picked(file) {
    let image;
    try { image = await Pixels.read(file); } catch { say(() => words.bad_file(file.name)); return; }
    next(() => predict(image));
  }

  async function camera() {
    const video = $("video");
    if (!video.hidden) {
      for (const track of video.srcObject?.getTracks() ?? []) track.stop();
      video.hidden = $("snap").hidden = true;
    } else {
      try {
        video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
        await video.play();
        video.hidden = $("snap").hidden = false;
      } catch { say(() => words.no_camera); }
    }
    $("camera").textContent = video.hidden ? words.camera : words.stop;
  }

  function board() {
    const canvas = $("board"), context = canvas.getContext("2d");
    const clear = () => { context.fillStyle = "#000"; context.fillRect(0, 0, 280, 280); };
    let from = null, spot = [140, 140];
    const line = (to) => {
      context.strokeStyle = "#fff"; context.lineWidth = 22; context.lineCap = context.lineJoin = "round";
      context.beginPath(); context.moveTo(...(from ?? to)); context.lineTo(...to); context.stroke();
      from = to;
    };
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) * 280) / box.width, ((event.clientY - box.top) * 280) / box.height];
    };
    const read = () => next(async () => predict(await Pixels.read(canvas), true));
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); from = null; line(place(event)); });
    canvas.addEventListener("pointermove", (event) => { if (from && event.buttons) line(place(event)); });
    canvas.addEventListener("pointerup", () => { from = null; read(); });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-14, 0], ArrowRight: [14, 0], ArrowUp: [0, -14], ArrowDown: [0, 14] }[event.key];
      if (step) {
        const to = spot.map((at, k) => Math.min(Math.max(at + step[k], 10), 270));
        if (from) line(to);
        spot = to;
      } else if (event.key === " ") {
        if (from) { from = null; read(); } else line(spot);
      } else return;
      event.preventDefault();
    });
    $("clear").addEventListener("click", clear);
    clear();
  }

  function moves(event) {
    if (!shown) return;
    const { result, index, channel } = shown, [row, column] = shown.place ?? [0, 0];
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const to = [Math.min(Math.max(row + step[0], 0), result.height - 1), Math.min(Math.max(column + step[1], 0), result.width - 1)];
    look(index, channel, shown.place ? to : [0, 0]);
    $("channel").focus();
  }

  async function example() {
    const packed = Uint8Array.from(atob(about.example), (letter) => letter.charCodeAt(0));
    const image = await Pixels.read(new Blob([packed], { type: "image/png" }));
    next(() => predict(image));
  }

  $("english").addEventListener("click", () => speak("en"));
  $("spanish").addEventListener("click", () => speak("es"));
  $("file").addEventListener("change", (event) => { if (event.target.files[0]) picked(event.target.files[0]); event.target.value = ""; });
  $("camera").addEventListener("click", camera);
  $("snap").addEventListener("click", () => next(async () => predict(await Pixels.read($("video")))));
  $("example").addEventListener("click", example);
  $("pencil").addEventListener("click", () => {
    $("drawing").hidden = !$("drawing").hidden;
    $("pencil").setAttribute("aria-expanded", !$("drawing").hidden);
    if (!$("drawing").hidden) $("board").focus();
  });
  if (about.objects) {
    $("least").min = Math.min(about.objects.least_score, 0.95);
    $("least").value = about.objects.counted_score;
  }
  $("least").addEventListener("input", () => last && answer());
  $("more").addEventListener("click", () => { shown.all = true; look(shown.index, shown.channel, shown.place); });
  $("channel").addEventListener("click", (event) => {
    const box = $("channel").getBoundingClientRect(), { result, index, channel } = shown;
    const row = Math.floor(((event.clientY - box.top) * result.height) / box.height);
    const column = Math.floor(((event.clientX - box.left) * result.width) / box.width);
    look(index, channel, [Math.min(Math.max(row, 0), result.height - 1), Math.min(Math.max(column, 0), result.width - 1)]);
  });
  $("channel").addEventListener("keydown", moves);
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) picked(event.dataTransfer.files[0]);
  });
  board();

  // What teaching needs, and tests look at.
  window.page = {
    about, words: () => words, next, say, prepared, computed, answer, found,
    state: () => ({ ort, network, layers, last, shown }),
    again: () => last && next(() => predict(last.image, last.drawn)),
  };
  speak(language);
  load().catch((error) => {
    say(error.told ?? (() => words.failed(error.message ?? error)));
    document.body.dataset.failed = String(error.stack ?? error);
  });
})();
