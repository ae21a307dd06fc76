"""One ``up`` for all tests of the spine, and a place for what they measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.clone import Clone
from tests.acceptance.spine import Spine
from tests.support import scratch_folder


@pytest.fixture(scope="session")
def spine() -> Iterator[Spine]:
    """A running ``up`` in a copy of the tree; tests leave two idle workers behind."""
    with scratch_folder() as folder, Clone(folder / "clone").up() as running:
        spine = Spine(running)
        yield spine
        spine.engine.dispose()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line with a figure, which is shown at the end of the run."""

    def note(line: str) -> None:
        request.node.user_properties.append(("measured", f"{request.node.name}: {line}"))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured, in whichever process that was."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    lines = [line for report in reports for name, line in getattr(report, "user_properties", ()) if name == "measured"]
    if lines:
        terminalreporter.section("measured")
        for line in dict.fromkeys(lines):
            terminalreporter.write_line(line)
