"""How a batch and a state lie on the devices: a mesh for `jit`, or replicas for `pmap`."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import InputError
from cnn_jax.layers.cpu_arithmetic import fast_on_cpu

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


_RIGHT_IN_BFLOAT16 = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""What keeps XLA for CPUs from a library that, in jaxlib 0.12.0, makes NaN of bfloat16."""


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
        count: of the devices.
        is_one_cpu: whether the only one is a CPU.

    Raises:
        InputError: `pmap` was asked for in several processes.
    """

    def __init__(self, parallelism: str = "jit", *, alone: bool = False) -> None:
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
        self.is_one_cpu = self.count == 1 and devices[0].platform == "cpu"
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

    def replicate(self, state: Any) -> Any:
        """Puts a state on every device, in the form that the compiled step takes."""
        if self.parallelism == "pmap":
            state = jax.tree.map(
                lambda x: np.broadcast_to(x, (self.count, *np.shape(x))), jax.device_get(state)
            )
            return jax.device_put(state, self.sharded)
        return self.copy(state)

    def copy(self, state: Any) -> Any:
        """A state, once on every device."""
        return jax.device_put(
            jax.device_get(state) if len(self._processes) > 1 else state, self.replicated
        )

    def share(self, size: int) -> slice:
        """Which examples of a batch of `size` this process reads."""
        part, number = size // len(self._processes), self._processes.index(jax.process_index())
        return slice(number * part, (number + 1) * part)

    def single(self, state: Any) -> Any:
        """The state as one copy."""
        return jax.tree.map(lambda x: x[0], state) if self.parallelism == "pmap" else state

    def place(self, batch: Any) -> Any:
        """Divides a host batch (arrays `[local batch, ...]`, this process's share) among the
        devices."""
        if len(self._processes) == 1:
            return jax.device_put(batch, self.sharded)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self.sharded, x), batch
        )

    def place_for_training(self, batch: Any) -> Any:
        """As `place`; under `pmap` with the devices' axis before the batch's."""
        if self.parallelism == "jit":
            return self.place(batch)
        per_device = jax.tree.map(lambda x: x.reshape(self.count, -1, *x.shape[1:]), batch)
        return jax.device_put(per_device, self.sharded)

    def place_at_use(self, batch: Any) -> Any:
        """As `place`, of a few hundred bytes that a step by `jit` takes next: one process's
        compiled step takes them from the host by itself, in a tenth of the time."""
        return batch if len(self._processes) == 1 else self.place(batch)

    def jit_step(self, step: Callable) -> Any:
        """A step of `make_train_step` for these devices, to be lowered within `arithmetic` and
        compiled. The state given to it is used up."""
        if self.parallelism == "pmap":
            in_axes = (0, 0, None, None)
            return jax.pmap(step, axis_name=AXIS, in_axes=in_axes, donate_argnums=0)
        return jax.jit(
            step,
            donate_argnums=0,
            in_shardings=(self.replicated, self.sharded, self.replicated, self.replicated),
            out_shardings=(self.replicated, self.replicated),
        )

    def predict(self, function: Callable, network: Any = None) -> Callable:
        """`function(variables, batch)` compiled: variables whole, the batch divided; every process
        can read all results. `network` is the model of its configuration, for its `dtype`."""
        results = self.replicated if len(self._processes) > 1 else self.sharded
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        bfloat16 = getattr(network, "dtype", "float32") == "bfloat16"
        return jax.jit(
            function,
            in_shardings=(self.replicated, self.sharded),
            out_shardings=results,
            compiler_options=_RIGHT_IN_BFLOAT16 if on_cpu and bfloat16 else None,
        )
