"""The package's own errors. Every one says what was wrong, where, and what to do about it."""

from __future__ import annotations


class BodyloopError(Exception):
    """Base of all errors that bodyloop raises on purpose."""


class InputError(BodyloopError, ValueError):
    """An image, box, mask, keypoint array or annotation is not what it must be."""


class FileError(BodyloopError, OSError):
    """A file cannot be read, is not of the expected kind, or cannot be written."""


class ModelError(BodyloopError):
    """A model name, card, checkpoint or exported file does not fit."""


class ConfigError(BodyloopError, ValueError):
    """A configuration has an unknown key or a value out of range."""


class MissingDependency(BodyloopError, ImportError):
    """An optional dependency or device is needed and not there; the message names the extra to install."""
