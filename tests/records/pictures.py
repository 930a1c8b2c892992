"""Pictures of test scenes that should lie beside a record and don't."""

from cnn_jax.records.scene_record import KINDS, picture_path, shown


def missing_pictures(run, fingerprint, scenes):
    """Their names, such as `000-image.jpg`, of a run with so many scenes."""
    paths = (picture_path(run, fingerprint, i, kind) for i in shown(scenes) for kind in KINDS)
    return [path.name for path in paths if not path.is_file()]
