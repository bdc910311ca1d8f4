"""Stand-ins for networks, shared with the tests of the command line."""

from tests.cli.conftest import detector_file, pose_file

__all__ = ["detector_file", "pose_file"]
