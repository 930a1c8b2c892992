"""What a network looks at: the maps inside it, and which places of an image speak for a class.

Nothing is asked of a model but `apply(variables, images, train=False)`: the outputs of its modules
are intercepted. What functions compute between modules (an activation applied in the model's own
`__call__`) is not seen, so that the output of a bare convolution is the map before its activation;
a module that contains its activation, such as `ConvolutionNormActivation`, yields the map after.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax.layers.squeeze_excitation import SqueezeExcitation


def map_names(model: nn.Module, variables: Any, images: jax.Array | np.ndarray) -> list[str]:
    """The names of all modules whose output has spatial extent, `[batch, h, w, channels]` with h *
    w > 1, as they finish.

    A name is the module's path in the variables, such as "stage_1/block_0/convolution"; the second
    call of a module that is called again adds "#2". `images` is float32 `[batch, height, width,
    channels]`; nothing is computed, only shapes.
    """
    return list(_map_shapes(model, variables, images))


def feature_maps(
    model: nn.Module, variables: Any, image: jax.Array | np.ndarray
) -> dict[str, np.ndarray]:
    """The maps of the model's stages for one image, float32 `[h, w, channels]` by name, in the
    order in which they are computed.

    Stages are the modules that the model itself calls, or, where fewer than two of these have a
    spatial output (a model that wraps another), those inside them, and so on. Dropout, which does
    nothing here, is left out. `image` is float32 `[height, width, channels]`, normalised.
    """
    return _maps(model, variables, image, lambda shapes: _stages(list(shapes)))


def level_maps(
    model: nn.Module, variables: Any, image: jax.Array | np.ndarray
) -> dict[str, np.ndarray]:
    """The last map of every level of a segmenter for one image, float32 `[h, w, channels]` by name,
    in the order of computation.

    A level is a run of maps of one shape, so that the maps of an encoder, of a bridge, of a decoder
    and the logits are levels, however many convolutions each has. The maps are those of the
    outermost modules that have one: of a backbone that hands out several maps at once those of its
    blocks. Dropout is left out. `image` is float32 `[height, width, channels]`, normalised.
    """
    return _maps(model, variables, image, _levels)


def grad_cam(
    model: nn.Module,
    variables: Any,
    images: jax.Array | np.ndarray,
    classes: Sequence[int] | jax.Array | np.ndarray,
    layer: str | None = None,
) -> np.ndarray:
    """Grad-CAM: where in each image the evidence for a class is; float32 `[batch, height, width]`
    from 0 to 1, at image size.

    The gradient of the class's logit with respect to a feature map, averaged over places, weighs
    the map's channels; what of their sum is positive is enlarged to the image (bilinear) and
    divided by its largest value. Where nothing speaks for the class the heat is 0 everywhere.
    (Selvaraju et al., 2017, who leave enlargement and scaling to the reader.)

    Where the layer is a bare convolution, its map is taken before the activation (see above):
    places that the activation cuts off have no gradient, and lower the heat instead of leaving it.

    Args:
        model, variables: a classifier; the state of its normalisation is that of evaluation.
        images: float32 `[batch, height, width, channels]`, normalised.
        classes: integers `[batch]`, the class asked for in each image. To ask for several, repeat
            the image.
        layer: one of `map_names`; by default the last of the outermost that is larger than 1x1: the
            map that the head pools or flattens, unless the image is so small that an earlier one
            must do.

    Raises:
        ValueError: the model has no such layer, or no map with spatial extent at all (a multilayer
            perceptron).
    """
    names = map_names(model, variables, images)
    if not names:
        raise ValueError(
            f"Grad-CAM needs a map with spatial extent, and {type(model).__name__} has none for"
            f" {images.shape}"
        )
    if layer is None:  # not a branch inside a module whose own output is a single place
        layer = [
            name for name in names if name.count("/") == min(name.count("/") for name in names)
        ][-1]
    if layer not in names:
        raise ValueError(f"{type(model).__name__} has no map {layer!r}; it has {', '.join(names)}")

    heat = _heat(
        model,
        layer,
        lambda logits, classes: jnp.take_along_axis(logits, classes[:, None], axis=1).sum(),
    )
    return np.asarray(heat(variables, jnp.asarray(images), jnp.asarray(classes)))


def segmentation_grad_cam(
    model: nn.Module,
    variables: Any,
    images: jax.Array | np.ndarray,
    classes: Sequence[int] | jax.Array | np.ndarray,
    pixels: jax.Array | np.ndarray | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Seg-Grad-CAM: where in each image the evidence for a class at some pixels is; float32
    `[batch, height, width]` from 0 to 1.

    Grad-CAM, as above, of the class's logits summed over a set of pixels (Vinogradova, Dibrov,
    Myers, 2020). Where nothing speaks for the class, or no pixel is asked about, the heat is 0
    everywhere.

    Args:
        model, variables: a segmenter, `[batch, height, width, channels]` to logits `[batch, height,
            width, classes]`, or one for two classes (see `logits_for_and_against`).
        images: float32 `[batch, height, width, channels]`, normalised. They are looked at one by
            one.
        classes: integers `[batch]`, the class asked for in each image. To ask for several, repeat
            the image.
        pixels: bool `[batch, height, width]`, those whose logits are summed; by default those
            predicted as the class.
        layer: one of `map_names`; by default the `deepest_map`.

    Raises:
        ValueError: the model has no such layer, or none larger than 1x1.
    """
    images, classes = jnp.asarray(images), jnp.asarray(classes)
    layer = layer or deepest_map(model, variables, images[:1])
    if layer not in (names := _map_shapes(model, variables, images[:1])):
        raise ValueError(
            f"{type(model).__name__} has no map {layer!r}; it has"
            f" {', '.join(names) or 'none larger than 1x1'}"
        )

    def score(logits, asked):
        wanted, pixels = asked
        logits = logits_for_and_against(logits)
        chosen = logits.argmax(-1) == wanted[:, None, None] if pixels is None else pixels
        return (
            jnp.take_along_axis(logits, wanted[:, None, None, None], axis=-1)[..., 0] * chosen
        ).sum()

    heat = _heat(model, layer, score)
    heats = [
        heat(
            variables,
            images[i : i + 1],
            (classes[i : i + 1], None if pixels is None else jnp.asarray(pixels[i : i + 1])),
        )
        for i in range(len(images))
    ]
    return np.concatenate(heats)


