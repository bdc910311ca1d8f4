"""Tests of bodyloop.loop."""
