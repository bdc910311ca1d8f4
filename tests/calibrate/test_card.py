"""The card's table of a calibration: read as written, refused by name, left behind by other weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bodyloop.errors import ConfigError
from bodyloop.models.cards import Calibration, Card, PresenceRisk, RegionLevel
from bodyloop.models.registry import find_card

PLAIN = find_card("pmpose-n").uncalibrated()


def calibrated() -> Card:
    assert PLAIN.decode is not None
    decode = replace(PLAIN.decode, temperature=6.1, presence_temperature=1.2, presence_threshold=0.9)
    table = Calibration(
        data="dev.json: 3 photographs",
        method="in words",
        family="smoothed-map-1",
        flip=True,
        masks=False,
        before=PLAIN.decode,
        photographs=(3,) * 19,
        regions=(RegionLevel(0.2, (0.5,) * 19), RegionLevel(0.1, (0.25, *(1.0,) * 18))),
        presence=PresenceRisk(0.1, 0.9, 30, 70, 0.02),
    )
    return replace(PLAIN, decode=decode, calibration=table)


def test_a_calibrated_card_reads_back_equal_and_one_without_stays_readable() -> None:
    card = calibrated()
    for own in (False, True):
        text = card.to_toml(self_contained=own)
        assert Card.from_toml(text) == card
    assert "[calibration.before]" in card.to_toml() and "[[calibration.regions]]" in card.to_toml()
    assert "[calibration" not in PLAIN.to_toml()
    assert Card.from_toml(PLAIN.to_toml()).calibration is None


def test_other_weights_leave_it_behind() -> None:
    assert calibrated().uncalibrated() == PLAIN
    assert PLAIN.uncalibrated() is PLAIN


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alpha = 0.2", "alpha = 1.0", r"calibration: regions\[0\]: alpha must lie between 0 and 1"),
        ("alpha = 0.2", "alpha = 0.1", "a level occurs twice"),
        ("thresholds = [", "thresholds = [1.5, ", r"thresholds must lie in 0\.\.1"),
        ("thresholds = [", "thresholds = [0.5, ", "20 thresholds at alpha 0.2 for 19 keypoints"),
        (
            'family = "smoothed-map-1"',
            'family = "other"',
            "calibration: family: expected one of 'smoothed-map-1'",
        ),
        ("confidence = 0.9", "confidence = 9.0", r"confidence must lie in 0\.\.1"),
        ("flip = true", "flop = true", "did you mean 'flip'"),
    ],
)
def test_malformed_tables_are_refused(old: str, new: str, message: str) -> None:
    text, table, rest = calibrated().to_toml().partition("[calibration]")
    assert old in rest
    with pytest.raises(ConfigError, match=message):
        Card.from_toml(text + table + rest.replace(old, new, 1))
