"""Optuna's database, with the parameters of a trial written at once, and only what has changed read again.

Optuna writes each parameter in a transaction of its own (4 ms: 0.9 s a trial of 100 groups), makes an object of each
when it reads them and parses its distribution twice, and reads all running trials whenever it looks at any (5 ms for
each of 50 groups, of which a cluster has hundreds). The tables are Optuna's own, so that its tools read them as ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar, cast

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, ColumnElement, Connection, make_url, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from autoprune.errors import ConfigError
from autoprune.interrupts import uninterrupted

__all__ = ["BatchedStorage", "check_storage", "storage_errors", "without_password"]

_OWN = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
_PARTS: dict[str, Any] = {
    "params": models.TrialParamModel, "values": models.TrialValueModel,
    "user_attributes": models.TrialUserAttributeModel, "system_attributes": models.TrialSystemAttributeModel,
    "intermediate_values": models.TrialIntermediateValueModel}
_DAMAGED = "the file is damaged: --fresh starts over, --run DIR starts elsewhere"
_FIXES = {"malformed": _DAMAGED, "not a database": _DAMAGED,
          "locked": "close what reads the file (a viewer); then run the same command again",
          "": "free some space, or start the database; then run the same command again"}
_SECRETS = ("password", "passfile", "sslpassword")
_INNER = ("_create_new_trial", "_get_trials")  # what Optuna's cache calls; parameters wait in memory
_Storage = TypeVar("_Storage", bound=type[RDBStorage])
_parsed = lru_cache(maxsize=4096)(json_to_distribution)
_written = lru_cache(maxsize=4096)(distribution_to_json)


def _whole(storage: _Storage) -> _Storage:
    """No call ends in the middle: interrupted there, a transaction would stay open, and the database locked."""
    for name, method in {**vars(RDBStorage), **vars(storage)}.items():
        if isinstance(method, FunctionType) and (name in _INNER or not name.startswith("_")):
            setattr(storage, name, uninterrupted()(method))
    return storage


@_whole
class BatchedStorage(RDBStorage):
    """Parameters wait in memory until the trial's next attribute or state is written, or trials are read.

    For one process that writes, through one study object: a kill between loses the parameters of a trial that has no
    result, and what others write is not seen, or late.
    """

    def __init__(self, url: str):
        name = make_url(url)
        if name.drivername == "postgresql":  # which driver that stands for differs between versions of SQLAlchemy
            url = name.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        try:
            super().__init__(url, engine_kwargs=_engine_settings(name.get_backend_name()))
        except ImportError as error:
            raise ConfigError("the driver of the database is not installed", given=name.drivername,
                              fix="pip install 'autoprune[postgresql]', and postgresql://… without a driver's name"
                              ) from error
        self._pending: list[dict[str, Any]] = []
        self._changed: set[int] = set()  # trials written to since Optuna's cache has read them
        self._fresh: dict[int, FrozenTrial] = {}  # of these, the ones that were read by themselves, as they are now
        self._read_to: dict[int, int] = {}  # study: the last of its trials that was read
        self._lock: Connection | None = None

    def hold(self, study: str) -> None:
        """Keep other processes from opening this study too, until `close` or the end of this process. Only a PostgreSQL
        server can; a file is kept by its folder's lock. Raises `ConfigError` when another one holds it.
        """
        if self.engine.dialect.name != "postgresql" or self._lock is not None:
            return
        self._lock = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        key = {"key": int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], signed=True)}
        if not self._lock.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
            self.close()
            raise ConfigError(f"another search is using the study {study!r}", given=without_password(self.url),
                              fix="wait for it, or --run DIR for another study")

    def close(self) -> None:
        """Release the database; safe to call twice."""
        self.remove_session()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self.engine.dispose()

    def _set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float,
                         distribution: BaseDistribution, previous_distribution: BaseDistribution | None) -> None:
        if previous_distribution is not None:
            check_distribution_compatibility(previous_distribution, distribution)
        self._writes(trial_id)
        self._pending.append({"trial_id": trial_id, "param_name": param_name, "param_value": param_value_internal,
                              "distribution_json": _written(distribution)})

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        new = super()._create_new_trial(study_id, template_trial)
        self._changed.add(new._trial_id)
        self._fresh[new._trial_id] = new
        return new

    def _writes(self, trial_id: int) -> None:
        self._changed.add(trial_id)
        self._fresh.pop(trial_id, None)

    def _flush(self) -> None:
        if self._pending:
            rows, self._pending = self._pending, []
            self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """All rows or none."""
        with self.engine.begin() as connection:
            connection.execute(models.TrialParamModel.__table__.insert(), rows)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self._flush()
        self._writes(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._flush()
        self._writes(trial_id)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._writes(trial_id)
        super().set_trial_system_attr(trial_id, key, value)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._writes(trial_id)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        self._flush()
        if trial_id not in self._fresh:
            found = self._read(models.TrialModel.trial_id == trial_id)
            if not found:
                raise KeyError(f"no trial with the id {trial_id}")
            self._fresh[trial_id] = found[0]
        return self._fresh[trial_id]

    def _get_trials(self, study_id: int, states: Container[TrialState] | None, included_trial_ids: set[int],
                    trial_id_greater_than: int) -> list[FrozenTrial]:
        """Of the trials that are asked for, those that are new or have changed: Optuna's cache keeps the others, and
        where there are none the database is not asked. All, as long as the cache knows of none that has ended.
        """
        self._flush()
        wanted, known = models.TrialModel.study_id == study_id, list[FrozenTrial]()
        if states is not None:  # some of the trials: no later one would know which were read
            return self._read(wanted & models.TrialModel.state.in_([s for s in TrialState if s in states]))
        if trial_id_greater_than >= 0:
            trial_id_greater_than = max(trial_id_greater_than, self._read_to.get(study_id, -1))
            known = [self._fresh[i] for i in included_trial_ids & self._changed & self._fresh.keys()
                     if i <= trial_id_greater_than]
            changed = self._changed - {t._trial_id for t in known}
            if not changed:
                return self._taken(known)
            wanted &= models.TrialModel.trial_id.in_(changed) | (models.TrialModel.trial_id > trial_id_greater_than)
        found = self._read(wanted)
        self._read_to[study_id] = max([trial_id_greater_than, *(t._trial_id for t in found)])
        return self._taken([*found, *known])

    def _read(self, wanted: ColumnElement[bool]) -> list[FrozenTrial]:
        """Trials by a condition, in their order, as Optuna's own storage reads them; their parts as plain rows."""
        with Session(self.engine) as session:
            trials = {t.trial_id: SimpleNamespace(**{name: getattr(t, name) for name in _OWN},
                                                  **{name: [] for name in _PARTS})
                      for t in session.scalars(select(models.TrialModel).where(wanted).order_by("trial_id"))}
            for name, kind in _PARTS.items() if trials else ():
                table = kind.__table__
                for row in session.execute(select(table).join(models.TrialModel).where(wanted)):
                    getattr(trials[row.trial_id], name).append(row)
        return [self._build_frozen_trial_from_trial_model(cast(Any, t)) for t in trials.values()]

    def _build_frozen_trial_from_trial_model(self, trial: models.TrialModel) -> FrozenTrial:
        """As Optuna's own, but for parsing each distribution once."""
        rest = SimpleNamespace(**{**vars(trial), "params": ()})
        found = super()._build_frozen_trial_from_trial_model(cast(Any, rest))
        for p in sorted(trial.params, key=lambda p: cast(int, p.param_id)):
            distribution = _parsed(p.distribution_json)
            found.distributions[p.param_name] = distribution
            found.params[p.param_name] = distribution.to_external_repr(p.param_value)
        return found

    def _taken(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """The same by number, which Optuna's cache has as they are from now on."""
        for trial in trials:
            self._fresh.pop(trial._trial_id, None)
        self._changed -= {t._trial_id for t in trials}
        return sorted(trials, key=lambda t: t._trial_id)


def _engine_settings(kind: str) -> dict[str, Any]:
    """So that a connection that idles for hours, as the one that holds the lock does, is not forgotten on the way; and
    that who reads a file for a while is waited for.
    """
    if kind != "postgresql":
        return {"connect_args": {"timeout": 60}}
    return {"pool_pre_ping": True, "connect_args": {"keepalives": 1, "keepalives_idle": 60, "keepalives_interval": 20}}


def without_password(url: str) -> str:
    """The URL as it may be shown and written down: the same whether or not the password is in it."""
    found = make_url(url)
    shown = URL.create(found.drivername, found.username, None, found.host, found.port, found.database, found.query)
    return shown.difference_update_query(_SECRETS).render_as_string()


def check_storage(url: str) -> None:
    """Refuse what is no database that studies are kept in. Raises `ConfigError`; connects to nothing."""
    allowed = "postgresql://user@host/database; in a password, @ is %40 and / is %2F"
    try:
        found = make_url(url)
    except (ArgumentError, ValueError):  # what it holds is not shown: it may be a password
        raise ConfigError("the storage is not the URL of a database", given=f"{len(url)} characters", allowed=allowed,
                          fix="leave --storage out for a file") from None
    if found.get_backend_name() != "postgresql" or "@" in (found.host or ""):
        raise ConfigError("studies are kept in PostgreSQL, or in a file of the run folder",
                          given=f"{found.drivername}://…", allowed=allowed, fix="leave --storage out for a file")


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """What the database raises, as a `ConfigError` that names it: it is full, or was lost."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        fix = next((fix for words, fix in _FIXES.items() if words in reason), _FIXES[""])
        raise ConfigError("the study cannot be read or written", given=f"{without_password(url)}: {reason}"[:400],
                          fix=fix) from error
