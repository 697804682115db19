"""A small agent after AMC (He et al. 2018, arXiv:1802.03494): DDPG says of one group after another how much stays.

As in the paper: the state of a step is the layer's place and sizes, what the layers before have saved and what those to
come can save, and the last action; an action is clipped so that the rest can still reach the target; the reward is the
metric of the pruned net before any training, the same for all steps; exploration by truncated normal noise that
decays. Instead of FLOPs the target is milliseconds, looks are at 256 samples with norms recalibrated, and the nets are
smaller (64 units, 20 episodes of noise alone instead of 100): a minute is short.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Agent"]

_NOISE, _DECAY, _ALONE = 0.5, 0.98, 20  # of actions at first; per episode after those of noise alone
_BATCH, _MEMORY, _TAU, _UPDATES = 64, 2000, 0.01, 20


def _net(inputs: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), last)


class Agent:
    """sizes: units of each group; least: share that stays at least, [groups]; ms: latency of kept shares [groups]."""

    def __init__(self, sizes: np.ndarray, least: np.ndarray, ms: Callable[[np.ndarray], float], seed: int):
        self._sizes, self._least, self._ms = sizes, least, ms
        self._random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self._actor, self._critic = _net(6, nn.Sigmoid()), _net(7, nn.Identity())
        self._slow = copy.deepcopy(self._actor), copy.deepcopy(self._critic)
        self._steps = (torch.optim.Adam(self._actor.parameters(), 1e-3),
                       torch.optim.Adam(self._critic.parameters(), 1e-2))
        self._memory: deque[tuple[np.ndarray, float, float, np.ndarray, bool]] = deque(maxlen=_MEMORY)
        self._episodes, self._mean_reward = 0, 0.0

    def episode(self, target_ms: float) -> tuple[np.ndarray, list[np.ndarray]]:
        """Kept shares of one walk through the groups, at or below the target where that can be reached; the states."""
        shares, states, last = np.ones(len(self._sizes)), [], 1.0
        noise = _NOISE * _DECAY ** max(0, self._episodes - _ALONE)
        for g in range(len(shares)):
            states.append(self._state(g, shares, last, target_ms))
            if self._episodes < _ALONE:
                action = float(self._random.uniform(self._least[g], 1))
            else:
                with torch.no_grad():
                    action = float(self._actor(torch.tensor(states[-1])))
                action += float(np.clip(self._random.normal(0, noise), -2 * noise, 2 * noise))
            shares[g] = last = self._clipped(g, shares, float(np.clip(action, self._least[g], 1)), target_ms)
        return shares, states

    def learn(self, shares: np.ndarray, states: list[np.ndarray], reward: float) -> None:
        """The reward of an episode, for all its steps (less a moving mean), and some updates of the nets."""
        self._episodes += 1
        self._mean_reward += (reward - self._mean_reward) / min(self._episodes, 20)
        for g, state in enumerate(states):
            end = g == len(states) - 1
            self._memory.append((state, float(shares[g]), reward, states[min(g + 1, len(states) - 1)], end))
        if self._episodes >= _ALONE:
            for _ in range(_UPDATES):
                self._update()

    def _state(self, g: int, shares: np.ndarray, last: float, target_ms: float) -> np.ndarray:
        whole, now = self._ms(np.ones(len(shares))), self._ms(shares)
        rest = np.where(np.arange(len(shares)) >= g, self._least, shares)
        return np.array([g / len(shares), np.log(self._sizes[g]) / 8, (whole - now) / whole,
                         (now - self._ms(rest)) / whole, target_ms / whole, last], np.float32)

    def _clipped(self, g: int, shares: np.ndarray, action: float, target_ms: float) -> float:
        """The largest share up to `action` with which the groups to come can still reach the target."""
        after = np.where(np.arange(len(shares)) > g, self._least, shares)
        for share in np.linspace(action, self._least[g], 8):
            after[g] = share
            if self._ms(after) <= target_ms:
                return float(share)
        return float(self._least[g])

    def _update(self) -> None:
        rows = [self._memory[i] for i in self._random.integers(len(self._memory), size=_BATCH)]
        state, after = (torch.tensor(np.array([r[i] for r in rows])) for i in (0, 3))
        action, reward, end = (torch.tensor([[float(r[i])] for r in rows]) for i in (1, 2, 4))
        with torch.no_grad():
            value = self._slow[1](torch.cat([after, self._slow[0](after)], 1))
            wanted = reward - self._mean_reward + (1 - end) * value
        self._step(1, F.mse_loss(self._critic(torch.cat([state, action], 1)), wanted))
        self._step(0, -self._critic(torch.cat([state, self._actor(state)], 1)).mean())
        for net, slow in zip((self._actor, self._critic), self._slow, strict=True):
            for p, q in zip(net.parameters(), slow.parameters(), strict=True):
                q.data.lerp_(p.data, _TAU)

    def _step(self, which: int, loss: Tensor) -> None:
        self._steps[which].zero_grad()
        loss.backward()
        self._steps[which].step()
