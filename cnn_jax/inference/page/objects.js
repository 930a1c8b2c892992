// Objects in what a network of them computes: picked as cnn_jax picks them.

const Objects = (() => {
  "use strict";

  const overlap = (a, b) => {
    const side = (k) => Math.max(Math.min(a[k + 2], b[k + 2]) - Math.max(a[k], b[k]), 0);
    const area = (box) => Math.max(box[2] - box[0], 0) * Math.max(box[3] - box[1], 0);
    const both = side(0) * side(1);
    return both / Math.max(area(a) + area(b) - both, 1e-6);
  };

  // A box cut to a picture, or null where nothing is left of it.
  function cut([left, top, right, bottom], { width, height }) {
    const made = [Math.max(left, 0), Math.max(top, 0), Math.min(right, width), Math.min(bottom, height)];
    return made[2] > made[0] && made[3] > made[1] ? made : null;
  }

  // Of a detector, from cells [cells, classes + 4], best first: {label, score, box: [left, top,
  // right, bottom]}, cut to the picture. Where `nms_iou` is given, no box overlaps a better one of
  // its class by more.
  function boxes(cells, classes, picture, { nms_iou, candidates, least_score, most }) {
    const wide = classes + 4, every = [];
    for (let at = 0; at < cells.length; at += wide) for (let label = 0; label < classes; label++) {
      const score = cells[at + label];
      if (!(score > 0 && score >= least_score)) continue;
      const box = Array.from(cells.subarray(at + classes, at + wide));
      if (cut(box, picture)) every.push({ label, score, box });
    }
    every.sort((a, b) => b.score - a.score);
    const placed = (found) => found.slice(0, most).map((one) => ({ ...one, box: cut(one.box, picture) }));
    if (nms_iou === null) return placed(every);
    const kept = [];
    for (const one of every.slice(0, candidates)) {
      const free = kept.every((other) => other.label !== one.label || overlap(other.box, one.box) <= nms_iou);
      if (free) kept.push(one);
    }
    return placed(kept);
  }

  // Where a map is as high as anything within `reach`, and higher than `least`; the highest first.
  function peaks(heat, width, height, reach, least) {
    const found = [];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      const value = heat(y, x);
      if (value <= least) continue;
      let highest = true;
      for (let i = Math.max(y - reach, 0); highest && i <= Math.min(y + reach, height - 1); i++)
        for (let j = Math.max(x - reach, 0); highest && j <= Math.min(x + reach, width - 1); j++)
          highest = heat(i, j) <= value;
      if (highest) found.push({ y, x, value });
    }
    return found.sort((a, b) => b.value - a.value);
  }

  // Of a network of instances, from pixels [height, width, 1 + classes + 3]: the objects, with the
  // `number` that their pixels have in `numbers` [height * width], 0 being none. Each pixel of a class
  // goes to the centre that its offset points nearest to; boxes are of those in the picture.
  function instances(pixels, classes, { width, height }, picture, { reach_px, least_centre, least_area_px, least_score, most }) {
    const wide = classes + 4, numbers = new Int32Array(width * height);
    const centres = peaks((y, x) => pixels[(y * width + x) * wide + 1 + classes], width, height, reach_px, least_centre).slice(0, most);
    const held = centres.map(({ value }, k) => ({ number: k + 1, height: value, area: 0, votes: new Array(classes).fill(0),
      mass: new Array(classes).fill(0), box: [width, height, 0, 0] }));
    for (let y = 0; centres.length && y < height; y++) for (let x = 0; x < width; x++) {
      const at = (y * width + x) * wide;
      let label = 0;
      for (let k = 1; k < classes; k++) if (pixels[at + 1 + k] > pixels[at + 1 + label]) label = k;
      if (pixels[at] >= pixels[at + 1 + label]) continue;
      const row = y + pixels[at + classes + 2], column = x + pixels[at + classes + 3];
      let nearest = 0, least = Infinity;
      for (let k = 0; k < centres.length; k++) {
        const away = (row - centres[k].y) ** 2 + (column - centres[k].x) ** 2;
        if (away < least) { least = away; nearest = k; }
      }
      const one = held[nearest];
      numbers[y * width + x] = one.number;
      one.area += 1;
      one.votes[label] += 1;
      for (let k = 0; k < classes; k++) one.mass[k] += pixels[at + 1 + k];
      if (x < picture.width && y < picture.height) one.box = [Math.min(one.box[0], x), Math.min(one.box[1], y), Math.max(one.box[2], x + 1), Math.max(one.box[3], y + 1)];
    }
    const found = held.filter((one) => one.area >= least_area_px && one.box[2] > 0).map((one) => {
      const label = one.votes.indexOf(Math.max(...one.votes));
      const score = Math.min(one.height, 1) * one.mass[label] / one.area;
      return { label, score, box: one.box, number: one.number };
    });
    return { numbers, found: found.filter((one) => one.score >= least_score).sort((a, b) => b.score - a.score) };
  }

  // Boxes, and pixels where there are `numbers` (rows `stride` long), over the picture on a canvas.
  function draw(canvas, found, colors, numbers, stride) {
    const context = canvas.getContext("2d"), { width, height } = canvas;
    if (numbers) {
      const image = context.getImageData(0, 0, width, height), by = new Map(found.map((one) => [one.number, colors[one.label]]));
      const of = (y, x) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : numbers[y * stride + x]);
      for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const own = of(y, x), color = by.get(own);
        if (!color) continue;
        const edge = of(y, x - 1) !== own || of(y - 1, x) !== own || of(y, x + 1) !== own || of(y + 1, x) !== own;
        for (let k = 0; k < 3; k++) {
          const at = 4 * (y * width + x) + k;
          image.data[at] = edge ? color[k] : (image.data[at] + color[k]) / 2;
        }
      }
      context.putImageData(image, 0, 0);
      return;
    }
    const line = Math.max(Math.round(Math.max(width, height) / 400), 1);
    for (const { label, box: [left, top, right, bottom] } of found) {
      for (const [style, wide] of [["#000", line + 1], [`rgb(${colors[label].join()})`, line]]) {
        context.strokeStyle = style;
        context.lineWidth = wide;
        context.strokeRect(left, top, right - left, bottom - top);
      }
    }
  }

  return { boxes, instances, draw };
})();
