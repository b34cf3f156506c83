"""One worker: claim a slot, create or adopt its trial, train, report and prune each epoch, tell.

The only module that joins a trial to training, and training is an argument, so a whole search can
be tested with a ten-line fake. A database that is away does not hold a training up, and whoever has
lost a slot writes nothing more.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
from optuna.trial import TrialState

from igkd_search import (
    artifacts,
    births,
    checkpoints,
    database,
    draining,
    fitting,
    outcomes,
    owing,
    registry,
    results,
    slots,
    space,
    spec,
    stages,
    stopping,
    workers,
)
from igkd_search.errors import (
    IgkdError,
    LeaseLost,
    MachineError,
    StorageError,
    StorageLost,
    TrialError,
)

log = logging.getLogger(__name__)

Train = Callable[[spec.TrialConfig, int, Path, Path | None], Iterator[fitting.EpochRecord]]
"""(configuration, seed, folder to save checkpoints in, checkpoint to go on from) -> epochs."""
Describe = Callable[[spec.TrialConfig], Mapping[str, outcomes.Attribute]]
"""configuration -> the plain attributes that its trial carries (latency, parameters, ...).

Asked when the trial has been trained, so that it may say how."""
Show = Callable[[spec.TrialConfig, int], bytes]
"""(configuration, seed) -> the document of what the student saw, to be kept with the trial."""
POINTS = (
    "claimed",
    "enqueued",
    "running",
    "recorded",
    "asked",
    "epoch",
    "reported",
    "attached",
    "told",
    "cleaned",
    "finished",
)
"""The places between two writes, in order; a death at any of them heals."""
_BEAT_SECONDS = 1.0  # between two signs of life in quick epochs
_IDLE_SECONDS = 10.0  # while others hold what is left


class Worker:
    """Runs trials of one study until its budget is spent; several may run anywhere at once.

    `drain` is how it is asked to leave, `machine` what the register says of it, `stops` how often
    the study had been asked to stop when this worker was wanted, by default when it comes.
    `reached` is called with each name of POINTS.
    """

    def __init__(
        self,
        study: spec.Study,
        base: database.Database,
        checkpoints: Path,
        train: Train,
        describe: Describe,
        table: slots.Slots | None = None,
        *,
        drain: draining.Drain | None = None,
        machine: workers.Machine | None = None,
        stops: int | None = None,
        show: Show | None = None,
        reached: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.study = study
        record = base.read_study(study.name)
        assert record is not None, "a worker needs a registered study"
        self.record = record
        self.checkpoints = checkpoints / registry.checkpoints_of(record)
        self.train = train
        self.describe = describe
        self.show = show
        self.base = base
        self.storage = base.storage
        self.slots = table or slots.Slots(base, study.name)
        self.drain = drain or draining.Drain()
        base.patience.give_up = self.drain.asked  # who is asked to leave waits no longer
        self.reached = reached
        self.optuna_study = optuna.load_study(
            study_name=study.name, storage=base.storage, pruner=space.pruner(study)
        )
        machine = machine or workers.Machine("unknown", None, {})
        self.register = workers.Register(base, study.name, self.slots.identity, machine)
        self._stops = stops
        self._joined = False
        self._lost = threading.Event()
        self._last_beat = float("-inf")
        self._away = False
        self._best = "no best yet"  # asked for once a trial: Optuna reads several rows for it

    def run(self, poll_seconds: float = 2.0) -> str:
        """Claim and run trials until none is open; wait for those of others to end or die.

        Returns why it ended: "budget", or in words who or what had it end before.
        """
        with stages.stage("trials", self.slots.counts().total, "trials") as stage:
            try:
                with self.present():
                    return self._work(stage, poll_seconds)
            except draining.Leaving as interruption:
                return f"{self.drain.reason or 'interrupted'}: {interruption}"
            except StorageLost:
                if not self.drain.asked.is_set():
                    raise
                log.warning("left while the database is away: its slot is adopted")
                return self.drain.reason

    @contextmanager
    def present(self) -> Iterator[None]:
        """Be in the register while the body runs."""
        stops = self.register.join()
        self._joined = True
        self._heed(stops)
        try:
            yield
        finally:
            with suppress(StorageError), self.base.patience.once():
                self.register.leave()
            self._joined = False

    def run_one(self, stage: stages.Stage | None = None) -> bool:
        """Claim one slot and bring its trial to its end; False when there is none to claim."""
        self._beat(_BEAT_SECONDS)
        enough = stopping.reason(self.base, self.study, self.optuna_study)
        claim = self.slots.claim(fresh=enough is None)
        if claim is None:
            # others hold what is left, and may die
            self.register.say(state="waiting", slot=None, trial_number=None, epoch=None)
            return False
        self.run_claim(claim, stage)
        return True

    def _work(self, stage: stages.Stage, poll_seconds: float) -> str:
        while not self.drain.asked.is_set():
            counts = self.slots.counts()
            stage.total = counts.total
            self._best = self._best_so_far()
            stage.advance(counts.done - stage.done, self._best)
            if self.run_one(stage) or self.drain.asked.is_set():
                continue
            if counts.done >= counts.total:
                return "budget"
            enough = stopping.reason(self.base, self.study, self.optuna_study)
            if enough and not self.slots.counts().leased:
                log.info("%s", enough)
                return enough
            self._beat(_IDLE_SECONDS)
            self.drain.asked.wait(poll_seconds)
        return self.drain.reason

    def run_claim(self, claim: slots.Claim, stage: stages.Stage | None = None) -> None:
        """Bring the trial of one claimed slot to its end; a lost lease ends it without a write."""
        try:
            self.reached("claimed")
            with self._kept(claim), self.slots.fenced(claim):
                trial = self._trial_of(claim)
                if trial is not None:
                    self._finish(claim, trial, stage)
        except LeaseLost:
            log.warning("slot %d: another worker owns it now; this one stops", claim.slot)
        except optuna.exceptions.UpdateFinishedTrialError:
            # the next claim, perhaps of this worker, finds it finished and closes the slot
            log.warning("slot %d: somebody else finished its trial; this one stops", claim.slot)
            self._release(claim)
        except MachineError:
            raise  # not given back: it counts as a death, so that no trial breaks machines for ever
        except Exception as error:
            # an error that nobody foresaw would come again at the next claim of the same slot
            if isinstance(error, (IgkdError, optuna.exceptions.OptunaError)):
                self._release(claim)
            raise
        except BaseException:
            # interrupted: the next worker goes on from the checkpoint
            self._release(claim)
            raise

    def _trial_of(self, claim: slots.Claim) -> optuna.Trial | None:
        """The running trial of the slot; None when it had finished, and the slot is closed now."""
        found = births.find(self.optuna_study, claim.slot)
        if found is not None and found.state.is_finished():
            shutil.rmtree(self._folder(found), ignore_errors=True)
            self.slots.finish(claim, outcomes.of_finished(found))
            return None
        if found is None:
            # the fence holds here too: a worker that stalled makes no second trial
            found = births.make(
                self.optuna_study, self.study, self.base, claim.slot, self.slots.proof(claim)
            )
            self.reached("enqueued")
        self.optuna_study.sampler = space.sampler(self.study, claim.slot, claim.attempt)
        if found.state == TrialState.WAITING:
            self.storage.set_trial_state_values(found._trial_id, TrialState.RUNNING)
            self.reached("running")
        trial = optuna.Trial(self.optuna_study, found._trial_id)
        self.slots.record_trial(claim, trial.number)
        self.reached("recorded")
        return trial

    def _finish(self, claim: slots.Claim, trial: optuna.Trial, stage: stages.Stage | None) -> None:
        end = self._end_of(claim, trial, stage)
        self._keep(claim, trial, end)
        if "latency_ms" in end.attributes:  # not of a trial that failed before it was anything
            for name, excess in space.constraints(self.study, end.attributes).items():
                trial.set_constraint(name, excess)
        self.reached("attached")
        self.optuna_study.tell(trial, end.values, end.state)
        self.reached("told")
        # before the slot is closed, or nobody would come back to remove it after a crash
        shutil.rmtree(self._folder(trial), ignore_errors=True)
        self.reached("cleaned")
        self.slots.finish(claim, end.outcome)
        outcomes.log_end(trial, end)
        self.reached("finished")

    def _keep(self, claim: slots.Claim, trial: optuna.Trial, end: outcomes.End) -> None:
        """Keep what a trial has shown: figures as attributes, what is looked at as files.

        Those are no attributes, for Optuna reads the attributes of all trials again and again.
        """
        contents, system = artifacts.kept(self.record, trial.number, end.kept)
        if contents:
            self.base.replace_files(self.study.name, contents, self.slots.proof(claim))
        named = {name.partition("/")[2].partition("-")[0]: name for name in contents}
        user = dict(end.attributes)
        if "confusion_matrix" in named:
            user["confusion_file"] = named["confusion_matrix"]
        self.storage.set_trial_attrs(trial._trial_id, user, system)

    def _end_of(
        self, claim: slots.Claim, trial: optuna.Trial, stage: stages.Stage | None
    ) -> outcomes.End:
        """Train, and say how it ended. What is not the trial's own fault is raised."""
        described: Mapping[str, outcomes.Attribute] = {}
        records = list[fitting.EpochRecord]()
        try:
            self._check_attempts(claim, trial)
            config = births.configure(trial, self.study, claim)
            self.reached("asked")
            described = self.describe(config)
            state = self._train(claim, trial, config, stage, records)
            described = self.describe(config)  # again, for it says how the training went
        except TrialError as error:
            return outcomes.End.of_failure(error, described, records)
        except (IgkdError, optuna.exceptions.OptunaError):
            raise
        except Exception as error:  # a bug costs its trial, not the search
            log.exception("trial %d failed by a bug", trial.number)
            return outcomes.End.of_failure(error, described, records)
        record = records[-1]
        attributes = {**described, **outcomes.figures(record)}
        complete = state is TrialState.COMPLETE
        values = space.values(self.study, record.accuracy, attributes) if complete else None
        kept = outcomes.kept(records) | self._shown(trial, config)
        return outcomes.End(state, values, attributes, kept)

    def _shown(self, trial: optuna.Trial, config: spec.TrialConfig) -> dict[str, bytes]:
        """What the student saw; a picture that cannot be made costs no trained trial."""
        if self.show is None:
            return {}
        try:
            return {"overlays": self.show(config, trial.user_attrs["seed"])}
        except Exception:
            log.exception("trial %d is kept without a picture of its overlays", trial.number)
            return {}

    def _check_attempts(self, claim: slots.Claim, trial: optuna.Trial) -> None:
        """TrialError `lost` when the trial has taken too many workers with it."""
        if claim.deaths < self.study.search.max_attempts:
            return
        trial.set_user_attr("attempts", claim.attempt)
        died = [a for a in self.slots.attempts() if a.slot == claim.slot and a.end == "died"]
        where = ", ".join(f"{attempt.host} (pid {attempt.pid})" for attempt in died[-3:])
        raise TrialError(
            "lost",
            f"{claim.deaths} attempts ended with their worker's death, the last on {where}; "
            "see the workers' logs there, then `igkd retry`, or raise search.max_attempts",
        )

    def _train(
        self,
        claim: slots.Claim,
        trial: optuna.Trial,
        config: spec.TrialConfig,
        stage: stages.Stage | None,
        records: list[fitting.EpochRecord],
    ) -> TrialState:
        """Train until the last epoch or the pruner's word, adding to `records`; report each once.

        A database that is away does not hold the training up: what it has not been told is owed.
        """
        folder = self._folder(trial)
        save_to = folder / f"attempt-{claim.attempt:03d}"
        resume_from = checkpoints.take_over(folder, save_to)
        if claim.attempt > 1:
            place = (
                resume_from.stem if resume_from else "epoch 0, since there is no checkpoint here"
            )
            log.info("trial %d: attempt %d goes on from %s", trial.number, claim.attempt, place)
        owed = owing.Owed(trial, self._reported(trial))
        # a checkpoint is of an epoch that nobody pruned before
        resumed = checkpoints.epoch_of(resume_from) if resume_from else 0
        judged = max(resumed, *owed.reported, 0)
        seed = trial.user_attrs["seed"]
        self.register.say(
            state="training",
            slot=claim.slot,
            trial_number=trial.number,
            epoch=resumed,
            epochs=config.epochs,
        )
        for record in self.train(config, seed, save_to, resume_from):
            self.reached("epoch")
            records.append(record)
            owed.add(record)
            # after the last epoch it is complete, whatever the pruner would say; before, the pruner
            # was heard on earlier reports already, but perhaps not on the last one
            last = record.epoch == config.epochs
            pruned = self._tell_epoch(owed, record, stage, ask=not last and record.epoch >= judged)
            self.reached("reported")
            if last:
                break
            if pruned:
                return TrialState.PRUNED
            if self._lost.is_set():  # a study of two objectives writes nothing that would tell
                raise LeaseLost(f"slot {claim.slot}: its lease could not be renewed")
            if self.drain.asked.is_set() and record.epoch >= resumed:
                raise draining.Leaving(f"trial {trial.number} stays at epoch {record.epoch}")
        assert records, "a training yields at least one epoch"
        owed.pay()
        return TrialState.COMPLETE

    def _tell_epoch(
        self, owed: owing.Owed, record: fitting.EpochRecord, stage: stages.Stage | None, ask: bool
    ) -> bool:
        """Report an epoch and what is owed from before, without waiting; whether it is pruned."""
        trial = owed.trial
        self.register.say(epoch=record.epoch, images_per_s=record.images_per_s)
        try:
            with self.base.patience.once():
                owed.pay()
                self._beat(_BEAT_SECONDS)
                if stage is not None:
                    of = f"{record.epoch}/{self.study.trial.epochs}"
                    now = f"trial {trial.number} {of} {record.accuracy:.1%}"
                    stage.advance(0, f"{self._best}, {now}")
                pruned = ask and not space.is_pareto(self.study) and trial.should_prune()
        except StorageLost as error:
            if not self._away:
                log.warning("%s; trial %d trains on and reports later", error, trial.number)
            self._away = True
            return False
        if self._away:
            log.info("the database is back; trial %d has reported what it owed", trial.number)
        self._away = False
        return pruned

    def _reported(self, trial: optuna.Trial) -> set[int]:
        frozen = self.storage.get_trial(trial._trial_id)
        return set(frozen.intermediate_values)

    def _folder(self, trial: optuna.trial.BaseTrial) -> Path:
        return self.checkpoints / f"trial-{trial.number:05d}"

    def _best_so_far(self) -> str:
        best = results.best(self.optuna_study)
        return "no best yet" if best is None else f"best {best.accuracy:.1%}"

    @contextmanager
    def _kept(self, claim: slots.Claim) -> Iterator[None]:
        """Renew the lease in the background, so that an epoch may take longer than a lease."""
        done = threading.Event()
        self._lost.clear()

        def renew() -> None:
            while not done.wait(self.slots.lease_seconds / 4):
                try:
                    with self.base.patience.once():
                        self.slots.renew(claim)
                        self._beat(_IDLE_SECONDS)
                except LeaseLost:
                    self._lost.set()
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

    def _beat(self, gap_seconds: float) -> None:
        """Give a sign of life, unless the last is no older; leave when `igkd stop` was typed."""
        now = time.monotonic()
        if not self._joined or now - self._last_beat < gap_seconds:
            return
        self._last_beat = now
        self._heed(self.register.beat())

    def _heed(self, stops: int) -> None:
        if self._stops is None:
            self._stops = stops
        if stops != self._stops:
            self.drain.ask(draining.STOP)

    def _release(self, claim: slots.Claim) -> None:
        try:
            with self.base.patience.once():
                self.slots.release(claim)
        except StorageError as error:
            log.warning("slot %d: could not be released: %s", claim.slot, error)
