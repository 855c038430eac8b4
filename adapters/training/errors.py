"""What can go wrong in the trainer.

TrainingError
  DataError               a line of the data cannot be used; names file, line and field
  BaseModelError          the base model's folder cannot be trained on
  TemplateError           the base's chat template cannot be trained on exactly
  UnservableError         the server would refuse, or silently ignore, such an adapter
  HardwareError           it needs hardware, memory or a package that is not here
  CheckpointError         a checkpoint is unfinished, or belongs to another configuration
  OutputError             the folder to write into cannot be used
  DivergedError           the loss is not a finite number any more
  MissingPackage          an optional package is not installed
  WatchingError           a tracker or judge that was asked for cannot be had
  MergeError              base and adapter cannot be merged
"""

from __future__ import annotations


class TrainingError(Exception):
    """The training cannot go on."""


class DataError(TrainingError):
    """A line of the training data cannot be used."""


class BaseModelError(TrainingError):
    """The base model's folder cannot be trained on."""


class TemplateError(TrainingError):
    """The chat template of the base cannot be trained on exactly."""


class UnservableError(TrainingError):
    """The server could not serve such an adapter rightly."""


class HardwareError(TrainingError):
    """The training needs hardware, memory or a package that is not here."""


class CheckpointError(TrainingError):
    """The checkpoint cannot be continued from."""


class OutputError(TrainingError):
    """The output folder cannot be used."""


class DivergedError(TrainingError):
    """The loss is not a finite number any more."""


class MissingPackage(TrainingError):
    """An optional package is not installed; the message says how to."""


class WatchingError(TrainingError):
    """A tracker or judge that was asked for cannot be had."""


class MergeError(TrainingError):
    """Base and adapter cannot be merged into one model."""
