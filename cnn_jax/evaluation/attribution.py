"""What a network looks at: the maps inside it, and which places of an image speak for a class.

Nothing is asked of a model but `apply(variables, images, train=False)`: the outputs of its modules are intercepted. What functions
compute between modules (an activation applied in the model's own `__call__`) is not seen, so that the output of a bare convolution
is the map before its activation; a module that contains its activation, such as `ConvolutionNormActivation`, yields the map after.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def map_names(model, variables, images) -> list[str]:
    """The names of all modules whose output has spatial extent, `[batch, h, w, channels]` with h * w > 1, as they finish.

    A name is the module's path in the variables, such as "stage_1/block_0/convolution"; the second call of a module that is
    called again adds "#2". `images` is float32 `[batch, height, width, channels]`; nothing is computed, only shapes.
    """
    names = []

    def run(images):
        with _intercepted(lambda name, module, output: names.append(name)):
            return model.apply(variables, images, train=False)

    jax.eval_shape(run, images)
    return names


def feature_maps(model, variables, image) -> dict[str, np.ndarray]:
    """The maps of the model's stages for one image, float32 `[h, w, channels]` by name, in the order in which they are computed.

    Stages are the modules that the model itself calls, or, where fewer than two of these have a spatial output (a model that
    wraps another), those inside them, and so on. Dropout, which does nothing here, is left out. `image` is float32
    `[height, width, channels]`, normalised.
    """
    found = {}

    def run(image):
        found.clear()
        with _intercepted(lambda name, module, output: found.update({name: (module, output)})):
            model.apply(variables, image[None], train=False)
        names = _stages([name for name, (module, _) in found.items() if not isinstance(module, nn.Dropout)])
        # As a list: jit would sort the keys of a dict.
        order[:] = names
        return [found[name][1][0].astype(jnp.float32) for name in names]

    order = []
    maps = jax.jit(run)(jnp.asarray(image))
    return {name: np.asarray(value) for name, value in zip(order, maps, strict=True)}


def grad_cam(model, variables, images, classes, layer: str | None = None) -> np.ndarray:
    """Grad-CAM: where in each image the evidence for a class is; float32 `[batch, height, width]` from 0 to 1, at image size.

    The gradient of the class's logit with respect to a feature map, averaged over places, weighs the map's channels; what of their
    sum is positive is enlarged to the image (bilinear) and divided by its largest value. Where nothing speaks for the class the
    heat is 0 everywhere. (Selvaraju et al., 2017, who leave enlargement and scaling to the reader.)

    Where the layer is a bare convolution, its map is taken before the activation (see above): places that the activation cuts off
    have no gradient, and lower the heat instead of leaving it.

    Args:
        model, variables: a classifier; the state of its normalisation is that of evaluation.
        images: float32 `[batch, height, width, channels]`, normalised.
        classes: integers `[batch]`, the class asked for in each image. To ask for several, repeat the image.
        layer: one of `map_names`; by default the last of the outermost that is larger than 1x1: the map that the head pools or flattens,
            unless the image is so small that an earlier one must do.

    Raises:
        ValueError: the model has no such layer, or no map with spatial extent at all (a multilayer perceptron).
    """
    names = map_names(model, variables, images)
    if not names:
        raise ValueError(f"Grad-CAM needs a map with spatial extent, and {type(model).__name__} has none for {images.shape}")
    if layer is None:  # not a branch inside a module whose own output is a single place
        layer = [name for name in names if name.count("/") == min(name.count("/") for name in names)][-1]
    if layer not in names:
        raise ValueError(f"{type(model).__name__} has no map {layer!r}; it has {', '.join(names)}")

    @jax.jit
    def heat(variables, images, classes):
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
            return jnp.take_along_axis(logits, classes[:, None], axis=1).sum(), chosen["map"].astype(jnp.float32)

        shape = jax.eval_shape(lambda: logit(jnp.zeros(()))[1]).shape
        gradient, features = jax.grad(logit, has_aux=True)(jnp.zeros(shape))
        weights = gradient.mean((1, 2), keepdims=True)
        evidence = nn.relu((weights * features).sum(-1))
        evidence = jax.image.resize(evidence, images.shape[:3], "bilinear")
        largest = evidence.max((1, 2), keepdims=True)
        return jnp.where(largest > 0, evidence / jnp.where(largest > 0, largest, 1), 0)

    return np.asarray(heat(variables, jnp.asarray(images), jnp.asarray(classes)))


def first_kernel(model, variables, images):
    """The kernel of the first convolution or dense layer that the model calls, as it lies in `variables`; None if it calls none."""
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
def _intercepted(see):
    """Call `see(name, module, output)` for each module's spatial output below the model; what it returns, if any, replaces it."""
    calls = {}

    def interceptor(next_function, args, kwargs, context):
        output = next_function(*args, **kwargs)
        path = "/".join(context.module.path)
        spatial = hasattr(output, "shape") and len(output.shape) == 4 and output.shape[1] * output.shape[2] > 1
        if context.method_name != "__call__" or not path or not spatial:
            return output
        calls[path] = calls.get(path, 0) + 1
        replaced = see(path if calls[path] == 1 else f"{path}#{calls[path]}", context.module, output)
        return output if replaced is None else replaced

    with nn.intercept_methods(interceptor):
        yield


def _stages(names: list[str]) -> list[str]:
    """Those of the names at the least depth that has two of them; where none has, all at the depth that has one."""
    by_depth = {}
    for name in names:
        by_depth.setdefault(name.count("/"), []).append(name)
    depths = sorted(by_depth)
    chosen = next((depth for depth in depths if len(by_depth[depth]) > 1), depths[0] if depths else None)
    return by_depth.get(chosen, [])
