// Pictures as the network takes them: read, cropped and resized as cnn_jax does, which is as Pillow
// does, to the same bytes.

const Pixels = (() => {
  "use strict";

  // Of a file or a canvas: {width, height, data: RGBA}.
  async function read(source) {
    const picture = source instanceof Blob
      ? await createImageBitmap(source, { colorSpaceConversion: "none", premultiplyAlpha: "none" }) : source;
    const canvas = document.createElement("canvas");
    canvas.width = picture.videoWidth ?? picture.width;
    canvas.height = picture.videoHeight ?? picture.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // Uint8 planes of 1 or 3 channels, as Pillow turns colours to grey.
  function planes({ width, height, data }, channels) {
    const size = width * height, made = Array.from({ length: channels }, () => new Uint8Array(size));
    for (let i = 0; i < size; i++) {
      const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
      if (channels === 1) made[0][i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
      else { made[0][i] = r; made[1][i] = g; made[2][i] = b; }
    }
    return { width, height, planes: made };
  }

  // The weights of Pillow's bilinear filter along one axis, in 22 bits.
  function coefficients(size, low, high, count) {
    const scale = (high - low) / count, wide = Math.max(scale, 1), made = [];
    for (let out = 0; out < count; out++) {
      const center = low + (out + 0.5) * scale;
      const first = Math.max(Math.trunc(center - wide + 0.5), 0);
      const last = Math.min(Math.trunc(center + wide + 0.5), size), weights = [];
      let sum = 0;
      for (let x = first; x < last; x++) {
        const weight = Math.max(1 - Math.abs((x - center + 0.5) / wide), 0);
        weights.push(weight);
        sum += weight;
      }
      made.push({ first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 4194304)) });
    }
    return made;
  }
  const rounded = (sum) => Math.min(Math.max(Math.floor((sum + 2097152) / 4194304), 0), 255);

  // Pillow's resize of a plane, of the part within box [left, top, right, bottom].
  function resizedPlane(plane, width, height, box, columns, rows) {
    let wide = plane, w = width;
    if (columns !== width || box[0] !== 0 || box[2] !== columns) {
      const across = coefficients(width, box[0], box[2], columns);
      wide = new Uint8Array(columns * height);
      for (let y = 0; y < height; y++) for (let x = 0; x < columns; x++) {
        const { first, weights } = across[x];
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += plane[y * width + first + k] * weights[k];
        wide[y * columns + x] = rounded(sum);
      }
      w = columns;
    }
    if (rows === height && box[1] === 0 && box[3] === rows) return wide === plane ? plane.slice() : wide;
    const down = coefficients(height, box[1], box[3], rows), made = new Uint8Array(w * rows);
    for (let y = 0; y < rows; y++) {
      const { first, weights } = down[y];
      for (let x = 0; x < w; x++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += wide[(first + k) * w + x] * weights[k];
        made[y * w + x] = rounded(sum);
      }
    }
    return made;
  }

  function resized(picture, box, columns, rows) {
    const { width, height } = picture;
    return { width: columns, height: rows,
      planes: picture.planes.map((plane) => resizedPlane(plane, width, height, box, columns, rows)) };
  }

  // The central part of a picture at the size of the network's images.
  function fitted(picture, columns, rows, share) {
    const { width, height } = picture;
    const scale = share * Math.min(width / columns, height / rows);
    const left = (width - scale * columns) / 2, top = (height - scale * rows) / 2;
    const box = [Math.max(left, 0), Math.max(top, 0), Math.min(width - left, width), Math.min(height - top, height)];
    return resized(picture, box, columns, rows);
  }

  // Planes up to a size: mirrored below and on the right, or their edges repeated.
  function padded(picture, columns, rows, repeated) {
    const { width, height } = picture;
    if (columns === width && rows === height) return picture;
    const fold = (at, size) => { if (repeated) return Math.min(at, size - 1); const place = at % (2 * size); return place < size ? place : 2 * size - 1 - place; };
    const of = (plane) => {
      const made = new Uint8Array(columns * rows);
      for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++)
        made[y * columns + x] = plane[fold(y, height) * width + fold(x, width)];
      return made;
    };
    return { width: columns, height: rows, planes: picture.planes.map(of) };
  }

  // A drawing as MNIST has its digits: as large as 20 of 28 px, its mass in the middle.
  function centred(picture, columns, rows) {
    const { width, height, planes: [plane] } = picture;
    let left = width, right = -1, top = height, bottom = -1;
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (plane[y * width + x] > 30) {
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
    if (right < 0) return fitted(picture, columns, rows, 1);
    const side = Math.max(right - left, bottom - top) + 1, scale = (columns * 20) / 28 / side;
    const w = Math.max(Math.round((right - left + 1) * scale), 1), h = Math.max(Math.round((bottom - top + 1) * scale), 1);
    const small = resizedPlane(plane, width, height, [left, top, right + 1, bottom + 1], w, h);
    let mass = 0, mx = 0, my = 0;
    small.forEach((value, i) => { mass += value; mx += value * (i % w + 0.5); my += value * (Math.floor(i / w) + 0.5); });
    const x0 = Math.round(columns / 2 - mx / mass), y0 = Math.round(rows / 2 - my / mass);
    const made = new Uint8Array(columns * rows);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++)
      if (y + y0 >= 0 && y + y0 < rows && x + x0 >= 0 && x + x0 < columns)
        made[(y + y0) * columns + x + x0] = small[y * w + x];
    return { width: columns, height: rows, planes: [made] };
  }

  // [1, height, width, channels] as the network takes it.
  function values({ width, height, planes: held }) {
    const channels = held.length, made = new Float32Array(width * height * channels);
    held.forEach((plane, k) => { for (let i = 0; i < plane.length; i++) made[i * channels + k] = plane[i]; });
    return made;
  }

  function draw(canvas, { width, height, planes: held }) {
    canvas.width = width; canvas.height = height;
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      for (let k = 0; k < 3; k++) image.data[4 * i + k] = held[Math.min(k, held.length - 1)][i];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  return { read, planes, fitted, padded, centred, values, draw, resized };
})();
