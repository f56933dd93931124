"""One search by several processes, each in a clone of its own; OPTUNA_STORAGE names the database with its trials.

A process whose heartbeat stops is taken for dead, and the settings of its trial are tried again by another.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from recurlm.errors import InputError

VARIABLE = "OPTUNA_STORAGE"  # Optuna's own name for the address, which may hold a password: it is read from here alone
HEARTBEAT_SECONDS = 20  # a process is dead after twice as long
POLL_SECONDS = 2.0
RETRIES = 3  # of one trial
ATTEMPTS = 5  # to open a database in which another process makes the tables
AGAIN = "again"  # of a trial that ended early: its number, in that which has its settings
ERRORS = (SQLAlchemyError, StorageInternalError)  # of the database

Settings = dict[str, float]


def search(
    address: str,
    name: str,
    trials: int,
    space: dict[str, BaseDistribution],
    propose: Callable[[int, list[FrozenTrial]], Settings],
    run: Callable[[int, Settings], float],
) -> list[FrozenTrial]:
    """Take part in a search until it is over, and return its finished trials: the same in all processes.

    Args:
        propose: the settings of a trial from its number and the finished ones.
        run: the loss of a trial from its number and settings.

    Raises:
        InputError: the database is out of reach, or refuses.
    """
    try:
        study, storage = _open(address, name)
        seen: set[int] = set()
        while True:
            _time_the_silent(study, storage, seen)
            fail_stale_trials(study)
            finished = study.get_trials(states=(TrialState.COMPLETE,))
            running = study.get_trials(states=(TrialState.RUNNING,))
            if len(finished) >= trials and not running:
                return finished[:trials]
            if len(finished) + len(running) >= trials:
                time.sleep(POLL_SECONDS)
                continue
            if not study.get_trials(states=(TrialState.WAITING,)):
                study.enqueue_trial(propose(sum(map(_is_first, study.trials)), finished))
            _take(study, storage, lambda trial: _try(trial, trials, space, run))
    except (*ERRORS, ImportError) as error:
        # The driver's words, not SQLAlchemy's: these may repeat statements and their values.
        driver = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None)
        reason = str(driver or type(error).__name__).splitlines()[0]
        raise InputError(f"compare: the database that {VARIABLE} names: {reason}") from None


def _time_the_silent(study: optuna.Study, storage: RDBStorage, seen: set[int]) -> None:
    """Give each running trial a heartbeat when it is first seen.

    Optuna never gives up a trial that has none, which is one whose process was killed before it could send the first.
    """
    running = {trial._trial_id for trial in study.get_trials(states=(TrialState.RUNNING,))}
    for number in running - seen:
        storage.record_heartbeat(number)
    seen |= running


def _is_first(trial: FrozenTrial) -> bool:
    """Whether these settings were new: a trial that is tried again adds nothing to the number of proposals."""
    return AGAIN not in trial.user_attrs and RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) is None


def _take(study: optuna.Study, storage: RDBStorage, run: Callable[[Trial], float]) -> None:
    """Run one trial; where this ends early, as by a signal, its settings wait for another process, or a new start.

    In place of `study.optimize`, after which a trial that ended early would not be tried again, and which does not bear
    that another process has taken this one for dead, as after a pause.
    """
    trial = study.ask()
    try:
        with _beating(storage, trial._trial_id):
            study.tell(trial, run(trial), skip_if_finished=True)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    except UpdateFinishedTrialError:  # taken for dead before it had its settings
        return
    except ERRORS:  # its heartbeat has ended, so that another process takes it up
        raise
    except BaseException:
        if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
            study.enqueue_trial(trial.params, {AGAIN: trial.number})
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


@contextmanager
def _beating(storage: RDBStorage, number: int) -> Iterator[None]:
    """Send heartbeats of a trial, from a thread."""
    over = Event()

    def beat() -> None:
        while not over.is_set():
            with suppress(*ERRORS):  # the search says what is wrong with the database
                storage.record_heartbeat(number)
            over.wait(HEARTBEAT_SECONDS)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _try(trial: Trial, trials: int, space: dict[str, BaseDistribution], run: Callable[[int, Settings], float]) -> float:
    """The loss of a trial; pruned if another process was quicker to begin the last one."""
    states = (TrialState.COMPLETE, TrialState.RUNNING)
    earlier = [other for other in trial.study.get_trials(states=states) if other.number < trial.number]
    if len(earlier) >= trials:
        raise optuna.TrialPruned
    settings = {}
    for key, values in space.items():
        assert isinstance(values, FloatDistribution)
        settings[key] = trial.suggest_float(key, values.low, values.high, log=values.log)
    return run(len(earlier), settings)


def _open(address: str, name: str) -> tuple[optuna.Study, RDBStorage]:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # `_beating` sends it
    for attempt in range(ATTEMPTS):
        try:
            retry = RetryHeartbeatStaleTrialCallback(RETRIES)
            storage = RDBStorage(address, heartbeat_interval=HEARTBEAT_SECONDS, heartbeat_stale_trial_callback=retry)
            return optuna.create_study(storage=storage, study_name=name, load_if_exists=True), storage
        except SQLAlchemyError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(1)
    raise AssertionError