def deepest_map(model: nn.Module, variables: Any, images: jax.Array | np.ndarray) -> str | None:
    """The deepest of `map_names`: of those of the smallest extent the last of the outermost; None
    where there is no map.

    Each of its places has seen most of the image, and none has met the skips, which bring back the
    image's edges: the bottleneck, which is also the paper's choice for Seg-Grad-CAM. Class scores
    that some networks compute there (FCN) would show only themselves, so maps with as many channels
    as there are logits are passed by, where there are others.
    """
    shapes = _map_shapes(model, variables, images, without=nn.Dropout)
    scores = jax.eval_shape(lambda: model.apply(variables, images, train=False)).shape[-1]
    shapes = {name: shape for name, shape in shapes.items() if shape[-1] != scores} or shapes
    smallest = min((shape[1] * shape[2] for shape in shapes.values()), default=0)
    deepest = [name for name, shape in shapes.items() if shape[1] * shape[2] == smallest]
    outermost = min((name.count("/") for name in deepest), default=0)
    return next((name for name in reversed(deepest) if name.count("/") == outermost), None)


def logits_for_and_against(logits: jax.Array) -> jax.Array:
    """Logits `[..., classes]`: those given, or, of one logit for two classes, that for the second
    and its negative for the first."""
    return jnp.concatenate([-logits, logits], axis=-1) if logits.shape[-1] == 1 else logits


