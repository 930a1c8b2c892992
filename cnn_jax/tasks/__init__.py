"""The tasks that a network can be trained for: what each owns that the loop, the step and the
record don't know."""

from cnn_jax.configuration import Config


def of(config: Config) -> type:
    """The class of a configuration's task.

    A task is made from a configuration, its data (`open`) and whether it will be trained, and has
    what `cnn_jax.run` asks for: names, sizes of its splits, model, initial state, class weights,
    loss, optimiser, training source, augmentation, evaluators, scores, summary and pictures.
    """
    if config.task == "segmentation":
        from cnn_jax.tasks.segmentation import Segmentation

        return Segmentation
    from cnn_jax.tasks.classification import Classification

    return Classification
