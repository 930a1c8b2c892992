// Classes of one's own: a head trained in the page on the features that the network has of pictures,
// and the result as a run's folder, which cnn-jax opens.

(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const { about, words, next, say, state, prepared, computed } = window.page;
  const classes = []; // {name, pictures: [{picture, features}], element}
  let running = null; // a session that hands out the features

  // ---- features: what the last dense layer, or 1x1 convolution, is given

  async function features(picture) {
    const { ort, network, layers } = state();
    const head = layers.findLast((layer) => layer.kind === "MatMul" || layer.kind === "Conv");
    running ??= await ort.InferenceSession.create(Network.withOutputs(network, [head.source]));
    const { results } = await computed(running, picture);
    return Float32Array.from(results[head.source].data);
  }

  // ---- a softmax regression: Adam on all examples at once, features brought to deviation 1

  function fit(examples, labels, count) {
    const size = examples[0].length, mean = new Float64Array(size), deviation = new Float64Array(size);
    for (const x of examples) for (let i = 0; i < size; i++) mean[i] += x[i] / examples.length;
    for (const x of examples) for (let i = 0; i < size; i++) deviation[i] += (x[i] - mean[i]) ** 2 / examples.length;
    for (let i = 0; i < size; i++) deviation[i] = Math.sqrt(deviation[i]) || 1;
    const scaled = examples.map((x) => Float64Array.from(x, (value, i) => (value - mean[i]) / deviation[i]));
    const weights = new Float64Array((size + 1) * count), first = weights.slice(), second = weights.slice();
    const penalty = 0.01, rate = 0.02;
    for (let step = 1; step <= 200; step++) {
      const gradient = new Float64Array(weights.length);
      scaled.forEach((x, n) => {
        const found = softmax(logits(x, weights, count));
        for (let k = 0; k < count; k++) {
          const error = (found[k] - (labels[n] === k)) / scaled.length;
          for (let i = 0; i < size; i++) gradient[i * count + k] += error * x[i];
          gradient[size * count + k] += error;
        }
      });
      for (let i = 0; i < weights.length; i++) {
        if (i < size * count) gradient[i] += penalty * weights[i];
        first[i] = 0.9 * first[i] + 0.1 * gradient[i];
        second[i] = 0.999 * second[i] + 0.001 * gradient[i] ** 2;
        weights[i] -= (rate * (first[i] / (1 - 0.9 ** step))) / (Math.sqrt(second[i] / (1 - 0.999 ** step)) + 1e-8);
      }
    }
    // The scaling becomes part of kernel and bias, as the network's own head has them.
    const kernel = new Float32Array(size * count), bias = new Float32Array(count);
    for (let k = 0; k < count; k++) {
      let offset = weights[size * count + k];
      for (let i = 0; i < size; i++) {
        kernel[i * count + k] = weights[i * count + k] / deviation[i];
        offset -= (weights[i * count + k] * mean[i]) / deviation[i];
      }
      bias[k] = offset;
    }
    return { kernel, bias };
  }
  function logits(x, weights, count) {
    const found = Array.from(weights.subarray(x.length * count, (x.length + 1) * count));
    for (let i = 0; i < x.length; i++) for (let k = 0; k < count; k++) found[k] += x[i] * weights[i * count + k];
    return found;
  }
  function softmax(values) {
    const most = Math.max(...values), powers = values.map((value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  }

  async function train() {
    const names = classes.map((one) => one.name.trim());
    if (classes.length < 2 || classes.length > 10 || new Set(names).size < names.length
      || names.some((name) => !name) || classes.some((one) => one.pictures.length < 4)) {
      $("teach-result").textContent = words().few;
      return;
    }
    const sets = { train: [], test: [] };
    for (const [label, one] of classes.entries()) for (const [index, held] of one.pictures.entries()) {
      held.features ??= await features(held.picture);
      sets[index % 4 === 3 ? "test" : "train"].push({ x: held.features, label });
    }
    const begun = performance.now();
    const head = fit(sets.train.map((one) => one.x), sets.train.map((one) => one.label), names.length);
    const all = Float64Array.from([...head.kernel, ...head.bias]), confusion = names.map(() => names.map(() => 0));
    for (const { x, label } of sets.test) {
      const found = logits(x, all, names.length);
      confusion[label][found.indexOf(Math.max(...found))] += 1;
    }
    const right = confusion.reduce((sum, row, k) => sum + row[k], 0), ms = Math.round(performance.now() - begun);
    window.page.taught = {
      names, confusion, head, counts: names.map((_, k) => sets.train.filter((one) => one.label === k).length),
      sizes: { train: sets.train.length, validation: 0, test: sets.test.length },
      probabilities: async (picture) => softmax(logits(await features(picture), all, names.length)),
    };
    result = () => words().taught(right, sets.test.length, ms);
    $("teach-result").textContent = result();
    $("teach-result").dataset.right = `${right}/${sets.test.length}`;
    $("download").hidden = !about.taught;
    window.page.again();
  }
  let result = null;

  // ---- the list of classes

  function add() {
    if (classes.length === 10) return;
    const one = { name: "", pictures: [], element: document.createElement("div") };
    one.element.className = "taught";
    const name = document.createElement("input");
    name.type = "text";
    name.maxLength = 40;
    name.addEventListener("input", () => { one.name = name.value; });
    const label = document.createElement("label"), file = document.createElement("input"), caption = document.createElement("span");
    label.className = "button";
    Object.assign(file, { type: "file", accept: "image/*", multiple: true });
    label.append(file, caption);
    const [shot, drawn, remove] = Array.from({ length: 3 }, () => Object.assign(document.createElement("button"), { type: "button" }));
    const count = document.createElement("span");
    const speak = () => {
      name.placeholder = words().class_name;
      name.setAttribute("aria-label", words().class_name);
      caption.textContent = words().add_files;
      shot.textContent = words().add_camera;
      drawn.textContent = words().add_drawing;
      remove.textContent = words().remove;
      count.textContent = words().count(one.pictures.length);
      count.dataset.count = one.pictures.length;
    };
    const take = async (source, drawing = false) => {
      one.pictures.push({ picture: prepared(await Pixels.read(source), drawing).picture });
      speak();
    };
    file.addEventListener("change", () => {
      const files = [...file.files];
      file.value = "";
      next(async () => {
        for (const held of files) {
          try { await take(held); } catch { say(() => words().bad_file(held.name)); }
        }
      });
    });
    shot.addEventListener("click", () => {
      if ($("video").hidden) say(() => words().no_camera);
      else next(() => take($("video")));
    });
    drawn.addEventListener("click", () => next(() => take($("board"), true)));
    remove.addEventListener("click", () => {
      classes.splice(classes.indexOf(one), 1);
      one.element.remove();
    });
    document.addEventListener("spoken", speak);
    one.element.append(name, label, shot, drawn, count, remove);
    classes.push(one);
    $("own-classes").append(one.element);
    speak();
  }

  // ---- the result as a run's folder

  // BLAKE2b (RFC 7693) without a key, of so many bytes, in hexadecimal. 64-bit numbers are pairs of
  // 32-bit ones, the lower first.
  const SIGMA = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4], [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13], [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11], [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5], [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0]];
  const IV = new Uint32Array([
    0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85, 0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a,
    0xade682d1, 0x510e527f, 0x2b3e6c1f, 0x9b05688c, 0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19]);
  function blake2b(parts, size) {
    const h = IV.slice(), v = new Uint32Array(32), block = new Uint8Array(128), m = new Uint32Array(32);
    const view = new DataView(block.buffer);
    let filled = 0, total = 0;
    h[0] ^= 0x01010000 ^ size;
    const add = (a, low, high) => {
      const sum = v[a] + low;
      v[a] = sum;
      v[a + 1] = v[a + 1] + high + (sum > 0xffffffff ? 1 : 0);
    };
    const mix = (a, b, c, d, x, y) => {
      add(a, v[b], v[b + 1]); add(a, m[x], m[x + 1]);
      let low = v[d] ^ v[a], high = v[d + 1] ^ v[a + 1];
      v[d] = high; v[d + 1] = low;
      add(c, v[d], v[d + 1]);
      low = v[b] ^ v[c]; high = v[b + 1] ^ v[c + 1];
      v[b] = (low >>> 24) ^ (high << 8); v[b + 1] = (high >>> 24) ^ (low << 8);
      add(a, v[b], v[b + 1]); add(a, m[y], m[y + 1]);
      low = v[d] ^ v[a]; high = v[d + 1] ^ v[a + 1];
      v[d] = (low >>> 16) ^ (high << 16); v[d + 1] = (high >>> 16) ^ (low << 16);
      add(c, v[d], v[d + 1]);
      low = v[b] ^ v[c]; high = v[b + 1] ^ v[c + 1];
      v[b] = (high >>> 31) ^ (low << 1); v[b + 1] = (low >>> 31) ^ (high << 1);
    };
    const compress = (last) => {
      v.set(h); v.set(IV, 16);
      v[24] ^= total; v[25] ^= Math.floor(total / 4294967296);
      if (last) { v[28] = ~v[28]; v[29] = ~v[29]; }
      for (let i = 0; i < 32; i++) m[i] = view.getUint32(4 * i, true);
      for (let round = 0; round < 12; round++) {
        const s = SIGMA[round % 10];
        mix(0, 8, 16, 24, 2 * s[0], 2 * s[1]); mix(2, 10, 18, 26, 2 * s[2], 2 * s[3]);
        mix(4, 12, 20, 28, 2 * s[4], 2 * s[5]); mix(6, 14, 22, 30, 2 * s[6], 2 * s[7]);
        mix(0, 10, 20, 30, 2 * s[8], 2 * s[9]); mix(2, 12, 22, 24, 2 * s[10], 2 * s[11]);
        mix(4, 14, 16, 26, 2 * s[12], 2 * s[13]); mix(6, 8, 18, 28, 2 * s[14], 2 * s[15]);
      }
      for (let i = 0; i < 16; i++) h[i] ^= v[i] ^ v[i + 16];
    };
    for (const part of parts) for (let at = 0; at < part.length;) {
      if (filled === 128) { total += 128; compress(false); filled = 0; }
      const taken = Math.min(128 - filled, part.length - at);
      block.set(part.subarray(at, at + taken), filled);
      filled += taken; at += taken;
    }
    block.fill(0, filled);
    total += filled;
    compress(true);
    return hexadecimal(new Uint8Array(h.buffer).subarray(0, size));
  }
  const hexadecimal = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const encoded = (text) => new TextEncoder().encode(text);

  // JSON as Python's json.dumps writes it.
  const json = (value) => (Array.isArray(value) ? `[${value.map(json).join(", ")}]` : JSON.stringify(value)
    .replace(/[\u007f-\uffff]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`));
  const filled = (text, values) => Object.entries(values)
    .reduce((made, [name, value]) => made.replaceAll(`"@${name}"`, () => json(value)), text);

  // The network's own weights with the new head, as cnn_jax.training.weights writes them.
  function weights(original, { kernel, bias }, count) {
    const size = Number(new DataView(original.buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(original.subarray(8, 8 + size))), { __metadata__, ...held } = header;
    const { head } = about.taught, content = {};
    for (const [name, one] of Object.entries(held)) {
      const [start, end] = one.data_offsets;
      content[name] = original.subarray(8 + size + start, 8 + size + end);
    }
    content[head.kernel] = new Uint8Array(kernel.buffer);
    content[head.bias] = new Uint8Array(bias.buffer);
    held[head.kernel].shape = [...held[head.kernel].shape.slice(0, -1), count];
    held[head.bias].shape = [count];
    const names = Object.keys(held).sort(), parts = [];
    let at = 0;
    for (const name of names) {
      const { shape } = held[name], sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
      parts.push(encoded(`${name} float32 (${sizes});`), content[name]);
      held[name].data_offsets = [at, at += content[name].length];
    }
    const metadata = { ...__metadata__, digest: about.taught.digest, checksum: blake2b(parts, 16) };
    let text = JSON.stringify({ __metadata__: metadata, ...held });
    text += " ".repeat(-text.length & 7);
    const length = new Uint8Array(8), begun = encoded(text);
    new DataView(length.buffer).setBigUint64(0, BigInt(begun.length), true);
    return joined([length, begun, ...names.map((name) => content[name])]);
  }
  function joined(parts) {
    const made = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) { made.set(part, at); at += part.length; }
    return made;
  }

  async function folder() {
    const { names, confusion, head, counts, sizes } = window.page.taught, { taught } = about;
    const total = confusion.flat().reduce((a, b) => a + b, 0), right = confusion.reduce((sum, row, k) => sum + row[k], 0);
    const fingerprint = hexadecimal(crypto.getRandomValues(new Uint8Array(16)));
    const values = { classes: names, counts, fingerprint, train: sizes.train, validation: sizes.validation, test: sizes.test };
    const covered = encoded(filled(taught.covered, values));
    const digest = hexadecimal(new Uint8Array(await crypto.subtle.digest("SHA-256", covered))).slice(0, 16);
    const original = await unpacked("weights");
    const removed = taught.head.values, added = head.kernel.length + head.bias.length;
    const summary = { ...taught.summary, parameters: taught.summary.parameters - removed + added, "test/accuracy": right / total,
      "test/images": total, "test/confusion": confusion };
    return {
      "config.json": encoded(taught.config),
      "data.json": encoded(filled(taught.data, values)),
      "environment.json": encoded(JSON.stringify({ ...taught.environment, data_digest: digest, data_fingerprint: fingerprint })),
      "summary.json": encoded(JSON.stringify(summary)),
      "weights.safetensors": weights(original, head, names.length),
    };
  }
  async function unpacked(id) {
    const packed = Uint8Array.from(atob($(id).textContent.trim()), (letter) => letter.charCodeAt(0));
    return new Uint8Array(await new Response(
      new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }

  // A zip file, nothing in it compressed.
  function zip(files, within) {
    const table = Array.from({ length: 256 }, (_, n) => {
      for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
      return n >>> 0;
    });
    const crc = (bytes) => {
      let sum = 0xffffffff;
      for (const byte of bytes) sum = table[(sum ^ byte) & 255] ^ (sum >>> 8);
      return ~sum >>> 0;
    };
    const local = [], central = [];
    let at = 0;
    for (const [file, content] of Object.entries(files)) {
      const name = encoded(`${within}/${file}`), head = new DataView(new ArrayBuffer(26));
      head.setUint16(0, 20, true); head.setUint16(2, 0x0800, true);
      head.setUint16(8, 0x21, true); // 1 January 1980
      head.setUint32(10, crc(content), true);
      head.setUint32(14, content.length, true); head.setUint32(18, content.length, true);
      head.setUint16(22, name.length, true);
      const entry = new Uint8Array(head.buffer), place = new DataView(new ArrayBuffer(14));
      place.setUint32(10, at, true);
      const made = joined([Uint8Array.of(0x50, 0x4b, 3, 4), entry, name, content]);
      central.push(Uint8Array.of(0x50, 0x4b, 1, 2, 20, 0), entry, new Uint8Array(place.buffer), name);
      local.push(made);
      at += made.length;
    }
    const listed = joined(central), end = new DataView(new ArrayBuffer(22)), count = Object.keys(files).length;
    end.setUint32(0, 0x06054b50, true);
    end.setUint16(8, count, true); end.setUint16(10, count, true);
    end.setUint32(12, listed.length, true); end.setUint32(16, at, true);
    return joined([...local, listed, new Uint8Array(end.buffer)]);
  }

  async function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([zip(await folder(), "taught")], { type: "application/zip" }));
    link.download = "taught.zip";
    link.click();
  }

  $("add-class").addEventListener("click", add);
  $("train").addEventListener("click", () => next(train));
  $("download").addEventListener("click", () => next(download));
  document.addEventListener("spoken", () => { if (result) $("teach-result").textContent = result(); });
  add();
  add();
  window.teaching = { folder, zip, blake2b, encoded };
})();