@dataclass(frozen=True)
class ClassExcitation:
    """What a `SqueezeExcitation` multiplies by where a class is, float32 from 0 to 1; NaN for a
    class without a pixel.

    Attributes:
        channels: `[classes, channels]`, the mean number that each channel is multiplied by.
        places: `[classes]`, the mean of the spatial gate, if there is one, over the places of the
            class; else None.
    """

    channels: np.ndarray
    places: np.ndarray | None


def excitation_by_class(
    model: nn.Module, variables: Any, batches: Iterable, classes: int
) -> dict[str, ClassExcitation]:
    """What each squeeze-and-excitation of a network attends to by class, by the module's path, in
    the order of computation.

    A channel's number is one for a whole image, which shows several classes. The mean for a class
    is over all images, each weighed by how many of its pixels are of the class: unlike the mean
    over the images in which the class has the majority it exists for small classes too, and it
    understates how much classes differ, for they share images. A concurrent spatial gate (the one
    map of a single channel inside the module, before its sigmoid; Roy, Navab, Wachinger, 2018) has
    a number a place: its mean is over the pixels of the class, each of which has the gate of the
    place it lies in.

    Args:
        model, variables: the network, as in evaluation.
        batches: of `(images, masks)`: float32 `[batch, height, width, channels]`, normalised, and
            integers `[batch, height, width]`, of which those from `classes` on are ignored.
        classes: their number.

    Returns:
        Nothing for a network without such modules.
    """

    @jax.jit
    def run(variables, images):
        channels, places = {}, {}

        def see(name, module, output):
            if not isinstance(module.parent, SqueezeExcitation):
                return
            if module.name == "excitation":
                channels[name] = nn.sigmoid(output.astype(jnp.float32))
            elif output.ndim == 4 and output.shape[-1] == 1:
                places[name] = nn.sigmoid(output[..., 0].astype(jnp.float32))

        with _intercepted(see, spatial=False):
            model.apply(variables, images, train=False)
        order[:] = channels
        return [channels, places]

    def module_of(name):  # "a/excitation#2" is of the second call of "a"
        path, _, call = name.partition("#")
        return path.rpartition("/")[0] + (f"#{call}" if call else "")

    order, sums, gates, pixels = [], {}, {}, np.zeros(classes)
    for images, masks in batches:
        masks = np.asarray(masks)
        of_class = np.stack([masks == index for index in range(classes)], axis=-1).astype(
            np.float64
        )
        share = of_class.sum((1, 2))
        pixels += share.sum(0)
        channels, places = jax.device_get(run(variables, jnp.asarray(images)))
        if not channels:
            return {}
        for name, values in channels.items():
            sums[name] = sums.get(name, 0) + share.T @ values
        for name, values in places.items():
            rows, columns = (
                np.arange(n) * m // n
                for n, m in zip(masks.shape[1:], values.shape[1:], strict=True)
            )
            gate = values[:, rows][:, :, columns]
            gates[module_of(name)] = gates.get(module_of(name), 0) + np.einsum(
                "bhw,bhwc->c", gate, of_class
            )

    def mean(total):
        return np.divide(
            total.T, pixels, out=np.full(total.T.shape, np.nan), where=pixels > 0
        ).T.astype(np.float32)

    found = {}
    for name in order:
        module = module_of(name)
        found[module] = ClassExcitation(
            mean(sums[name]), mean(gates[module]) if module in gates else None
        )
    return found


