// An ONNX file as data: its layers and kernels, and the file again with more of its tensors handed
// out. Nothing here knows of the page.

const Network = (() => {
  "use strict";
  const text = new TextDecoder();

  // The fields of a protocol buffer message, in order: [{field, number} or {field, bytes}].
  function fields(bytes) {
    const found = [];
    let at = 0;
    const varint = () => {
      let value = 0n, shift = 0n, byte;
      do { byte = bytes[at++]; value |= BigInt(byte & 127) << shift; shift += 7n; } while (byte > 127);
      return Number(BigInt.asIntN(64, value));
    };
    while (at < bytes.length) {
      const begun = at, key = varint(), field = key >> 3;
      if ((key & 7) === 0) found.push({ field, number: varint(), begun });
      else if ((key & 7) === 2) {
        const size = varint();
        found.push({ field, bytes: bytes.subarray(at, at + size), begun, end: at + size });
        at += size;
      } else if ((key & 7) === 5) {
        found.push({ field, number: new DataView(bytes.buffer, bytes.byteOffset + at, 4).getFloat32(0, true), begun });
        at += 4;
      } else at += 8;
    }
    return found;
  }
  const of = (message, field) => message.filter((one) => one.field === field);
  const strings = (message, field) => of(message, field).map((one) => text.decode(one.bytes));
  const numbers = (message, field) => of(message, field).flatMap((one) => {
    if (one.bytes === undefined) return [one.number];
    const packed = [];
    let value = 0, scale = 1;
    for (const byte of one.bytes) {
      value += (byte & 127) * scale; scale *= 128;
      if (byte < 128) { packed.push(value); value = 0; scale = 1; }
    }
    return packed;
  });

  function tensor(bytes) {
    const held = fields(bytes), raw = of(held, 9)[0]?.bytes ?? new Uint8Array();
    const aligned = raw.slice().buffer, type = numbers(held, 2)[0];
    const data = type === 1 ? new Float32Array(aligned)
      : type === 7 ? Array.from(new BigInt64Array(aligned), Number) : new Uint8Array(aligned);
    return { name: strings(held, 8)[0], dims: numbers(held, 1), data };
  }

  function node(bytes) {
    const held = fields(bytes), attributes = {};
    for (const one of of(held, 5)) {
      const attribute = fields(one.bytes), name = strings(attribute, 1)[0];
      const ints = numbers(attribute, 8);
      attributes[name] = ints.length ? ints
        : of(attribute, 3).length ? numbers(attribute, 3)[0]
        : of(attribute, 4).length ? strings(attribute, 4)[0] : numbers(attribute, 2)[0];
    }
    return {
      inputs: strings(held, 1), output: strings(held, 2)[0], name: strings(held, 3)[0],
      kind: strings(held, 4)[0], attributes,
    };
  }

  // {nodes, tensors by name, the file}
  function parse(file) {
    const graph = of(fields(file), 7)[0];
    const held = fields(graph.bytes), tensors = {};
    for (const one of of(held, 5)) { const made = tensor(one.bytes); tensors[made.name] = made; }
    return { file, graph, nodes: of(held, 1).map((one) => node(one.bytes)), tensors };
  }

  function varint(value) {
    const made = [];
    do { made.push((value % 128) | (value > 127 ? 128 : 0)); value = Math.floor(value / 128); } while (value);
    return made;
  }
  const message = (field, content) => [field * 8 + 2, ...varint(content.length), ...content];

  // The file with further tensors (float32) among its outputs.
  function withOutputs(network, names) {
    const added = names.flatMap((name) => message(12, [
      ...message(1, [...new TextEncoder().encode(name)]),
      ...message(2, message(1, [8, 1])),
    ]));
    const { file, graph } = network;
    const head = file.subarray(0, graph.begun), tail = file.subarray(graph.end);
    const key = [7 * 8 + 2, ...varint(graph.bytes.length + added.length)];
    const made = new Uint8Array(head.length + key.length + graph.bytes.length + added.length + tail.length);
    let at = 0;
    for (const part of [head, key, graph.bytes, added, tail]) { made.set(part, at); at += part.length; }
    return made;
  }

  const SHOWN = new Set(["Conv", "ConvTranspose", "MatMul", "Relu", "MaxPool", "AveragePool",
    "ReduceMean", "Resize", "Concat", "Sigmoid", "Tanh", "Softmax"]);

  // The layers to look at, in order: {kind, scope, node, output, channels (axis 1 or 3)}. A tensor
  // of four axes is [batch, channels, height, width] from a convolution on, until it is reshaped.
  function layers(network) {
    const { nodes, tensors } = network, axis = { images: 3 }, found = [], uses = {};
    for (const one of nodes) for (const name of one.inputs) (uses[name] ??= []).push(one);
    const scope = (name) => name.split("/").slice(0, -1).join("/");
    for (const one of nodes) {
      const { kind, inputs, output } = one, held = inputs.filter((name) => name && !(name in tensors));
      if (["Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize"].includes(kind)) axis[output] = 1;
      else if (kind === "Transpose") axis[output] = one.attributes.perm.indexOf(axis[inputs[0]] ?? 3);
      else if (["Reshape", "MatMul", "Unsqueeze", "Einsum"].includes(kind)) axis[output] = 3;
      else axis[output] = axis[held[0]] ?? 3;
      const where = scope(one.name);
      if (where === "sizes") continue;
      const norm = kind === "Add" && where.endsWith("norm")
        && !(uses[output] ?? []).some((next) => scope(next.name) === where);
      const joins = kind === "Add" && held.length === 2;
      if (SHOWN.has(kind) || norm || joins)
        found.push({ kind: norm ? "Norm" : joins ? "Sum" : kind, scope: where, node: one, output, channels: axis[output],
          source: held[0], sourceChannels: axis[held[0]] ?? 3 });
    }
    // A norm is (value + shift) * factor + offset, of one channel each.
    const by = Object.fromEntries(nodes.map((one) => [one.output, one]));
    for (const layer of found) {
      if (layer.kind !== "Norm") continue;
      const scale = by[layer.source], move = scale && by[scale.inputs.find((name) => !(name in tensors))];
      const constant = (one) => tensors[one.inputs.find((name) => name in tensors)]?.data;
      if (scale?.kind !== "Mul" || move?.kind !== "Add" || scope(move.name) !== layer.scope) continue;
      layer.norm = [constant(move), constant(scale), constant(layer.node)];
      if (layer.norm.some((held) => !held)) { delete layer.norm; continue; }
      layer.source = move.inputs.find((name) => !(name in tensors));
      layer.sourceChannels = axis[layer.source] ?? layer.channels;
    }
    // A convolution's bias is added by the next node; what it gives is the sum with it.
    for (const layer of found) {
      if (!["Conv", "ConvTranspose", "MatMul"].includes(layer.kind)) continue;
      const next = uses[layer.output] ?? [];
      if (next.length !== 1 || next[0].kind !== "Add" || scope(next[0].name) !== scope(layer.node.name)) continue;
      const bias = next[0].inputs.find((name) => name in tensors);
      if (bias === undefined) continue;
      layer.bias = tensors[bias];
      layer.plain = layer.output;
      layer.output = next[0].output;
      axis[layer.output] = layer.channels;
    }
    return found;
  }

  // A layer's result as maps: {channels, height, width, at(channel, row, column)}; a vector has one
  // place.
  function maps(result, channelAxis) {
    const { dims, data } = result;
    if (dims.length === 4) {
      const [, a, b, c] = dims;
      return channelAxis === 1
        ? { channels: a, height: b, width: c, at: (k, y, x) => data[(k * b + y) * c + x] }
        : { channels: c, height: a, width: b, at: (k, y, x) => data[(y * b + x) * c + k] };
    }
    const channels = data.length;
    return { channels, height: 1, width: 1, at: (k) => data[k] };
  }

  // The terms of one value of a convolution: {terms: [{channel, rows: [[{value, weight}]]}], bias,
  // sum}. Places outside the map are 0.
  function convolutionSum(layer, network, input, channel, row, column) {
    const { attributes, inputs } = layer.node, kernel = network.tensors[inputs[1]];
    const [features, within, height, width] = kernel.dims;
    const group = attributes.group ?? 1, [down, across] = attributes.strides ?? [1, 1];
    const [spreadDown, spreadAcross] = attributes.dilations ?? [1, 1], pads = attributes.pads ?? [0, 0, 0, 0];
    const first = Math.floor(channel / (features / group)) * within, terms = [];
    let sum = 0;
    for (let k = 0; k < within; k++) {
      const rows = [];
      let part = 0;
      for (let i = 0; i < height; i++) {
        const cells = [];
        for (let j = 0; j < width; j++) {
          const y = row * down + i * spreadDown - pads[0], x = column * across + j * spreadAcross - pads[1];
          const inside = y >= 0 && x >= 0 && y < input.height && x < input.width;
          const value = inside ? input.at(first + k, y, x) : 0;
          const weight = kernel.data[((channel * within + k) * height + i) * width + j];
          part += value * weight;
          cells.push({ value, weight, inside });
        }
        rows.push(cells);
      }
      sum += part;
      terms.push({ channel: first + k, rows, part });
    }
    const bias = layer.bias ? layer.bias.data[layer.bias.data.length === 1 ? 0 : channel] : 0;
    return { terms, bias, sum: sum + bias };
  }

  // The terms of one value of a dense layer, the largest first.
  function denseSum(layer, network, input, unit) {
    const kernel = network.tensors[layer.node.inputs[1]], [size, units] = kernel.dims, terms = [];
    let sum = 0;
    for (let k = 0; k < size; k++) {
      const value = input.data[k], weight = kernel.data[k * units + unit];
      sum += value * weight;
      terms.push({ channel: k, value, weight, part: value * weight });
    }
    const bias = layer.bias ? layer.bias.data[layer.bias.data.length === 1 ? 0 : unit] : 0;
    terms.sort((a, b) => Math.abs(b.part) - Math.abs(a.part));
    return { terms, bias, sum: sum + bias };
  }

  return { parse, withOutputs, layers, maps, convolutionSum, denseSum };
})();
