"""The colours of charts. Each is a name in the page's style sheet, so that they follow its light or dark scheme.

Student and teacher are Okabe and Ito's blue and vermilion; series are Tol's muted set without what is too light
for a line. Both sets were made for those who tell few colours apart; lines differ in their dashes too.
"""

Dashes = str | tuple[float, tuple[float, ...]]
"""As matplotlib takes them."""

STUDENT, TEACHER = "#0072b2", "#d55e00"
INK, QUIET, RULE = "#1b1f23", "#667078", "#d9dee2"
LOSS = "#f3dfd8"
SERIES = ("#332288", "#2f8f83", "#cc6677", "#8a8a2b", "#882255", "#117733", "#5b7db1")
DASHES: tuple[Dashes, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))

VARIABLES = {
    STUDENT: "student",
    TEACHER: "teacher",
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    LOSS: "loss",
    **{color: f"series-{number}" for number, color in enumerate(SERIES)},
}
"""Colour -> its variable in templates/style.css."""


def series(number: int) -> tuple[str, Dashes]:
    """Colour and dashes of line `number`; they come again after 28."""
    return SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]
