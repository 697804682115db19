from __future__ import annotations

from collections.abc import Callable

import pytest

from autoprune.cli.main import run

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command line that must fail; checks the form of the error and returns it."""
    def check(arguments: list[str], code: int, *words: str, lines: tuple[str, ...] = ("given", "fix")) -> str:
        found = run(arguments)
        captured = capsys.readouterr()
        assert found == code, captured.err
        assert "Traceback" not in captured.err + captured.out
        assert "internal error" not in captured.err
        assert captured.err.count("error: ") == 1, captured.err
        text = captured.err[captured.err.index("error: "):]
        for word in words:
            assert word in text, text
        for line in lines:
            assert f"  {line}: " in text, text
        return text
    return check
