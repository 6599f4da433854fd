"""Optimisers with their learning rate schedules, as recipes that a configuration builds.

A recipe holds plain numbers. Called with a model and the length of the run, it returns an optimiser
and a schedule that is stepped after every optimiser step::

    recipe = PaperSGD(lr=0.001, milestones=(0.75,))
    optimizer, schedule = recipe(module, total_steps=80_000, images_per_step=2)

The schedule is a pure function of the number of steps, so a resumed run goes on exactly where it
stopped. Its shape comes from the present recipe and run length, not from the checkpoint: a run that
is resumed with more epochs spreads its schedule over all of them. The rates themselves are the
checkpoint's.
"""

from rcnn.training.optim.adamw import AdamWCosine
from rcnn.training.optim.factory import OptimizerFactory
from rcnn.training.optim.parameters import parameter_groups
from rcnn.training.optim.recipe import OptimizerAndSchedule, Recipe, scaled_lr
from rcnn.training.optim.sgd import PaperSGD

__all__ = [
    "AdamWCosine",
    "OptimizerAndSchedule",
    "OptimizerFactory",
    "PaperSGD",
    "Recipe",
    "parameter_groups",
    "scaled_lr",
]
