"""One worker: claim a slot, create or adopt its trial, train, report and prune each epoch, tell.

The only module that joins a trial to training, and training is an argument, so a whole search can
be tested with a ten-line fake. A trial carries its slot from birth; whoever claims slot i first
looks for trial i, so a crash between any two writes heals itself.
"""

import hashlib
import json
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from igkd_search import checkpoints, console, database, evaluation, fitting, slots, space, spec
from igkd_search.errors import IgkdError, LeaseLost, StorageError, TrialError

log = logging.getLogger(__name__)

Attribute = float | int | str
Train = Callable[[spec.TrialConfig, int, Path, Path | None], Iterator[fitting.EpochRecord]]
"""(configuration, seed, folder to save checkpoints in, checkpoint to go on from) -> epochs."""
Describe = Callable[[spec.TrialConfig], Mapping[str, Attribute]]
"""configuration -> the plain attributes that its trial carries (latency, parameters, ...).

Asked when the trial has been trained, so that it may say how."""


@dataclass(frozen=True)
class _End:
    """How a trial ends: what it is told with, and what is kept of it."""

    state: TrialState
    value: float | None
    attributes: Mapping[str, Attribute]
    confusion: evaluation.Confusion | None = None


class Worker:
    """Runs trials of one study until its budget is spent; several may run anywhere at once."""

    def __init__(
        self,
        study: spec.Study,
        base: database.Database,
        checkpoints: Path,
        train: Train,
        describe: Describe,
        table: slots.Slots | None = None,
    ) -> None:
        self.study = study
        record = base.read_study(study.name)
        assert record is not None, "a worker needs a registered study"
        # of this very study: another one of the same name must not go on from its checkpoints
        identity = spec.fingerprint([study.name, record.created])[:8]
        self.checkpoints = checkpoints / f"{study.name}-{identity}"
        self.train = train
        self.describe = describe
        self.base = base
        self.storage = base.storage
        self.slots = table or slots.Slots(base, study.name)
        self.optuna_study = optuna.load_study(
            study_name=study.name, storage=base.storage, pruner=space.pruner(study)
        )

    def run(self, poll_seconds: float = 2.0) -> None:
        """Claim and run trials until none is open; wait for those of others to end or die."""
        with console.stage("trials", self.slots.counts().total, "trials") as stage:
            while True:
                counts = self.slots.counts()
                stage.total = counts.total
                stage.advance(counts.done - stage.done, self._best_so_far())
                claim = self.slots.claim()
                if claim is not None:
                    self.run_claim(claim, stage)
                elif counts.done < counts.total:
                    time.sleep(poll_seconds)  # others hold what is left, and may die
                else:
                    break

    def run_claim(self, claim: slots.Claim, stage: console.Stage | None = None) -> None:
        """Bring the trial of one claimed slot to its end; a lost lease ends it without a write."""
        try:
            with self._kept(claim):
                trial = self._trial_of(claim)
                if trial is not None:
                    self._finish(claim, trial, stage)
        except LeaseLost:
            log.warning("slot %d: another worker owns it now; this one stops", claim.slot)
        except optuna.exceptions.UpdateFinishedTrialError:
            # the next claim, perhaps of this worker, finds it finished and closes the slot
            log.warning("slot %d: somebody else finished its trial; this one stops", claim.slot)
            self._release(claim)
        except BaseException:
            # interrupted, or the storage failed: the next worker goes on from the checkpoint
            self._release(claim)
            raise

    def _trial_of(self, claim: slots.Claim) -> optuna.Trial | None:
        """The running trial of the slot; None when it had finished, and the slot is closed now."""
        found = self._find(claim.slot)
        if found is not None and found.state.is_finished():
            shutil.rmtree(self._folder(found), ignore_errors=True)
            self.slots.finish(claim, _outcome(found))
            return None
        if found is None:
            start = self.study.search.start
            fixed = start[claim.slot] if claim.slot < len(start) else {}
            self.slots.renew(claim)  # a worker that stalled here would make a second trial
            self.optuna_study.enqueue_trial(dict(fixed), user_attrs={"slot": claim.slot})
            found = self._find(claim.slot)
            assert found is not None
        self.optuna_study.sampler = space.sampler(self.study, claim.slot, claim.attempt)
        if found.state == TrialState.WAITING:
            self.storage.set_trial_state_values(found._trial_id, TrialState.RUNNING)
        trial = optuna.Trial(self.optuna_study, found._trial_id)
        self.slots.record_trial(claim, trial.number)
        return trial

    def _find(self, slot: int) -> FrozenTrial | None:
        trials = self.optuna_study.get_trials(deepcopy=False)
        return next((t for t in trials if t.user_attrs.get("slot") == slot), None)

    def _finish(self, claim: slots.Claim, trial: optuna.Trial, stage: console.Stage | None) -> None:
        config = self._configure(claim, trial)
        end = self._end_of(claim, trial, config, stage)
        self.slots.renew(claim)
        kept = self._keep_confusion(trial, end.confusion)
        for name, attribute in {**end.attributes, **kept}.items():
            trial.set_user_attr(name, attribute)
        self.optuna_study.tell(trial, end.value, end.state)
        cause = end.attributes.get("cause")
        # before the slot is closed, or nobody would come back to remove it after a crash
        shutil.rmtree(self._folder(trial), ignore_errors=True)
        self.slots.finish(claim, f"failed:{cause}" if cause else end.state.name.lower())
        _log_end(trial, end)

    def _configure(self, claim: slots.Claim, trial: optuna.Trial) -> spec.TrialConfig:
        config = space.suggest(trial, self.study)
        if claim.attempt == 1 or "seed" not in trial.user_attrs:
            fixed = claim.slot < len(self.study.search.start)
            modelled = self.study.search.sampler in space.MODELS and trial.relative_params
            by = "start" if fixed else "model" if modelled else "chance"
            trial.set_user_attr("proposed_by", by)
            trial.set_user_attr("seed", spec.trial_seed(self.study.search.seed, claim.slot))
        trial.set_user_attr("attempts", claim.attempt)
        return config

    def _keep_confusion(
        self, trial: optuna.Trial, confusion: evaluation.Confusion | None
    ) -> dict[str, Attribute]:
        """Keep the matrix with the study's files; the attribute that names the file.

        It is no attribute itself, for Optuna reads those of all trials again and again. The name
        says what is in it, so that what a crashed attempt has kept is never taken for another's.
        """
        if confusion is None:
            return {}
        found = {"confusion": confusion, "class_accuracy": evaluation.class_accuracy(confusion)}
        content = json.dumps(found, separators=(",", ":")).encode()
        digest = hashlib.sha256(content).hexdigest()
        name = f"trial-{trial.number:05d}/confusion-{digest[:12]}.json"
        self.base.keep_file(self.study.name, name, content)
        return {"confusion_file": name}

    def _end_of(
        self,
        claim: slots.Claim,
        trial: optuna.Trial,
        config: spec.TrialConfig,
        stage: console.Stage | None,
    ) -> _End:
        """Train, and say how it ended. What is not the trial's own fault is raised."""
        failed: dict[str, Attribute]
        try:
            state, record = self._train(claim, trial, config, stage)
        except TrialError as error:
            failed = {"cause": error.cause, "reason": str(error)}
            return _End(TrialState.FAIL, None, {**self.describe(config), **failed})
        except (IgkdError, optuna.exceptions.OptunaError):
            raise
        except Exception as error:  # a bug costs its trial, not the search
            log.exception("trial %d failed by a bug", trial.number)
            failed = {"cause": "bug", "reason": repr(error), "traceback": traceback.format_exc()}
            return _End(TrialState.FAIL, None, {**self.describe(config), **failed})
        value = record.accuracy if state is TrialState.COMPLETE else None
        attributes = {**self.describe(config), **_figures(record)}
        return _End(state, value, attributes, record.confusion)

    def _train(
        self,
        claim: slots.Claim,
        trial: optuna.Trial,
        config: spec.TrialConfig,
        stage: console.Stage | None,
    ) -> tuple[TrialState, fitting.EpochRecord]:
        """Train until the last epoch or the pruner's word; report every epoch once."""
        folder = self._folder(trial)
        resume_from = checkpoints.newest(folder)
        if claim.attempt > 1:
            place = (
                resume_from.stem if resume_from else "epoch 0, since there is no checkpoint here"
            )
            log.info("trial %d: attempt %d goes on from %s", trial.number, claim.attempt, place)
        save_to = folder / f"attempt-{claim.attempt:03d}"
        reported = self._reported(trial)
        # a checkpoint is of an epoch that nobody pruned before
        resumed = checkpoints.epoch_of(resume_from) if resume_from else 0
        judged = max(resumed, *reported, 0)
        seed = trial.user_attrs["seed"]
        record = None
        for record in self.train(config, seed, save_to, resume_from):
            self.slots.renew(claim)
            if record.epoch not in reported:
                trial.report(record.accuracy, record.epoch)
            if stage is not None:
                now = f"trial {trial.number} {record.epoch}/{config.epochs} {record.accuracy:.1%}"
                stage.advance(0, f"{self._best_so_far()}, {now}")
            if record.epoch == config.epochs:
                break  # complete, whatever the pruner would say
            # the pruner was heard on earlier reports already, but perhaps not on the last one
            if record.epoch >= judged and trial.should_prune():
                return TrialState.PRUNED, record
        assert record is not None
        return TrialState.COMPLETE, record

    def _reported(self, trial: optuna.Trial) -> set[int]:
        frozen = self.storage.get_trial(trial._trial_id)
        return set(frozen.intermediate_values)

    def _folder(self, trial: optuna.trial.BaseTrial) -> Path:
        return self.checkpoints / f"trial-{trial.number:05d}"

    def _best_so_far(self) -> str:
        try:
            best = self.optuna_study.best_trial
        except ValueError:
            return "no best yet"
        return f"best {best.value:.1%}"

    @contextmanager
    def _kept(self, claim: slots.Claim) -> Iterator[None]:
        """Renew the lease in the background, so that an epoch may take longer than a lease."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.slots.lease_seconds / 4):
                try:
                    self.slots.renew(claim)
                except LeaseLost:
                    return
                except StorageError as error:
                    log.warning("slot %d: the lease could not be renewed: %s", claim.slot, error)

        thread = threading.Thread(target=renew, name=f"lease-{claim.slot}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _release(self, claim: slots.Claim) -> None:
        try:
            self.slots.release(claim)
        except StorageError as error:
            log.warning("slot %d: could not be released: %s", claim.slot, error)


def _outcome(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL:
        # without a cause somebody else failed it, in the dashboard say
        return f"failed:{trial.user_attrs.get('cause', 'told from outside')}"
    return trial.state.name.lower()


def _figures(record: fitting.EpochRecord) -> dict[str, Attribute]:
    return {
        "accuracy": record.accuracy,
        "validation_loss": record.validation_loss,
        "calibration_error": record.calibration_error,
        "raw_accuracy": record.raw_accuracy,
        "raw_validation_loss": record.raw_validation_loss,
        "epochs": record.epoch,
        "images_per_s": round(record.images_per_s, 1),
    }


def _log_end(trial: optuna.Trial, end: _End) -> None:
    parameters = " ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    if end.state == TrialState.FAIL:
        log.warning("trial %d failed: %s [%s]", trial.number, end.attributes["reason"], parameters)
        return
    accuracy = float(end.attributes["accuracy"])
    epochs = end.attributes["epochs"]
    word = "complete" if end.state == TrialState.COMPLETE else f"pruned after epoch {epochs}"
    log.info("trial %d %s: %s [%s]", trial.number, word, f"{accuracy:.1%}", parameters)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
