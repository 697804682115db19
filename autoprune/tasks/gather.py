"""How metrics gather batches: means, ratios over tokens, bootstrapped statistics, a user's function.

Standard errors: binomial for hits; of the mean for per-sample values; of a ratio, with the sequence as the sampling
unit, for tokens (tokens of one sequence are not independent); bootstrap over samples (200 resamples, fixed seed) where
no formula is simple. They describe the choice of samples, not the choice of seeds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.specs import user_error
from autoprune.tasks.losses import IGNORE, class_logits
from autoprune.tasks.tensors import describe

__all__ = ["Bootstrap", "Gather", "Mean", "Tokens", "User", "UserMetric"]

UserMetric = Callable[[Any, Any], float]


class Gather(ABC):
    """One evaluation in progress. Made fresh for each; `update` once per batch, then `result` once."""

    @abstractmethod
    def update(self, outputs: Any, target: Any, samples: int) -> None:
        """Take one batch of `samples` samples in; keeps no reference to the graph."""

    @abstractmethod
    def result(self) -> tuple[float, float]:
        """Value and standard error; NaN when nothing could be counted."""


class Mean(Gather):
    """Mean of per-sample values [N]; the binomial error when all are 0 or 1."""

    def __init__(self, values: Callable[[Any, Any], Tensor]) -> None:
        self.values = values
        self.parts: list[Tensor] = []

    def update(self, outputs: Any, target: Any, samples: int) -> None:
        self.parts.append(self.values(outputs, target).double().cpu())

    def result(self) -> tuple[float, float]:
        values = torch.cat(self.parts) if self.parts else torch.empty(0, dtype=torch.float64)
        n = len(values)
        if n == 0:
            return math.nan, math.nan
        mean = float(values.mean())
        if bool(((values == 0) | (values == 1)).all()):
            # at 0 % and 100 % the plain formula claims certainty; there, Laplace's (hits + 1) / (n + 2) stands in
            share = mean if 0 < mean < 1 else (mean * n + 1) / (n + 2)
            return mean, math.sqrt(share * (1 - share) / n)
        return mean, float(values.std()) / math.sqrt(n) if n > 1 else 0.0


class Tokens(Gather):
    """Ratio of sums over tokens, `finish`ed; per sequence a sum of values and a count."""

    def __init__(self, *, shifted: bool, surprise: bool) -> None:
        self.shifted = shifted
        self.surprise = surprise  # perplexity: mean negative log-likelihood, exponentiated
        self.sums: list[Tensor] = []
        self.counts: list[Tensor] = []

    def update(self, outputs: Any, target: Any, samples: int) -> None:
        logits, labels = class_logits(outputs, target)
        if labels.ndim != 2:
            raise TaskError("a token metric needs outputs [N, T, V] and a target [N, T]",
                            given=f"target of {labels.ndim} dimensions", fix="--metric accuracy")
        if self.shifted:
            logits, labels = logits[:, :, :-1], labels[:, 1:]
        counted = labels != IGNORE
        if self.surprise:
            values = F.cross_entropy(logits.double(), labels.long(), ignore_index=IGNORE, reduction="none")
        else:
            values = (logits.argmax(1) == labels).double()
        self.sums.append((values * counted).sum(1).cpu())
        self.counts.append(counted.sum(1).double().cpu())

    def result(self) -> tuple[float, float]:
        if not self.sums:
            return math.nan, math.nan
        sums, counts = torch.cat(self.sums), torch.cat(self.counts)
        tokens, n = float(counts.sum()), len(sums)
        if tokens == 0:
            return math.nan, math.nan
        ratio = float(sums.sum()) / tokens
        spread = float(((sums - ratio * counts) ** 2).sum())
        error = math.sqrt(spread * n / (n - 1)) / tokens if n > 1 else 0.0
        if not self.surprise:
            return ratio, error
        value = math.exp(ratio) if ratio < 700 else math.inf
        return value, value * error  # delta method: d exp(x) = exp(x) dx


class Bootstrap(Gather):
    """A statistic of per-sample rows [N, ...]: `rows` per batch, `statistic` of all, error by resampling rows."""

    def __init__(self, rows: Callable[[Any, Any], Tensor], statistic: Callable[[Tensor], float]) -> None:
        self.rows = rows
        self.statistic = statistic
        self.parts: list[Tensor] = []

    def update(self, outputs: Any, target: Any, samples: int) -> None:
        self.parts.append(self.rows(outputs, target).double().cpu())

    def result(self) -> tuple[float, float]:
        if not self.parts:
            return math.nan, math.nan
        rows = torch.cat(self.parts)
        generator = torch.Generator().manual_seed(0)
        drawn = [self.statistic(rows[torch.randint(len(rows), (len(rows),), generator=generator)]) for _ in range(200)]
        finite = torch.tensor([value for value in drawn if math.isfinite(value)], dtype=torch.float64)
        error = float(finite.std()) if len(rows) > 1 and len(finite) > 1 else 0.0
        return self.statistic(rows), error


class User(Gather):
    """A user's `function(outputs, target) -> float`, averaged over batches by their size; error of that mean."""

    def __init__(self, function: UserMetric, name: str) -> None:
        self.function = function
        self.name = name
        self.values: list[float] = []
        self.weights: list[int] = []

    def update(self, outputs: Any, target: Any, samples: int) -> None:
        try:
            value = self.function(outputs, target)
        except Exception as error:
            raise user_error(error, "your metric raised an exception", self.name) from error
        try:
            self.values.append(float(value))
        except (TypeError, ValueError, RuntimeError) as error:  # torch's, of a tensor with several elements
            raise TaskError("your metric does not return a number", given=f"{self.name} returns {describe(value)}",
                            allowed="a float, or a tensor with one element",
                            fix="return the value" if value is None else "end it with .mean()") from error
        self.weights.append(samples)

    def result(self) -> tuple[float, float]:
        total = sum(self.weights)
        if total == 0:
            return math.nan, math.nan
        mean = sum(value * weight for value, weight in zip(self.values, self.weights, strict=True)) / total
        count = len(self.values)
        spread = sum((weight / total * (value - mean)) ** 2
                     for value, weight in zip(self.values, self.weights, strict=True))
        return mean, math.sqrt(spread * count / (count - 1)) if count > 1 else 0.0
