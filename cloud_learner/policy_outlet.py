"""From an update to what boards act with, and when; `PolicyOutlet.attend`, `take` and `offer` are its three moments.

    update --batch--> PolicyOutlet --snapshot--> publisher --policies--> boards
                       |  apprentice: a smaller network learns beside the policy, where the recipe trains
                       `  choice: classes of boards measure recipes, where the recipe is `auto`

It belongs to the learner's thread; compressing and publishing happen on the publisher's.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Self

from numpy.typing import NDArray

from cloud_learner.algorithms.algorithm import Algorithm
from cloud_learner.apprentice import Apprentice
from cloud_learner.batching import Batch
from cloud_learner.board_book import BoardBook, Spaces
from cloud_learner.calibration import recent_observations
from cloud_learner.checkpoints import VersionCounter
from cloud_learner.config import LearnerSettings
from cloud_learner.fleet_link import FleetLink
from cloud_learner.policy_compressor import PolicyCompressor, Snapshot, require_fit
from cloud_learner.policy_publisher import PolicyPublisher
from cloud_learner.recipe_choice import RecipeChoice
from compressor import CompressionRecipe
from compressor.recipe import float32, int8_dynamic
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import branches

_OLD_RUNTIME: Final = "tflite-runtime"


class PolicyOutlet:
    """Publishes what an algorithm has learned.

    Args:
        settings: What was set.
        run: What boards are told.
        algorithm: Has the policy.
        recipe: How policies are compressed; None has each class of boards choose.
        spaces: Observation and action space.
        link: To the fleet.
        book: Has the boards.
        versions: Numbers the policies.

    Attributes:
        group: Of all boards that are not told to follow another.
        publisher: Has what was published.
        choice: Has what classes of boards have chosen; None where the recipe is given.

    Raises:
        ProgramError: The recipe does not fit the policy.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        run: RunSpec,
        *,
        algorithm: Algorithm,
        recipe: CompressionRecipe | None,
        spaces: Spaces,
        link: FleetLink,
        book: BoardBook,
        versions: VersionCounter,
    ) -> None:
        self.group = run.group
        self._settings = settings
        self._run = run
        self._algorithm = algorithm
        self._spaces = spaces
        self._calibration: NDArray[Any] | None = None
        self._largest_logit = 0.0
        self._publish_due = 0.0
        self._unpublished = 0
        self._apprentice: Apprentice | None = None
        self.choice: RecipeChoice | None = None
        first = recipe or int8_dynamic()
        require_fit(first, algorithm.policy_graph())
        if first.needs_training:
            self._apprentice = Apprentice(first, branches(spaces[1]), floor=settings.max_compression_kl)
        stand_ins = [stand_in for stand_in in (int8_dynamic(), float32()) if stand_in != first]
        self.publisher = PolicyPublisher(
            link.publish_policy,
            versions=versions,
            run=run,
            compressor=self._compressor([first, *stand_ins], lambda: book.has_runtime(_OLD_RUNTIME)),
            max_bytes_per_s=settings.max_publish_bytes_per_s,
            signer=link.signer,
        )
        if recipe is None:
            self.choice = RecipeChoice(
                run,
                link=link,
                book=book,
                publisher=self.publisher,
                make_compressor=lambda recipes, runtime: self._compressor(
                    recipes, lambda: runtime.startswith(_OLD_RUNTIME)
                ),
                publish=self.offer,
            )

    def __enter__(self) -> Self:
        self.publisher.__enter__()
        self.offer()
        return self

    def __exit__(self, *error: object) -> None:
        self.publisher.__exit__(*error)

    def attend(self, is_called: Callable[[], bool], *, wait_s: float) -> None:
        """Do what there is to do between updates.

        Args:
            is_called: Whether the learner has something else to do.
            wait_s: How long it would wait.
        """
        self.publisher.raise_failure()
        if self.choice is not None:
            self.choice.attend(self._snapshot)
        if self._apprentice is not None:
            self._apprentice.practise(is_called, wait_s=wait_s)

    def take(self, batch: Batch, *, largest_logit: float, update_s: float) -> None:
        """Take note of an update.

        Args:
            batch: What was learned from.
            largest_logit: As the update has reported.
            update_s: Seconds that it took.
        """
        self._calibration = recent_observations(batch)
        self._largest_logit = largest_logit
        self._unpublished += 1
        if self._apprentice is not None:
            taught = partial(self._algorithm.policy_graph, with_value=True)
            self._apprentice.attend(self._algorithm.lesson(), taught, update_s=update_s)

    def offer_if_due(self) -> None:
        """Publish after so many updates or seconds."""
        is_due = self._unpublished >= self._settings.publish_every_updates or time.monotonic() >= self._publish_due
        if self._unpublished and is_due:
            self.offer()

    def offer(self) -> None:
        """Publish what is learned now, as soon as the bound on bytes allows."""
        self.publisher.offer(self._snapshot())
        self._unpublished = 0
        self._publish_due = time.monotonic() + self._settings.publish_every_s

    def drain(self, *, timeout_s: float) -> int:
        """Publish the last policy, wait until it is out, and return its version."""
        if self._unpublished:
            self.offer()
        return self.publisher.drain(timeout_s)

    def _snapshot(self) -> Snapshot:
        graph = self._algorithm.policy_graph()
        student = None if self._apprentice is None else self._apprentice.fit(graph)
        return Snapshot(graph, self._largest_logit, self._calibration, student)

    def _compressor(
        self, recipes: Sequence[CompressionRecipe], has_old_runtime: Callable[[], bool]
    ) -> PolicyCompressor:
        return PolicyCompressor(
            recipes,
            run=self._run,
            spaces=self._spaces,
            has_old_runtime=has_old_runtime,
            floor=self._settings.max_compression_kl,
        )
