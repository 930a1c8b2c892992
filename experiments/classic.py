"""Classic methods against a convolutional network, on the same splits of Fashion-MNIST.

python -m experiments.classic [--config NAME|config.json] [--data.source cifar10]
    [--FIELD VALUE ...] [--variants knn svm_hog] [--workdir DIR]

k nearest neighbours on raw pixels, with k and the distance chosen by cross-validation; a support
vector machine, a random forest, logistic regression and k-means on descriptors computed from each
image; and the network that `experiments.classify` trains.
"""

import sys

from cnn_jax.configuration.schema import ClassicConfig, ImageDataConfig, SelectionConfig
from cnn_jax.study import Study, main
from cnn_jax.tasks import model_config
from experiments import classify
from experiments.dense_vs_convolutional import MEAN, STD


def _classic(method, **selection) -> ClassicConfig:
    return ClassicConfig(
        experiment="classic",
        model=method,
        data=ImageDataConfig(source="fashion_mnist", mean=MEAN, std=STD),
        selection=SelectionConfig(**selection),
    )


def default() -> Study:
    """Seven classic methods and a convolutional network, trained on 54,000 images; about twenty
    minutes on two CPU cores."""
    network = classify.default()
    network.experiment = "classic"
    return Study(
        {
            "knn": _classic(model_config("knn"), ks=(1, 3, 5, 7, 9, 15, 25)),
            "svm_hog": _classic(model_config("svm", features="hog")),
            "random_forest_pixels": _classic(model_config("random_forest", features="pixels")),
            "random_forest_shape": _classic(model_config("random_forest", features="shape")),
            "logistic_regression_pixels": _classic(
                model_config("logistic_regression", features="pixels")
            ),
            "logistic_regression_all": _classic(
                model_config("logistic_regression", features="all")
            ),
            "k_means_hog": _classic(model_config("k_means", features="hog")),
            "cnn": network,
        }
    )


def smoke() -> Study:
    """The default cut to two minutes on two CPU cores, to see that everything works."""
    study = default()
    for config in study.variants.values():
        config.data.train_examples = 1000
        if config.task == "classic" and config.selection.ks:
            config.selection = SelectionConfig(ks=(1, 5), folds=2, examples=500)
    network = study.variants["cnn"]
    network.training, network.optimizer = classify.smoke().training, classify.smoke().optimizer
    return study


STUDIES = {"default": default, "smoke": smoke}

if __name__ == "__main__":
    sys.exit(main("experiments.classic", STUDIES))
