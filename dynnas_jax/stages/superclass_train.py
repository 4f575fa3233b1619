"""The stage that trains the supernet with superclass dropout, from its teacher's weights on and by its teacher's answers."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax import devices
from dynnas_jax.job import Job, load_variables, trained_file
from dynnas_jax.stages import starting, train
from dynnas_jax.train import distillation, superclass_dropout

DROPOUT = 0.6  # the paper's for ImageNet-10


def run(
    job: Job,
    folder: Path,
    *,
    superclass_dropout: float = DROPOUT,
    from_teacher: bool = True,
    sandwich_rule: dict | None = None,
    progressive_shrinking: dict | None = None,
    subnet_devices: int = 1,
    power_w: float | None = None,
    **options,
) -> tuple[str, ...]:
    """The supernet, by the sandwich rule; leaves checkpoints, metrics, the averaged variables, and what it took.

    Args:
      superclass_dropout: the chance that the logits of a foreign superclass are left out of an image's loss.
      from_teacher: whether training starts from the teacher's weights, or from random ones.
      sandwich_rule, progressive_shrinking: keyword arguments of the functions of those names in `train`; the teacher is
        "trained", the net of the stage `teacher`, unless the former says another.
      subnet_devices, power_w: as in `train.run`.
      options: see `train.fitted`.
    """
    section = _rule(sandwich_rule)
    weights = load_variables(job.workdir.folder("teacher") / trained_file(job.kind))
    net = job.supernet.largest_net()
    teacher = distillation.Teacher(lambda variables, images: net.apply(variables, images)[0], weights)
    files = train.trained(
        job,
        folder,
        starting.Started(weights if from_teacher else None),
        (section, None, progressive_shrinking),
        teacher=teacher if section["teacher"] == "trained" else None,
        mesh=devices.data_mesh(subnet=subnet_devices),
        drop=_dropout(job, superclass_dropout),
        power_w=power_w,
        **options,
    )
    return files


def _rule(section: dict | None) -> dict:
    """The section of the sandwich rule, with the paper's teacher where it names none."""
    return {"teacher": "trained", **(section or {})}


def _dropout(job: Job, rate: float) -> superclass_dropout.Dropout | None:
    """None at a rate of 0: ordinary training, by the same program."""
    made = superclass_dropout.rule(job.superclasses.of_class, rate)
    return made if made.rate else None


def check(
    job: Job,
    *,
    superclass_dropout: float = DROPOUT,
    from_teacher: bool = True,
    sandwich_rule: dict | None = None,
    progressive_shrinking: dict | None = None,
    **options,
) -> None:
    """Raises ValueError for what would end a run at its first step, or long after it."""
    _dropout(job, superclass_dropout)
    net = job.supernet.largest_net()
    answers = lambda variables, images: net.apply(variables, images)[0]  # noqa: E731
    section = _rule(sandwich_rule)
    sections = {"sandwich_rule": section, "progressive_shrinking": progressive_shrinking}
    train.check_rules(job, answers if section["teacher"] == "trained" else None, **sections, **options)