def first_kernel(
    model: nn.Module, variables: Any, images: jax.Array | np.ndarray
) -> np.ndarray | None:
    """The kernel of the first convolution or dense layer that the model calls, as it lies in
    `variables`; None if it calls none."""
    paths = []

    def interceptor(next_function, args, kwargs, context):
        if isinstance(context.module, nn.Conv | nn.Dense):
            paths.append(context.module.path)
        return next_function(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        jax.eval_shape(lambda images: model.apply(variables, images, train=False), images)
    if not paths:
        return None
    found = variables["params"]
    for name in paths[0]:
        found = found[name]
    return found["kernel"]


@contextlib.contextmanager
def _intercepted(see, spatial: bool = True):
    """Call `see(name, module, output)` for each module's array below the model, those of some
    extent alone if `spatial`; what it returns, if any, replaces it."""
    calls = {}

    def interceptor(next_function, args, kwargs, context):
        output = next_function(*args, **kwargs)
        path = "/".join(context.module.path)
        if context.method_name != "__call__" or not path or not hasattr(output, "shape"):
            return output
        if spatial and not (len(output.shape) == 4 and output.shape[1] * output.shape[2] > 1):
            return output
        calls[path] = calls.get(path, 0) + 1
        replaced = see(
            path if calls[path] == 1 else f"{path}#{calls[path]}", context.module, output
        )
        return output if replaced is None else replaced

    with nn.intercept_methods(interceptor):
        yield


def _map_shapes(model, variables, images, without=()) -> dict[str, tuple[int, ...]]:
    """The shapes of what `map_names` names, but for modules of the class `without`."""
    shapes = {}

    def see(name, module, output):
        if not isinstance(module, without):
            shapes[name] = output.shape

    def run(images):
        with _intercepted(see):
            return model.apply(variables, images, train=False)

    jax.eval_shape(run, images)
    return shapes


def _maps(model, variables, image, choose) -> dict[str, np.ndarray]:
    """The maps of one image that `choose` names of all there are, given as shape by name; but for
    those of dropout."""
    image = jnp.asarray(image)[None]
    names = choose(_map_shapes(model, variables, image, without=nn.Dropout))

    @jax.jit
    def run(variables, image):
        found = {}

        def see(name, module, output):
            if name in names:
                found[name] = output[0].astype(jnp.float32)

        with _intercepted(see):
            model.apply(variables, image, train=False)
        return found

    found = run(variables, image)  # jit sorts the keys of a dict
    return {name: np.asarray(found[name]) for name in names}


def _heat(model, layer: str, score):
    """Grad-CAM, compiled: `(variables, images, asked)` to heat, for the gradient of `score(logits,
    asked)`, a sum over images."""

    @jax.jit
    def heat(variables, images, asked):
        def logit(perturbation):
            chosen = {}

            def perturb(name, module, output):
                if name != layer:
                    return None
                chosen["map"] = output
                return output + perturbation.astype(output.dtype)

            with _intercepted(perturb):
                logits = model.apply(variables, images, train=False)
            # Images don't meet in evaluation, so the gradient of the sum is each image's own.
            return score(logits, asked), chosen["map"].astype(jnp.float32)

        shape = jax.eval_shape(lambda: logit(jnp.zeros(()))[1]).shape
        gradient, features = jax.grad(logit, has_aux=True)(jnp.zeros(shape))
        weights = gradient.mean((1, 2), keepdims=True)
        evidence = nn.relu((weights * features).sum(-1))
        evidence = jax.image.resize(evidence, images.shape[:3], "bilinear")
        largest = evidence.max((1, 2), keepdims=True)
        return jnp.where(largest > 0, evidence / jnp.where(largest > 0, largest, 1), 0)

    return heat


def _stages(names: list[str]) -> list[str]:
    """Those of the names at the least depth that has two of them; where none has, all at the depth
    that has one."""
    by_depth = {}
    for name in names:
        by_depth.setdefault(name.count("/"), []).append(name)
    depths = sorted(by_depth)
    chosen = next(
        (depth for depth in depths if len(by_depth[depth]) > 1), depths[0] if depths else None
    )
    return by_depth.get(chosen, [])


def _levels(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The last name of each run of equal shapes, of the outermost names; of those inside where one
    holds all others."""

    def inside(name, others):
        parts = name.partition("#")[0].split("/")
        return any("/".join(parts[:length]) in others for length in range(1, len(parts)))

    names = list(shapes)
    while True:
        known = {name.partition("#")[0] for name in names}
        outermost = [name for name in names if not inside(name, known)]
        if len(outermost) != 1 or len(names) == 1:
            break
        names.remove(outermost[0])
    following = [*outermost[1:], None]
    return [
        name
        for name, after in zip(outermost, following, strict=True)
        if after is None or shapes[after] != shapes[name]
    ]
