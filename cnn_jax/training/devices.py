"""How a batch and a state lie on the devices: a mesh for `jit`, or replicas for `pmap`."""

import contextlib
import functools

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import InputError
from cnn_jax.layers.cpu_arithmetic import fast_on_cpu
from cnn_jax.tracing_cache import NOT_KEPT

AXIS = "data"


def accelerator_notice() -> str:
    """One line on the devices in use; it says so plainly where there is no accelerator."""
    devices = jax.devices()
    kinds = (
        f"{len(devices)} x {devices[0].device_kind}" if len(devices) > 1 else devices[0].device_kind
    )
    if jax.process_count() > 1:
        kinds += f" in {jax.process_count()} processes"
    if devices[0].platform == "cpu":
        return (
            f"No accelerator found: running on the CPU ({kinds}). For a GPU or TPU install the"
            " extra 'cuda' or 'tpu'."
        )
    return f"Running on {devices[0].platform.upper()}: {kinds}."


def arithmetic() -> contextlib.AbstractContextManager[None]:
    """The context in which a training step is traced: that of `fast_on_cpu` where the devices are
    CPUs."""
    return fast_on_cpu() if jax.default_backend() == "cpu" else contextlib.nullcontext()


class CompiledStep:
    """A training step with what stays the same, `(state, batch) -> (state, metrics)`: compiled at
    its first call, it knows what memory it needs.

    Args:
        step: `(state, batch, *constant) -> (state, metrics)`.
        lower: `(function, *arguments) -> Lowered` of the step, which then takes and returns the
            state's leaves in a list.
        constant: the seed, and what else the step takes from the devices.
    """

    def __init__(self, step, lower, *constant):
        self._step, self._lower, self._constant, self._compiled = step, lower, constant, None

    def __call__(self, state, batch):
        compiled, (leaves, structure) = self._for(state, batch), jax.tree.flatten(state)
        leaves, metrics = compiled(leaves, batch, *self._constant)
        return jax.tree.unflatten(structure, leaves), metrics

    def _for(self, state, batch):
        if self._compiled is None:
            leaves, structure = jax.tree.flatten(state)

            def of_leaves(leaves, *arguments):
                with arithmetic():
                    state, metrics = self._step(jax.tree.unflatten(structure, leaves), *arguments)
                return jax.tree.leaves(state), metrics

            self._compiled = self._lower(of_leaves, leaves, batch, *self._constant).compile()
        return self._compiled

    def memory_bytes(self, state, batch) -> int | None:
        """Bytes on each device of arguments, results and what lies between, as the compiler plans
        them; None if it doesn't say.

        Of a run that was resumed with no step left to take, `state` and `batch` are what the step
        is compiled for.
        """
        plan = self._for(state, batch).memory_analysis()
        if plan is None:
            return None
        kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        return int(kept + plan.temp_size_in_bytes)


class Devices:
    """All devices on one axis, those of a process beside each other, the batch divided among them
    and the state on each.

    Args:
        parallelism: "jit" (a mesh; the compiler divides the work) or "pmap" (one replica a device;
            of one process alone).
        alone: only the devices of this process, for work that the other processes have no part in.

    Attributes:
        axis_name: the axis to sum over inside a step; None under `jit`, where sums are global by
            themselves.

    Raises:
        InputError: `pmap` was asked for in several processes.
    """

    def __init__(self, parallelism: str = "jit", *, alone: bool = False):
        devices = sorted(
            jax.local_devices() if alone else jax.devices(),
            key=lambda device: (device.process_index, device.id),
        )
        if parallelism == "pmap" and devices[0].process_index != devices[-1].process_index:
            raise InputError(
                "training.parallelism is 'pmap', which serves the devices of one process: use 'jit'"
                " for several."
            )
        self.parallelism = parallelism
        self.count = len(devices)
        self._processes = sorted({device.process_index for device in devices})
        self.axis_name = AXIS if parallelism == "pmap" else None
        self.mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def check_batch(self, field: str, size: int) -> None:
        """Raises InputError, naming `field`, where the devices don't divide a batch of `size`."""
        if size % self.count:
            raise InputError(
                f"{field} is {size}, which {self.count} devices do not divide; make it a multiple"
                f" of {self.count}."
            )

    def replicate(self, state):
        """Puts a state on every device, in the form that the compiled step takes."""
        if self.parallelism == "pmap":
            state = jax.tree.map(
                lambda x: np.broadcast_to(x, (self.count, *np.shape(x))), jax.device_get(state)
            )
            return jax.device_put(state, self.sharded)
        return self.copy(state)

    def copy(self, state):
        """A state, once on every device."""
        return jax.device_put(
            jax.device_get(state) if len(self._processes) > 1 else state, self.replicated
        )

    def share(self, size: int) -> slice:
        """Which examples of a batch of `size` this process reads."""
        part, number = size // len(self._processes), self._processes.index(jax.process_index())
        return slice(number * part, (number + 1) * part)

    def single(self, state):
        """The state as one copy."""
        return jax.tree.map(lambda x: x[0], state) if self.parallelism == "pmap" else state

    def place(self, batch):
        """Divides a host batch (arrays `[local batch, ...]`, this process's share) among the
        devices."""
        if len(self._processes) == 1:
            return jax.device_put(batch, self.sharded)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self.sharded, x), batch
        )

    def _split(self, batch):
        return jax.tree.map(lambda x: x.reshape(self.count, -1, *x.shape[1:]), batch)

    def train_step(self, step, seed: int, resident=(), tracings=NOT_KEPT):
        """`step` as a `CompiledStep` for these devices; the state given to it is used up.

        Args:
            step: see `make_train_step`.
            seed: its third argument.
            resident: a dict of host arrays that each device gets whole, once; under `jit` alone.
            tracings: where what the step is traced to is kept; under `jit`, and of one process,
                alone.
        """
        seed = jax.device_put(np.uint32(seed), self.replicated)
        if self.parallelism == "pmap":

            def lower(function, *arguments):
                return jax.pmap(
                    function, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0
                ).lower(*arguments)

            mapped = CompiledStep(step, lower, seed)

            def split(state, batch):
                state, metrics = mapped(state, self._split(batch))
                return state, jax.tree.map(lambda x: x[0], metrics)

            split.memory_bytes = lambda state, batch: mapped.memory_bytes(state, self._split(batch))
            return split
        tracings = tracings if len(self._processes) == 1 else NOT_KEPT
        lower = functools.partial(
            tracings.lower,
            "training step",
            donate_argnums=0,
            in_shardings=(self.replicated, self.sharded, self.replicated, self.replicated),
            out_shardings=(self.replicated, self.replicated),
        )
        return CompiledStep(step, lower, seed, jax.device_put(dict(resident), self.replicated))

    def predict(self, function):
        """`function(variables, batch)` compiled: variables whole, the batch divided; every process
        can read all results."""
        results = self.replicated if len(self._processes) > 1 else self.sharded
        return jax.jit(
            function, in_shardings=(self.replicated, self.sharded), out_shardings=results
        )
